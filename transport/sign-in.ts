import type { IncomingMessage } from 'node:http';
import { createRemoteJWKSet, errors, jwtVerify, type JWTPayload } from 'jose';
import { timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { isLoopback } from '../core/config/core-config.ts';
import { idSchema } from '../core/contracts/ids.ts';
import { ProblemError } from './problem.ts';

/**
 * Who is asking. A user is named by a JWT (`sub` and `app_id`); a service by its key. In development without any
 * sign-in configured, a request acts as the user and app that it names, if it comes to loopback and from this server's
 * own pages or none: that keeps other web sites from using a developer's server.
 */
export type Identity =
  { kind: 'user'; app_id: string; user_id: string } | { kind: 'service' } | { kind: 'development' };

export type SignInOptions = {
  secret?: string | undefined;
  jwksUrl?: string | undefined;
  issuer?: string | undefined;
  audience?: string | undefined;
  serviceKey?: string | undefined;
  /** Origins whose pages may talk to this server, besides its own. */
  allowedOrigins: readonly string[];
};

export type SignIn = {
  readonly isConfigured: boolean;
  hasToken: (request: IncomingMessage) => boolean;
  /** @throws ProblemError 401 when a token is missing or not valid, 403 when the Origin or Host is not allowed. */
  identify: (request: IncomingMessage) => Promise<Identity>;
  identifyToken: (token: string) => Promise<Identity>;
  /** @throws ProblemError 403 when a page of another site asks. */
  checkOrigin: (request: IncomingMessage) => void;
};

const claimsSchema = z.object({ sub: idSchema, app_id: idSchema });
const cookieName = 'mozaiks_token';

export function createSignIn(options: SignInOptions): SignIn {
  const verify = verifierOf(options);
  const isConfigured = verify !== undefined;

  const identifyToken = async (token: string): Promise<Identity> => {
    if (options.serviceKey !== undefined && isSame(token, options.serviceKey)) return { kind: 'service' };
    if (verify === undefined)
      throw new ProblemError(
        401,
        'not_signed_in',
        'Sign-in is not configured on this server, so it takes no tokens.',
      );
    try {
      const claims = claimsSchema.parse(await verify(token));
      return { kind: 'user', app_id: claims.app_id, user_id: claims.sub };
    } catch (cause) {
      const expired = cause instanceof errors.JWTExpired;
      throw new ProblemError(
        401,
        expired ? 'token_expired' : 'not_signed_in',
        expired
          ? 'The token has expired. Sign in again.'
          : 'The token is not valid. It must be a JWT of this server with sub and app_id.',
      );
    }
  };

  const checkOrigin = (request: IncomingMessage): void => {
    const { origin, host = '' } = request.headers;
    if (!isConfigured && !isLoopback(hostnameOf(host)))
      throw new ProblemError(
        403,
        'host_not_allowed',
        'Without sign-in this server answers to loopback names only (localhost, 127.0.0.1).',
      );
    if (origin === undefined || options.allowedOrigins.includes(origin)) return;
    if (URL.canParse(origin) && new URL(origin).host === host) return;
    throw new ProblemError(403, 'origin_not_allowed', 'Pages of this origin may not use this server.');
  };

  return {
    isConfigured,
    hasToken: (request) => tokenOf(request) !== undefined,
    identifyToken,
    checkOrigin,
    async identify(request) {
      checkOrigin(request);
      const token = tokenOf(request);
      if (token !== undefined) return identifyToken(token);
      if (!isConfigured) return { kind: 'development' };
      throw new ProblemError(
        401,
        'not_signed_in',
        'Send a JWT in the Authorization header (Bearer) or in the cookie mozaiks_token.',
      );
    },
  };
}

function verifierOf({
  secret,
  jwksUrl,
  issuer,
  audience,
}: SignInOptions): ((token: string) => Promise<JWTPayload>) | undefined {
  const expected = {
    ...(issuer === undefined ? {} : { issuer }),
    ...(audience === undefined ? {} : { audience }),
    requiredClaims: ['sub', 'app_id', 'exp'],
  };
  if (secret !== undefined) {
    const key = new TextEncoder().encode(secret);
    return async (token) => (await jwtVerify(token, key, { ...expected, algorithms: ['HS256'] })).payload;
  }
  if (jwksUrl !== undefined) {
    const keys = createRemoteJWKSet(new URL(jwksUrl));
    return async (token) =>
      (await jwtVerify(token, keys, { ...expected, algorithms: ['RS256', 'ES256', 'EdDSA', 'PS256'] }))
        .payload;
  }
  return undefined;
}

/** Whether this identity may act for the user. A wrong tenant learns nothing: to it, nothing is there. */
export function mayActFor(identity: Identity, owner: { app_id: string; user_id: string }): boolean {
  switch (identity.kind) {
    case 'development':
    case 'service':
      return true;
    case 'user':
      return identity.app_id === owner.app_id && identity.user_id === owner.user_id;
  }
}

/** Refuses users: their own token can neither make money nor speak for others. */
export function requireService(identity: Identity, rule: string): void {
  if (identity.kind === 'user')
    throw new ProblemError(403, 'service_only', `${rule}: send the service key as Bearer token.`);
}

function tokenOf({ headers }: IncomingMessage): string | undefined {
  const bearer = /^Bearer (\S+)$/i.exec(headers.authorization ?? '')?.[1];
  if (bearer !== undefined) return bearer;
  const cookie = (headers.cookie ?? '').split(/; */).find((each) => each.startsWith(`${cookieName}=`));
  return cookie?.slice(cookieName.length + 1);
}

function hostnameOf(host: string): string {
  return host.startsWith('[') ? host.slice(0, host.indexOf(']') + 1) : (host.split(':')[0] ?? '');
}

function isSame(left: string, right: string): boolean {
  const [a, b] = [Buffer.from(left), Buffer.from(right)];
  return a.length === b.length && timingSafeEqual(a, b);
}
