import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../../core/observability/logging.ts';
import { mongodSignature } from './mongod-process.ts';
import { isAlive, processCommandLine } from './running-process.ts';

const patienceMs = 15_000;

/**
 * Ends the mongod that an earlier run left behind on this dbPath (kill -9 of that run). The caller holds the lock of
 * DATA_DIR, so nobody else can be using it. A process is only ended when its command line is a mongod's with exactly
 * our dbPath.
 * @returns the pid of a process that must be ours but cannot be recognised or ended.
 */
export async function endOrphanedMongod(dbPath: string, log: Logger): Promise<number | undefined> {
  // mongod keeps its pid in this file while it runs, and empties it when it shuts down cleanly.
  const pid = await readPid(join(dbPath, 'mongod.lock'));
  if (pid === undefined || !isAlive(pid) || !(await isOurMongod(pid, dbPath))) return undefined;
  log.warn({ pid, dbPath }, 'ending the mongod that an earlier run left behind');
  process.kill(pid, 'SIGTERM');
  let deadline = Date.now() + patienceMs;
  let killed = false;
  while (isAlive(pid) && (await isOurMongod(pid, dbPath))) {
    if (Date.now() > deadline) {
      if (killed) return pid;
      killed = true;
      deadline = Date.now() + patienceMs;
      process.kill(pid, 'SIGKILL');
    }
    await delay(20);
  }
  return undefined;
}

async function isOurMongod(pid: number, dbPath: string): Promise<boolean> {
  const commandLine = await processCommandLine(pid);
  // Windows quotes a path that has spaces.
  return commandLine?.replaceAll('"', '').includes(mongodSignature(dbPath)) ?? false;
}

async function readPid(path: string): Promise<number | undefined> {
  try {
    const pid = Number.parseInt(await readFile(path, 'utf8'), 10);
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}
