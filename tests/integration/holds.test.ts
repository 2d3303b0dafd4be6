import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { BudgetRequest } from '../../core/contracts/budgets.ts';
import { budgetRequestSchema } from '../../core/contracts/budgets.ts';
import { explainBlock, type HoldOutcome } from '../../core/data/spending.ts';
import { holdIdFor } from '../../core/data/wallet-manager.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** Reserving before a call and settling after it, on the real database. Invariants I3, I4, I5, I11, I13 and I20. */
let now = new Date();
let storage: TestStorage;
beforeAll(async () => {
  storage = await openTestStorage({ walletStartBalance: 1_000n }, () => now);
});
afterAll(() => storage.close());

const freshOwner = () => ({ app_id: `app-${randomUUID().slice(0, 8)}`, user_id: 'ann' });
type Owner = ReturnType<typeof freshOwner>;

/** A call of at most 100 tokens. */
function place(
  owner: Owner,
  call: string,
  facts: { chat_id?: string; model?: string; max_tokens?: number } = {},
): Promise<HoldOutcome> {
  const { chat_id = 'chat', model = 'gpt-4o-mini', max_tokens = 100 } = facts;
  return storage.wallets.placeHold({
    hold_id: holdIdFor(owner, call),
    facts: { ...owner, chat_id, workflow_name: 'assistant', model },
    run_id: 'run',
    agent: 'assistant',
    input_tokens: 0,
    max_tokens,
  });
}

/** The usage that settles the call. */
async function settle(
  owner: Owner,
  call: string,
  tokens: number,
  facts: { chat_id?: string; model?: string; ts?: string } = {},
) {
  const { chat_id = `${owner.app_id}-${call}`, model = 'gpt-4o-mini', ts = now.toISOString() } = facts;
  const envelope = usageEnvelope(chat_id, [{ model, completion_tokens: tokens }], { ...owner, ts });
  const [published] = await storage.dispatcher.publish(
    [{ ...envelope, meter: { ...envelope.meter, hold_id: holdIdFor(owner, call) } }],
    { now },
  );
  return published?.recorded;
}

const budget = (request: Partial<BudgetRequest> & Pick<BudgetRequest, 'app_id' | 'limit'>) =>
  storage.budgets.create(budgetRequestSchema.parse(request), now);
const linesOf = ({ app_id, user_id }: Owner) =>
  storage.persistence.readLedger({ wallet_id: `${app_id}|${user_id}` }, 0, 1000);
const holdsLeft = async (owner: Owner) => (await storage.wallets.listHolds(owner)).length;

describe('I4: parallel calls never overrun what is free', () => {
  it.each([1, 10, 100, 1000])(
    'of %i calls at once, as many are admitted as the wallet covers',
    async (count) => {
      const owner = freshOwner();
      const outcomes = await Promise.all(
        Array.from({ length: count }, (_, index) => place(owner, `c${index}`)),
      );
      const admitted = outcomes.filter(({ outcome }) => outcome === 'held').length;
      expect(admitted).toBe(Math.min(count, 10));
      expect(await storage.wallets.readBalance(owner)).toMatchObject({
        balance: 1000,
        held: admitted * 100,
        available: 1000 - admitted * 100,
      });
    },
  );

  it('a hard budget over any scope holds as well, and nothing is reserved elsewhere when one refuses', async () => {
    const owner = freshOwner();
    await budget({ app_id: owner.app_id, scope: 'model', subject: 'gpt-4o-mini', limit: 250 });
    await budget({ app_id: owner.app_id, scope: 'user', limit: 900 });
    const outcomes = await Promise.all(Array.from({ length: 20 }, (_, index) => place(owner, `c${index}`)));
    expect(outcomes.filter(({ outcome }) => outcome === 'held')).toHaveLength(2);
    expect(outcomes.find(({ outcome }) => outcome === 'blocked')).toMatchObject({
      scope: 'budget:model',
      limit: 250n,
      held: 200n,
    });
    expect((await storage.wallets.readBalance(owner)).held).toBe(200);
    expect(await place(owner, 'other', { model: 'gpt-4o' })).toMatchObject({ outcome: 'held' });
  });

  it('a soft budget only warns', async () => {
    const owner = freshOwner();
    await budget({ app_id: owner.app_id, scope: 'app', limit: 50, enforcement: 'soft' });
    expect(await place(owner, 'c1')).toMatchObject({ outcome: 'held' });
  });

  it('two nodes cannot admit more than one wallet covers', async () => {
    const owner = freshOwner();
    const other = await storage.openPeer();
    const calls = (wallets: TestStorage['wallets'], name: string) =>
      Array.from({ length: 20 }, (_, index) =>
        wallets.placeHold({
          hold_id: holdIdFor(owner, `${name}${index}`),
          facts: { ...owner, chat_id: 'chat', workflow_name: 'assistant', model: 'gpt-4o-mini' },
          run_id: 'run',
          agent: 'assistant',
          input_tokens: 0,
          max_tokens: 100,
        }),
      );
    const outcomes = await Promise.all([...calls(storage.wallets, 'a'), ...calls(other.wallets, 'b')]);
    expect(outcomes.filter(({ outcome }) => outcome === 'held')).toHaveLength(10);
    await other.stop();
  });
});

describe('I5: every reservation ends', () => {
  it('settled by its usage, which is debited as it was, not as it was reserved', async () => {
    const owner = freshOwner();
    await place(owner, 'c1');
    await settle(owner, 'c1', 30);
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 970, held: 0 });
    expect(await holdsLeft(owner)).toBe(0);
    expect(
      (await linesOf(owner)).map(({ kind, amount, held_change }) => [kind, amount, held_change]),
    ).toEqual([
      ['grant', 1000, 0],
      ['hold', 0, 100],
      ['release', 0, -100],
      ['debit', -30, 0],
    ]);
  });

  it('given back by a call that used nothing, once, however often', async () => {
    const owner = freshOwner();
    await place(owner, 'c1');
    await Promise.all([1, 2, 3].map(() => storage.wallets.releaseHold(holdIdFor(owner, 'c1'), 'cancelled')));
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 1000, held: 0 });
    expect((await linesOf(owner)).filter(({ kind }) => kind === 'release')).toHaveLength(1);
  });

  it('expired when nobody renews it, and usage that comes later is still debited', async () => {
    const owner = freshOwner();
    const began = now;
    await place(owner, 'c1');
    await place(owner, 'renewed');
    now = new Date(began.getTime() + 14 * 60_000);
    await storage.wallets.renewHolds([holdIdFor(owner, 'renewed')], now);
    now = new Date(began.getTime() + 16 * 60_000);
    await storage.wallets.sweep(now);
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 1000, held: 100 });
    await settle(owner, 'c1', 30);
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 970, held: 100 });
    now = began;
  });

  it('a reservation made twice under one id is one reservation', async () => {
    const owner = freshOwner();
    await Promise.all([place(owner, 'c1'), place(owner, 'c1')]);
    expect((await storage.wallets.readBalance(owner)).held).toBe(100);
  });
});

describe('I3: nothing is clamped away', () => {
  it('what a provider bills beyond the balance is a line of kind debt, and the balance is negative', async () => {
    const owner = freshOwner();
    await place(owner, 'c1');
    await settle(owner, 'c1', 1_250);
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: -250 });
    const lines = await linesOf(owner);
    expect(lines.slice(-2).map(({ kind, amount }) => [kind, amount])).toEqual([
      ['debit', -1000],
      ['debt', -250],
    ]);
    expect(lines.reduce((sum, { amount }) => sum + amount, 0)).toBe(-250);
  });
});

describe('I11: the price is that of the moment the call began', () => {
  it('a price that changes while a call runs does not change what it costs', async () => {
    const owner = freshOwner();
    const began = now;
    await place(owner, 'c1', { model: 'priced-by-test' });
    now = new Date(began.getTime() + 60_000);
    storage.prices.double();
    await settle(owner, 'c1', 10, { model: 'priced-by-test' });
    await settle(owner, 'later', 10, { model: 'priced-by-test' });
    const costs = (await linesOf(owner))
      .filter(({ kind }) => kind === 'debit')
      .map(({ cost_nano_usd }) => cost_nano_usd);
    expect(costs).toEqual([10, 20]);
    now = began;
  });
});

describe('I13: refills and alerts come once for each window', () => {
  it('parallel usage that empties a wallet refills it once', async () => {
    const owner = freshOwner();
    await storage.wallets.setAutoRefill(owner, {
      threshold: 900n,
      amount: 500n,
      window: 'day',
      time_zone: 'UTC',
    });
    await Promise.all(Array.from({ length: 12 }, (_, index) => settle(owner, `c${index}`, 50)));
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 1000 + 500 - 600 });
    now = new Date(now.getTime() + 24 * 60 * 60_000);
    await settle(owner, 'tomorrow', 1);
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 900 - 1 + 500 });
    now = new Date(now.getTime() - 24 * 60 * 60_000);
  });

  it('50, 80, 95 and 100 percent of a budget are announced once each', async () => {
    const owner = freshOwner();
    await budget({ app_id: owner.app_id, scope: 'user', limit: 100, enforcement: 'soft' });
    const before = storage.frames.length;
    for (let index = 0; index < 24; index += 1) await settle(owner, `c${index}`, 5);
    const warnings = storage.frames
      .slice(before)
      .flatMap((frame) =>
        frame.type === 'token_warning' && frame.data.scope === 'budget:user' ? frame.data.threshold : [],
      );
    expect(warnings).toEqual([50, 80, 95, 100]);
  });
});

describe('I20: a refusal says what stands in the way and what helps', () => {
  it('tells an empty wallet from units reserved by other calls', async () => {
    const owner = freshOwner();
    const empty = await place(owner, 'big', { max_tokens: 5_000 });
    expect(empty.outcome === 'blocked' && explainBlock(empty)).toBe(
      'The wallet holds 1000; the next call needs up to 5000. Top it up and the chat goes on.',
    );
    await place(owner, 'c1', { max_tokens: 950 });
    const busy = await place(owner, 'c2');
    expect(busy.outcome === 'blocked' && explainBlock(busy)).toBe(
      'The wallet holds 1000, 950 of it reserved for calls under way; the next call needs up to 100. Wait for the other replies, or top the wallet up.',
    );
  });

  it('names the scope of a budget, its figures, and when it frees', async () => {
    const owner = freshOwner();
    await budget({
      app_id: owner.app_id,
      scope: 'user',
      limit: 150,
      window: 'day',
      time_zone: 'Europe/Berlin',
    });
    await settle(owner, 'c1', 80);
    const blocked = await place(owner, 'c2');
    expect(blocked).toMatchObject({ outcome: 'blocked', scope: 'budget:user', limit: 150n, used: 80n });
    const freesAt = blocked.outcome === 'blocked' ? blocked.frees_at : null;
    const inBerlin = new Intl.DateTimeFormat('en-GB', { timeZone: 'Europe/Berlin', timeStyle: 'medium' });
    expect(inBerlin.format(freesAt ?? 0)).toBe('00:00:00');
    expect((freesAt?.getTime() ?? 0) - now.getTime()).toBeLessThanOrEqual(25 * 60 * 60_000);
  });
});

describe('grants that end', () => {
  it('are spent first, by priority and then by the nearer end, and the rest of them expires', async () => {
    const owner = freshOwner();
    const began = now;
    const give = (key: string, amount: bigint, days: number, priority: number) =>
      storage.wallets.changeWallet({
        owner,
        kind: 'grant',
        amount,
        idempotencyKey: key,
        reason: 'a gift',
        lot: { expires_at: new Date(began.getTime() + days * 24 * 60 * 60_000), priority },
      });
    await give('late', 100n, 3, 100);
    await give('soon', 100n, 1, 100);
    await give('last', 100n, 1, 200);
    await settle(owner, 'c1', 150);
    const { lots } = await storage.wallets.readWallet(owner);
    expect(lots.map(({ line_id, remaining }) => [line_id.split('|').at(-1), remaining])).toEqual([
      ['late', 50n],
      ['last', 100n],
    ]);
    now = new Date(began.getTime() + 2 * 24 * 60 * 60_000);
    // Even before anybody swept, what ended cannot be reserved.
    expect(await place(owner, 'c2', { max_tokens: 1_051 })).toMatchObject({ outcome: 'blocked' });
    expect(await storage.wallets.readBalance(owner)).toMatchObject({ balance: 1000 + 50 });
    expect(
      (await linesOf(owner)).filter(({ kind }) => kind === 'expiry').map(({ amount }) => amount),
    ).toEqual([-100]);
    now = began;
  });
});

it('a budget set in the middle of its window counts what was used in it before', async () => {
  const owner = freshOwner();
  await settle(owner, 'c1', 120);
  const set = await budget({
    app_id: owner.app_id,
    scope: 'user',
    subject: owner.user_id,
    limit: 200,
    window: 'month',
  });
  expect(await place(owner, 'c2')).toMatchObject({ outcome: 'blocked', scope: 'budget:user', used: 120n });
  expect(await storage.budgets.readWindows(set, now)).toMatchObject([{ used: 120n }]);
});
