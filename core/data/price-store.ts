import type { Collection } from 'mongodb';
import { type Price, type PriceRequest, priceSchema } from '../contracts/prices.ts';
import type { Logger } from '../observability/logging.ts';
import { priceVersion } from '../usage/price-seeds.ts';
import { findPrice } from '../usage/token-pricing.ts';
import { openPriceBook } from './price-book.ts';
import type { PriceUsage } from './session-fold.ts';
import { isDuplicateKey } from './storage-errors.ts';

/**
 * The prices, kept in memory because every ledger line needs one; other nodes' changes arrive within the refresh time.
 * A price is added and never changed or removed, so a line keeps the price it names.
 */
export type PriceStoreOptions = {
  prices: Collection<Price>;
  /** What a new database begins with. One that is there already stays as it is, whatever the seeds say now. */
  seeds: readonly Price[];
  log: Logger;
  refreshMs?: number;
};

export type PriceChange =
  | { outcome: 'added'; price: Price }
  | { outcome: 'exists'; price_version: string }
  | { outcome: 'too_early'; earliest: Date };

/** How far back a price may begin for a model that has one: clocks differ, and people are slow. */
const graceMs = 5 * 60 * 1000;
const endOfTime = new Date(8.64e15);

/** The prices in use, kept in memory: every debit asks for one. They are only ever added. */
export class PriceStore {
  readonly #options: PriceStoreOptions;
  #prices: readonly Price[] = [];
  #book: PriceUsage = openPriceBook([]);
  #timer: NodeJS.Timeout | undefined;

  constructor(options: PriceStoreOptions) {
    this.#options = options;
  }

  /** Prices usage as of now; a book that was handed out does not change. */
  priceBook(): PriceUsage {
    return this.#book;
  }

  list(): readonly Price[] {
    return this.#prices;
  }

  async start(): Promise<void> {
    const { log, refreshMs = 30_000 } = this.#options;
    await this.#seed();
    await this.refresh();
    this.#timer = setInterval(() => {
      this.refresh().catch((cause: unknown) => log.warn({ err: cause }, 'the prices were not refreshed'));
    }, refreshMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async refresh(): Promise<void> {
    const { prices, log } = this.#options;
    const documents = await prices
      .find({}, { sort: { model: 1, app_id: 1, effective_from: 1 } })
      .map((price): unknown => price)
      .toArray();
    const usable: Price[] = [];
    for (const document of documents) {
      const parsed = priceSchema.safeParse(document);
      if (parsed.success) usable.push(parsed.data);
      else log.warn({ err: parsed.error }, 'a price cannot be used');
    }
    this.#prices = usable;
    this.#book = openPriceBook(usable);
  }

  /**
   * Adds a price. For a model that has one it begins now or later, so that it is never asked what a line that was
   * written under the other price should have cost. For a model without any it may begin whenever it likes.
   */
  async add(request: PriceRequest, now: Date): Promise<PriceChange> {
    const price = priceOf(request, now);
    // What other nodes added counts too.
    await this.refresh();
    const { model, app_id: appId } = price;
    const isPriced = findPrice(this.#prices, { model, appId, at: endOfTime }) !== undefined;
    const earliest = new Date(now.getTime() - graceMs);
    if (this.#prices.some(({ _id }) => _id === price._id))
      return { outcome: 'exists', price_version: price._id };
    if (isPriced && price.effective_from < earliest) return { outcome: 'too_early', earliest };
    try {
      await this.#options.prices.insertOne(price);
    } catch (cause) {
      if (isDuplicateKey(cause)) return { outcome: 'exists', price_version: price._id };
      throw cause;
    }
    await this.refresh();
    return { outcome: 'added', price };
  }

  async #seed(): Promise<void> {
    const { prices, seeds } = this.#options;
    const stored = await prices.find({}, { projection: { _id: 1 } }).toArray();
    const known = new Set(stored.map(({ _id }) => _id));
    const missing = seeds.filter(({ _id }) => !known.has(_id));
    if (missing.length === 0) return;
    try {
      await prices.insertMany(missing, { ordered: false });
    } catch (cause) {
      // Another node starts at the same moment and sows the same.
      if (!isDuplicateKey(cause)) throw cause;
    }
  }
}

function priceOf(request: PriceRequest, now: Date): Price {
  const { app_id, model, source } = request;
  const effective_from = request.effective_from === undefined ? now : new Date(request.effective_from);
  return {
    _id: priceVersion({ app_id, model, effective_from }),
    app_id,
    model,
    source,
    effective_from,
    input_pico_usd: BigInt(request.input_pico_usd),
    output_pico_usd: BigInt(request.output_pico_usd),
    cached_input_pico_usd: BigInt(request.cached_input_pico_usd ?? request.input_pico_usd),
    cache_write_pico_usd: BigInt(request.cache_write_pico_usd ?? request.input_pico_usd),
    reasoning_pico_usd: BigInt(request.reasoning_pico_usd ?? request.output_pico_usd),
  };
}
