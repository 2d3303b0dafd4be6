import { DefaultAzureCredential, type TokenCredential } from '@azure/identity';
import { SecretClient, type SecretClientOptions } from '@azure/keyvault-secrets';
import type { SecretSource } from '../../core/config/core-config.ts';
import type { Logger } from '../../core/observability/logging.ts';
import { errorMessage } from '../error-message.ts';
import { KeyVaultError } from './key-vault-error.ts';

type KeyVaultOptions = {
  readonly vaultName: string;
  /** For national clouds and emulators; else the vault's public address. */
  readonly vaultUrl?: string | undefined;
  readonly credential?: TokenCredential;
  readonly log: Logger;
  /** For one secret, with all retries and the sign-in. */
  readonly timeoutMs?: number;
  readonly clientOptions?: SecretClientOptions & { readonly allowInsecureConnection?: boolean };
};

/**
 * Secrets from Azure Key Vault. One that the vault does not have is left to the environment.
 * @throws KeyVaultError (from `readSecret`) when the vault does not answer or refuses.
 */
export function createKeyVaultSecrets(options: KeyVaultOptions): SecretSource {
  const vaultUrl = options.vaultUrl ?? `https://${options.vaultName}.vault.azure.net`;
  const client = new SecretClient(vaultUrl, options.credential ?? new DefaultAzureCredential(), {
    retryOptions: { maxRetries: 2, retryDelayInMs: 200, maxRetryDelayInMs: 1000 },
    ...options.clientOptions,
  });
  const timeoutMs = options.timeoutMs ?? 15_000;

  return {
    readSecret: async (name) => {
      try {
        const value = (await withinTime(timeoutMs, (abortSignal) => client.getSecret(name, { abortSignal })))
          .value;
        options.log.info({ secret: name, vault: options.vaultName }, 'secret read from the key vault');
        return value === '' ? undefined : value;
      } catch (error) {
        if (statusOf(error) === 404) {
          options.log.info(
            { secret: name, vault: options.vaultName },
            'the key vault does not have this secret; the environment is asked for it',
          );
          return undefined;
        }
        const code = codeOf(error);
        options.log.error(
          { secret: name, vaultUrl, code, reason: errorMessage(error) },
          'key vault not usable',
        );
        throw new KeyVaultError(code, { vaultUrl, secret: name }, error);
      }
    },
  };
}

/** The signal alone is not enough: some ways to sign in do not listen to it. */
async function withinTime<Result>(
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const timeout = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      const error = new Error(`no answer within ${timeoutMs} ms`);
      reject(error);
      timeout.abort(error);
    }, timeoutMs);
  });
  try {
    return await Promise.race([work(timeout.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

function codeOf(error: unknown): KeyVaultError['code'] {
  const status = statusOf(error);
  if (status === 401 || status === 403) return 'key_vault_forbidden';
  return signInErrors.has(nameOf(error)) ? 'key_vault_not_signed_in' : 'key_vault_unreachable';
}
const signInErrors = new Set([
  'CredentialUnavailableError',
  'AggregateAuthenticationError',
  'AuthenticationError',
  'AuthenticationRequiredError',
]);

function statusOf(error: unknown): unknown {
  return typeof error === 'object' && error !== null && 'statusCode' in error ? error.statusCode : undefined;
}

function nameOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'name' in error ? String(error.name) : '';
}
