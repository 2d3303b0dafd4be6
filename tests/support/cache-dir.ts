import { resolve } from 'node:path';
import { projectRoot } from '../../infra/project-root.ts';

/** Where downloads (mongod, the local model) are kept between test runs: the folder that the server uses too. */
export function testCacheDir(): string {
  return resolve(projectRoot(), process.env['CACHE_DIR'] ?? '.cache');
}
