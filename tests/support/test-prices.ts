import type { PriceUsage } from '../../core/data/session-fold.ts';
import { totalOf } from '../../core/usage/token-counts.ts';

/** The real prices, and one of our own that tests may change while calls are under way. */
export class TestPrices {
  readonly #real: PriceUsage;
  readonly #now: () => Date;
  #nanoUsd = 1n;
  #changes: { from: Date; nanoUsd: bigint }[] = [];

  constructor(real: PriceUsage, now: () => Date) {
    this.#real = real;
    this.#now = now;
  }

  /** Doubles the price from now on. */
  double(): void {
    this.#changes.push({ from: this.#now(), nanoUsd: this.#nanoUsd * 2n });
  }

  readonly price: PriceUsage = (use) => {
    if (use.model !== 'priced-by-test') return this.#real(use);
    const change = this.#changes.findLast(({ from }) => from <= use.at);
    const nanoUsd = change?.nanoUsd ?? this.#nanoUsd;
    return { cost_nano_usd: totalOf(use.counts) * nanoUsd, price_version: `test-${nanoUsd}` };
  };
}
