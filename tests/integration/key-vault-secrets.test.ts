import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { ClientSecretCredential, EnvironmentCredential, type TokenCredential } from '@azure/identity';
import { afterEach, describe, expect, it } from '@jest/globals';
import { createKeyVaultSecrets } from '../../infra/secrets/key-vault-secrets.ts';
import { createRecordingLogger } from '../support/recording-logger.ts';

/** A vault that speaks the REST API: it asks for a token first, and knows some secrets. */
type VaultAnswer = { status: number; value?: string };

const token: TokenCredential = {
  getToken: () => Promise.resolve({ token: 'a-token', expiresOnTimestamp: Date.now() + 3_600_000 }),
};

describe('secrets from the key vault', () => {
  let server: Server | undefined;
  afterEach(() => {
    server?.close();
    server?.closeAllConnections();
  });

  async function listen(listener: RequestListener): Promise<string> {
    server = createServer(listener).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
  }

  async function openVault(answers: Record<string, VaultAnswer>, credential = token, timeoutMs = 5000) {
    const unauthenticated: string[] = [];
    const vaultUrl = await listen((request, response) => {
      response.setHeader('content-type', 'application/json');
      if (request.headers.authorization !== 'Bearer a-token') {
        unauthenticated.push(request.url ?? '');
        const challenge =
          'Bearer authorization="https://login.example.com/t", resource="https://vault.azure.net"';
        response.writeHead(401, { 'www-authenticate': challenge }).end();
        return;
      }
      const name = /^\/secrets\/(\w+)/.exec(request.url ?? '')?.[1] ?? '';
      const { status, value } = answers[name] ?? { status: 404 };
      response.statusCode = status;
      response.end(
        JSON.stringify(
          status === 200
            ? { value, id: `https://vault.example.com/secrets/${name}/1`, attributes: { enabled: true } }
            : { error: { code: status === 404 ? 'SecretNotFound' : 'Forbidden', message: 'no' } },
        ),
      );
    });
    return { ...secretsFrom(vaultUrl, credential, timeoutMs), unauthenticated };
  }

  function secretsFrom(vaultUrl: string, credential = token, timeoutMs = 5000) {
    const { log, records } = createRecordingLogger();
    const secrets = createKeyVaultSecrets({
      vaultName: 'test',
      vaultUrl,
      credential,
      log,
      timeoutMs,
      // The real vault is reached by https, and under the name that its challenge has to end with.
      clientOptions: { allowInsecureConnection: true, disableChallengeResourceVerification: true },
    });
    return { secrets, records };
  }

  it('are read by their names, after signing in where the vault says', async () => {
    const { secrets, unauthenticated } = await openVault({
      MongoURI: { status: 200, value: 'mongodb://vault' },
    });
    expect(await secrets.readSecret('MongoURI')).toBe('mongodb://vault');
    expect(unauthenticated).toHaveLength(1);
  });

  it('never appear in the log, only their names do', async () => {
    const { secrets, records } = await openVault({ OpenAIApiKey: { status: 200, value: 'sk-secret' } });
    await secrets.readSecret('OpenAIApiKey');
    expect(JSON.stringify(records)).toContain('OpenAIApiKey');
    expect(JSON.stringify(records)).not.toContain('sk-secret');
  });

  it('are left to the environment one by one when the vault does not have them', async () => {
    const { secrets } = await openVault({ MongoURI: { status: 200, value: 'mongodb://vault' } });
    expect(await secrets.readSecret('OpenAIApiKey')).toBeUndefined();
    expect(await secrets.readSecret('MongoURI')).toBe('mongodb://vault');
  });

  it('that the vault refuses to give are an error that says which right is missing', async () => {
    const { secrets } = await openVault({ AuthSecret: { status: 403 } });
    await expect(secrets.readSecret('AuthSecret')).rejects.toMatchObject({
      code: 'key_vault_forbidden',
      secret: 'AuthSecret',
      message: expect.stringContaining('Key Vault Secrets User'),
    });
  });

  it('cannot be had by somebody who is not signed in, and the error says how to sign in', async () => {
    const { secrets } = await openVault({}, new EnvironmentCredential());
    await expect(secrets.readSecret('MongoURI')).rejects.toMatchObject({
      code: 'key_vault_not_signed_in',
      message: expect.stringContaining('az login'),
    });
  });

  it('cannot be had with a sign-in service out of reach, and that does not take for ever', async () => {
    const credential = new ClientSecretCredential(
      '11111111-1111-1111-1111-111111111111',
      'client',
      'secret',
      {
        authorityHost: 'https://127.0.0.1:9',
      },
    );
    const { secrets } = await openVault({}, credential, 1000);
    await expect(secrets.readSecret('MongoURI')).rejects.toMatchObject({ name: 'KeyVaultError' });
  });

  it('of a vault that does not exist are an error that names it', async () => {
    const vaultUrl = await listen(() => undefined);
    server?.close();
    const { secrets } = secretsFrom(vaultUrl);
    await expect(secrets.readSecret('MongoURI')).rejects.toMatchObject({
      code: 'key_vault_unreachable',
      message: expect.stringContaining(vaultUrl),
    });
  });

  it('of a vault that never answers are given up in time', async () => {
    const vaultUrl = await listen(() => undefined);
    const { secrets } = secretsFrom(vaultUrl, token, 300);
    const startedAt = Date.now();
    await expect(secrets.readSecret('MongoURI')).rejects.toMatchObject({ code: 'key_vault_unreachable' });
    expect(Date.now() - startedAt).toBeLessThan(3000);
  });
});
