import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { errorMessage } from '../error-message.ts';
import { fileSha256 } from '../file-digest.ts';
import { projectRoot } from '../project-root.ts';
import { runCommand } from '../run-command.ts';
import { LocalModelUnavailableError } from './local-model-unavailable-error.ts';

const version = '3.22.1';
const platformPackages: Readonly<Record<string, string>> = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'linux-arm': 'linux-armv7l',
  'linux-riscv64': 'linux-riscv64',
  'darwin-arm64': 'mac-arm64-metal',
  'darwin-x64': 'mac-x64',
  'win32-x64': 'win-x64',
  'win32-arm64': 'win-arm64',
};

/**
 * The program that runs the model: npm packages, installed into the cache because they are of use to those without a
 * key only, and of their optional ones (700 MB, for graphics cards) just the one for this machine.
 * @returns the module's file
 * @throws LocalModelUnavailableError
 */
export async function obtainLlamaRuntime(
  cacheDir: string,
  progress: (line: string) => void,
): Promise<string> {
  const source = join(projectRoot(), 'infra', 'local-model');
  const lockDigest = await fileSha256(join(source, 'package-lock.json'));
  const target = resolve(
    cacheDir,
    'local-model',
    `node-llama-cpp-${version}-${process.platform}-${process.arch}-${lockDigest.slice(0, 8)}`,
  );
  const entry = join(target, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
  if (existsSync(entry)) return entry;
  const platformPackage = platformPackages[`${process.platform}-${process.arch}`];
  if (platformPackage === undefined)
    throw new LocalModelUnavailableError([
      `node-llama-cpp exists for ${Object.keys(platformPackages).join(', ')}; this is ${process.platform}-${process.arch}`,
    ]);
  try {
    await mkdir(dirname(target), { recursive: true });
    const folder = await mkdtemp(join(dirname(target), '.install-'));
    try {
      await copyFile(join(source, 'package.json'), join(folder, 'package.json'));
      await copyFile(join(source, 'package-lock.json'), join(folder, 'package-lock.json'));
      progress('installing node-llama-cpp, which runs the local model (about 85 MB)');
      // Not `ci`: that insists on all optional packages being in the lock, also those for other machines.
      await npm(folder, ['install', '--omit=optional'], progress);
      // An optional package, too; asked for by its name it comes alone.
      await npm(
        folder,
        ['install', '--no-save', '--omit=optional', `@node-llama-cpp/${platformPackage}@${version}`],
        progress,
      );
      await giveName(folder, target);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  } catch (error) {
    throw new LocalModelUnavailableError([`node-llama-cpp from npm: ${errorMessage(error)}`]);
  }
  return entry;
}

async function npm(
  folder: string,
  npmArguments: readonly string[],
  progress: (line: string) => void,
): Promise<void> {
  const reminder = setInterval(() => {
    progress('still installing node-llama-cpp');
  }, 5000);
  // On Windows npm is a script that only a shell can run; what it runs lies beside node.
  const [command, prefix] =
    process.platform === 'win32'
      ? [process.execPath, [join(dirname(process.execPath), 'node_modules', 'npm', 'bin', 'npm-cli.js')]]
      : ['npm', []];
  // No package's scripts: one of them would try to compile llama.cpp.
  const flags = ['--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const outcome = await runCommand(command, [...prefix, ...npmArguments, ...flags], {
    timeoutMs: 600_000,
    cwd: folder,
  });
  clearInterval(reminder);
  if (outcome.kind === 'failed')
    throw new Error(`npm ${npmArguments[0] ?? ''}: ${npmErrors(outcome.output)}`);
}

/** The first lines name the cause; after them npm explains its usage. */
function npmErrors(output: string): string {
  return output
    .split('\n')
    .map((line) => line.replace(/^npm error\s*/, '').trim())
    .filter((line) => line !== '')
    .slice(0, 3)
    .join(' ')
    .slice(0, 400);
}

async function giveName(folder: string, target: string): Promise<void> {
  try {
    await rename(folder, target);
  } catch (error) {
    // Another process was faster; its copy is as good.
    if (!existsSync(target)) throw error;
  }
}
