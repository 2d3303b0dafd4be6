import type { MongoClient } from 'mongodb';
import type { Logger } from '../observability/logging.ts';
import type { BatchContext } from './batch-draft.ts';
import { type Collections, openCollections, prepareCollections } from './collections.ts';
import { type Committed, DurableWriter } from './durable-writer.ts';
import { openNodeSession } from './node-session.ts';
import { PersistenceManager } from './persistence-manager.ts';

export type StorageOptions = {
  client: MongoClient;
  database: string;
  nodeId: string;
  settings: Omit<BatchContext, 'now' | 'node_id'>;
  /** Gets each commit, in order, before any writer learns of it. */
  publish: (committed: Committed) => void;
  log: Logger;
  now?: () => Date;
};

export type Storage = {
  readonly persistence: PersistenceManager;
  readonly collections: Collections;
  readonly writer: DurableWriter;
  stop: () => Promise<void>;
};

/** Opens everything this node stores with, on a connection that stays the caller's. */
export async function openStorage({
  client,
  database,
  nodeId,
  settings,
  publish,
  log,
  now = () => new Date(),
}: StorageOptions): Promise<Storage> {
  const db = client.db(database);
  const collections = openCollections(db);
  await prepareCollections(db, collections);
  const node = await openNodeSession(client, collections.nodes, nodeId, log);
  const context = (): BatchContext => ({ ...settings, node_id: nodeId, now: now() });
  const writer = new DurableWriter({ collections, node, context, publish, log });
  let stopped: Promise<void> | undefined;
  return {
    persistence: new PersistenceManager(collections, writer),
    collections,
    writer,
    stop: () => (stopped ??= writer.close().then(() => node.stop())),
  };
}
