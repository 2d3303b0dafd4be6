import { z } from 'zod';

const flag = (fallback: boolean) =>
  z
    .enum(['true', 'false'])
    .default(fallback ? 'true' : 'false')
    .transform((value) => value === 'true');
const wholeNumberBetween = (least: number, most: number) =>
  z.string().regex(/^\d+$/, 'must be a whole number').transform(Number).pipe(z.int().min(least).max(most));
const wholeNumber = (fallback: number, least: number, most: number) =>
  wholeNumberBetween(least, most).default(fallback);
const url = (protocols: RegExp) => z.url({ protocol: protocols });

/**
 * Every environment variable the runtime reads, in one place. `.env.example` has one line for each (a test compares
 * the two), and a variable that is set to the empty string counts as not set.
 */
export const environmentSchema = z.object({
  ENVIRONMENT: z.enum(['development', 'production']).default('development'),
  HOST: z.string().default('127.0.0.1'),
  PORT: wholeNumber(8000, 0, 65_535),
  PUBLIC_ORIGIN: url(/^https?$/).optional(),
  NODE_ID: z.string().max(128).optional(),

  DATA_DIR: z.string().default('.data'),
  CACHE_DIR: z.string().default('.cache'),
  // Not a URL as browsers have it: it may name several hosts.
  MONGODB_URI: z
    .string()
    .regex(/^mongodb(\+srv)?:\/\/\S+$/, 'must begin with mongodb:// or mongodb+srv://')
    .optional(),
  MONGOD_BINARY: z.string().optional(),
  MONGO_DATABASE: z.string().default('MozaiksAI'),

  AZURE_KEY_VAULT_NAME: z
    .string()
    .regex(
      /^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$/,
      'must be the name of a vault (3 to 24 letters, digits, dashes)',
    )
    .optional(),
  AZURE_KEY_VAULT_URL: url(/^https?$/).optional(),

  OPENAI_API_KEY: z.string().optional(),
  OPENAI_BASE_URL: url(/^https?$/).optional(),
  AZURE_OPENAI_ENDPOINT: url(/^https?$/).optional(),
  AZURE_OPENAI_API_KEY: z.string().optional(),
  AZURE_OPENAI_API_VERSION: z.string().default('2024-10-21'),
  AZURE_OPENAI_DEPLOYMENT: z.string().optional(),
  DEFAULT_LLM_MODEL: z.string().optional(),
  LLM_TIMEOUT_SEC: wholeNumber(120, 1, 3600),
  LLM_MAX_RETRIES: wholeNumber(3, 0, 10),

  WALLET_UNIT: z.enum(['tokens', 'nano_usd']).default('tokens'),
  WALLET_START_BALANCE: wholeNumberBetween(0, Number.MAX_SAFE_INTEGER).optional(),
  FREE_TRIAL_ENABLED: flag(false),
  FINAL_USAGE_POLICY: z.enum(['surface', 'true_up']).default('surface'),

  AUTH_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
  AUTH_JWKS_URL: url(/^https?$/).optional(),
  AUTH_ISSUER: z.string().optional(),
  AUTH_AUDIENCE: z.string().optional(),
  AUTH_SERVICE_KEY: z.string().min(32, 'must have at least 32 characters').optional(),

  LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info'),
  LOGS_AS_JSON: flag(false),
});
export type EnvironmentVariable = keyof z.input<typeof environmentSchema>;

/** The secrets, by their names in the vault, and the variable that stands in for each. */
export const secretVariables = {
  MongoURI: 'MONGODB_URI',
  OpenAIApiKey: 'OPENAI_API_KEY',
  AzureOpenAIApiKey: 'AZURE_OPENAI_API_KEY',
  AuthSecret: 'AUTH_SECRET',
  AuthServiceKey: 'AUTH_SERVICE_KEY',
} as const satisfies Record<string, EnvironmentVariable>;
export type SecretName = keyof typeof secretVariables;

/** Where secrets come from besides the environment. `undefined` means that the source does not have it. */
export type SecretSource = { readSecret: (name: SecretName) => Promise<string | undefined> };

export type CoreConfig = Readonly<z.output<typeof environmentSchema>> & {
  /** Units that a new wallet begins with. */
  readonly walletStartBalance: number;
};

export class ConfigError extends Error {
  readonly code = 'invalid_config';
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(`The configuration is not usable:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/**
 * Reads the configuration: secrets from `secrets` where it has them, everything else from `environment`.
 * @throws ConfigError naming each variable, its value (never a secret's) and what is allowed.
 */
export async function loadCoreConfig(
  environment: Readonly<Record<string, string | undefined>>,
  secrets?: SecretSource,
): Promise<CoreConfig> {
  const variables = new Map(
    Object.entries(environment).filter(([, value]) => value !== undefined && value !== ''),
  );
  if (secrets !== undefined) {
    for (const [name, variable] of Object.entries(secretVariables)) {
      const value = await secrets.readSecret(secretNameSchema.parse(name));
      if (value !== undefined) variables.set(variable, value);
    }
  }
  const parsed = environmentSchema.safeParse(Object.fromEntries(variables));
  if (!parsed.success) throw new ConfigError(parsed.error.issues.map((issue) => describe(issue, variables)));
  const config = parsed.data;
  const problems = contradictions(config);
  if (problems.length > 0) throw new ConfigError(problems);
  const startBalance = config.WALLET_START_BALANCE ?? (config.ENVIRONMENT === 'development' ? 1_000_000 : 0);
  return { ...config, walletStartBalance: startBalance };
}

const secretNameSchema = z.enum([
  'MongoURI',
  'OpenAIApiKey',
  'AzureOpenAIApiKey',
  'AuthSecret',
  'AuthServiceKey',
]) satisfies z.ZodType<SecretName>;

function describe(issue: z.core.$ZodIssue, variables: ReadonlyMap<string, string | undefined>): string {
  const variable = String(issue.path[0]);
  const secret = Object.values<string>(secretVariables).includes(variable);
  const value = secret ? '(a secret)' : JSON.stringify(variables.get(variable) ?? null);
  const allowed =
    issue.code === 'invalid_value' ? `must be one of: ${issue.values.map(String).join(', ')}` : issue.message;
  return `${variable}=${value}: ${allowed}`;
}

function contradictions(config: z.output<typeof environmentSchema>): string[] {
  const problems: string[] = [];
  const azure = [config.AZURE_OPENAI_ENDPOINT, config.AZURE_OPENAI_API_KEY, config.AZURE_OPENAI_DEPLOYMENT];
  if (azure.some((value) => value !== undefined) && azure.some((value) => value === undefined))
    problems.push(
      'Azure OpenAI needs all of AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and AZURE_OPENAI_DEPLOYMENT',
    );
  if (
    config.ENVIRONMENT === 'production' &&
    config.AUTH_SECRET === undefined &&
    config.AUTH_JWKS_URL === undefined
  )
    problems.push(
      'ENVIRONMENT=production needs a way to sign in: set AUTH_SECRET (32 characters or more) or AUTH_JWKS_URL',
    );
  if (
    config.ENVIRONMENT === 'development' &&
    !isLoopback(config.HOST) &&
    config.AUTH_SECRET === undefined &&
    config.AUTH_JWKS_URL === undefined
  )
    problems.push(
      `HOST=${JSON.stringify(config.HOST)}: without AUTH_SECRET or AUTH_JWKS_URL the server binds to loopback only (127.0.0.1, ::1, localhost)`,
    );
  return problems;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}
