import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { MongoClient } from 'mongodb';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import { hashLine } from '../../core/data/wallet-ledger.ts';
import { sessionView } from '../../core/data/persistence-manager.ts';
import { openStorage, type Storage } from '../../core/data/storage.ts';
import { UnifiedEventDispatcher } from '../../core/events/unified-event-dispatcher.ts';
import { type CuttingProxy, startCuttingProxy } from '../support/cutting-proxy.ts';
import { eventually } from '../support/eventually.ts';
import { shuffled } from '../support/shuffled.ts';
import { silentLogger } from '../support/silent-logger.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** The one durable writer, on a real MongoDB, with everything that can go wrong around a commit. */
let storage: TestStorage;
beforeAll(async () => {
  storage = await openTestStorage();
});
afterAll(() => storage.close());

let own: { stop: () => Promise<void> }[] = [];
afterEach(async () => {
  for (const each of own.toReversed()) await each.stop();
  own = [];
});

const startBalance = 1_000_000;
const dispatcherOf = ({ persistence }: Storage) =>
  new UnifiedEventDispatcher({
    usage: (event, isFresh) => persistence.saveUsageSummary(event, isFresh),
    other: (event, isFresh) => persistence.appendEvent(event, isFresh),
  });
const outcomesOf = (published: { recorded?: { outcome: string } }[]) =>
  published.map(({ recorded }) => recorded?.outcome ?? 'refused');
const tokensOf = async (chatId: string) => {
  const session = await storage.persistence.findSession(chatId);
  return Number(session?.real_time_tracking.tokens.total_tokens ?? 0n);
};

/** The counters of several agents, summary by summary; each grows by 7 prompt tokens. */
function history(
  chatId: string,
  user_id: string,
  { agents = 3, rounds = 5 } = {},
): { events: Envelope[]; billed: number } {
  const events = Array.from({ length: rounds * agents }, (_, index) =>
    usageEnvelope(chatId, [{ prompt_tokens: 7 * (Math.floor(index / agents) + 1) }], {
      user_id,
      agent: `agent-${index % agents}`,
      client: `client-${index % agents}`,
      seq: index + 1,
    }),
  );
  return { events, billed: 7 * rounds * agents };
}

/** What must hold of a chat and a wallet, whatever happened to them on their way. */
async function expectWhole(chatIds: readonly string[], user_id: string, billed: number): Promise<void> {
  const { collections } = storage;
  for (const chat_id of chatIds) {
    const session = await storage.persistence.findSession(chat_id);
    const events = await collections.events
      .find({ chat_id, seq: { $gt: 0 } }, { sort: { seq: 1 } })
      .toArray();
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1));
    expect(session?.last_sequence).toBe(events.length);
    const lines = await collections.ledger.find({ chat_id }).toArray();
    const debited = lines.reduce((sum, { amount }) => sum - Number(amount), 0);
    expect([chat_id, debited]).toEqual([chat_id, await tokensOf(chat_id)]);
  }
  const wallet = await collections.wallets.findOne({ _id: `acme|${user_id}` });
  expect(Number(wallet?.balance)).toBe(startBalance - billed);
  const lines = await collections.ledger
    .find({ wallet_id: `acme|${user_id}` }, { sort: { line: 1 } })
    .toArray();
  let previous: string | null = null;
  for (const [index, line] of lines.entries()) {
    expect(line).toMatchObject({ line: BigInt(index + 1), previous_hash: previous, hash: hashLine(line) });
    previous = line.hash;
  }
  expect(wallet).toMatchObject({ line_count: BigInt(lines.length), last_hash: previous });
}

describe('two nodes on one database', () => {
  test('that write the same chats and the same wallet at once, with repeats, count everything once', async () => {
    const peer = await storage.openPeer();
    own.push(peer);
    const chats = ['shared-1', 'shared-2', 'shared-3'];
    const histories = chats.map((chatId) => history(chatId, 'shared'));
    const billed = histories.reduce((sum, each) => sum + each.billed, 0);
    const deliveries = [1, 2].map((seed) =>
      shuffled(
        histories.flatMap(({ events }) => [...events, ...events]),
        seed,
      ),
    );
    const [here = [], there = []] = deliveries;
    const answers = await Promise.all([
      ...here.map((event) => storage.dispatcher.publish([event])),
      ...there.map((event) => dispatcherOf(peer).publish([event])),
    ]);
    const outcomes = outcomesOf(answers.flat());
    expect(outcomes.filter((outcome) => outcome === 'recorded')).toHaveLength(45);
    expect(outcomes.filter((outcome) => outcome === 'repeated')).toHaveLength(135);
    await expectWhole(chats, 'shared', billed);
    // Every frame was sent by the node that committed it, and by no other.
    for (const chatId of chats) {
      const sent = storage.frames.filter(({ chat_id }) => chat_id === chatId).map(({ seq }) => seq);
      expect(sent.toSorted((a, b) => a - b)).toEqual(sent.map((_, index) => index + 1));
    }
  });

  test('do the same change of a wallet once, whichever is asked', async () => {
    const peer = await storage.openPeer();
    own.push(peer);
    const change = {
      owner: { app_id: 'acme', user_id: 'asked-twice' },
      kind: 'debit',
      amount: 10n,
      idempotencyKey: 'k',
      reason: 'r',
    } as const;
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? storage : peer).wallets.changeWallet(change),
      ),
    );
    expect(results.filter(({ outcome }) => outcome === 'recorded')).toHaveLength(1);
    await expectWhole([], 'asked-twice', 10);
  });

  test('one does not refuse what the other made possible', async () => {
    const peer = await storage.openPeer();
    own.push(peer);
    const owner = { app_id: 'acme', user_id: 'refilled-elsewhere' };
    const take = (idempotencyKey: string) =>
      storage.wallets.changeWallet({
        owner,
        kind: 'debit',
        amount: 1_000_000n,
        idempotencyKey,
        reason: 'all',
      });
    expect((await take('first')).outcome).toBe('recorded');
    expect((await take('second')).outcome).toBe('insufficient_funds');
    await peer.wallets.changeWallet({
      owner,
      kind: 'grant',
      amount: 1_000_000n,
      idempotencyKey: 'g',
      reason: 'top-up',
    });
    expect((await take('second')).outcome).toBe('recorded');
  });

  test('one does not block a call for which the other topped the wallet up', async () => {
    const peer = await storage.openPeer();
    own.push(peer);
    const owner = { app_id: 'acme', user_id: 'blocked-here' };
    const hold = (hold_id: string) =>
      storage.wallets.placeHold({
        hold_id,
        facts: { ...owner, chat_id: 'blocked-chat', workflow_name: 'w', model: 'gpt-4o-mini' },
        run_id: 'r',
        agent: 'planner',
        input_tokens: 100,
        max_tokens: 100,
      });
    await storage.wallets.changeWallet({
      owner,
      kind: 'debit',
      amount: 1_000_000n,
      idempotencyKey: 'all',
      reason: 'all',
    });
    expect((await hold('h-1')).outcome).toBe('blocked');
    await peer.wallets.changeWallet({
      owner,
      kind: 'grant',
      amount: 1_000n,
      idempotencyKey: 'g',
      reason: 'top-up',
    });
    expect((await hold('h-2')).outcome).toBe('held');
  });
});

describe('when answers of the database are lost', () => {
  let proxy: CuttingProxy;
  let unlucky: Storage;
  beforeAll(async () => {
    proxy = await startCuttingProxy(storage.uri);
    const client = new MongoClient(proxy.uri, { useBigInt64: true, ignoreUndefined: true });
    await client.connect();
    const opened = await openStorage({
      client,
      database: storage.database,
      nodeId: 'unlucky-node',
      settings: {
        walletUnit: 'tokens',
        walletStartBalance: BigInt(startBalance),
        freeTrial: false,
        finalUsagePolicy: 'surface',
        price: storage.prices.price,
      },
      publish: ({ frames }) => storage.frames.push(...frames),
      log: silentLogger,
    });
    unlucky = {
      ...opened,
      stop: async () => {
        await opened.stop();
        await client.close();
      },
    };
  });
  afterAll(async () => {
    await unlucky.stop();
    await proxy.stop();
  });

  // The driver itself asks once more for the result of a commit; beyond that it is up to the writer.
  test.each([1, 2, 5])(
    'of %d commits, each event is recorded once, and its caller is told so',
    async (count) => {
      const chatId = `unheard-${count}`;
      const { events, billed } = history(chatId, chatId, { rounds: 2 });
      const before = proxy.lost;
      proxy.loseAnswers(count, 'commitTransaction');
      expect(outcomesOf(await dispatcherOf(unlucky).publish(events))).toEqual(events.map(() => 'recorded'));
      expect(proxy.lost).toBeGreaterThan(before);
      proxy.loseAnswers(0);
      expect(outcomesOf(await dispatcherOf(unlucky).publish(events))).toEqual(events.map(() => 'repeated'));
      await expectWhole([chatId], chatId, billed);
      const sent = storage.frames.filter(({ chat_id }) => chat_id === chatId).map(({ seq }) => seq);
      expect(sent).toEqual(sent.map((_, index) => index + 1));
      expect(sent).toHaveLength(events.length + 1);
    },
  );

  test('of a change of a wallet, it is done once', async () => {
    proxy.loseAnswers(3, 'commitTransaction');
    const change = {
      owner: { app_id: 'acme', user_id: 'unheard-buyer' },
      kind: 'debit',
      amount: 25n,
      idempotencyKey: 'k',
      reason: 'r',
    } as const;
    const result = await unlucky.wallets.changeWallet(change);
    proxy.loseAnswers(0);
    expect(['recorded', 'repeated']).toContain(result.outcome);
    expect((await unlucky.wallets.changeWallet(change)).outcome).toBe('repeated');
    await expectWhole([], 'unheard-buyer', 25);
  });

  test.each(['insert', 'update', 'find'])('of %s, everything is counted once', async (command) => {
    const chatId = `unheard-${command}`;
    const { events, billed } = history(chatId, chatId, { rounds: 2 });
    // The chat and its wallet are there, so that the rest changes them.
    await dispatcherOf(unlucky).publish(events.slice(0, 1));
    const before = proxy.lost;
    proxy.loseAnswers(2, command);
    await dispatcherOf(unlucky).publish(events);
    expect(proxy.lost).toBeGreaterThan(before);
    proxy.loseAnswers(0);
    await expectWhole([chatId], chatId, billed);
  });
});

describe('a write', () => {
  test('that cannot be folded is refused alone, with its own error', async () => {
    const { events } = history('neighbour', 'neighbour', { rounds: 1 });
    const failing = storage.writer.write({
      chatIds: ['neighbour'],
      fold: () => {
        throw new RangeError('cannot be folded');
      },
    });
    const [published, refused] = await Promise.allSettled([storage.dispatcher.publish(events), failing]);
    expect(published).toMatchObject({ status: 'fulfilled' });
    expect(refused).toMatchObject({ status: 'rejected', reason: { message: 'cannot be folded' } });
    await expectWhole(['neighbour'], 'neighbour', 21);
  });

  test('that changes something and then fails leaves nothing behind', async () => {
    const owner = { app_id: 'acme', user_id: 'half-way' };
    const failing = storage.writer.write({
      chatIds: ['half-way'],
      owners: [owner],
      fold: (draft) => {
        draft.openSession({ ...owner, chat_id: 'half-way', workflow_name: 'w' });
        draft.wallet(owner).balance = 5n;
        throw new RangeError('half-way');
      },
    });
    await expect(failing).rejects.toThrow('half-way');
    expect(await storage.persistence.findSession('half-way')).toBeNull();
    expect((await storage.wallets.readBalance(owner)).balance).toBe(startBalance);
  });

  test('beyond 10,000 that wait is refused before anything of it is taken', async () => {
    const writes = Array.from({ length: 10_000 }, (_, index) => storage.writer.write({ fold: () => index }));
    expect(storage.writer.queueLength).toBe(10_000);
    const tooMany = storage.writer.write({ fold: () => 0 });
    await expect(tooMany).rejects.toMatchObject({ code: 'queue_full', retryAfterSec: 1 });
    expect(await Promise.all(writes)).toEqual(Array.from({ length: 10_000 }, (_, index) => index));
    expect(storage.writer.queueLength).toBe(0);
  });
});

describe('identifiers', () => {
  const ownerOf = (user_id: string) => ({ app_id: 'acme', user_id });

  test('of an event that look like those of its neighbours are still its own', async () => {
    const facts = { user_id: 'look-alikes' };
    const events = ['one', 'one#2', 'run_start|run-1', 'one|two'].map((uuid, index) =>
      usageEnvelope('look-alikes', [{ model: 'a model without a price', prompt_tokens: 10 }], {
        ...facts,
        uuid,
        client: `client-${index}`,
        seq: index + 1,
      }),
    );
    expect(outcomesOf(await storage.dispatcher.publish(events))).toEqual(events.map(() => 'recorded'));
    await expectWhole(['look-alikes'], 'look-alikes', 40);
  });

  test('of counters that look like those of their neighbours are still their own', async () => {
    // As many clients as leave the session document, named so that joined names are the same.
    const names: [string, number, string][] = [
      ['x', 1, 'y|2|z'],
      ['x|1|y', 2, 'z'],
    ];
    const others = Array.from({ length: 60 }, (_, index): [string, number, string] => [
      `other-${index}`,
      1,
      'm',
    ]);
    const events = [...names, ...others, ...names].map(([client, epoch, model], index) =>
      usageEnvelope('same-names', [{ model, prompt_tokens: 10 }], {
        user_id: 'same-names',
        client,
        epoch,
        seq: index + 1,
      }),
    );
    for (const event of events) await storage.dispatcher.publish([event]);
    await expectWhole(['same-names'], 'same-names', 620);
  });

  test('of one wallet cannot stand in the way of another', async () => {
    const change = { kind: 'grant', amount: 5n, reason: 'gift' } as const;
    const victim = ownerOf('victim');
    const attacker = { app_id: 'start', user_id: 'acme' };
    await storage.wallets.changeWallet({ ...change, owner: attacker, idempotencyKey: 'victim' });
    expect((await storage.wallets.readBalance(victim)).balance).toBe(startBalance);
    const event = usageEnvelope('acme', [{ prompt_tokens: 10 }], {
      user_id: 'debtor',
      uuid: 'debtor|order-1',
    });
    expect(outcomesOf(await storage.dispatcher.publish([event]))).toEqual(['recorded']);
    const order = {
      owner: ownerOf('debtor'),
      kind: 'debit',
      amount: 5n,
      reason: 'order',
      idempotencyKey: 'order-1',
    } as const;
    expect((await storage.wallets.changeWallet(order)).outcome).toBe('recorded');
  });
});

describe('the largest counts there are', () => {
  test.each([
    ['of a model with a price', { model: 'gpt-4', prompt_tokens: Number.MAX_SAFE_INTEGER }],
    ['of a model without one', { model: 'unpriced', prompt_tokens: Number.MAX_SAFE_INTEGER }],
    ['of cached tokens', { prompt_tokens: 1, cached_tokens: Number.MAX_SAFE_INTEGER }],
  ])('%s are counted or refused; what is stored can always be read', async (name, usage) => {
    const chatId = `largest-${name.replaceAll(' ', '-')}`;
    const events = ['c1', 'c2', 'c3'].map((client, index) =>
      usageEnvelope(chatId, [usage], { user_id: chatId, client, seq: index + 1 }),
    );
    const other = usageEnvelope(`${chatId}-2`, [usage], { user_id: chatId });
    await storage.dispatcher.publish([...events, other]);
    const session = await storage.persistence.findSession(chatId);
    if (session !== null)
      expect(sessionView(session).real_time_tracking.tokens.total_cost).toBeGreaterThanOrEqual(0);
    await storage.persistence.readLedger({ wallet_id: `acme|${chatId}` }, 0, 100);
  });
});

describe('stopping', () => {
  test('waits until everything taken is durable, takes nothing more, and leaves no trace of the node', async () => {
    const peer = await storage.openPeer();
    own.push(peer);
    const { events, billed } = history('last-words', 'last-words', { agents: 40, rounds: 20 });
    const published = dispatcherOf(peer).publish(events);
    await eventually(() => expect(peer.writer.queueLength).toBeGreaterThan(0));
    await Promise.all([peer.stop(), peer.stop()]);
    expect(new Set(outcomesOf(await published))).toEqual(new Set(['recorded']));
    await expectWhole(['last-words'], 'last-words', billed);
    await expect(peer.writer.write({ fold: () => 0 })).rejects.toMatchObject({ code: 'shutting_down' });
    expect(await storage.collections.nodes.findOne({ _id: 'test-peer' })).toBeNull();
  });
});
