const shortestMs = 500;
const longestMs = 30_000;

/**
 * How long to wait before the next attempt: exponential with full jitter, so that a thousand clients of a restarted
 * server do not come back in the same instant. `attempt` counts from 0; `random` is in [0, 1).
 */
export function reconnectDelayMs(attempt: number, random: number, atLeastMs = shortestMs): number {
  const ceiling = Math.min(longestMs, 2 * shortestMs * 2 ** Math.min(attempt, 16));
  const delay = shortestMs + random * (ceiling - shortestMs);
  return Math.min(longestMs, Math.max(atLeastMs, delay));
}
