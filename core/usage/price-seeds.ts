import { findProvider, type MatchLogic, type ModelInfo, type ModelPrice } from '@pydantic/genai-prices';
import type { Price } from '../contracts/prices.ts';
import { findPrice } from './token-pricing.ts';

/**
 * The prices a new database starts with. Derived at start from the table that ships inside `@pydantic/genai-prices`;
 * nothing is fetched, so a price changes only with the package's version or with an entry of one's own.
 *
 * What is left out on purpose: tiers for long contexts (the base tier is taken: a call beyond 200,000 or 272,000
 * tokens costs more at the provider than here), one-hour cache writes (the five-minute price is taken), and audio,
 * image, search and batch prices. Models without a price per input token are left out, and so are unknown.
 */

/** Models and US dollars per million tokens (input, output) that the runtime has promised since its first version. */
const promisedPrices: readonly (readonly [model: string, inputUsd: number, outputUsd: number])[] = [
  ['gpt-4', 30, 60],
  ['gpt-4-turbo', 10, 30],
  ['gpt-4o', 2.5, 10],
  ['gpt-4o-mini', 0.15, 0.6],
  ['gpt-3.5-turbo', 0.5, 1.5],
];

/** The model that runs on this machine when no key is set. */
const localModel = 'SmolLM2-135M-Instruct';

/** The table's oldest day. A price without a starting date has always been, as far as we are concerned. */
const tableBegins = new Date('2025-01-01T00:00:00Z');

/**
 * Whose price a name gets when several sell it: the first. Where another one's differs it is kept under LiteLLM's
 * prefix (`azure/o4-mini`), which is what a caller has to say for us to know.
 */
const providers = [
  { id: 'openai', prefix: 'openai/' },
  { id: 'anthropic', prefix: 'anthropic/' },
  { id: 'google', prefix: 'vertex_ai/' },
  { id: 'azure', prefix: 'azure/' },
] as const;

/** Every seed price, each model's in order of `effective_from`. */
export function seedPrices(): Price[] {
  const histories = new Map<string, Price[]>();
  for (const { id, prefix } of providers) {
    for (const model of findProvider({ providerId: id })?.models ?? []) {
      for (const name of namesOf(model)) {
        const history = historyOf(name, model, `genai-prices/${id}`);
        const known = histories.get(name);
        if (history.length === 0 || (known !== undefined && isSameHistory(known, history))) continue;
        const ownName = known === undefined ? name : prefix + name;
        histories.set(
          ownName,
          known === undefined ? history : historyOf(ownName, model, `genai-prices/${id}`),
        );
      }
    }
  }
  for (const [model, inputUsd, outputUsd] of promisedPrices) {
    const known = histories.get(model) ?? [];
    const later = known.filter((price) => price.effective_from > tableBegins);
    const cachedInput = known.find((price) => price.effective_from <= tableBegins)?.cached_input_pico_usd;
    const promised = priceOf(model, tableBegins, 'seed', { input_mtok: inputUsd, output_mtok: outputUsd });
    histories.set(model, [
      { ...promised, cached_input_pico_usd: cachedInput ?? promised.input_pico_usd },
      ...later,
    ]);
  }
  const free = { input_mtok: 0, output_mtok: 0 };
  histories.set(localModel, [priceOf(localModel, tableBegins, 'local', free)]);
  return withoutRedundantSnapshots(histories);
}

/** One and the same price, or one and the same id: a seed that is written again changes nothing. */
export function priceVersion(price: Pick<Price, 'app_id' | 'model' | 'effective_from'>): string {
  return [price.app_id ?? 'everyone', price.model, price.effective_from.toISOString()].join('|');
}

function historyOf(name: string, { prices }: ModelInfo, source: string): Price[] {
  const byDate = new Map<string, Price>();
  for (const { constraint, prices: each } of Array.isArray(prices) ? prices : [{ prices }]) {
    if (constraint?.type === 'time_of_date' || each['input_mtok'] === undefined) continue; // no discounts by the hour
    const starts = new Date(constraint?.start_date ?? tableBegins);
    const effectiveFrom = starts < tableBegins ? tableBegins : starts;
    // Of two that begin on one day the later in the list holds, as in the package itself.
    byDate.set(effectiveFrom.toISOString(), priceOf(name, effectiveFrom, source, each));
  }
  return withoutRepeats([...byDate.values()]);
}

/** A change of something that is left out here (a tier that fell away, say) is no change of price. */
function withoutRepeats(history: readonly Price[]): Price[] {
  return history.filter((price, index) => {
    const before = history[index - 1];
    return before === undefined || amountsOf(before) !== amountsOf(price);
  });
}

function priceOf(model: string, effectiveFrom: Date, source: string, prices: ModelPrice): Price {
  const input = picoUsdPerToken(prices['input_mtok']) ?? 0n;
  const output = picoUsdPerToken(prices['output_mtok']) ?? 0n; // embeddings have no output
  const price = { app_id: null, model, effective_from: effectiveFrom };
  return {
    _id: priceVersion(price),
    ...price,
    input_pico_usd: input,
    output_pico_usd: output,
    cached_input_pico_usd: picoUsdPerToken(prices['cache_read_mtok']) ?? input,
    cache_write_pico_usd: picoUsdPerToken(prices['cache_write_mtok']) ?? input,
    reasoning_pico_usd: output,
    source,
  };
}

/** $1 per million tokens is 1,000,000 pico-USD per token. */
function picoUsdPerToken(usdPerMillion: ModelPrice[string]): bigint | undefined {
  if (usdPerMillion === undefined) return undefined;
  return BigInt(
    Math.round((typeof usdPerMillion === 'number' ? usdPerMillion : usdPerMillion.base) * 1_000_000),
  );
}

/** The model's id and its spelled-out aliases. Beginnings count only when they are whole names. */
function namesOf({ id, match }: ModelInfo): Set<string> {
  const isWholeName = (name: string) => !/[-@.:]$|-20\d\d$|^ft:/.test(name);
  return new Set([id, ...spelledNames(match)].filter(isWholeName));
}

function spelledNames(match: MatchLogic): string[] {
  if ('equals' in match) return [match.equals];
  if ('starts_with' in match) return [match.starts_with];
  if ('or' in match) return match.or.flatMap(spelledNames);
  return [];
}

/**
 * A dated snapshot that costs what its model costs needs no entry: it finds the model's. If it had one, someone who
 * sets a new price for `gpt-4o` would wonder why calls reported as `gpt-4o-2024-08-06` keep the old one.
 */
function withoutRedundantSnapshots(histories: ReadonlyMap<string, Price[]>): Price[] {
  const all = [...histories.values()].flat();
  return [...histories].flatMap(([name, history]) => {
    const others = all.filter((price) => price.model !== name);
    const [first] = history;
    if (first === undefined) return [];
    const found = findPrice(others, { model: name, appId: null, at: first.effective_from });
    const isRedundant = found !== undefined && isSameHistory(histories.get(found.model) ?? [], history);
    return isRedundant ? [] : history;
  });
}

function isSameHistory(left: readonly Price[], right: readonly Price[]): boolean {
  const facts = (price: Price) => `${price.effective_from.toISOString()} ${amountsOf(price)}`;
  return left.map(facts).join() === right.map(facts).join();
}

function amountsOf(price: Price): string {
  return [
    price.input_pico_usd,
    price.output_pico_usd,
    price.cached_input_pico_usd,
    price.cache_write_pico_usd,
    price.reasoning_pico_usd,
  ].join(' ');
}
