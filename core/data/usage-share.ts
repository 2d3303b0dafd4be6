import type { UsageTotals } from '../contracts/usage.ts';
import { addCounts, type TokenCounts, totalOf } from '../usage/token-counts.ts';
import type { RunAccount, TotalsDocument, UsageShare } from './collections.ts';
import { newShare } from './new-session.ts';

export const usd = (nano: bigint): number => Number(nano) / 1e9;

export function shareOf(counts: TokenCounts, cost: bigint): UsageShare {
  return { ...counts, total_tokens: totalOf(counts), total_cost_nano_usd: cost, total_cost: usd(cost) };
}

export function addShare(left: UsageShare, right: UsageShare): UsageShare {
  return shareOf(addCounts(left, right), left.total_cost_nano_usd + right.total_cost_nano_usd);
}

export function raiseShare(target: UsageShare, share: UsageShare): void {
  Object.assign(target, addShare(target, share));
}

export function addToShares<Key extends Record<string, string>>(
  shares: (UsageShare & Key)[],
  key: Key,
  share: UsageShare,
): void {
  const found = shares.find((each) => Object.entries(key).every(([name, value]) => each[name] === value));
  if (found === undefined) shares.push({ ...key, ...share });
  else raiseShare(found, share);
}

export function groupShares(
  shares: RunAccount['shares'],
  by: 'agent' | 'model',
): { name: string; share: UsageShare }[] {
  const groups = new Map<string, UsageShare>();
  for (const share of shares) groups.set(share[by], addShare(groups.get(share[by]) ?? newShare(), share));
  return [...groups].map(([name, share]) => ({ name, share }));
}

export function totalsOf(share: UsageShare): UsageTotals {
  return {
    total_tokens: Number(share.total_tokens),
    prompt_tokens: Number(share.prompt_tokens),
    completion_tokens: Number(share.completion_tokens),
    total_cost: share.total_cost,
  };
}

export function totalsDocument({
  total_tokens,
  prompt_tokens,
  completion_tokens,
  total_cost,
}: UsageShare): TotalsDocument {
  return { total_tokens, prompt_tokens, completion_tokens, total_cost };
}

export function wireShare(share: UsageShare) {
  return {
    ...totalsOf(share),
    cached_tokens: Number(share.cached_tokens),
    reasoning_tokens: Number(share.reasoning_tokens),
  };
}
