import { type ChildProcess, spawn } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { errorCode } from '../error-code.ts';
import { EmbeddedMongoError } from './embedded-mongo-error.ts';

export const replicaSetName = 'mozaiks';

export type MongodOptions = {
  readonly binary: string;
  readonly port: number;
  readonly dbPath: string;
  readonly logFile: string;
  /** Not as a member of a replica set: for repairs of what the set needs to start. */
  readonly standalone?: boolean;
};

export type MongodProcess = {
  readonly pid: number;
  /** Resolves when the process is gone, whatever ended it. */
  readonly ended: Promise<MongodEnd>;
  stop: () => Promise<void>;
};
type MongodEnd = { readonly exitCode: number | null; readonly signal: string | null };

/** mongod's exit code when its port is taken. */
const addressInUse = 48;
const startTimeoutMs = 60_000;
const stopTimeoutMs = 15_000;

/**
 * Starts one mongod and waits until it listens. It prints to a file and not to us, so it neither fills a pipe nor
 * breaks when we are gone. It is outside our process group: Ctrl-C reaches us alone, and mongod lives until everything
 * is flushed. A guard ends it when we die without a word.
 * @returns undefined when the port was taken by somebody in the meantime.
 * @throws EmbeddedMongoError mongod_failed with mongod's own words.
 */
export async function startMongodProcess(options: MongodOptions): Promise<MongodProcess | undefined> {
  const log = await open(options.logFile, 'w');
  const child = spawn(options.binary, mongodArguments(options), {
    stdio: ['ignore', log.fd, log.fd],
    detached: process.platform !== 'win32',
    windowsHide: true,
  });
  const ended = new Promise<MongodEnd>((resolve) => {
    child.once('exit', (exitCode, signal) => {
      resolve({ exitCode, signal });
    });
    child.once('error', () => {
      resolve({ exitCode: null, signal: null });
    });
  });
  await log.close();
  const { pid } = child;
  if (pid === undefined) throw await failure(options, await ended);
  const guard = startGuard(pid, ended);

  const stop = async () => {
    // A clean shutdown; on Windows a signal ends the process at once, which the journal survives.
    child.kill('SIGTERM');
    const impatience = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
    await ended;
    clearTimeout(impatience);
    guard.kill('SIGKILL');
  };

  const deadline = Date.now() + startTimeoutMs;
  while (!(await accepts(options.port))) {
    const end = await Promise.race([ended, delay(15)]);
    if (end?.exitCode === addressInUse) return undefined;
    if (end !== undefined) throw await failure(options, end);
    if (Date.now() > deadline) {
      await stop();
      throw await failure(options, await ended);
    }
  }
  return { pid, ended, stop };
}

/** How the command line of a mongod for this dbPath reads, if we started it: no other program has this in its own. */
export function mongodSignature(dbPath: string): string {
  return `--dbpath ${dbPath} --bind_ip 127.0.0.1 --port `;
}

function mongodArguments(options: MongodOptions): string[] {
  const parameters = [
    // A transaction of a killed process must not block the others' writes for the default minute.
    'transactionLifetimeLimitSeconds=2',
    // There is no other member to hand over to.
    'shutdownTimeoutMillisForSignaledShutdown=100',
    'diagnosticDataCollectionEnabled=false',
  ];
  return [
    '--dbpath',
    options.dbPath,
    '--bind_ip',
    '127.0.0.1',
    '--port',
    String(options.port),
    ...(options.standalone === true ? [] : ['--replSet', replicaSetName]),
    '--oplogSize=512',
    '--wiredTigerCacheSizeGB=0.25',
    '--slowms=1000',
    '--quiet',
    ...(process.platform === 'win32' ? [] : ['--nounixsocket']),
    ...parameters.flatMap((parameter) => ['--setParameter', parameter]),
  ];
}

/**
 * Reads from us and waits. However we end, the system closes the pipe, and the guard asks mongod to shut down. Where
 * there is a shell it is one, because it needs a hundredth of the memory.
 */
function startGuard(mongodPid: number, ended: Promise<MongodEnd>): ChildProcess {
  const [command, commandArguments]: [string, string[]] =
    process.platform === 'win32'
      ? [process.execPath, ['-e', `process.stdin.resume().on('close', () => process.kill(${mongodPid}))`]]
      : ['/bin/sh', ['-c', 'read -r line; kill -TERM "$0"', String(mongodPid)]];
  const guard = spawn(command, commandArguments, {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: process.platform !== 'win32',
    windowsHide: true,
  });
  // Without a guard all still works; only a kill -9 then leaves mongod running until the next start finds it.
  guard.once('error', () => undefined);
  guard.stdin.once('error', () => undefined);
  // Else the pid might be another process's by the time the guard acts.
  void ended.then(() => guard.kill('SIGKILL'));
  return guard;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

async function failure(options: MongodOptions, end: MongodEnd): Promise<EmbeddedMongoError> {
  const words = await firstErrors(options.logFile);
  if (words.includes('DBPathInUse'))
    return new EmbeddedMongoError(
      'data_dir_in_use',
      `Another mongod is using ${options.dbPath} and was not started by us. Stop it, or set DATA_DIR to another folder.`,
      { dbPath: options.dbPath },
    );
  return new EmbeddedMongoError(
    'mongod_failed',
    `mongod did not start (exit ${end.exitCode ?? end.signal ?? 'unknown'}). ${words} ` +
      `Its log is ${options.logFile}; nothing in ${options.dbPath} was changed by us. ` +
      `When the data was written by another version of mongod, set MONGOD_BINARY to that one.`,
    { binary: options.binary, logFile: options.logFile },
  );
}

/** mongod logs one JSON object a line. The first ones of severity E or F are the cause, what follows is its end. */
async function firstErrors(logFile: string): Promise<string> {
  try {
    const lines = (await readFile(logFile, 'utf8')).split('\n');
    // A library that is missing is reported by the system, in plain words.
    const errors = lines.filter((line) => /"s":"[EF]"/.test(line) || /^[^{]/.test(line));
    return errors.slice(0, 3).map(describeLine).join('; ');
  } catch (error) {
    return `Its log is not readable (${String(errorCode(error))}).`;
  }
}

function describeLine(line: string): string {
  if (!line.startsWith('{')) return line;
  const { msg, attr } = logLineSchema.parse(JSON.parse(line));
  return `${msg.trim()} ${JSON.stringify(attr ?? {}).slice(0, 400)}`;
}
const logLineSchema = z.object({ msg: z.string(), attr: z.unknown() });
