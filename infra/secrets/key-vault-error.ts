type KeyVaultErrorCode = 'key_vault_unreachable' | 'key_vault_not_signed_in' | 'key_vault_forbidden';

/** The vault was named but gave no answer that can be used. Starting without it would mean starting with other secrets. */
export class KeyVaultError extends Error {
  readonly code: KeyVaultErrorCode;
  readonly vaultUrl: string;
  readonly secret: string;
  constructor(code: KeyVaultErrorCode, facts: { vaultUrl: string; secret: string }, cause: unknown) {
    super(`Reading the secret ${facts.secret} from ${facts.vaultUrl}: ${advice[code]}`, { cause });
    this.name = 'KeyVaultError';
    this.code = code;
    this.vaultUrl = facts.vaultUrl;
    this.secret = facts.secret;
  }
}

const advice: Record<KeyVaultErrorCode, string> = {
  key_vault_unreachable:
    'the vault does not answer. Check AZURE_KEY_VAULT_NAME and the network (firewall, private endpoint), ' +
    'or unset AZURE_KEY_VAULT_NAME to take the secrets from the environment.',
  key_vault_not_signed_in:
    'nobody is signed in to Azure here. Use a managed identity, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and ' +
    'AZURE_CLIENT_SECRET, or run "az login"; or unset AZURE_KEY_VAULT_NAME.',
  key_vault_forbidden:
    'the vault refuses. Give this identity the role "Key Vault Secrets User" on the vault, and check that the ' +
    'secret is enabled and not expired.',
};
