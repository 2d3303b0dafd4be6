import { openPriceBook } from '../../core/data/price-book.ts';
import { openStorage, type Storage, type StorageOptions } from '../../core/data/storage.ts';
import type { EventRecord } from '../../core/data/persistence-manager.ts';
import { UnifiedEventDispatcher } from '../../core/events/unified-event-dispatcher.ts';
import type { DurableFrame } from '../../core/contracts/frames.ts';
import { seedPrices } from '../../core/usage/price-seeds.ts';
import { silentLogger } from './silent-logger.ts';
import { freshDatabase } from './test-database.ts';

export type TestStorage = Storage & {
  readonly database: string;
  readonly uri: string;
  readonly dispatcher: UnifiedEventDispatcher<EventRecord>;
  /** Every frame committed so far, in order. */
  readonly frames: DurableFrame[];
  close: () => Promise<void>;
};

/** The real storage on a real MongoDB, with its door, and without the rest of the server. */
export async function openTestStorage(
  settings: Partial<StorageOptions['settings']> = {},
): Promise<TestStorage> {
  const database = await freshDatabase();
  const frames: DurableFrame[] = [];
  const storage = await openStorage({
    client: database.client,
    database: database.name,
    nodeId: 'test-node',
    settings: {
      walletUnit: 'tokens',
      walletStartBalance: 1_000_000n,
      freeTrial: false,
      finalUsagePolicy: 'surface',
      price: openPriceBook(seedPrices()),
      ...settings,
    },
    publish: (committed) => frames.push(...committed.frames),
    log: silentLogger,
  });
  const { persistence } = storage;
  return {
    ...storage,
    database: database.name,
    uri: database.uri,
    frames,
    dispatcher: new UnifiedEventDispatcher<EventRecord>({
      usage_summary: (event, isFresh) => persistence.saveUsageSummary(event, isFresh),
      other: (event, isFresh) => persistence.appendEvent(event, isFresh),
    }),
    close: async () => {
      await storage.stop();
      await database.close();
    },
  };
}
