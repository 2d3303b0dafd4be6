import { MongoClient } from 'mongodb';

/** MongoDB cannot be used as this runtime needs it; `message` says why and what to do. */
export class StorageUnavailableError extends Error {
  readonly code = 'storage_unavailable';
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'StorageUnavailableError';
  }
}

/** Longer than any single answer takes; what is still silent then is taken for lost, and asked again. */
const silenceMs = 30_000;

/**
 * Connects and makes sure that transactions work. int64 come as BigInt: the driver would make a double of a large
 * count otherwise.
 * @throws StorageUnavailableError when nothing answers in time, or the server is no replica set.
 */
export async function connectMongo(uri: string, timeoutMs = 10_000): Promise<MongoClient> {
  const client = new MongoClient(uri, {
    useBigInt64: true,
    serverSelectionTimeoutMS: timeoutMs,
    // A reply that the network swallowed would be waited for, for ever, and with it every later write of this node.
    socketTimeoutMS: silenceMs,
    appName: 'mozaiks-runtime',
    ignoreUndefined: true,
  });
  try {
    await client.connect();
    const hello = await client.db('admin').command({ hello: 1 });
    if (hello['setName'] === undefined && hello['msg'] !== 'isdbgrid')
      throw new StorageUnavailableError(
        'MongoDB runs as a standalone server, which has no transactions. Start it with --replSet rs0 and run rs.initiate() once; a set of one member will do.',
      );
    return client;
  } catch (cause) {
    await client.close();
    if (cause instanceof StorageUnavailableError) throw cause;
    throw new StorageUnavailableError(
      `MongoDB does not answer at ${redacted(uri)}. Check MONGODB_URI, or leave it unset to use the embedded MongoDB.`,
      cause,
    );
  }
}

/** The address without its password. */
export function redacted(uri: string): string {
  return uri.replace(/\/\/([^:@/]+):[^@/]*@/, '//$1:***@');
}
