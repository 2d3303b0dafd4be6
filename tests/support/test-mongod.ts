import { findMongod } from '../../infra/embedded-mongo/find-mongod.ts';
import { testCacheDir } from './cache-dir.ts';

export async function findTestMongod(
  progress: (line: string) => void = (line) => process.stderr.write(`${line}\n`),
): Promise<string> {
  const named = process.env['MONGOD_BINARY'];
  const { binary } = await findMongod({
    mongodBinary: named === '' ? undefined : named,
    cacheDir: testCacheDir(),
    progress,
  });
  return binary;
}
