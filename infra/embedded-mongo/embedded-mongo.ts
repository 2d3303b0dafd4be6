import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../../core/observability/logging.ts';
import { errorMessage } from '../error-message.ts';
import { findFreePort, isPortFree } from '../loopback-port.ts';
import { lockDataDir } from './data-dir-lock.ts';
import { EmbeddedMongoError } from './embedded-mongo-error.ts';
import { type MongodProcess, replicaSetName, startMongodProcess } from './mongod-process.ts';
import { endOrphanedMongod } from './orphaned-mongod.ts';
import { changeReplicaSetAddress, formReplicaSet } from './replica-set.ts';

type EmbeddedMongoOptions = {
  /** Holds `mongo/` (the data), `mongod.log`, `mongod.port` and `instance.lock`. */
  readonly dataDir: string;
  readonly binary: string;
  /** Exactly this port. Without it: the port of the last start if it is free, else any. */
  readonly port?: number;
  readonly log: Logger;
  readonly progress?: (line: string) => void;
};

export type EmbeddedMongo = {
  readonly uri: string;
  readonly binary: string;
  /** The process id of the mongod that runs now. */
  pid: () => number;
  stop: () => Promise<void>;
};

/** What every start of the same mongod has in common. */
type Launch = {
  readonly binary: string;
  readonly dataDir: string;
  readonly dbPath: string;
  readonly logFile: string;
  readonly log: Logger;
};

const portAttempts = 5;
const restartPauseMs = 2000;

/**
 * Starts the MongoDB that comes with the runtime: a mongod of our own, a replica set of one, its data in DATA_DIR.
 *
 * It is starting (DATA_DIR is locked, what an earlier run left behind is ended), then running. A mongod that dies while
 * running (out of memory, kill -9) is started again at the same address, as often as it takes: its journal keeps all
 * that was acknowledged, and clients reconnect by themselves. Stopping shuts mongod down cleanly and unlocks DATA_DIR.
 * @throws EmbeddedMongoError
 */
export async function startEmbeddedMongo(options: EmbeddedMongoOptions): Promise<EmbeddedMongo> {
  const dataDir = resolve(options.dataDir);
  const lock = await lockDataDir(dataDir);
  const launch: Launch = {
    binary: options.binary,
    dataDir,
    dbPath: join(dataDir, 'mongo'),
    logFile: join(dataDir, 'mongod.log'),
    log: options.log,
  };
  // Silent when it is fast, so that a warm start prints nothing.
  const slow = setTimeout(
    () => options.progress?.('starting MongoDB (recovering its data takes a moment)'),
    2000,
  );
  let mongod: MongodProcess;
  let port: number;
  try {
    await mkdir(launch.dbPath, { recursive: true });
    ({ mongod, port } = await startSomewhere(launch, options.port));
  } catch (error) {
    await lock.release();
    throw error;
  } finally {
    clearTimeout(slow);
  }

  const stopping = new AbortController();
  const supervise = async () => {
    for (;;) {
      const end = await mongod.ended;
      if (stopping.signal.aborted) return;
      options.log.error({ ...end, pid: mongod.pid }, 'mongod ended unexpectedly; it is started again');
      const next = await startAgain(launch, port, stopping.signal);
      if (next === undefined) return;
      mongod = next;
      options.log.info({ pid: next.pid, port }, 'mongod runs again');
      if (stopping.signal.aborted) await next.stop();
    }
  };
  const supervision = supervise();

  const shutDown = async () => {
    stopping.abort();
    await mongod.stop();
    await supervision;
    await lock.release();
  };
  let stopped: Promise<void> | undefined;
  return {
    uri: uriAt(port),
    binary: options.binary,
    pid: () => mongod.pid,
    stop: () => (stopped ??= shutDown()),
  };
}

/** The address of the MongoDB that another process has running in this DATA_DIR; undefined when none ever ran there. */
export async function embeddedMongoUri(dataDir: string): Promise<string | undefined> {
  const port = await readPort({ dataDir: resolve(dataDir) });
  return port === undefined ? undefined : uriAt(port);
}

const uriAt = (port: number): string => `mongodb://127.0.0.1:${port}/?replicaSet=${replicaSetName}`;

async function startSomewhere(launch: Launch, wantedPort: number | undefined) {
  for (let attempt = 0; attempt < portAttempts; attempt += 1) {
    const remembered = await readPort(launch);
    const orphan = await endOrphanedMongod(launch.dbPath, launch.log);
    if (orphan !== undefined) throw stubbornOrphan(launch, orphan);
    const preferred = wantedPort ?? (attempt === 0 ? remembered : undefined);
    const port = preferred !== undefined && (await isPortFree(preferred)) ? preferred : await findFreePort();
    if (wantedPort !== undefined && port !== wantedPort) throw portInUse(wantedPort);
    if (port !== remembered && existsSync(join(launch.dbPath, 'WiredTiger')) && !(await move(launch, port)))
      continue;
    const mongod = await startAt(launch, port);
    if (mongod !== undefined) {
      await rememberPort(launch, port);
      return { mongod, port };
    }
  }
  throw portInUse(wantedPort ?? 0);
}

/** @returns false when the port was taken in the meantime. */
async function move(launch: Launch, port: number): Promise<boolean> {
  launch.log.info({ port }, 'the embedded MongoDB moves to another port');
  const mongod = await startMongodProcess({ ...launch, port, standalone: true });
  if (mongod === undefined) return false;
  try {
    await changeReplicaSetAddress(port);
    return true;
  } finally {
    await mongod.stop();
  }
}

async function startAt(launch: Launch, port: number): Promise<MongodProcess | undefined> {
  const mongod = await startMongodProcess({ ...launch, port });
  try {
    if (mongod !== undefined) await formReplicaSet(port);
    return mongod;
  } catch (error) {
    await mongod?.stop();
    throw error;
  }
}

/** Tries until it runs or we stop: a full disk may be emptied, a taken port may become free. */
async function startAgain(
  launch: Launch,
  port: number,
  stopping: AbortSignal,
): Promise<MongodProcess | undefined> {
  while (!stopping.aborted) {
    try {
      const mongod = await startAt(launch, port);
      if (mongod !== undefined) return mongod;
      launch.log.error({ port }, 'mongod cannot start again: its port is taken');
    } catch (error) {
      launch.log.error({ error: errorMessage(error) }, 'mongod cannot start again');
    }
    // Rejects when we stop, which the loop's condition sees.
    await delay(restartPauseMs, undefined, { signal: stopping }).catch(() => undefined);
  }
  return undefined;
}

async function readPort(launch: Pick<Launch, 'dataDir'>): Promise<number | undefined> {
  try {
    const port = Number(await readFile(portFile(launch), 'utf8'));
    return Number.isInteger(port) && port > 0 && port < 65_536 ? port : undefined;
  } catch {
    // The first start.
    return undefined;
  }
}

async function rememberPort(launch: Launch, port: number): Promise<void> {
  const draft = `${portFile(launch)}.draft`;
  await writeFile(draft, String(port));
  await rename(draft, portFile(launch));
}

function portFile(launch: Pick<Launch, 'dataDir'>): string {
  return join(launch.dataDir, 'mongod.port');
}

function portInUse(port: number): EmbeddedMongoError {
  return new EmbeddedMongoError(
    'mongod_port_in_use',
    `Port ${port} is used by another program. Stop that program, or let the runtime choose a port.`,
    { port },
  );
}

function stubbornOrphan(launch: Launch, pid: number): EmbeddedMongoError {
  return new EmbeddedMongoError(
    'data_dir_in_use',
    `The mongod of an earlier run (process ${pid}) is still using ${launch.dbPath} and cannot be ended. End it, then start again.`,
    { pid, dataDir: launch.dataDir },
  );
}
