import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Express, Request, Response } from 'express';
import type { z } from 'zod';
import { ProblemError } from './problem.ts';
import type { Identity, SignIn } from './sign-in.ts';

/**
 * One route of the API. The same schemas check what comes in, shape what goes out and make the OpenAPI document.
 * Paths are written as OpenAPI has them (`/api/chats/{app_id}`).
 */
export type Route = {
  method: 'get' | 'post' | 'put' | 'delete';
  path: string;
  summary: string;
  tag: string;
  /** An object with `params`, `query`, `headers` and `body`, as far as the route has them. */
  input: z.ZodObject;
  answer: z.ZodType;
  /** JSON, when it is not given. */
  mediaType?: string;
  /** Statuses of problems it may answer, besides those of every route. */
  problems: readonly number[];
  /** Open to everyone, token or not (health and documentation). */
  isPublic: boolean;
  handle: (request: Request, response: Response, signIn: SignIn) => Promise<void>;
};

type RouteDefinition<Input extends z.ZodObject, Answer extends z.ZodType> = Omit<
  Route,
  'handle' | 'input' | 'answer' | 'problems' | 'isPublic'
> & {
  input: Input;
  answer: Answer;
  problems?: readonly number[];
  isPublic?: boolean;
  run: (
    input: z.output<Input>,
    context: { identity: Identity; response: Response },
  ) => Promise<z.output<Answer>>;
};

/** Describes a route; `run` gets everything parsed and returns the answer. */
export function route<Input extends z.ZodObject, Answer extends z.ZodType>({
  run,
  problems = [],
  isPublic = false,
  ...definition
}: RouteDefinition<Input, Answer>): Route {
  return {
    ...definition,
    problems,
    isPublic,
    async handle(request, response, signIn) {
      const identity: Identity = isPublic ? { kind: 'development' } : await signIn.identify(request);
      const { params, query, headers, body } = request;
      const answer: unknown = await run(parseInput(definition.input, { params, query, headers, body }), {
        identity,
        response,
      });
      if (definition.mediaType === undefined) response.json(answer);
      else response.type(definition.mediaType).send(answer);
    },
  };
}

/** An answer that is sent piece by piece, because it may be too long to hold. */
export type StreamedAnswer = { headers: Record<string, string>; pieces: AsyncIterable<string> };

type StreamRouteDefinition<Input extends z.ZodObject> = Omit<
  RouteDefinition<Input, z.ZodString>,
  'run' | 'mediaType' | 'isPublic'
> & {
  mediaType: string;
  run: (input: z.output<Input>, context: { identity: Identity }) => Promise<StreamedAnswer>;
};

/**
 * Describes a route whose answer is a long text. Trouble on the way can no longer be told in a status: the connection
 * is broken off, so that nobody takes half an answer for a whole one.
 */
export function streamRoute<Input extends z.ZodObject>({
  run,
  problems = [],
  ...definition
}: StreamRouteDefinition<Input>): Route {
  return {
    ...definition,
    problems,
    isPublic: false,
    async handle(request, response, signIn) {
      const identity = await signIn.identify(request);
      const { params, query, headers: requestHeaders, body } = request;
      const input = parseInput(definition.input, { params, query, headers: requestHeaders, body });
      const { headers, pieces } = await run(input, { identity });
      response.type(definition.mediaType).set(headers);
      try {
        await pipeline(Readable.from(pieces), response);
      } catch (cause) {
        // Who hung up does not want the rest.
        if (!hasCode(cause, 'ERR_STREAM_PREMATURE_CLOSE')) throw cause;
      }
    },
  };
}

const hasCode = (cause: unknown, code: string): boolean =>
  typeof cause === 'object' && cause !== null && 'code' in cause && cause.code === code;

/** Says where in the request the trouble is, and what is allowed there. */
function parseInput<Schema extends z.ZodType>(
  schema: Schema,
  input: Record<string, unknown>,
): z.output<Schema> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.map((issue) => ({
    field: issue.path.map(String).join('.'),
    message: issue.message,
  }));
  const detail = errors.map(({ field, message }) => `${field}: ${message}`).join('; ');
  throw new ProblemError(400, 'invalid_request', detail, { errors });
}

export function registerRoutes(app: Express, routes: readonly Route[], signIn: SignIn): void {
  for (const { method, path, handle } of routes)
    app[method](path.replaceAll(/\{(\w+)\}/g, ':$1'), (request, response, next) => {
      handle(request, response, signIn).catch(next);
    });
}
