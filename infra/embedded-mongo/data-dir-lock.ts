import { randomUUID } from 'node:crypto';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { errorCode } from '../error-code.ts';
import { errorMessage } from '../error-message.ts';
import { EmbeddedMongoError } from './embedded-mongo-error.ts';
import { isAlive, processStart } from './running-process.ts';

const holderSchema = z.object({ pid: z.int().positive(), startedAt: z.string(), token: z.string() });

/** An instance that is just stopping is waited for: who restarts quickly should not be turned away. */
const patienceMs = 3000;

/**
 * One instance per DATA_DIR. The lock is a file naming its holder. It is free when the file is absent, or when the
 * process it names is gone (kill -9, power cut): then the next one takes it over.
 * @throws EmbeddedMongoError data_dir_in_use, data_dir_not_writable
 */
export async function lockDataDir(dataDir: string): Promise<{ release: () => Promise<void> }> {
  const path = join(dataDir, 'instance.lock');
  const token = randomUUID();
  const draft = `${path}.${token}`;
  try {
    await mkdir(dataDir, { recursive: true });
    const startedAt = (await processStart(process.pid)) ?? '';
    await writeFile(draft, JSON.stringify({ pid: process.pid, startedAt, token }));
  } catch (error) {
    throw notWritable(dataDir, error);
  }
  try {
    const patienceEnds = Date.now() + patienceMs;
    while (!(await claim(draft, path))) {
      const holder = await removeStale(path, dataDir);
      if (holder === undefined) continue;
      if (Date.now() > patienceEnds) throw inUse(dataDir, holder);
      await delay(50);
    }
  } finally {
    await rm(draft, { force: true });
  }
  return {
    release: async () => {
      // Only our own: when somebody removed the file by hand, it may be another's by now.
      if ((await readHolder(path))?.token === token) await rm(path, { force: true });
    },
  };
}

/** A hard link appears whole or not at all, and never replaces a file: exactly what a lock needs. */
async function claim(draft: string, path: string): Promise<boolean> {
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    try {
      // Some file systems (FAT, some mounts) know no hard links.
      await writeFile(path, await readFile(draft), { flag: 'wx' });
      return true;
    } catch (second) {
      if (errorCode(second) === 'EEXIST') return false;
      throw second;
    }
  }
}

/** @returns the pid of the holder, when there is one that runs. */
async function removeStale(path: string, dataDir: string): Promise<number | undefined> {
  const holder = await readHolder(path);
  if (holder !== undefined && (await isRunning(holder))) return holder.pid;
  const removed = `${path}.${randomUUID()}`;
  try {
    await rename(path, removed);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw notWritable(dataDir, error);
  }
  const taken = await readHolder(removed);
  // Two may find the same stale lock at once, and the slower one would take away the faster one's new lock.
  if (taken !== undefined && taken.token !== holder?.token) await claim(removed, path);
  await rm(removed, { force: true });
  return undefined;
}

async function isRunning(holder: z.infer<typeof holderSchema>): Promise<boolean> {
  const startedAt = await processStart(holder.pid);
  // A system that does not tell when a process started leaves only the pid to go by.
  return startedAt === undefined || holder.startedAt === ''
    ? isAlive(holder.pid)
    : startedAt === holder.startedAt;
}

async function readHolder(path: string) {
  try {
    return holderSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    // Absent, or broken by a power cut: nobody holds it.
    return undefined;
  }
}

function inUse(dataDir: string, pid: number): EmbeddedMongoError {
  return new EmbeddedMongoError(
    'data_dir_in_use',
    `Another instance (process ${pid}) is using ${dataDir}. Stop it first, or set DATA_DIR to another folder.`,
    { pid, dataDir },
  );
}

function notWritable(dataDir: string, cause: unknown): EmbeddedMongoError {
  return new EmbeddedMongoError(
    'data_dir_not_writable',
    `Cannot write to DATA_DIR ${dataDir} (${errorMessage(cause)}). Change its owner or rights, or set DATA_DIR to another folder.`,
    { dataDir },
    cause,
  );
}
