import { randomUUID } from 'node:crypto';
import type { BudgetRequest } from '../contracts/budgets.ts';
import type { Logger } from '../observability/logging.ts';
import { type BudgetDocument, windowAt } from '../usage/budget.ts';
import { idPart } from './id-part.ts';
import { reportUsage, type UsageScope } from './usage-reports.ts';
import type { BudgetWindowDocument, Collections } from './collections.ts';

/**
 * The budgets, kept in memory because every call is checked against them; other nodes' changes arrive within the
 * refresh time. How far each is used is not here but in `BudgetWindows`, which commits keep exact.
 */
const refreshMs = 5_000;

export class BudgetStore {
  readonly #collections: Collections;
  readonly #log: Logger;
  #budgets: readonly BudgetDocument[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(collections: Collections, log: Logger) {
    this.#collections = collections;
    this.#log = log;
  }

  current(): readonly BudgetDocument[] {
    return this.#budgets;
  }

  async start(): Promise<void> {
    await this.#refresh();
    this.#timer = setInterval(() => {
      this.#refresh().catch((cause: unknown) =>
        this.#log.warn({ err: cause }, 'the budgets were not refreshed'),
      );
    }, refreshMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Adds a budget; what its current window saw already counts from the usage reports. */
  async create(request: BudgetRequest, now: Date): Promise<BudgetDocument> {
    const budget: BudgetDocument = {
      _id: `budget-${randomUUID()}`,
      ...request,
      limit: BigInt(request.limit),
      created_at: now,
      updated_at: now,
    };
    const window = await this.#windowSoFar(budget, now);
    if (window !== undefined) await this.#collections.budgetWindows.insertOne(window);
    await this.#collections.budgets.insertOne(budget);
    await this.#refresh();
    return budget;
  }

  async update(
    budgetId: string,
    change: Partial<Pick<BudgetRequest, 'limit' | 'enforcement'>>,
    now: Date,
  ): Promise<BudgetDocument | null> {
    const { limit, enforcement } = change;
    const updated = await this.#collections.budgets.findOneAndUpdate(
      { _id: budgetId },
      {
        $set: {
          ...(limit === undefined ? {} : { limit: BigInt(limit) }),
          ...(enforcement === undefined ? {} : { enforcement }),
          updated_at: now,
        },
      },
      { returnDocument: 'after' },
    );
    await this.#refresh();
    return updated;
  }

  async remove(budgetId: string): Promise<boolean> {
    const { deletedCount } = await this.#collections.budgets.deleteOne({ _id: budgetId });
    await this.#refresh();
    return deletedCount === 1;
  }

  find(budgetId: string): BudgetDocument | undefined {
    return this.#budgets.find(({ _id }) => _id === budgetId);
  }

  /** The windows that are open now, of everyone the budget concerns. */
  readWindows(budget: BudgetDocument, now: Date): Promise<BudgetWindowDocument[]> {
    const { key } = windowAt(budget.window, budget.time_zone, now);
    return this.#collections.budgetWindows
      .find({ budget_id: budget._id, window_key: key }, { limit: 1000 })
      .toArray();
  }

  async #windowSoFar(budget: BudgetDocument, now: Date): Promise<BudgetWindowDocument | undefined> {
    const scope = usageScopeOf(budget);
    if (scope === undefined) return undefined;
    const { key, endsAt } = windowAt(budget.window, budget.time_zone, now);
    const since = startOf(budget, now);
    const report = await reportUsage(this.#collections, scope, since);
    const used =
      budget.unit === 'tokens'
        ? BigInt(report.total_tokens)
        : BigInt(Math.round(report.total_cost_usd * 1e9));
    const subject = budget.subject === '*' ? budget.app_id : budget.subject;
    return {
      _id: `${budget._id}|${idPart(subject)}|${key}`,
      budget_id: budget._id,
      app_id: budget.app_id,
      subject,
      window_key: key,
      ends_at: endsAt,
      used,
      held: 0n,
      alerted: 0,
      version: 1n,
    };
  }

  async #refresh(): Promise<void> {
    this.#budgets = await this.#collections.budgets.find().toArray();
  }
}

/** Only for one subject: with `*` everyone has a window of their own, which begins with their next call. */
function usageScopeOf({ app_id, scope, subject }: BudgetDocument): UsageScope | undefined {
  if (scope === 'app') return { app_id };
  if (subject === '*') return undefined;
  switch (scope) {
    case 'user':
      return { app_id, user_id: subject };
    case 'chat':
      return { app_id, task_id: subject };
    case 'model':
      return { app_id, model: subject };
    case 'workflow':
      return { app_id, workflow_name: subject };
  }
}

/** When the window that holds `now` began. */
function startOf({ window, time_zone }: BudgetDocument, now: Date): Date | null {
  if (window === 'total') return null;
  const { key } = windowAt(window, time_zone, now);
  let start = now.getTime();
  // Backwards by hours until the window is another one, then forwards by minutes: clocks that change are no trouble.
  while (windowAt(window, time_zone, new Date(start)).key === key) start -= 3_600_000;
  while (windowAt(window, time_zone, new Date(start)).key !== key) start += 60_000;
  return new Date(start - (start % 60_000));
}
