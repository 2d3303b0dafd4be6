import { join } from 'node:path';
import { projectRoot } from '../../infra/project-root.ts';

/** Where downloads (mongod, the local model) are kept between test runs: the folder that the server uses too. */
export function testCacheDir(): string {
  return process.env['CACHE_DIR'] ?? join(projectRoot(), '.cache');
}
