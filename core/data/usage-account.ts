import type { UsageReport } from '../contracts/http.ts';
import type { Collections } from './collections.ts';
import { reportUsage } from './usage-reports.ts';

/** Costs are US dollars, for people; the limits that stop calls are budgets, which are integers and exact. */
export type UsageLimits = { maxCostPerTask?: number; maxCostPerUser?: number };
export type UsageLimitsCheck = {
  within_limits: boolean;
  violations: { scope: 'task' | 'user'; limit_usd: number; used_usd: number }[];
};

/** What a task or user has used, and whether that is within given limits: the questions of the seeds' `LLMClient`. */
export class UsageAccount {
  readonly #collections: Pick<Collections, 'llmUsage'>;
  readonly #taskId: string;
  readonly #userId: string;

  constructor(
    collections: Pick<Collections, 'llmUsage'>,
    { taskId, userId }: { taskId: string; userId: string },
  ) {
    this.#collections = collections;
    this.#taskId = taskId;
    this.#userId = userId;
  }

  getTaskUsage(): Promise<UsageReport> {
    return reportUsage(this.#collections, { task_id: this.#taskId }, null);
  }

  getUserUsage(since: Date | null = null): Promise<UsageReport> {
    return reportUsage(this.#collections, { user_id: this.#userId }, since);
  }

  async checkUsageLimits({ maxCostPerTask, maxCostPerUser }: UsageLimits): Promise<UsageLimitsCheck> {
    const violations: UsageLimitsCheck['violations'] = [];
    const check = async (
      scope: 'task' | 'user',
      limit_usd: number | undefined,
      read: () => Promise<UsageReport>,
    ) => {
      if (limit_usd === undefined) return;
      const used_usd = (await read()).total_cost_usd;
      if (used_usd > limit_usd) violations.push({ scope, limit_usd, used_usd });
    };
    await check('task', maxCostPerTask, () => this.getTaskUsage());
    await check('user', maxCostPerUser, () => this.getUserUsage());
    return { within_limits: violations.length === 0, violations };
  }
}
