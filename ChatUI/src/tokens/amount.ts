import type { Balance } from '../../../core/contracts/http.ts';

const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const nanoPerUsd = 1e9;

export function formatCount(count: number): string {
  return integer.format(count);
}

/** Dollars with as many digits as are needed to see a small amount move. */
export function formatUsd(usd: number): string {
  const size = Math.abs(usd);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 4 : 6;
  return new Intl.NumberFormat('en-US', {
    style: 'currency',
    currency: 'USD',
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(usd);
}

/** An amount in the wallet's own unit. */
export function formatAmount(amount: number, unit: Balance['unit']): string {
  switch (unit) {
    case 'tokens':
      return `${formatCount(amount)} tokens`;
    case 'nano_usd':
      return formatUsd(amount / nanoPerUsd);
  }
}
