import { type CoreConfig, loadCoreConfig } from '../core/config/core-config.ts';
import { createLogger } from '../core/observability/logging.ts';

/** The configuration of this process: from the environment, and its secrets from the vault when one is named. */
export async function readConfig(): Promise<CoreConfig> {
  const vaultName = process.env['AZURE_KEY_VAULT_NAME'];
  if (vaultName === undefined || vaultName === '') return loadCoreConfig(process.env);
  // Everything but the secrets must be right before the vault is asked.
  const log = createLogger({ level: 'warn', asJson: process.env['LOGS_AS_JSON'] === 'true' });
  // Loaded only where a vault is named: the Azure packages are large.
  const { createKeyVaultSecrets } = await import('./secrets/key-vault-secrets.ts');
  const vaultUrl = process.env['AZURE_KEY_VAULT_URL'];
  return loadCoreConfig(
    process.env,
    createKeyVaultSecrets({ vaultName, vaultUrl: vaultUrl === '' ? undefined : vaultUrl, log }),
  );
}
