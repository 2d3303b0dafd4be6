import { randomUUID } from 'node:crypto';
import { type Collection, MongoClient } from 'mongodb';
import { openPriceBook } from '../core/data/price-book.ts';
import { openStorage, type Storage } from '../core/data/storage.ts';
import { UnifiedEventDispatcher } from '../core/events/unified-event-dispatcher.ts';
import type { EventRecord } from '../core/data/persistence-manager.ts';
import { seedPrices } from '../core/usage/price-seeds.ts';
import { startEmbeddedMongo } from '../infra/embedded-mongo/embedded-mongo.ts';
import { silentLogger } from '../tests/support/silent-logger.ts';
import { createTemporaryFolder } from '../tests/support/temporary-folder.ts';
import { findTestMongod } from '../tests/support/test-mongod.ts';
import { usageEnvelope } from '../tests/support/usage-envelope.ts';
import type { Benchmark, BenchContext } from './benchmark.ts';
import { BareGroupCommit, type Row } from './ledger-bare-group.ts';
import { median, percentile } from './statistics.ts';

const roundMs = 2_000;
const writerCounts = [1, 8, 64];
const rounds = 3;
const chatsSpread = 1_000;

export const ledger: Benchmark = {
  name: 'ledger',
  title: 'Debits a second, and how soon a debit is seen',
  explanation: `Debits per second on one real MongoDB (a replica set of one, majority writes with journal), on one hot wallet and over ${chatsSpread} wallets, with ${writerCounts.join(', ')} writers that each wait for their debit. Ours counts the event, writes the session document, the ledger line, the usage row, the log entry and the wallet, and makes the frame. Beside it, in turn, medians of ${rounds} rounds: the obvious transaction of four writes for each event; an optimistic read-modify-write of the balance (read, compare and set, up to ten attempts with backoff), as chat servers have it, which is not exactly-once; and a bare group commit of the same documents without counting rules, hashes, prices and frames. Then, at an idle server, the time from an event to its \`token_update\`, beside one majority write.`,
  async run(context) {
    const folder = await createTemporaryFolder();
    const mongo = await startEmbeddedMongo({
      dataDir: folder.path,
      binary: await findTestMongod(context.say),
      log: silentLogger,
    });
    const client = new MongoClient(mongo.uri, { useBigInt64: true });
    try {
      await client.connect();
      for (const isHot of [true, false])
        for (const writers of writerCounts) await compare(client, isHot, writers, context);
      await latency(client, context);
      await memory(client, context);
    } finally {
      await client.close();
      await mongo.stop();
      await folder.remove();
    }
  },
};

/** Debits one event of the given chat. */
type Debit = (chat: number) => Promise<void>;
type Contestant = {
  name: string;
  open: (client: MongoClient, isHot: boolean) => Promise<{ debit: Debit; close: () => Promise<void> }>;
};

const contestants: readonly Contestant[] = [
  { name: 'ours', open: openOurs },
  { name: 'obvious transaction', open: openObvious },
  { name: 'optimistic read-modify-write', open: openOptimistic },
  { name: 'bare group commit', open: openBare },
];

async function compare(
  client: MongoClient,
  isHot: boolean,
  writers: number,
  { say, ratio }: BenchContext,
): Promise<void> {
  const rates = new Map<string, number[]>(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round += 1)
    for (const { name, open } of contestants) {
      const contestant = await open(client, isHot);
      rates.get(name)?.push(await debitsPerSecond(contestant.debit, writers));
      await contestant.close();
    }
  const rateOf = (name: string) => median(rates.get(name) ?? []);
  const where = isHot ? 'one wallet' : `${chatsSpread} wallets`;
  say(
    `${where}, ${writers} writers: ${contestants.map(({ name }) => `${name} ${rateOf(name).toFixed(0)}/s`).join(', ')}`,
  );
  const prefix = `ledger_${isHot ? 'hot' : 'spread'}_${writers}`;
  for (const [suffix, other] of [
    ['', 'obvious transaction'],
    ['_vs_optimistic', 'optimistic read-modify-write'],
    ['_vs_bare', 'bare group commit'],
  ] as const)
    ratio({ name: prefix + suffix, ours: rateOf('ours'), theirs: rateOf(other), unit: 'debits/s', other });
}

async function debitsPerSecond(debit: Debit, writers: number): Promise<number> {
  let debits = 0;
  const startedAt = performance.now();
  const write = async (writer: number) => {
    for (let turn = 0; performance.now() - startedAt < roundMs; turn += 1) {
      await debit((writer * 7919 + turn * 104_729) % chatsSpread);
      debits += 1;
    }
  };
  await Promise.all(Array.from({ length: writers }, (_, writer) => write(writer)));
  return (debits * 1000) / (performance.now() - startedAt);
}

async function openStore(
  client: MongoClient,
  nodeId: string,
  database: string,
): Promise<{ storage: Storage; dispatcher: UnifiedEventDispatcher<EventRecord> }> {
  const storage = await openStorage({
    client,
    database,
    nodeId,
    settings: {
      walletUnit: 'tokens',
      walletStartBalance: 1_000_000_000_000n,
      freeTrial: false,
      finalUsagePolicy: 'surface',
      price: openPriceBook(seedPrices()),
    },
    publish: () => undefined,
    log: silentLogger,
  });
  const { persistence } = storage;
  const dispatcher = new UnifiedEventDispatcher<EventRecord>({
    usage: (event, isFresh) => persistence.saveUsageSummary(event, isFresh),
    other: (event, isFresh) => persistence.appendEvent(event, isFresh),
  });
  return { storage, dispatcher };
}

async function openOurs(client: MongoClient, isHot: boolean) {
  const name = `bench-${randomUUID()}`;
  const { storage, dispatcher } = await openStore(client, 'bench', name);
  const counters = new Map<number, number>();
  return {
    debit: async (chat: number) => {
      const total = (counters.get(chat) ?? 0) + 10;
      counters.set(chat, total);
      await dispatcher.publish([
        usageEnvelope(`chat-${chat}`, [{ prompt_tokens: total }], {
          user_id: isHot ? 'hot' : `user-${chat}`,
          seq: total,
        }),
      ]);
    },
    close: async () => {
      await storage.stop();
      await client.db(name).dropDatabase();
    },
  };
}

const majority = { writeConcern: { w: 'majority', journal: true } } as const;

async function openRows(client: MongoClient) {
  const name = `bench-${randomUUID()}`;
  const db = client.db(name);
  const collection = (each: string): Collection<Row> => db.collection(each);
  const rows = {
    events: collection('events'),
    sessions: collection('sessions'),
    wallets: collection('wallets'),
    ledger: collection('ledger'),
  };
  const chats = Array.from({ length: chatsSpread }, (_, chat) => chat);
  await rows.sessions.insertMany(chats.map((chat) => ({ _id: `chat-${chat}`, tokens: 0n })));
  await rows.wallets.insertMany([
    { _id: 'hot', balance: 1_000_000_000_000n },
    ...chats.map((chat) => ({ _id: `user-${chat}`, balance: 1_000_000_000_000n })),
  ]);
  await rows.events.insertOne({ _id: 'first' });
  await rows.ledger.insertOne({ _id: 'first' });
  return { rows, close: async () => void (await db.dropDatabase()) };
}

/** Four writes for each event, each event its own transaction, retried by the driver. */
async function openObvious(client: MongoClient, isHot: boolean) {
  const { rows, close } = await openRows(client);
  return {
    debit: async (chat: number) => {
      const id = randomUUID();
      await client.withSession((session) =>
        session.withTransaction(async () => {
          await rows.events.insertOne({ _id: id, chat }, { session });
          await rows.sessions.updateOne({ _id: `chat-${chat}` }, { $inc: { tokens: 10n } }, { session });
          const wallet = isHot ? 'hot' : `user-${chat}`;
          await rows.wallets.updateOne(
            { _id: wallet, balance: { $gte: 10n } },
            { $inc: { balance: -10n } },
            { session },
          );
          await rows.ledger.insertOne({ _id: id, wallet, amount: -10n }, { session });
        }, majority),
      );
    },
    close,
  };
}

/** A row first, then the balance by compare and set: up to ten attempts, 50 ms doubling to 2 s, with jitter. */
async function openOptimistic(client: MongoClient, isHot: boolean) {
  const { rows, close } = await openRows(client);
  return {
    debit: async (chat: number) => {
      await rows.ledger.insertOne({ _id: randomUUID(), chat, amount: -10n }, majority);
      const _id = isHot ? 'hot' : `user-${chat}`;
      for (let attempt = 0; attempt < 10; attempt += 1) {
        const wallet = await rows.wallets.findOne({ _id });
        const balance = wallet?.balance ?? 0n;
        const next = balance > 10n ? balance - 10n : 0n;
        if (
          (await rows.wallets.findOneAndUpdate({ _id, balance }, { $set: { balance: next } }, majority)) !==
          null
        )
          return;
        const pauseMs = Math.min(2_000, 50 * 2 ** attempt) * (1 + Math.random() / 2);
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    },
    close,
  };
}

async function openBare(client: MongoClient, isHot: boolean) {
  const { rows, close } = await openRows(client);
  const group = new BareGroupCommit(client, rows);
  return {
    debit: (chat: number) => group.debit(`chat-${chat}`, isHot ? 'hot' : `user-${chat}`, 10n),
    close: async () => {
      await group.close();
      await close();
    },
  };
}

async function latency(client: MongoClient, { say, ratio }: BenchContext): Promise<void> {
  const ours = await openOurs(client, true);
  const { rows, close } = await openRows(client);
  const times: { ours: number[]; write: number[] } = { ours: [], write: [] };
  const time = async (into: number[], act: () => Promise<unknown>) => {
    const startedAt = performance.now();
    await act();
    into.push(performance.now() - startedAt);
  };
  for (let turn = 0; turn < 600; turn += 1) {
    await time(times.ours, () => ours.debit(1));
    await time(times.write, () => rows.events.insertOne({ _id: randomUUID() }, majority));
  }
  for (const values of Object.values(times)) values.splice(0, 100);
  for (const [name, share] of [
    ['p50', 0.5],
    ['p99', 0.99],
  ] as const) {
    say(
      `event to token_update, ${name}: ${percentile(times.ours, share).toFixed(2)} ms; one majority write ${percentile(times.write, share).toFixed(2)} ms`,
    );
    ratio({
      name: `ledger_latency_${name}`,
      ours: percentile(times.ours, share),
      theirs: percentile(times.write, share),
      unit: 'ms',
      other: 'one majority write',
    });
  }
  await ours.close();
  await close();
}

/** Many events through one node: what memory holds after half of them, it holds at the end. */
async function memory(client: MongoClient, { say, ratio }: BenchContext): Promise<void> {
  const events = Number(process.env['BENCH_EVENTS'] ?? 100_000);
  const ours = await openOurs(client, false);
  const usedAfter = async (count: number, from: number) => {
    for (let done = from; done < count; done += 250)
      await Promise.all(Array.from({ length: 250 }, (_, index) => ours.debit((done + index) % chatsSpread)));
    globalThis.gc?.();
    return process.memoryUsage().heapUsed / 1e6;
  };
  const half = await usedAfter(events / 2, 0);
  const whole = await usedAfter(events, events / 2);
  say(`heap after ${events / 2} events ${half.toFixed(0)} MB, after ${events} events ${whole.toFixed(0)} MB`);
  ratio({ name: 'ledger_memory', ours: whole, theirs: half, unit: 'MB', other: 'after half the events' });
  await ours.close();
}
