import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { SignJWT } from 'jose';
import { z } from 'zod';
import type { ModelUsage } from '../../core/contracts/usage.ts';
import { chatSessionSchema } from '../../core/contracts/documents.ts';
import { ledgerPageSchema, problemSchema } from '../../core/contracts/http.ts';
import { type Price, priceJsonSchema, priceListSchema } from '../../core/contracts/prices.ts';
import { verificationReportSchema } from '../../core/contracts/verification.ts';
import { openCollections, prepareCollections } from '../../core/data/collections.ts';
import { PriceStore } from '../../core/data/price-store.ts';
import { seedPrices } from '../../core/usage/price-seeds.ts';
import { eventually } from '../support/eventually.ts';
import { createRecordingLogger } from '../support/recording-logger.ts';
import { silentLogger } from '../support/silent-logger.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { freshDatabase, type TestDatabase } from '../support/test-database.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

let now = new Date();
let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ now: () => now });
});
beforeEach(() => {
  now = new Date();
});
afterAll(() => server.stop());

const minutes = (count: number) => new Date(now.getTime() + count * 60_000);

async function listPrices(query: string, headers: Record<string, string> = {}, on = server) {
  return priceListSchema.parse((await on.get(`/api/prices?${query}`, headers)).body);
}

const setPrice = (price: Record<string, unknown>) => server.post('/api/admin/prices', price);

async function priceSet(price: Record<string, unknown>) {
  const { status, body } = await setPrice(price);
  expect(status).toBe(200);
  return priceJsonSchema.parse(body);
}

/** One more call of its own client; the line it made. */
async function lineOf(chat: string, model: string, facts: { app_id?: string; ts?: Date } = {}) {
  const { app_id = 'acme', ts = new Date() } = facts;
  const usage: Partial<ModelUsage>[] = [{ model, prompt_tokens: 1_000, completion_tokens: 500 }];
  const client = `client-${(calls += 1)}`;
  const { body } = await server.post('/api/events', [
    usageEnvelope(chat, usage, { app_id, client, seq: calls, ts: ts.toISOString() }),
  ]);
  expect(body).toMatchObject({ recorded: 1 });
  const line = (await linesOf(chat)).at(-1);
  if (line === undefined) throw new Error('there is no line');
  return line;
}
let calls = 0;

const linesOf = async (chat: string) =>
  ledgerPageSchema.parse((await server.get(`/api/sessions/${chat}/ledger`)).body).entries;

describe('the price list', () => {
  it('begins with the seeds, and says what a model costs now, by any of its names', async () => {
    const { prices, current } = await listPrices('model=gpt-4o-mini');
    expect(current).toMatchObject({ model: 'gpt-4o-mini', app_id: null, input_pico_usd: 150_000 });
    expect(prices).toContainEqual(current);
    expect((await listPrices('model=openai%2Fgpt-4o-mini-2024-07-18')).current).toEqual(current);
    expect(await listPrices('model=no-such-model')).toEqual({ prices: [], current: null });
    expect((await listPrices('')).prices.length).toBeGreaterThan(100);
  });
});

describe('with sign-in, a user', () => {
  const secret = 'a secret of more than 32 characters!';
  const serviceKey = 'a-service-key-of-more-than-32-characters';
  const service = { authorization: `Bearer ${serviceKey}` };
  let guarded: TestServer;
  let user: { authorization: string };
  beforeAll(async () => {
    guarded = await startTestServer({
      environment: { AUTH_SECRET: secret, AUTH_SERVICE_KEY: serviceKey },
    });
    const token = await new SignJWT({ app_id: 'acme' })
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject('ann')
      .setExpirationTime('1h')
      .sign(new TextEncoder().encode(secret));
    user = { authorization: `Bearer ${token}` };
  });
  afterAll(() => guarded.stop());

  it('sees the prices of their own app, and not those of others', async () => {
    const price = { model: 'ours', input_pico_usd: 1, output_pico_usd: 1 };
    for (const app_id of ['acme', 'other'])
      expect(await guarded.post('/api/admin/prices', { ...price, app_id }, service)).toMatchObject({
        status: 200,
      });
    const seen = await listPrices('model=ours', user, guarded);
    expect(seen.prices.map(({ app_id }) => app_id)).toEqual(['acme']);
    expect((await listPrices('model=ours', service, guarded)).prices).toHaveLength(2);
    expect((await guarded.get('/api/prices?app_id=other', user)).status).toBe(404);
  });

  it('sets no prices, and does not verify what is stored', async () => {
    const price = { model: 'mine', input_pico_usd: 0, output_pico_usd: 0 };
    expect((await guarded.post('/api/admin/prices', price, user)).status).toBe(403);
    expect((await guarded.get('/api/admin/verify', user)).status).toBe(403);
    expect((await guarded.get('/api/admin/verify', service)).status).toBe(200);
  });
});

describe('a price of its own', () => {
  it('holds for its app and for nobody else', async () => {
    const own = await priceSet({
      app_id: 'rich',
      model: 'gpt-4o',
      input_pico_usd: 1_000_000,
      output_pico_usd: 2_000_000,
    });
    expect(await lineOf('rich-chat', 'gpt-4o', { app_id: 'rich' })).toMatchObject({
      cost_nano_usd: 1_000 * 1_000 + 500 * 2_000,
      price_version: own.price_version,
    });
    const others = await lineOf('plain-chat', 'gpt-4o');
    expect(others.price_version).toMatch(/^everyone\|gpt-4o\|/);
    expect((await listPrices('model=gpt-4o&app_id=rich')).current).toEqual(own);
    expect((await listPrices('model=gpt-4o&app_id=acme')).current).not.toEqual(own);
  });
});

describe('a price that changes at a moment', () => {
  it('leaves every line before as it is, and holds for what is used from then on, late reports too', async () => {
    const before = await lineOf('change', 'gpt-4o-mini');
    const price = { model: 'gpt-4o-mini', output_pico_usd: 0 };
    await priceSet({ ...price, effective_from: minutes(10).toISOString(), input_pico_usd: 5_000_000 });
    const still = await lineOf('change', 'gpt-4o-mini');
    expect(still).toMatchObject({ cost_nano_usd: before.cost_nano_usd, price_version: before.price_version });

    now = new Date();
    const change = await priceSet({ ...price, input_pico_usd: 3_000_000 });
    expect(change.effective_from).toBe(now.toISOString());
    expect(await lineOf('change', 'gpt-4o-mini')).toMatchObject({
      cost_nano_usd: 3_000_000,
      price_version: change.price_version,
    });
    // Used before the change, reported after it.
    expect(await lineOf('change', 'gpt-4o-mini', { ts: minutes(-1) })).toMatchObject({
      price_version: before.price_version,
    });
    expect((await linesOf('change')).slice(0, 2)).toEqual([before, still]);
    const report = verificationReportSchema.parse(
      (await server.get('/api/admin/verify?chat_id=change')).body,
    );
    expect(report).toMatchObject({ ok: true, checked: { sessions: 1, wallets: 1 } });
  });

  it('may not begin in the past, but for the five minutes that clocks and people differ', async () => {
    const price = { model: 'gpt-4o', input_pico_usd: 1, output_pico_usd: 1 };
    const { status, body } = await setPrice({ ...price, effective_from: minutes(-6).toISOString() });
    expect(status).toBe(400);
    expect(problemSchema.parse(body)).toMatchObject({
      code: 'price_too_early',
      earliest: minutes(-5).toISOString(),
    });
    // An override of an app changes what its calls cost, too.
    expect(
      await setPrice({ ...price, app_id: 'acme', effective_from: minutes(-6).toISOString() }),
    ).toMatchObject({ status: 400 });
    await priceSet({ ...price, effective_from: minutes(-4).toISOString() });
  });

  it('is set once: the same app, model and moment is a conflict, whatever the numbers', async () => {
    const price = { model: 'gpt-4.1', effective_from: minutes(1).toISOString(), output_pico_usd: 1 };
    const { price_version } = await priceSet({ ...price, input_pico_usd: 1 });
    const again = await setPrice({ ...price, input_pico_usd: 2 });
    expect(again.status).toBe(409);
    expect(problemSchema.parse(again.body)).toMatchObject({ code: 'price_exists', price_version });
    const both = await Promise.all(
      [1, 2].map((input_pico_usd) =>
        setPrice({ ...price, effective_from: minutes(2).toISOString(), input_pico_usd }),
      ),
    );
    expect(both.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 409]);
  });

  it.each([
    { model: 'm', input_pico_usd: -1, output_pico_usd: 1 },
    { model: 'm', input_pico_usd: 1.5, output_pico_usd: 1 },
    { model: 'm', input_pico_usd: 1 },
    { model: '', input_pico_usd: 1, output_pico_usd: 1 },
    { model: 'm', input_pico_usd: 1, output_pico_usd: 1, app_id: 'everyone' },
    { model: 'm', input_pico_usd: 1, output_pico_usd: 1, effective_from: 'tomorrow' },
    { model: { $ne: null }, input_pico_usd: 1, output_pico_usd: 1 },
  ])('is refused when it is none: %j', async (price) => {
    expect((await setPrice(price)).status).toBe(400);
  });
});

describe('a model without a price', () => {
  it('costs null, which is shown, until it gets one; what was used before keeps its null', async () => {
    const unknown = await lineOf('unpriced', 'house-model');
    expect(unknown).toMatchObject({ amount: -1_500, cost_nano_usd: null, price_version: null });
    const session = chatSessionSchema.parse((await server.get('/api/sessions/unpriced')).body);
    expect(session.real_time_tracking.tokens).toMatchObject({
      total_tokens: 1_500,
      total_cost_nano_usd: 0,
      unpriced_models: ['house-model'],
    });
    const { frames } = z
      .looseObject({ frames: z.array(z.looseObject({ type: z.string(), data: z.looseObject({}) })) })
      .parse({ frames: await framesOf('unpriced') });
    expect(frames).toContainEqual(
      expect.objectContaining({
        type: 'chat.error',
        data: expect.objectContaining({ error_type: 'unpriced_model' }),
      }),
    );

    // Nothing was ever priced by another price, so this one may begin long ago.
    const price = await priceSet({
      model: 'house-model',
      effective_from: minutes(-60 * 24).toISOString(),
      input_pico_usd: 10_000,
      output_pico_usd: 20_000,
    });
    expect(await lineOf('unpriced', 'house-model')).toMatchObject({
      cost_nano_usd: 10_000 + 10_000,
      price_version: price.price_version,
    });
    expect((await linesOf('unpriced'))[0]).toEqual(unknown);
  });
});

async function framesOf(chat: string): Promise<unknown[]> {
  const documents = server.database.client.db(server.database.name).collection('ChatEvents');
  return documents
    .find({ chat_id: chat })
    .map(({ frame }): unknown => frame)
    .toArray();
}

describe('the prices of several nodes', () => {
  let database: TestDatabase;
  const nodes: PriceStore[] = [];
  const openNode = async (seeds: readonly Price[], refreshMs = 50, log = silentLogger) => {
    const { prices } = openCollections(database.client.db(database.name));
    const node = new PriceStore({ prices, seeds, log, refreshMs });
    nodes.push(node);
    await node.start();
    return node;
  };
  beforeAll(async () => {
    database = await freshDatabase();
    const db = database.client.db(database.name);
    await prepareCollections(db, openCollections(db));
  });
  afterAll(async () => {
    for (const node of nodes) node.stop();
    await database.close();
  });

  const seeds = seedPrices().slice(0, 20);
  const request = { app_id: null, input_pico_usd: 7, output_pico_usd: 7, source: 'test' };
  const use = (model: string) => ({
    model,
    app_id: 'acme',
    at: new Date(),
    counts: {
      prompt_tokens: 1_000n,
      completion_tokens: 0n,
      cached_tokens: 0n,
      cache_write_tokens: 0n,
      reasoning_tokens: 0n,
    },
  });

  it('are sown once, even when all start at the same moment', async () => {
    const started = await Promise.all([openNode(seeds), openNode(seeds), openNode(seeds)]);
    for (const node of started) expect(node.list()).toHaveLength(seeds.length);
  });

  it('stay as they are when seeds say something else at a later start', async () => {
    const [first] = seeds;
    if (first === undefined) throw new Error('there are no seeds');
    const node = await openNode([{ ...first, input_pico_usd: 1n }]);
    expect(node.list().find(({ _id }) => _id === first._id)).toEqual(first);
  });

  it('reach the node that set them at once, and the others soon', async () => {
    const [one, other] = [await openNode(seeds), await openNode(seeds)];
    const book = one.priceBook();
    await one.add({ ...request, model: 'new-model' }, new Date());
    expect(one.priceBook()(use('new-model'))).toMatchObject({ cost_nano_usd: 7n });
    expect(book(use('new-model'))).toBeUndefined();
    await eventually(() => expect(other.priceBook()(use('new-model'))).toMatchObject({ cost_nano_usd: 7n }));
  });

  it('are used as far as they can be read', async () => {
    const { log, records } = createRecordingLogger();
    await database.client
      .db(database.name)
      .collection<{ _id: string; model: string }>('Prices')
      .insertOne({ _id: 'broken', model: 'broken-model' });
    const node = await openNode(seeds, 60_000, log);
    expect(node.priceBook()(use('broken-model'))).toBeUndefined();
    expect(node.priceBook()(use('new-model'))).toMatchObject({ cost_nano_usd: 7n });
    expect(records.map(({ message }) => message)).toContain('a price cannot be used');
  });
});
