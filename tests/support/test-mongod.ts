import { findMongod } from '../../infra/embedded-mongo/find-mongod.ts';
import { testCacheDir } from './cache-dir.ts';

export async function findTestMongod(): Promise<string> {
  const { binary } = await findMongod({
    mongodBinary: process.env['MONGOD_BINARY'],
    cacheDir: testCacheDir(),
    progress: (line) => process.stderr.write(`${line}\n`),
  });
  return binary;
}
