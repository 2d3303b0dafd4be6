import type { Price } from '../contracts/prices.ts';
import { costNanoUsd, findPrice } from '../usage/token-pricing.ts';
import type { PriceUsage } from './session-fold.ts';

/** Prices usage from a list that stays the same while the book is in use; a new list is a new book. */
export function openPriceBook(prices: readonly Price[]): PriceUsage {
  const byModel = new Map<string, readonly Price[]>();
  return ({ model, app_id, at, counts }) => {
    // Names are few and lists are long: what can match a name at all is looked up once.
    let candidates = byModel.get(model);
    if (candidates === undefined) {
      candidates = prices.filter((price) => model.includes(price.model));
      if (byModel.size < 1000) byModel.set(model, candidates);
    }
    const price = findPrice(candidates, { model, appId: app_id, at });
    if (price === undefined) return undefined;
    return { cost_nano_usd: costNanoUsd(price, counts, 'included'), price_version: price._id };
  };
}
