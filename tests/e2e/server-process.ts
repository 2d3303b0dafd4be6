import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export type ServerProcess = {
  readonly child: ChildProcess;
  /** Where it answers. */
  readonly url: string;
  /** Asks it to stop, as Ctrl-C does, and waits until it has. Safe to call twice. */
  stop: () => Promise<void>;
};

export type ServerProcessOptions = {
  /** The compiled `infra/main.js`: a process of its own cannot run TypeScript on the oldest Node supported. */
  program: string;
  environment: Readonly<Record<string, string>>;
  nodeArguments?: readonly string[];
  /** Whether to open a channel for messages to it. */
  hasChannel?: boolean;
};

/** What a developer's own environment or `.env` may hold and would change what is tested. */
const neutral = {
  AUTH_SECRET: '',
  AUTH_JWKS_URL: '',
  AZURE_KEY_VAULT_NAME: '',
  AZURE_OPENAI_ENDPOINT: '',
  AZURE_OPENAI_API_KEY: '',
  AZURE_OPENAI_DEPLOYMENT: '',
  DEFAULT_LLM_MODEL: '',
  ENVIRONMENT: '',
  FREE_TRIAL_ENABLED: '',
  HOST: '',
  LOGS_AS_JSON: '',
  LOG_LEVEL: 'warn',
  MONGODB_URI: '',
  OPENAI_API_KEY: '',
  OPENAI_BASE_URL: '',
  PUBLIC_ORIGIN: '',
  WALLET_START_BALANCE: '',
  WALLET_UNIT: '',
};

const longestStartMs = 90_000;
const longestStopMs = 45_000;

/** Starts the real server, as `npm start` does, and waits until it says that it is ready. */
export async function startServerProcess({
  program,
  environment,
  nodeArguments = [],
  hasChannel = false,
}: ServerProcessOptions): Promise<ServerProcess> {
  if (!existsSync(program)) throw new Error(`${program} does not exist; run "npm run build" first`);
  const child = spawn(process.execPath, [...nodeArguments, program], {
    stdio: ['ignore', 'pipe', 'pipe', ...(hasChannel ? ['ipc' as const] : [])],
    env: { ...process.env, ...neutral, ...environment },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    const deadline = setTimeout(() => child.kill('SIGKILL'), longestStopMs);
    await exited;
    clearTimeout(deadline);
  };
  const deadline = Date.now() + longestStartMs;
  for (;;) {
    const url = /^ +Chat +(http\S+)$/m.exec(output)?.[1];
    if (url !== undefined) return { child, url, stop };
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop();
      throw new Error(`The server did not become ready. It said:\n${output}`);
    }
    await delay(10);
  }
}
