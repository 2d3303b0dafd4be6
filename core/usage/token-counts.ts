import type { ModelUsage } from '../contracts/usage.ts';

/**
 * Tokens by kind, as int64. `cached_tokens` and `cache_write_tokens` are parts of the prompt, `reasoning_tokens` a
 * part of the completion, so a total is prompt + completion.
 */
export type TokenCounts = {
  prompt_tokens: bigint;
  completion_tokens: bigint;
  cached_tokens: bigint;
  cache_write_tokens: bigint;
  reasoning_tokens: bigint;
};

export const tokenKinds = [
  'prompt_tokens',
  'completion_tokens',
  'cached_tokens',
  'cache_write_tokens',
  'reasoning_tokens',
] as const satisfies readonly (keyof TokenCounts)[];

export function zeroCounts(): TokenCounts {
  return {
    prompt_tokens: 0n,
    completion_tokens: 0n,
    cached_tokens: 0n,
    cache_write_tokens: 0n,
    reasoning_tokens: 0n,
  };
}

export function countsOf(usage: Omit<ModelUsage, 'model'>): TokenCounts {
  return {
    prompt_tokens: BigInt(usage.prompt_tokens),
    completion_tokens: BigInt(usage.completion_tokens),
    cached_tokens: BigInt(usage.cached_tokens ?? 0),
    cache_write_tokens: BigInt(usage.cache_write_tokens ?? 0),
    reasoning_tokens: BigInt(usage.reasoning_tokens ?? 0),
  };
}

export const totalOf = (counts: TokenCounts): bigint => counts.prompt_tokens + counts.completion_tokens;

export const isZero = (counts: TokenCounts): boolean => tokenKinds.every((kind) => counts[kind] === 0n);

export const addCounts = (left: TokenCounts, right: TokenCounts): TokenCounts =>
  combine(left, right, (a, b) => a + b);

/** The higher of each kind: a high-water mark after one more observation. */
export const maxCounts = (left: TokenCounts, right: TokenCounts): TokenCounts =>
  combine(left, right, (a, b) => (a > b ? a : b));

/** How far `current` is above `mark`, kind by kind, never below zero. */
export const growthOf = (mark: TokenCounts, current: TokenCounts): TokenCounts =>
  combine(mark, current, (a, b) => (b > a ? b - a : 0n));

export const isBelow = (current: TokenCounts, mark: TokenCounts): boolean =>
  tokenKinds.some((kind) => current[kind] < mark[kind]);

function combine(left: TokenCounts, right: TokenCounts, of: (a: bigint, b: bigint) => bigint): TokenCounts {
  return {
    prompt_tokens: of(left.prompt_tokens, right.prompt_tokens),
    completion_tokens: of(left.completion_tokens, right.completion_tokens),
    cached_tokens: of(left.cached_tokens, right.cached_tokens),
    cache_write_tokens: of(left.cache_write_tokens, right.cache_write_tokens),
    reasoning_tokens: of(left.reasoning_tokens, right.reasoning_tokens),
  };
}
