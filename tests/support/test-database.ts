import { randomUUID } from 'node:crypto';
import { MongoClient } from 'mongodb';
import { startEmbeddedMongo } from '../../infra/embedded-mongo/embedded-mongo.ts';
import { silentLogger } from './silent-logger.ts';
import { createTemporaryFolder } from './temporary-folder.ts';
import { findTestMongod } from './test-mongod.ts';

export type TestDatabase = {
  /** Of the server; the database's name is apart. */
  readonly uri: string;
  readonly name: string;
  readonly client: MongoClient;
  /** Drops the database. Safe to call twice. */
  close: () => Promise<void>;
};

/**
 * An empty database of its own for one test file, on a real MongoDB: the one that the test run started, or, when a
 * test file is run by itself, one started for it.
 */
export async function freshDatabase(): Promise<TestDatabase> {
  const runUri = process.env['TEST_MONGODB_URI'];
  const server = runUri === undefined ? await startOwnMongo() : { uri: runUri, stop: async () => undefined };
  const client = new MongoClient(server.uri, { useBigInt64: true });
  await client.connect();
  const name = `test-${randomUUID()}`;
  const shutDown = async () => {
    await client.db(name).dropDatabase();
    await client.close();
    await server.stop();
  };
  let closed: Promise<void> | undefined;
  return { uri: server.uri, name, client, close: () => (closed ??= shutDown()) };
}

async function startOwnMongo() {
  const folder = await createTemporaryFolder();
  const mongo = await startEmbeddedMongo({
    dataDir: folder.path,
    binary: await findTestMongod(),
    log: silentLogger,
  });
  return {
    uri: mongo.uri,
    stop: async () => {
      await mongo.stop();
      await folder.remove();
    },
  };
}
