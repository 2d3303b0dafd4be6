import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

export type FaultChild = {
  readonly pid: number;
  /** What it printed last. */
  output: () => string;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  isRunning: () => boolean;
  kill: (signal: NodeJS.Signals) => void;
};

const mostOutput = 64 * 1024;

/** A process that tests kill. It does not outlive the test, however that ends. */
export function spawnFaultChild(
  program: string,
  programArguments: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): FaultChild {
  const child = spawn(program, programArguments, { stdio: ['ignore', 'pipe', 'pipe'], env: environment });
  let output = '';
  const keep = (stream: Readable) =>
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = `${output}${text}`.slice(-mostOutput);
    });
  keep(child.stdout);
  keep(child.stderr);
  let isRunning = true;
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      isRunning = false;
      resolve({ code, signal });
    });
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${program} cannot be started`);
  const guard = guardOf(pid);
  exited.then(
    () => guard?.kill('SIGKILL'),
    () => guard?.kill('SIGKILL'),
  );
  return {
    pid,
    output: () => output,
    exited,
    isRunning: () => isRunning,
    kill: (signal) => child.kill(signal),
  };
}

/** Reads from us and waits: when we are gone, however we ended, it ends what we started. */
function guardOf(pid: number): ChildProcess | undefined {
  if (process.platform === 'win32') return undefined;
  const guard = spawn('/bin/sh', ['-c', 'read -r line; kill -KILL "$0"', String(pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.once('error', () => undefined);
  guard.stdin.once('error', () => undefined);
  return guard;
}
