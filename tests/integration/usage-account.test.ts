import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { UsageAccount } from '../../core/data/usage-account.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

let storage: TestStorage;
beforeAll(async () => {
  storage = await openTestStorage();
  // A million tokens of gpt-4o-mini's output cost 0.60 USD.
  await storage.dispatcher.publish([
    usageEnvelope('task-1', [{ completion_tokens: 1_000_000 }]),
    usageEnvelope('task-2', [{ completion_tokens: 500_000 }]),
  ]);
});
afterAll(() => storage.close());

const account = (taskId: string) => new UsageAccount(storage.collections, { taskId, userId: 'ann' });

it('a task knows its own usage, and a user that of all tasks', async () => {
  expect(await account('task-1').getTaskUsage()).toMatchObject({
    total_requests: 1,
    total_tokens: 1_000_000,
    total_cost_usd: 0.6,
  });
  expect(await account('task-1').getUserUsage()).toMatchObject({
    total_requests: 2,
    total_tokens: 1_500_000,
    total_cost_usd: 0.9,
  });
});

it('limits that are kept are within limits', async () => {
  expect(await account('task-1').checkUsageLimits({ maxCostPerTask: 0.6, maxCostPerUser: 1 })).toEqual({
    within_limits: true,
    violations: [],
  });
});

it('each limit that is exceeded is named with its figures', async () => {
  expect(await account('task-1').checkUsageLimits({ maxCostPerTask: 0.5, maxCostPerUser: 0.8 })).toEqual({
    within_limits: false,
    violations: [
      { scope: 'task', limit_usd: 0.5, used_usd: 0.6 },
      { scope: 'user', limit_usd: 0.8, used_usd: 0.9 },
    ],
  });
});
