import type { MongoClient } from 'mongodb';
import type { Logger } from '../observability/logging.ts';
import type { BatchContext } from './batch-draft.ts';
import { BudgetStore } from './budget-store.ts';
import { type Collections, openCollections, prepareCollections } from './collections.ts';
import { type Committed, DurableWriter } from './durable-writer.ts';
import { openNodeSession } from './node-session.ts';
import { PersistenceManager } from './persistence-manager.ts';
import { WalletManager } from './wallet-manager.ts';

/** How long an ended reservation or grant may linger. */
const sweepMs = 15_000;

export type StorageOptions = {
  client: MongoClient;
  database: string;
  nodeId: string;
  settings: Omit<BatchContext, 'now' | 'node_id' | 'budgets'>;
  /** Gets each commit, in order, before any writer learns of it. */
  publish: (committed: Committed) => void;
  /** Another node stopped without a word: what it had under way must be ended by somebody. */
  onNodeGone?: (nodeId: string) => void;
  log: Logger;
  now?: () => Date;
};

export type Storage = {
  readonly persistence: PersistenceManager;
  readonly wallets: WalletManager;
  readonly budgets: BudgetStore;
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
  onNodeGone = () => undefined,
  log,
  now = () => new Date(),
}: StorageOptions): Promise<Storage> {
  const db = client.db(database);
  const collections = openCollections(db);
  await prepareCollections(db, collections);
  const node = await openNodeSession(client, collections.nodes, nodeId, log, onNodeGone);
  const budgets = new BudgetStore(collections, log);
  await budgets.start();
  const context = (): BatchContext => ({
    ...settings,
    budgets: budgets.current(),
    node_id: nodeId,
    now: now(),
  });
  const writer = new DurableWriter({ collections, node, context, publish, log });
  const wallets = new WalletManager(collections, writer);
  const sweeper = setInterval(() => {
    wallets.sweep(now()).then(
      ({ released }) => {
        if (released > 0) log.warn({ released }, 'reservations that nobody renewed were released');
      },
      (cause: unknown) => log.warn({ err: cause }, 'ended reservations and grants were not swept out'),
    );
  }, sweepMs);
  sweeper.unref();
  let stopped: Promise<void> | undefined;
  return {
    persistence: new PersistenceManager(collections, writer),
    wallets,
    budgets,
    collections,
    writer,
    stop: () =>
      (stopped ??= (async () => {
        clearInterval(sweeper);
        budgets.stop();
        await writer.close();
        await node.stop();
      })()),
  };
}
