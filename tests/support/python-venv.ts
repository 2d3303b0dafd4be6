import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../infra/run-command.ts';
import { testCacheDir } from './cache-dir.ts';

export type PythonVenv = { readonly python: string } | { readonly missing: string };

const installTimeoutMs = 10 * 60_000;

/**
 * A Python environment with these packages, made once and kept in the cache folder. Where there is no Python, or the
 * packages cannot be had, it says why, on the console too: tests that need it are skipped, and nobody should wonder.
 */
export async function pythonVenv(name: string, requirements: readonly string[]): Promise<PythonVenv> {
  const folder = join(testCacheDir(), name);
  const python =
    process.platform === 'win32' ? join(folder, 'Scripts', 'python.exe') : join(folder, 'bin', 'python');
  const marker = join(folder, 'requirements.txt');
  const wanted = `${requirements.join('\n')}\n`;
  const say = (line: string) => process.stderr.write(`${name}: ${line}\n`);
  if ((await readFile(marker, 'utf8').catch(() => '')) === wanted) return { python };

  const interpreter = await findPython();
  if (interpreter === undefined) return missing('no Python 3.10 or newer with venv was found', say);
  say(`making a Python environment with ${requirements.join(', ')} (once; kept in ${folder})`);
  await rm(folder, { recursive: true, force: true });
  const made = await runCommand(interpreter, ['-m', 'venv', folder], { timeoutMs: installTimeoutMs });
  if (made.kind === 'failed') return missing(`python -m venv: ${made.reason}`, say);
  const installed = await runCommand(
    python,
    ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', ...requirements],
    {
      timeoutMs: installTimeoutMs,
      onLine: (line) => {
        if (/^(Collecting|Installing|Successfully)/.test(line)) say(line.slice(0, 160));
      },
    },
  );
  if (installed.kind === 'failed') return missing(`pip install: ${installed.reason}`, say);
  await writeFile(marker, wanted);
  return { python };
}

async function findPython(): Promise<string | undefined> {
  for (const candidate of ['python3', 'python']) {
    const outcome = await runCommand(
      candidate,
      ['-c', 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'],
      { timeoutMs: 30_000 },
    );
    if (outcome.kind === 'succeeded') return candidate;
  }
  return undefined;
}

function missing(reason: string, say: (line: string) => void): PythonVenv {
  say(`TESTS THAT NEED IT ARE SKIPPED: ${reason}`);
  return { missing: reason };
}
