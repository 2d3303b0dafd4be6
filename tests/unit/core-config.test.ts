import { describe, expect, test } from '@jest/globals';
import {
  ConfigError,
  isLoopback,
  loadCoreConfig,
  secretVariables,
  type SecretName,
} from '../../core/config/core-config.ts';
import { makeLlmConfig } from '../../core/config/llm-config.ts';

const problemsOf = async (environment: Record<string, string>): Promise<readonly string[]> => {
  try {
    await loadCoreConfig(environment);
  } catch (cause) {
    if (cause instanceof ConfigError) return cause.problems;
    throw cause;
  }
  return [];
};

test('nothing needs to be set', async () => {
  expect(await loadCoreConfig({})).toMatchObject({
    ENVIRONMENT: 'development',
    HOST: '127.0.0.1',
    PORT: 8000,
    WALLET_UNIT: 'tokens',
    walletStartBalance: 1_000_000,
    FREE_TRIAL_ENABLED: false,
  });
});

test('a variable set to nothing counts as not set', async () => {
  expect(await loadCoreConfig({ PORT: '', MONGODB_URI: '', AUTH_SECRET: '' })).toEqual(
    await loadCoreConfig({}),
  );
});

test.each([
  ['ENVIRONMENT', 'staging', /ENVIRONMENT="staging": must be one of: development, production/],
  ['PORT', 'http', /PORT="http": must be a whole number/],
  ['PORT', '-1', /PORT="-1": must be a whole number/],
  ['PORT', '70000', /PORT="70000": .*65535/],
  ['PORT', '80.5', /PORT="80.5": must be a whole number/],
  ['MONGODB_URI', 'postgres://x', /MONGODB_URI=\(a secret\)/],
  ['OPENAI_BASE_URL', 'localhost:1234', /OPENAI_BASE_URL="localhost:1234": /],
  ['WALLET_UNIT', 'euros', /WALLET_UNIT="euros": must be one of: tokens, nano_usd/],
  ['WALLET_START_BALANCE', '1e9', /WALLET_START_BALANCE="1e9": must be a whole number/],
  ['WALLET_START_BALANCE', '9007199254740993', /WALLET_START_BALANCE/],
  ['FREE_TRIAL_ENABLED', 'yes', /FREE_TRIAL_ENABLED="yes": must be one of: true, false/],
  ['FINAL_USAGE_POLICY', 'ignore', /FINAL_USAGE_POLICY="ignore": must be one of: surface, true_up/],
  ['LLM_TIMEOUT_SEC', '0', /LLM_TIMEOUT_SEC="0": /],
  ['LLM_MAX_RETRIES', '11', /LLM_MAX_RETRIES="11": .*10/],
  ['LOG_LEVEL', 'loud', /LOG_LEVEL="loud": must be one of: trace, debug, info, warn, error, silent/],
  [
    'AZURE_KEY_VAULT_NAME',
    'https://vault',
    /AZURE_KEY_VAULT_NAME="https:\/\/vault": must be the name of a vault/,
  ],
])('%s=%s is refused with its name, its value and what is allowed', async (name, value, message) => {
  const problems = await problemsOf({ [name]: value });
  expect(problems).not.toEqual([]);
  for (const problem of problems) expect(problem).toMatch(message);
});

test('everything that is wrong is said at once', async () => {
  const problems = await problemsOf({ PORT: 'x', LOG_LEVEL: 'y', WALLET_UNIT: 'z' });
  expect(problems.map((problem) => problem.split('=')[0])).toEqual(['PORT', 'WALLET_UNIT', 'LOG_LEVEL']);
});

test('a secret is never shown, also when it is wrong', async () => {
  const wrong = { AUTH_SECRET: 'hunter2', AUTH_SERVICE_KEY: 'hunter2', MONGODB_URI: 'hunter2', PORT: 'x' };
  const problems = await problemsOf(wrong);
  expect(problems).toHaveLength(4);
  expect(problems.join('\n')).not.toMatch(/hunter2/);
  expect(problems.join('\n')).toMatch(/AUTH_SECRET=\(a secret\): must have at least 32 characters/);
});

describe('settings that contradict each other', () => {
  test('in production there is a way to sign in', async () => {
    expect(await problemsOf({ ENVIRONMENT: 'production' })).toEqual([
      expect.stringMatching(/AUTH_SECRET.*AUTH_JWKS_URL/),
    ]);
    const secured = { ENVIRONMENT: 'production', AUTH_SECRET: 's'.repeat(32) };
    expect(await loadCoreConfig(secured)).toMatchObject({ walletStartBalance: 0 });
  });

  test('without sign-in the server stays on loopback', async () => {
    expect(await problemsOf({ HOST: '0.0.0.0' })).toEqual([
      expect.stringMatching(/HOST="0.0.0.0".*loopback/),
    ]);
    expect(await problemsOf({ HOST: '0.0.0.0', AUTH_JWKS_URL: 'https://id.example/keys' })).toEqual([]);
    for (const host of ['127.0.0.1', '127.8.9.1', '::1', '[::1]', 'localhost'])
      expect([host, isLoopback(host)]).toEqual([host, true]);
    for (const host of ['127.0.0.1.example', 'localhost.example', '10.0.0.1', '::', '0.0.0.0', ''])
      expect([host, isLoopback(host)]).toEqual([host, false]);
  });

  test('Azure OpenAI is named as a whole', async () => {
    expect(await problemsOf({ AZURE_OPENAI_ENDPOINT: 'https://x.example' })).toEqual([
      expect.stringMatching(/AZURE_OPENAI_API_KEY and AZURE_OPENAI_DEPLOYMENT/),
    ]);
  });
});

describe('secrets', () => {
  test('of the vault go before those of the environment; the others stay', async () => {
    const asked: SecretName[] = [];
    const config = await loadCoreConfig(
      { OPENAI_API_KEY: 'from-environment', AUTH_SECRET: 'e'.repeat(32) },
      {
        readSecret: async (name) => {
          asked.push(name);
          return name === 'OpenAIApiKey' ? 'from-vault' : undefined;
        },
      },
    );
    expect(config).toMatchObject({ OPENAI_API_KEY: 'from-vault', AUTH_SECRET: 'e'.repeat(32) });
    expect(asked).toEqual(Object.keys(secretVariables));
  });
});

describe('the model provider', () => {
  const named = async (environment: Record<string, string>) =>
    makeLlmConfig(await loadCoreConfig(environment));

  test('is the one that is named, or none', async () => {
    expect(await named({})).toBeUndefined();
    expect(await named({ OPENAI_API_KEY: 'k' })).toMatchObject({
      kind: 'openai',
      apiKey: 'k',
      defaultModel: 'gpt-4o-mini',
    });
    expect(
      await named({ OPENAI_BASE_URL: 'http://127.0.0.1:11434/v1', DEFAULT_LLM_MODEL: 'qwen' }),
    ).toMatchObject({
      kind: 'compatible',
      baseUrl: 'http://127.0.0.1:11434/v1',
      apiKey: 'none',
      defaultModel: 'qwen',
    });
    const azure = {
      AZURE_OPENAI_ENDPOINT: 'https://x.example',
      AZURE_OPENAI_API_KEY: 'k',
      AZURE_OPENAI_DEPLOYMENT: 'mine',
    };
    expect(await named({ ...azure, OPENAI_API_KEY: 'other' })).toMatchObject({
      kind: 'azure',
      apiKey: 'k',
      defaultModel: 'mine',
      timeoutMs: 120_000,
      maxRetries: 3,
    });
  });
});
