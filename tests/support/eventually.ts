import { setTimeout as delay } from 'node:timers/promises';

/**
 * Runs the check until it no longer throws, and returns its answer. When time is up, its last error is thrown: it says
 * better than "timeout" what was not so.
 */
export async function eventually<Answer>(
  check: () => Answer | Promise<Answer>,
  { timeoutMs = 10_000, pauseMs = 20 }: { readonly timeoutMs?: number; readonly pauseMs?: number } = {},
): Promise<Answer> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() >= deadline) throw error;
    }
    await delay(pauseMs);
  }
}
