import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { Db, MongoClient } from 'mongodb';
import { type Envelope, envelopeSchema } from '../../core/contracts/agent-events.ts';
import {
  type Collections,
  type LedgerDocument,
  openCollections,
  type WalletDocument,
} from '../../core/data/collections.ts';
import { Differences } from '../../core/data/differences.ts';
import { type VerificationScope, verifyLedger } from '../../core/data/ledger-verification.ts';
import { LineBytes } from '../../core/data/line-bytes.ts';
import { connectMongo } from '../../core/data/mongo-connection.ts';
import { readSnapshot } from '../../core/data/snapshot-read.ts';
import { appendLine, type LineFacts, newWallet, startGrant } from '../../core/data/wallet-ledger.ts';
import { holdIdFor } from '../../core/data/wallet-manager.ts';
import { everyWallet, verifyWallets, type WalletPosition } from '../../core/data/wallet-verification.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** Real chats with everything that moves a wallet; then somebody changes what is stored, in each way there is. */
let storage: TestStorage;
let client: MongoClient;
let database: Db;
let collections: Collections;
beforeAll(async () => {
  storage = await openTestStorage({ walletStartBalance: 10_000n });
  client = await connectMongo(storage.uri);
  database = client.db(storage.database);
  collections = openCollections(database);
  await liveABit(storage);
  await remember();
});
afterAll(async () => {
  await client.close();
  await storage.close();
});

const ann = { app_id: 'acme', user_id: 'ann' };
const bob = { app_id: 'acme', user_id: 'bob' };
const eve = { app_id: 'acme-2', user_id: 'eve' };

async function liveABit({ dispatcher, wallets }: TestStorage): Promise<void> {
  const usage = (calls: number) => [
    { model: 'gpt-4o-mini', prompt_tokens: 80 * calls, completion_tokens: 40 * calls, cached_tokens: 16 },
  ];
  // Several agents and models, a repeat, an older counter after a newer one, and a model without a price.
  const twice = usageEnvelope('chat-1', usage(1), { ...ann, seq: 1 });
  await dispatcher.publish([
    twice,
    usageEnvelope('chat-1', usage(3), { ...ann, seq: 3, uuid: 'an|odd#uuid%' }),
    twice,
    usageEnvelope('chat-1', usage(2), { ...ann, seq: 2 }),
    usageEnvelope(
      'chat-1',
      [
        { model: 'gpt-4.1', prompt_tokens: 11 },
        { model: 'no-such-model', prompt_tokens: 5 },
      ],
      {
        ...ann,
        agent: 'critic',
        client: 'client-2',
        seq: 4,
      },
    ),
  ]);
  // More clients than a session keeps the marks of; one comes back later.
  for (let client = 0; client < 60; client += 1)
    await dispatcher.publish([
      usageEnvelope('chat-2', usage(1), { ...bob, client: `c${client}`, seq: client }),
    ]);
  await dispatcher.publish([usageEnvelope('chat-2', usage(2), { ...bob, client: 'c1', seq: 100 })]);
  // A producer that names no counters, and begins again unseen.
  for (const [seq, calls] of [2, 4, 1].entries())
    await dispatcher.publish([{ ...usageEnvelope('chat-3', usage(calls), { ...bob, seq }), meter: null }]);
  // A producer that counts by the call.
  await dispatcher.publish(captureOfCalls());
  // Usage beyond the balance, top-ups, a reservation that is settled and one that stays.
  await dispatcher.publish([usageEnvelope('chat-4', usage(100), { ...eve, seq: 1 })]);
  await wallets.changeWallet({
    owner: eve,
    kind: 'grant',
    amount: 5_000n,
    idempotencyKey: 'k1',
    reason: 'a "gift"',
  });
  await wallets.changeWallet({
    owner: eve,
    kind: 'debit',
    amount: 7n,
    idempotencyKey: 'k2',
    reason: 'a fee',
  });
  const hold = (call: string) => ({
    hold_id: holdIdFor(ann, call),
    facts: { ...ann, chat_id: 'chat-1', workflow_name: 'ag2', model: 'gpt-4o-mini' },
    run_id: 'run-1',
    agent: 'planner',
    input_tokens: 10,
    max_tokens: 100,
  });
  await wallets.placeHold(hold('settled'));
  await wallets.placeHold(hold('open'));
  await wallets.releaseHold(holdIdFor(ann, 'settled'), 'not needed');
}

function captureOfCalls(): Envelope[] {
  const file = new URL('../fixtures/ag2-v1/delegation.jsonl', import.meta.url);
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  return lines.map((line) => ({
    ...envelopeSchema.parse(JSON.parse(line)),
    ...bob,
    chat_id: 'chat-5',
    workflow_name: 'ag2',
    ts: new Date().toISOString(),
  }));
}

const verify = (scope: VerificationScope = {}) => verifyLedger({ client, database: storage.database, scope });
const kindsIn = async (scope: VerificationScope = {}) => Object.keys((await verify(scope)).counts);

/** Documents as somebody with the database's password sees them. */
type Stored = { _id: string; [member: string]: unknown };
const stored = (collection: string) => database.collection<Stored>(collection);
let truth: { name: string; documents: Stored[] }[];

async function remember(): Promise<void> {
  const all = await database.listCollections({}, { nameOnly: true }).toArray();
  // The node renews its lease all the while: that is no truth to go back to.
  const lasting = all.filter(({ name }) => name !== 'Nodes');
  truth = await Promise.all(
    lasting.map(async ({ name }) => ({ name, documents: await stored(name).find().toArray() })),
  );
}

async function restore(): Promise<void> {
  for (const { name, documents } of truth) {
    await stored(name).deleteMany({});
    if (documents.length > 0) await stored(name).insertMany(documents);
  }
}

/** Which kinds of differences are found when the truth was tampered with in this way, and in no other. */
async function foundAfter(tamper: () => Promise<unknown>): Promise<string[]> {
  await restore();
  await tamper();
  return kindsIn();
}

type Filter = { [field: string]: string | bigint | number };

const foundAfterSet = (collection: string, filter: Filter, values: Record<string, unknown>) =>
  foundAfter(async () => {
    const { modifiedCount } = await stored(collection).updateMany(filter, { $set: values });
    expect(modifiedCount).toBeGreaterThan(0);
  });
const foundAfterAdding = (collection: string, filter: Filter, amounts: { [field: string]: bigint }) =>
  foundAfter(async () => {
    const { modifiedCount } = await database.collection(collection).updateMany(filter, { $inc: amounts });
    expect(modifiedCount).toBeGreaterThan(0);
  });
const foundWithout = (collection: string, filter: Filter = {}) =>
  foundAfter(async () => {
    const { deletedCount } = await stored(collection).deleteMany(filter);
    expect(deletedCount).toBeGreaterThan(0);
  });
const foundWith = (collection: string, ...documents: Stored[]) =>
  foundAfter(() => stored(collection).insertMany(documents));
const foundInstead = (lines: LedgerDocument[], others: LedgerDocument[], wallets: WalletDocument[] = []) =>
  foundAfter(async () => {
    if (lines.length > 0) await collections.ledger.deleteMany({ _id: { $in: lines.map(({ _id }) => _id) } });
    await collections.ledger.insertMany(others);
    for (const wallet of wallets)
      await collections.wallets.replaceOne({ _id: wallet._id }, wallet, { upsert: true });
  });

const annsPlace = (line: number): Filter => ({ wallet_id: 'acme|ann', line: BigInt(line) });

async function annsLine(place: number): Promise<LedgerDocument> {
  const line = await collections.ledger.findOne(annsPlace(place));
  if (line === null) throw new Error(`ann's wallet has no line ${place}`);
  return line;
}

async function annsWallet(): Promise<WalletDocument> {
  const wallet = await collections.wallets.findOne({ _id: 'acme|ann' });
  if (wallet === null) throw new Error('ann has no wallet');
  return wallet;
}

/** What a debit is about, without its place in a chain. */
function factsOf(line: LedgerDocument): LineFacts {
  const { _id, kind, amount, chat_id, run_id, sequence, event_uuid, agent, model, created_at } = line;
  const { tokens, by_model, cost_nano_usd, reported_cost, price_version, reason } = line;
  const origin = { chat_id, run_id, sequence, event_uuid, agent, model };
  const usage = { tokens, by_model, cost_nano_usd, reported_cost, price_version };
  return { _id, kind, amount, reason, created_at, ...origin, ...usage };
}

describe('what the runtime wrote', () => {
  it('agrees with itself, and the report says what was looked at', async () => {
    const report = await verify();
    expect(report).toMatchObject({ ok: true, difference_count: 0, differences: [], counts: {} });
    expect(report.checked).toMatchObject({ wallets: 3, sessions: 5, holds: 1 });
    expect(report.checked.ledger_lines).toBe(await database.collection('WalletLedger').countDocuments());
    expect(report.checked.usage_rows).toBe(await database.collection('llm_usage').countDocuments());
    expect(report.checked.usage_marks).toBeGreaterThan(10);
  });

  it('agrees with itself while two nodes are writing', async () => {
    const peer = await storage.openPeer();
    let isWriting = true;
    const write = async (name: string, publish: (envelope: unknown) => Promise<unknown>) => {
      for (let seq = 1; isWriting; seq += 1)
        await Promise.all(
          [0, 1, 2, 3].map((chat) =>
            publish(
              usageEnvelope(`live-${chat}`, [{ model: 'gpt-4o', prompt_tokens: 10 * seq }], {
                app_id: 'live',
                client: name,
                seq,
              }),
            ),
          ),
        );
    };
    const publishOn = (envelope: unknown) => storage.dispatcher.publish([envelope]);
    const hold = async () => {
      for (let call = 0; isWriting; call += 1) {
        const hold_id = holdIdFor({ app_id: 'live', user_id: 'ann' }, `call-${call}`);
        const facts = {
          app_id: 'live',
          user_id: 'ann',
          chat_id: 'live-1',
          workflow_name: 'ag2',
          model: 'gpt-4o',
        };
        await peer.wallets.placeHold({
          hold_id,
          facts,
          run_id: 'r',
          agent: 'a',
          input_tokens: 1,
          max_tokens: 9,
        });
        await storage.wallets.releaseHold(hold_id, 'not needed');
      }
    };
    const writers = [write('one', publishOn), write('two', publishOn), hold()];
    try {
      for (let round = 0; round < 12; round += 1)
        expect(await verify()).toMatchObject({ ok: true, differences: [] });
    } finally {
      isWriting = false;
      await Promise.all(writers);
      await peer.stop();
    }
    const { checked } = await verify({ app_id: 'live' });
    expect(checked).toMatchObject({ wallets: 1, sessions: 4 });
    expect(checked.ledger_lines).toBeGreaterThan(50);
  });

  it('is checked chain by chain, even when a chain is longer than one step', async () => {
    const name = `${storage.database}-long`;
    const long = openCollections(client.db(name));
    const now = new Date();
    for (const [user_id, count] of Object.entries({ ann: 10, bob: 5_200, cid: 3, dan: 1_999 })) {
      const wallet = newWallet({ app_id: 'acme', user_id }, 'tokens', now);
      const lines = [startGrant(wallet, 1_000_000n, now)];
      while (lines.length < count)
        lines.push(
          appendLine(wallet, {
            _id: `debit|${user_id}|${lines.length}`,
            kind: 'debit',
            amount: -1n,
            created_at: now,
          }),
        );
      await long.ledger.insertMany(lines);
      await long.wallets.insertOne(wallet);
    }
    await long.wallets.insertOne({ ...newWallet(bob, 'tokens', now), _id: 'acme|boc' });
    const differences = new Differences(10);
    const checked = {
      wallets: 0,
      ledger_lines: 0,
      holds: 0,
      sessions: 0,
      events: 0,
      usage_marks: 0,
      usage_rows: 0,
    };
    let steps = 0;
    for (
      let position: WalletPosition | null = { range: everyWallet, chain: null };
      position !== null;
      steps += 1
    ) {
      const from: WalletPosition = position;
      position = await readSnapshot(client, (session) =>
        verifyWallets(from, {
          collections: long,
          session,
          reader: new LineBytes(),
          differences,
          checked,
          now,
          isTimeUp: () => true,
        }),
      );
    }
    await client.db(name).dropDatabase();
    expect(steps).toBeGreaterThan(6);
    expect(checked).toMatchObject({ wallets: 5, ledger_lines: 7_212 });
    expect(differences.counts).toEqual({ wallet_without_lines: 1 });
  });
});

describe('a tampered ledger is found:', () => {
  afterEach(restore);

  it('a changed amount', async () => {
    expect(await foundAfterSet('WalletLedger', annsPlace(2), { amount: -1n })).toEqual([
      'line_hash',
      'line_balance',
      'line_amount',
    ]);
  });

  it('a changed text, which no sum would show', async () => {
    expect(await foundAfterSet('WalletLedger', annsPlace(1), { reason: 'another' })).toEqual(['line_hash']);
    expect(await foundAfterSet('WalletLedger', annsPlace(1), { note: 'one more' })).toEqual(['line_hash']);
    expect(await foundAfterSet('WalletLedger', annsPlace(2), { agent: 'somebody' })).toEqual(
      expect.arrayContaining(['line_hash', 'session_by_agent']),
    );
  });

  it('a number that is no int64 any more', async () => {
    expect(await foundAfterSet('WalletLedger', annsPlace(2), { balance_after: 9_880 })).toContain(
      'line_malformed',
    );
    expect(await foundAfterSet('WalletLedger', annsPlace(2), { 'by_model.0.prompt_tokens': 80 })).toContain(
      'line_malformed',
    );
  });

  it('a removed line, at the beginning, in the middle and at the end', async () => {
    const last = Number((await annsWallet()).line_count);
    for (const place of [1, 2, last - 1])
      expect(await foundWithout('WalletLedger', annsPlace(place))).toEqual(
        expect.arrayContaining(['line_number', 'line_previous_hash']),
      );
    expect(await foundWithout('WalletLedger', annsPlace(last))).toEqual(
      expect.arrayContaining(['wallet_line_count', 'wallet_last_hash']),
    );
    expect(await foundWithout('WalletLedger', { wallet_id: 'acme|ann' })).toEqual(
      expect.arrayContaining(['wallet_without_lines', 'session_tokens']),
    );
  });

  it('two lines that changed places', async () => {
    const [second, third] = [await annsLine(2), await annsLine(3)];
    const swapped = [
      { ...second, line: 3n },
      { ...third, line: 2n },
    ];
    expect(await foundInstead([second, third], swapped)).toEqual(
      expect.arrayContaining(['line_hash', 'line_previous_hash', 'line_balance']),
    );
  });

  it('an invented line', async () => {
    const [grant, { line_count }] = [await annsLine(1), await annsWallet()];
    const invented = { ...grant, _id: 'grant|acme|ann|invented', line: line_count + 1n };
    expect(await foundWith('WalletLedger', invented)).toEqual(
      expect.arrayContaining(['line_hash', 'line_previous_hash', 'wallet_line_count', 'wallet_balance']),
    );
  });

  it('an invented debit with a chain forged to its end, by the chat it is said to be of', async () => {
    const [wallet, debit] = [await annsWallet(), await annsLine(2)];
    const facts = { ...factsOf(debit), _id: 'debit|chat-1|forged', event_uuid: 'forged' };
    const forged = appendLine(wallet, facts);
    expect(await foundInstead([], [forged], [wallet])).toEqual([
      'session_tokens',
      'session_by_agent',
      'session_by_model',
    ]);
  });

  it('a debit under an id that is not that of its event', async () => {
    const debit = await annsLine(2);
    expect(await foundInstead([debit], [{ ...debit, _id: 'debit|chat-1|another' }])).toEqual([
      'line_hash',
      'line_id',
    ]);
  });

  it('a debit of another amount than its usage, from another wallet, even when that chain was forged to fit', async () => {
    const debit = await annsLine(2);
    const owner = { app_id: 'forger', user_id: 'fred' };
    const wallet = newWallet(owner, 'tokens', new Date());
    const lines = [
      startGrant(wallet, 1_000n, new Date()),
      appendLine(wallet, { ...factsOf(debit), ...owner, amount: -1n }),
    ];
    expect(await foundInstead([debit], lines, [wallet])).toEqual(
      expect.arrayContaining(['line_amount', 'session_wallet']),
    );
  });
});

describe('a tampered wallet is found:', () => {
  const annsId = { _id: 'acme|ann' };
  afterEach(restore);

  it('a changed balance', async () => {
    expect(await foundAfterAdding('Wallets', annsId, { balance: 1n })).toEqual(['wallet_balance']);
  });

  it('another line count, hash or sum of holds', async () => {
    expect(await foundAfterAdding('Wallets', annsId, { line_count: 1n })).toEqual(['wallet_line_count']);
    expect(await foundAfterSet('Wallets', annsId, { last_hash: 'f'.repeat(64) })).toEqual([
      'wallet_last_hash',
    ]);
    expect(await foundAfterSet('Wallets', annsId, { held: 0n })).toEqual(['wallet_held']);
  });

  it('a balance that is no int64', async () => {
    expect(await foundAfterSet('Wallets', annsId, { balance: 5.5 })).toEqual(['wallet_malformed']);
  });

  it('a wallet that is gone, and one without lines', async () => {
    expect(await foundWithout('Wallets', annsId)).toEqual(['wallet_missing', 'hold_orphaned']);
    const ghost = newWallet({ app_id: 'acme', user_id: 'ghost' }, 'tokens', new Date());
    expect(await foundWith('Wallets', ghost)).toEqual(['wallet_without_lines']);
  });

  it('a hold that nobody released, one of no wallet, one too many and one that is gone', async () => {
    const hold = await collections.holds.findOne({ wallet_id: 'acme|ann' });
    if (hold === null) throw new Error('ann has no hold');
    const { _id } = hold;
    const overdue = { expires_at: new Date(Date.now() - 61_000) };
    expect(await foundAfterSet('Holds', { _id }, overdue)).toEqual(['hold_orphaned']);
    expect(await foundWith('Holds', { ...hold, _id: 'nobody|1', wallet_id: 'nobody' })).toEqual([
      'hold_orphaned',
    ]);
    expect(await foundWith('Holds', { ...hold, _id: 'acme|ann|more' })).toEqual(['wallet_held']);
    expect(await foundWithout('Holds', { _id })).toEqual(['wallet_held']);
  });
});

describe('a tampered chat is found:', () => {
  const tokens = (field: string) => `real_time_tracking.tokens.${field}`;
  const chat = { _id: 'chat-1' };
  afterEach(restore);

  it('changed totals', async () => {
    expect(await foundAfterAdding('ChatSessions', chat, { [tokens('prompt_tokens')]: 1n })).toEqual([
      'session_tokens',
      'session_usage_rows',
    ]);
    expect(await foundAfterAdding('ChatSessions', chat, { [tokens('cached_tokens')]: 1n })).toEqual([
      'session_tokens',
    ]);
    expect(await foundAfterSet('ChatSessions', chat, { [tokens('total_cost')]: 1.5 })).toEqual([
      'session_tokens',
    ]);
    expect(await foundAfterSet('ChatSessions', chat, { [tokens('total_tokens')]: 'many' })).toEqual([
      'session_malformed',
    ]);
  });

  it('a changed share of an agent or a model', async () => {
    expect(
      await foundAfterAdding('ChatSessions', chat, { [tokens('by_agent.0.completion_tokens')]: 1n }),
    ).toEqual(['session_by_agent']);
    expect(
      await foundAfterAdding('ChatSessions', chat, { [tokens('by_model.0.total_cost_nano_usd')]: 1n }),
    ).toEqual(['session_by_model']);
    expect(await foundAfterSet('ChatSessions', chat, { [tokens('by_agent')]: [] })).toEqual([
      'session_by_agent',
    ]);
  });

  it('changed counting marks, in the session and beside it', async () => {
    expect(
      await foundAfterAdding('ChatSessions', chat, { 'usage_state.marks.0.billed.prompt_tokens': 1n }),
    ).toEqual(['session_marks']);
    expect(await foundWithout('UsageMarks', { chat_id: 'chat-2', client: 'c0' })).toEqual(['session_marks']);
    // This one came back into its session, so what lies beside it is history.
    expect(await foundWithout('UsageMarks', { chat_id: 'chat-2', client: 'c1' })).toEqual([]);
    const unmetered = 'usage_state.unmetered.0.billed.0.counts.prompt_tokens';
    expect(await foundAfterAdding('ChatSessions', { _id: 'chat-3' }, { [unmetered]: 1n })).toEqual([
      'session_marks',
    ]);
    const calls = 'usage_state.call_counts.0.counts.prompt_tokens';
    expect(await foundAfterAdding('ChatSessions', { _id: 'chat-5' }, { [calls]: 1n })).toEqual([
      'session_marks',
    ]);
  });

  it('a removed, an invented and a moved frame', async () => {
    const last = (await collections.sessions.findOne(chat))?.last_sequence ?? 0;
    const frame = (seq: number): Filter => ({ chat_id: 'chat-1', seq });
    for (const seq of [1, 2, last])
      expect(await foundWithout('ChatEvents', frame(seq))).toEqual(['event_sequence']);
    expect(await foundAfterSet('ChatEvents', frame(2), { seq: last + 1 })).toEqual(['event_sequence']);
    expect(await foundWith('ChatEvents', { _id: 'invented', ...frame(last + 1) })).toEqual([
      'event_sequence',
    ]);
    expect(await foundAfterSet('ChatSessions', chat, { last_sequence: 1 })).toEqual(['event_sequence']);
  });

  it('a changed or removed usage row', async () => {
    const rows = { task_id: 'chat-4' };
    expect(await foundAfterAdding('llm_usage', rows, { prompt_tokens: 1n })).toEqual(['session_usage_rows']);
    expect(await foundWithout('llm_usage', rows)).toEqual(['session_usage_rows']);
  });

  it('a removed session, by everything that speaks of it', async () => {
    expect(await foundWithout('ChatSessions', chat)).toEqual(['session_missing']);
    expect(await foundWithout('ChatSessions')).toEqual(['session_missing']);
  });
});

describe('a verification of one app, user or chat', () => {
  afterEach(restore);

  it('looks at what is theirs and at nothing else', async () => {
    expect((await verify({ app_id: 'acme' })).checked).toMatchObject({ wallets: 2, sessions: 4 });
    expect((await verify({ app_id: 'acme', user_id: 'bob' })).checked).toMatchObject({
      wallets: 1,
      sessions: 3,
    });
    expect((await verify({ chat_id: 'chat-4' })).checked).toMatchObject({ wallets: 1, sessions: 1 });
    expect((await verify({ app_id: 'nobody' })).checked).toMatchObject({ wallets: 0, sessions: 0 });
    await expect(verify({ user_id: 'bob' })).rejects.toMatchObject({ code: 'invalid_scope' });
  });

  it('finds there what is wrong, a chat that is gone too, and not what is wrong elsewhere', async () => {
    await collections.wallets.updateOne({ _id: 'acme-2|eve' }, { $inc: { balance: 1n } });
    await collections.sessions.deleteOne({ _id: 'chat-3' });
    expect(await kindsIn({ app_id: 'acme-2', user_id: 'eve' })).toEqual(['wallet_balance']);
    expect(await kindsIn({ chat_id: 'chat-4' })).toEqual(['wallet_balance']);
    expect(await kindsIn({ app_id: 'acme', user_id: 'bob' })).toEqual(['session_missing']);
    expect(await kindsIn({ chat_id: 'chat-3' })).toEqual(['session_missing']);
    expect(await kindsIn({ app_id: 'acme', user_id: 'ann' })).toEqual([]);
  });
});

it('a flood of differences is counted in full and reported in part', async () => {
  const name = `${storage.database}-flood`;
  const wallet = newWallet(ann, 'tokens', new Date());
  const lines = Array.from({ length: 500 }, (_, index) =>
    appendLine(wallet, { _id: `grant|${index}`, kind: 'grant', amount: 1n, created_at: new Date() }),
  );
  const flooded = openCollections(client.db(name));
  await flooded.ledger.insertMany(lines.map((line) => ({ ...line, reason: 'changed' })));
  await flooded.wallets.insertOne(wallet);
  const report = await verifyLedger({ client, database: name });
  await client.db(name).dropDatabase();
  expect(report).toMatchObject({ ok: false, difference_count: 500, counts: { line_hash: 500 } });
  expect(report.differences).toHaveLength(50);
});
