import type { Price } from '../contracts/prices.ts';
import type { TokenCounts } from './token-counts.ts';

/**
 * What tokens cost, pure. Prices are integer pico-USD per token, costs integer nano-USD; the pico-USD of a line are
 * summed exactly and rounded once. A price is chosen by the moment of the call, so a later price change never moves
 * an older line.
 */

/**
 * Whether `prompt_tokens` already holds the tokens read from and written to the provider's cache (OpenAI, Azure,
 * Gemini: `included`) or they are counted beside it (Anthropic's own API: `beside`). Guessing wrong bills the cached
 * input twice or not at all, so the caller says which.
 */
export type CachedConvention = 'included' | 'beside';

type PriceQuestion = { model: string; appId: string | null; at: Date };

/**
 * The price of a model at a moment; `undefined` when the model is not known, which is not the same as free. An app's
 * own price goes before everyone's, a closer name before a looser one, a newer price before an older one.
 */
export function findPrice(prices: readonly Price[], { model, appId, at }: PriceQuestion): Price | undefined {
  for (const owner of appId === null ? [null] : [appId, null]) {
    for (const name of namesOf(model)) {
      let newest: Price | undefined;
      for (const price of prices) {
        const isMeant = price.model === name && price.app_id === owner && price.effective_from <= at;
        if (isMeant && (newest === undefined || price.effective_from > newest.effective_from)) newest = price;
      }
      if (newest !== undefined) return newest;
    }
  }
  return undefined;
}

/** `-2024-07-18`, `-20250514`, Vertex's `@20250514`, and Google's numbered `-001`. */
const snapshot = /([-@]20\d\d(-?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])|-00\d)$/;

/** Only prefixes that name the price's own provider: `ollama/gpt-4o` is somebody's machine, not OpenAI. */
const providerPrefix = /^(openai|azure|azure_ai|anthropic|gemini|google|vertex_ai)\//;

/**
 * The names a model may be priced under, closest first: its own, without its snapshot's date or number, without
 * its provider's prefix. Never a mere beginning: `gpt-4o-mini` does not cost what `gpt-4o` costs.
 */
function namesOf(model: string): Set<string> {
  const bare = model.replace(providerPrefix, '');
  return new Set([model, bare].flatMap((name) => [name, name.replace(snapshot, '')]));
}

/**
 * The cost of one ledger line. Cached, cache-write and reasoning tokens never count twice and never exceed what they
 * are part of: a report that claims more cached tokens than prompt tokens is billed for its prompt tokens.
 */
export function costNanoUsd(price: Price, counts: TokenCounts, cachedConvention: CachedConvention): bigint {
  const { prompt_tokens: prompt, completion_tokens: completion } = counts;
  const isIncluded = cachedConvention === 'included';
  const cached = isIncluded ? lower(counts.cached_tokens, prompt) : counts.cached_tokens;
  const written = isIncluded ? lower(counts.cache_write_tokens, prompt - cached) : counts.cache_write_tokens;
  const plain = isIncluded ? prompt - cached - written : prompt;
  const reasoning = lower(counts.reasoning_tokens, completion);
  const picoUsd =
    plain * price.input_pico_usd +
    cached * price.cached_input_pico_usd +
    written * price.cache_write_pico_usd +
    (completion - reasoning) * price.output_pico_usd +
    reasoning * price.reasoning_pico_usd;
  return roundToNano(picoUsd);
}

const lower = (left: bigint, right: bigint): bigint => (left < right ? left : right);

/** Half to even: over many lines, halves neither enrich nor impoverish anyone. */
function roundToNano(picoUsd: bigint): bigint {
  const whole = picoUsd / 1000n;
  const rest = picoUsd % 1000n;
  const isUp = rest > 500n || (rest === 500n && whole % 2n === 1n);
  return isUp ? whole + 1n : whole;
}

/** US dollars as a number, for display only: the nearest one there is, never to be added up. */
export function nanoToUsd(nanoUsd: bigint): number {
  return Number(nanoUsd) / 1e9;
}

/** US dollars as a text, exact: at least cents, and no more zeros behind than those. */
export function formatUsd(nanoUsd: bigint): string {
  const sign = nanoUsd < 0n ? '-' : '';
  const digits = String(nanoUsd < 0n ? -nanoUsd : nanoUsd).padStart(10, '0');
  return `${sign}$${digits.slice(0, -9)}.${digits.slice(-9, -7)}${digits.slice(-7).replace(/0+$/, '')}`;
}
