import { type ChildProcess, fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { Logger } from '../../core/observability/logging.ts';
import { errorMessage } from '../error-message.ts';
import { projectRoot } from '../project-root.ts';
import { obtainLlamaRuntime } from './llama-runtime.ts';
import { LocalModelUnavailableError } from './local-model-unavailable-error.ts';
import { obtainModelFile } from './model-file.ts';

export const localModelId = 'SmolLM2-135M-Instruct';

type LocalModelOptions = {
  readonly cacheDir: string;
  readonly log: Logger;
  readonly progress: (line: string) => void;
  /** Requests that may wait while one is answered; one more gets a 429. */
  readonly waitingLimit?: number;
};

export type LocalModel = {
  readonly baseUrl: string;
  readonly model: string;
  readonly apiKey: string;
  stop: () => Promise<void>;
};

type LocalModelFiles = { readonly llamaEntry: string; readonly modelFile: string };

const startTimeoutMs = 60_000;
const restartPauseMs = 1000;
const readySchema = z.object({ port: z.number() });

/**
 * What the local model needs on disk, downloaded when it is not there yet.
 * @throws LocalModelUnavailableError
 */
export async function obtainLocalModel(
  cacheDir: string,
  progress: (line: string) => void,
): Promise<LocalModelFiles> {
  const llamaEntry = await obtainLlamaRuntime(cacheDir, progress);
  return { llamaEntry, modelFile: await obtainModelFile(cacheDir, progress) };
}

/**
 * Starts the model for those without a key: a process of its own that speaks the OpenAI API on a loopback port, to
 * those who know its random key. A process that dies while it should run is started again at the same address.
 * @throws LocalModelUnavailableError
 */
export async function startLocalModel(options: LocalModelOptions): Promise<LocalModel> {
  const { log } = options;
  const files = await obtainLocalModel(options.cacheDir, options.progress);
  const apiKey = randomBytes(24).toString('base64url');
  const settings = { ...files, modelId: localModelId, apiKey, waitingLimit: options.waitingLimit ?? 16 };
  let running: ModelProcess;
  try {
    running = await startModelProcess({ ...settings, port: 0 }, log);
  } catch (error) {
    throw new LocalModelUnavailableError([`its process does not start: ${errorMessage(error)}`]);
  }
  const { port } = running;

  const stopping = new AbortController();
  const supervise = async () => {
    for (;;) {
      await running.ended;
      if (stopping.signal.aborted) return;
      log.error({ pid: running.child.pid }, 'the local model ended unexpectedly; it is started again');
      try {
        running = await startModelProcess({ ...settings, port }, log);
        if (stopping.signal.aborted) running.child.kill('SIGKILL');
      } catch (error) {
        log.error({ error: errorMessage(error) }, 'the local model cannot start again');
        await delay(restartPauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  };
  const supervision = supervise();

  const shutDown = async () => {
    stopping.abort();
    // It has nothing to lose: no file, and no answer that its client would still take.
    running.child.kill('SIGKILL');
    await supervision;
  };
  let stopped: Promise<void> | undefined;
  return {
    baseUrl: `http://127.0.0.1:${port}/v1`,
    model: localModelId,
    apiKey,
    stop: () => (stopped ??= shutDown()),
  };
}

type ModelProcess = { readonly child: ChildProcess; readonly port: number; readonly ended: Promise<void> };

async function startModelProcess(
  settings: LocalModelFiles & { port: number; apiKey: string; modelId: string; waitingLimit: number },
  log: Logger,
): Promise<ModelProcess> {
  const child = fork(join(projectRoot(), 'infra', 'local-model', 'server.mjs'), {
    execArgv: [],
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let lastWords = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-2000);
    log.warn({ text: text.trim() }, 'the local model says');
  });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => {
      resolve();
    });
    child.once('error', () => {
      resolve();
    });
  });
  const ready = new Promise<number>((resolve) => {
    // The settings hold the key, so they go by message: arguments can be read by every user of the machine.
    child.once('message', (message) => {
      resolve(readySchema.parse(message).port);
    });
  });
  child.send(settings);
  const timeout = new AbortController();
  const outcome = await Promise.race([
    ready,
    ended.then(() => `it ended: ${lastWords.trim()}`),
    delay(startTimeoutMs, 'it was not ready within 60 s', { signal: timeout.signal }),
  ]);
  timeout.abort();
  if (typeof outcome === 'number') return { child, port: outcome, ended };
  child.kill('SIGKILL');
  throw new Error(outcome);
}
