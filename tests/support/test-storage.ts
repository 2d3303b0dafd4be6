import { openPriceBook } from '../../core/data/price-book.ts';
import type { EventRecord } from '../../core/data/persistence-manager.ts';
import { openStorage, type Storage, type StorageOptions } from '../../core/data/storage.ts';
import type { DurableFrame } from '../../core/contracts/frames.ts';
import { UnifiedEventDispatcher } from '../../core/events/unified-event-dispatcher.ts';
import { seedPrices } from '../../core/usage/price-seeds.ts';
import { silentLogger } from './silent-logger.ts';
import { freshDatabase } from './test-database.ts';
import { TestPrices } from './test-prices.ts';

export type TestStorage = Storage & {
  readonly database: string;
  readonly uri: string;
  readonly dispatcher: UnifiedEventDispatcher<EventRecord>;
  /** Every frame committed so far, in order. */
  readonly frames: DurableFrame[];
  /** The price of the model `priced-by-test`: 1 nano-USD a token. */
  readonly prices: TestPrices;
  /** Another node on the same database. */
  openPeer: () => Promise<Storage>;
  close: () => Promise<void>;
};

/** The real storage on a real MongoDB, with its door, and without the rest of the server. */
export async function openTestStorage(
  settings: Partial<StorageOptions['settings']> = {},
  now: () => Date = () => new Date(),
): Promise<TestStorage> {
  const database = await freshDatabase();
  const frames: DurableFrame[] = [];
  const prices = new TestPrices(openPriceBook(seedPrices()), now);
  const open = (nodeId: string) =>
    openStorage({
      client: database.client,
      database: database.name,
      nodeId,
      settings: {
        walletUnit: 'tokens',
        walletStartBalance: 1_000_000n,
        freeTrial: false,
        finalUsagePolicy: 'surface',
        price: prices.price,
        ...settings,
      },
      publish: (committed) => frames.push(...committed.frames),
      log: silentLogger,
      now,
    });
  const storage = await open('test-node');
  const { persistence } = storage;
  return {
    ...storage,
    database: database.name,
    uri: database.uri,
    frames,
    prices,
    openPeer: () => open('test-peer'),
    dispatcher: new UnifiedEventDispatcher<EventRecord>({
      usage: (event, isFresh) => persistence.saveUsageSummary(event, isFresh),
      other: (event, isFresh) => persistence.appendEvent(event, isFresh),
    }),
    close: async () => {
      await storage.stop();
      await database.close();
    },
  };
}
