import { expect, jest, test } from '@jest/globals';
import { calcPrice, findProvider } from '@pydantic/genai-prices';
import * as fc from 'fast-check';
import { z } from 'zod';
import { priceCodec, priceJsonSchema, priceSchema, type Price } from '../../core/contracts/prices.ts';
import { priceVersion, seedPrices } from '../../core/usage/price-seeds.ts';
import { zeroCounts, type TokenCounts } from '../../core/usage/token-counts.ts';
import { costNanoUsd, findPrice, formatUsd, nanoToUsd } from '../../core/usage/token-pricing.ts';

const november = new Date('2026-11-01T00:00:00Z');
const seeds = seedPrices();

function price(facts: Partial<Price> = {}): Price {
  const { app_id = null, model = 'm', effective_from = new Date('2025-01-01T00:00:00Z') } = facts;
  return {
    _id: priceVersion({ app_id, model, effective_from }),
    app_id,
    model,
    effective_from,
    input_pico_usd: 150_000n,
    output_pico_usd: 600_000n,
    cached_input_pico_usd: 75_000n,
    cache_write_pico_usd: 187_500n,
    reasoning_pico_usd: 600_000n,
    source: 'test',
    ...facts,
  };
}

const counts = (some: Partial<TokenCounts>): TokenCounts => ({ ...zeroCounts(), ...some });
const find = (model: string, appId: string | null = null, at = november, prices: Price[] = seeds) =>
  findPrice(prices, { model, appId, at });
const seedOf = (model: string): Price => {
  const found = find(model);
  if (found === undefined) throw new Error(`no price for ${model}`);
  return found;
};

test.each([
  ['gpt-4', 30, 60],
  ['gpt-4-turbo', 10, 30],
  ['gpt-4o', 2.5, 10],
  ['gpt-4o-mini', 0.15, 0.6],
  ['gpt-3.5-turbo', 0.5, 1.5],
])('%s costs $%d and $%d per million tokens from 2025 on', (model, inputUsd, outputUsd) => {
  const found = find(model, null, new Date('2025-01-01T00:00:00Z'));
  expect(found).toMatchObject({ app_id: null, source: 'seed' });
  const million = 1_000_000n;
  expect(nanoToUsd(costNanoUsd(seedOf(model), counts({ prompt_tokens: million }), 'included'))).toBe(
    inputUsd,
  );
  expect(nanoToUsd(costNanoUsd(seedOf(model), counts({ completion_tokens: million }), 'included'))).toBe(
    outputUsd,
  );
});

test('the local model is known and free', () => {
  const found = seedOf('SmolLM2-135M-Instruct');
  expect(found.source).toBe('local');
  expect(costNanoUsd(found, counts({ prompt_tokens: 9n, completion_tokens: 9n }), 'included')).toBe(0n);
});

test('an unknown model is not free: it has no price', () => {
  expect(find('gpt-99')).toBeUndefined();
  expect(find('')).toBeUndefined();
});

test.each([
  ['gpt-4o-mini-2024-07-18', 'gpt-4o-mini'],
  ['gpt-4o-2024-08-06', 'gpt-4o'],
  ['gpt-4o-2024-05-13', 'gpt-4o-2024-05-13'],
  ['claude-sonnet-4-20250514', 'claude-sonnet-4'],
  ['claude-opus-4-5@20251101', 'claude-opus-4-5'],
  ['gemini-2.0-flash-001', 'gemini-2.0-flash'],
  ['openai/gpt-4o', 'gpt-4o'],
  ['azure/gpt-4o', 'gpt-4o'],
  ['azure/gpt-4o-mini-2024-07-18', 'gpt-4o-mini'],
  ['azure/o4-mini', 'azure/o4-mini'],
])('%s is priced as %s', (model, pricedAs) => {
  expect(find(model)?.model).toBe(pricedAs);
});

test.each([
  'gpt-4o-mini-2024-13-45',
  'gpt-4o-minister',
  'gpt-4o-ultra',
  'gpt-4-2024',
  'gpt',
  'GPT-4o',
  'ollama/gpt-4o',
  'azure/eu/gpt-4o',
  'ft:gpt-4o-mini-2024-07-18:acme::abc',
])('%s only looks like a known model, and has no price', (model) => {
  expect(find(model)).toBeUndefined();
});

test("an app's own price goes before everyone's, also for snapshots, and for nobody else", () => {
  const own = price({ app_id: 'acme', model: 'gpt-4o', input_pico_usd: 1n });
  const prices = [...seeds, own];
  expect(find('gpt-4o', 'acme', november, prices)).toBe(own);
  expect(find('gpt-4o-2024-05-13', 'acme', november, prices)).toBe(own);
  expect(find('gpt-4o', 'other', november, prices)?.app_id).toBeNull();
  expect(find('gpt-4o', null, november, prices)?.app_id).toBeNull();
  expect(find('gpt-4o-mini', 'acme', november, prices)?.app_id).toBeNull();
});

test("an app's price that is not in force yet leaves everyone's price in force", () => {
  const later = price({ app_id: 'acme', model: 'gpt-4o', effective_from: new Date('2027-01-01T00:00:00Z') });
  expect(find('gpt-4o', 'acme', november, [later, ...seeds])?.app_id).toBeNull();
});

test('a price holds from its first moment until the next one, and not before', () => {
  const first = price({ effective_from: new Date('2025-01-01T00:00:00Z') });
  const second = price({ effective_from: new Date('2025-06-10T00:00:00Z') });
  const at = (iso: string) => find('m', null, new Date(iso), [second, first]);
  expect(at('2024-12-31T23:59:59.999Z')).toBeUndefined();
  expect(at('2025-01-01T00:00:00Z')).toBe(first);
  expect(at('2025-06-09T23:59:59.999Z')).toBe(first);
  expect(at('2025-06-10T00:00:00Z')).toBe(second);
});

test('cached input is billed once, at its own price, under both conventions', () => {
  const expected = 200n * 150n + 800n * 75n + 100n * 600n;
  const openai = counts({ prompt_tokens: 1000n, cached_tokens: 800n, completion_tokens: 100n });
  const anthropic = counts({ prompt_tokens: 200n, cached_tokens: 800n, completion_tokens: 100n });
  expect(costNanoUsd(price(), openai, 'included')).toBe(expected);
  expect(costNanoUsd(price(), anthropic, 'beside')).toBe(expected);
});

test('cache writes have their own price under both conventions', () => {
  const written = { cache_write_tokens: 1000n, cached_tokens: 500n };
  const included = costNanoUsd(price(), counts({ ...written, prompt_tokens: 2000n }), 'included');
  expect(included).toBe(500n * 150n + 500n * 75n + 187_500n);
  expect(costNanoUsd(price(), counts({ ...written, prompt_tokens: 500n }), 'beside')).toBe(included);
});

test('reasoning tokens are part of the completion, at the reasoning price', () => {
  const own = price({ reasoning_pico_usd: 1_000_000n });
  const usage = counts({ completion_tokens: 100n, reasoning_tokens: 60n });
  expect(costNanoUsd(own, usage, 'included')).toBe(40n * 600n + 60n * 1000n);
  expect(costNanoUsd(price(), usage, 'included')).toBe(100n * 600n);
});

test('a report of more cached or reasoning tokens than there are tokens bills no token twice', () => {
  const usage = counts({
    prompt_tokens: 10n,
    cached_tokens: 50n,
    completion_tokens: 5n,
    reasoning_tokens: 9n,
  });
  expect(costNanoUsd(price(), usage, 'included')).toBe(10n * 75n + 5n * 600n);
});

test.each([
  [499n, 0n],
  [500n, 0n],
  [501n, 1n],
  [1500n, 2n],
  [2500n, 2n],
  [2501n, 3n],
])('%d pico-dollars are %d nano-dollars: halves go to the even side', (picoUsd, nanoUsd) => {
  const one = price({ input_pico_usd: picoUsd });
  expect(costNanoUsd(one, counts({ prompt_tokens: 1n }), 'included')).toBe(nanoUsd);
});

test.each([
  [0n, '$0.00'],
  [1n, '$0.000000001'],
  [210_000n, '$0.00021'],
  [500_000_000n, '$0.50'],
  [1_234_567_890n, '$1.23456789'],
  [-2_500_000_000n, '-$2.50'],
  [12_000_000_000_000_000_001n, '$12000000000.000000001'],
])('%d nano-dollars read %s', (nanoUsd, text) => {
  expect(formatUsd(nanoUsd)).toBe(text);
});

const amount = fc.bigInt({ min: 0n, max: 600_000_000n });
const priceAt = fc
  .record({
    input_pico_usd: amount,
    output_pico_usd: amount,
    cached_input_pico_usd: amount,
    cache_write_pico_usd: amount,
    reasoning_pico_usd: amount,
  })
  .map(price);
const tokens = fc.bigInt({ min: 0n, max: BigInt(Number.MAX_SAFE_INTEGER) });
const anyUsage = fc.record({
  prompt_tokens: tokens,
  completion_tokens: tokens,
  cached_tokens: tokens,
  cache_write_tokens: tokens,
  reasoning_tokens: tokens,
});
/** Parts that fit into their whole, as an honest provider reports them. */
const honestUsage = fc
  .record({ plain: tokens, cached: tokens, written: tokens, spoken: tokens, reasoning: tokens })
  .map(({ plain, cached, written, spoken, reasoning }) => ({
    prompt_tokens: plain + cached + written,
    completion_tokens: spoken + reasoning,
    cached_tokens: cached,
    cache_write_tokens: written,
    reasoning_tokens: reasoning,
  }));
const convention = fc.constantFrom('included' as const, 'beside' as const);

function exactPicoUsd(of: Price, usage: TokenCounts): bigint {
  const { prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens, reasoning_tokens } = usage;
  return (
    (prompt_tokens - cached_tokens - cache_write_tokens) * of.input_pico_usd +
    cached_tokens * of.cached_input_pico_usd +
    cache_write_tokens * of.cache_write_pico_usd +
    (completion_tokens - reasoning_tokens) * of.output_pico_usd +
    reasoning_tokens * of.reasoning_pico_usd
  );
}

const distance = (left: bigint, right: bigint) => (left > right ? left - right : right - left);

test('a line is never off by more than half a nano-dollar', () => {
  fc.assert(
    fc.property(priceAt, honestUsage, (of, usage) => {
      expect(
        distance(costNanoUsd(of, usage, 'included') * 1000n, exactPicoUsd(of, usage)),
      ).toBeLessThanOrEqual(500n);
    }),
  );
});

test('many lines together are never off by more than half a nano-dollar each', () => {
  fc.assert(
    fc.property(priceAt, fc.array(honestUsage, { minLength: 1, maxLength: 20 }), (of, lines) => {
      const billed = lines.reduce((sum, usage) => sum + costNanoUsd(of, usage, 'included'), 0n);
      const exact = lines.reduce((sum, usage) => sum + exactPicoUsd(of, usage), 0n);
      expect(distance(billed * 1000n, exact)).toBeLessThanOrEqual(500n * BigInt(lines.length));
    }),
  );
});

test('whatever is reported, a cost is never negative, and more tokens never cost less', () => {
  const growing = fc.constantFrom('prompt_tokens' as const, 'completion_tokens' as const);
  fc.assert(
    fc.property(priceAt, anyUsage, convention, growing, tokens, (of, usage, cachedConvention, kind, more) => {
      const before = costNanoUsd(of, usage, cachedConvention);
      const after = costNanoUsd(of, { ...usage, [kind]: usage[kind] + more }, cachedConvention);
      expect(before).toBeGreaterThanOrEqual(0n);
      expect(after).toBeGreaterThanOrEqual(before);
    }),
  );
});

test('both conventions agree on the same tokens', () => {
  fc.assert(
    fc.property(priceAt, honestUsage, (of, usage) => {
      const beside = {
        ...usage,
        prompt_tokens: usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
      };
      expect(costNanoUsd(of, beside, 'beside')).toBe(costNanoUsd(of, usage, 'included'));
    }),
  );
});

test('a price change never moves a line from before it', () => {
  const day = fc.integer({ min: 0, max: 2000 });
  const dateOf = (number: number) => new Date(Date.UTC(2025, 0, 1 + number));
  fc.assert(
    fc.property(fc.array(day), day, fc.array(day), (known, at, changes) => {
      const prices = known.map((number) => price({ effective_from: dateOf(number) }));
      const later = changes.map((number) => price({ effective_from: dateOf(at + 1 + number) }));
      expect(find('m', 'acme', dateOf(at), [...later, ...prices])).toBe(
        find('m', 'acme', dateOf(at), prices),
      );
    }),
  );
});

test('dollars for display are the nearest number there is', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: BigInt(Number.MAX_SAFE_INTEGER) }), (nanoUsd) => {
      expect(nanoToUsd(nanoUsd)).toBe(Number(formatUsd(nanoUsd).slice(1)));
    }),
  );
});

test('the seed table is well-formed, without doubles, and made without asking the internet', () => {
  const asked = jest.spyOn(globalThis, 'fetch');
  expect(seedPrices()).toEqual(seeds);
  expect(asked).not.toHaveBeenCalled();
  asked.mockRestore();
  expect(() => z.array(priceSchema).parse(seeds)).not.toThrow();
  expect(new Set(seeds.map(({ _id }) => _id)).size).toBe(seeds.length);
  expect(seeds.length).toBeGreaterThan(200);
});

test('every seed model costs what the package it comes from says, for calls within the base tier', () => {
  const compared = ['openai', 'anthropic', 'google'].flatMap((providerId) =>
    (findProvider({ providerId })?.models ?? []).map(({ id }) => {
      const usage = { input_tokens: 5000, cache_read_tokens: 1700, output_tokens: 333 };
      const theirs = calcPrice(usage, id, { providerId, timestamp: november });
      const ours = seeds.some(({ model, source }) => model === id && source.endsWith(providerId))
        ? find(id)
        : undefined;
      if (ours === undefined || theirs?.model.id !== id) return undefined;
      const counted = counts({ prompt_tokens: 5000n, cached_tokens: 1700n, completion_tokens: 333n });
      return {
        id,
        theirs: Math.round(theirs.total_price * 1e9),
        ours: Number(costNanoUsd(ours, counted, 'included')),
      };
    }),
  );
  const known = compared.filter((each) => each !== undefined);
  expect(known.length).toBeGreaterThan(120);
  expect(known.filter(({ ours, theirs }) => Math.abs(ours - theirs) > 1)).toEqual([]);
});

test('a snapshot that costs what its model costs has no entry that could hide a new price of the model', () => {
  const changed = price({ model: 'gpt-4o', effective_from: new Date('2026-10-01T00:00:00Z') });
  expect(find('gpt-4o-2024-08-06', null, november, [...seeds, changed])).toBe(changed);
});

test('a model with announced prices gets each from its day on', () => {
  const inputAt = (day: string) => find('gpt-5.6-terra', null, new Date(day))?.input_pico_usd;
  expect(inputAt('2026-07-29T23:59:59Z')).toBe(2_500_000n);
  expect(inputAt('2026-07-30T00:00:00Z')).toBe(2_000_000n);
});

test('a model with tiers for long contexts is priced at its base tier', () => {
  expect(find('gemini-2.5-pro')).toMatchObject({ input_pico_usd: 1_250_000n, output_pico_usd: 10_000_000n });
});

test('prices travel to JSON as integers and back without loss', () => {
  for (const each of seeds) {
    const json: unknown = JSON.parse(JSON.stringify(priceCodec.encode(each)));
    expect(priceCodec.decode(priceJsonSchema.parse(json))).toEqual(each);
  }
});

test.each([-1, 0.5, Number.NaN, Infinity, 2 ** 53, '1', null])(
  'a price of %p per token is refused',
  (amount) => {
    const json = { ...priceCodec.encode(price()), input_pico_usd: amount };
    expect(priceCodec.safeParse(json).success).toBe(false);
  },
);

test('a negative stored price is refused', () => {
  expect(priceSchema.safeParse(price({ output_pico_usd: -1n })).success).toBe(false);
});
