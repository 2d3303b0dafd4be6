import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findFreePort } from '../../infra/loopback-port.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { eventually } from './eventually.ts';
import { type FaultChild, spawnFaultChild } from './fault-child.ts';

/** A server process that is started again whenever it ends, as a process manager does. */
export type FaultNode = {
  readonly id: string;
  readonly url: string;
  readonly port: number;
  /** Resolves when the process of this moment, or the next one, takes requests. */
  ready: () => Promise<void>;
  /** `kill -9`, if there is a process to kill. */
  kill: () => void;
  /** Asks the process to end, as an orchestrator does before an update; it is started again afterwards. */
  terminate: () => Promise<{ code: number | null; output: string }>;
  /** Keeps it down from its next end on, or lets it come back. */
  keepDown: (isDown: boolean) => void;
  /** Resolves when the process of this moment has ended. */
  ended: () => Promise<void>;
  /** How often a process ended by a signal, ours or its own. */
  deaths: () => number;
  /** What its processes printed, the last part of it. */
  output: () => string;
  stop: () => Promise<void>;
};

export type FaultNodeOptions = {
  readonly id: string;
  readonly mongoUri: string;
  readonly database: string;
  /** A compiled program that serves `/readyz` and `/api/events`; the server, unless told otherwise. */
  readonly program?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** Where the n-th process (from 0) shall die by itself: a value for `MOZAIKS_CRASH_AT`. */
  readonly crashAt?: (start: number) => string | undefined;
};

/** What a developer's own environment may hold and would change what is tested. */
const neutral = {
  AUTH_SECRET: '',
  AUTH_JWKS_URL: '',
  AUTH_SERVICE_KEY: '',
  AZURE_KEY_VAULT_NAME: '',
  AZURE_OPENAI_ENDPOINT: '',
  AZURE_OPENAI_API_KEY: '',
  AZURE_OPENAI_DEPLOYMENT: '',
  ENVIRONMENT: '',
  FREE_TRIAL_ENABLED: '',
  HOST: '',
  WALLET_UNIT: '',
  WALLET_START_BALANCE: '',
  REDIS_URL: '',
  LOGS_AS_JSON: 'true',
  LOG_LEVEL: 'warn',
  // No model is asked here; without an address of one, the server would start its own.
  OPENAI_API_KEY: 'none',
  OPENAI_BASE_URL: 'http://127.0.0.1:9/v1',
};

export async function startFaultNode({
  id,
  mongoUri,
  database,
  program = 'infra/main.js',
  environment = {},
  crashAt = () => undefined,
}: FaultNodeOptions): Promise<FaultNode> {
  const file = join(projectRoot(), 'dist', program);
  if (!existsSync(file)) throw new Error(`${file} does not exist; run "npm run build" first`);
  const port = await findFreePort();
  const url = `http://127.0.0.1:${port}`;
  let starts = 0;
  let deaths = 0;
  let isDown = false;
  let isStopping = false;
  let earlierOutput = '';
  let child: FaultChild;

  const spawnOne = () =>
    spawnFaultChild(process.execPath, ['--enable-source-maps', file], {
      ...process.env,
      ...neutral,
      NODE_ID: id,
      PORT: String(port),
      MONGODB_URI: mongoUri,
      MONGO_DATABASE: database,
      MOZAIKS_CRASH_AT: crashAt(starts++) ?? '',
      ...environment,
    });
  child = spawnOne();
  const output = () => `${earlierOutput}${child.output()}`;
  const supervise = async () => {
    for (;;) {
      const { signal } = await child.exited;
      if (signal !== null) deaths += 1;
      earlierOutput = `${earlierOutput}${child.output()}`.slice(-64 * 1024);
      while (isDown && !isStopping) await delay(5);
      if (isStopping) return;
      // A start that fails (the database is away) is tried again, not too eagerly.
      if (signal === null) await delay(50);
      child = spawnOne();
    }
  };
  const supervision = supervise();
  return {
    id,
    url,
    port,
    ready: () =>
      eventually(
        async () => {
          const status = await fetch(`${url}/readyz`).then(
            (answer) => answer.status,
            () => 'nothing',
          );
          if (status !== 200) throw new Error(`node ${id} answers ${status}\n${output().slice(-2000)}`);
        },
        { timeoutMs: 60_000 },
      ),
    kill: () => child.kill('SIGKILL'),
    async terminate() {
      const victim = child;
      victim.kill('SIGTERM');
      const { code } = await victim.exited;
      return { code, output: victim.output() };
    },
    keepDown: (shallBeDown) => {
      isDown = shallBeDown;
    },
    ended: async () => {
      await child.exited;
    },
    deaths: () => deaths,
    output,
    async stop() {
      isStopping = true;
      child.kill('SIGKILL');
      await supervision;
    },
  };
}
