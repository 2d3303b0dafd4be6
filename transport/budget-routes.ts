import { z } from 'zod';
import {
  type BudgetRequest,
  budgetListSchema,
  budgetRequestSchema,
  budgetSchema,
  budgetStateSchema,
} from '../core/contracts/budgets.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { BudgetStore } from '../core/data/budget-store.ts';
import type { BudgetDocument } from '../core/usage/budget.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { requireService } from './sign-in.ts';

export type BudgetRoutesOptions = {
  budgets: BudgetStore;
  /** A limit may have become higher: chats that it stopped may go on. */
  onRaised: (appId: string) => void;
  now: () => Date;
};

const budgetPath = z.object({ budget_id: idSchema });
const budgetChangeSchema = z.strictObject({
  limit: budgetRequestSchema.shape.limit.optional(),
  enforcement: z.enum(['hard', 'soft']).optional(),
});

/** Budgets: limits on what may be spent by whom in which time. */
export function budgetRoutes({ budgets, onRaised, now }: BudgetRoutesOptions): Route[] {
  const notFound = (id: string) => new ProblemError(404, 'unknown_budget', `There is no budget ${id}.`);
  return [
    route({
      method: 'get',
      path: '/api/budgets',
      summary: 'The budgets of an app',
      tag: 'budgets',
      input: z.object({ query: z.object({ app_id: idSchema }) }),
      answer: budgetListSchema,
      async run({ query: { app_id } }, { identity }) {
        requireService(identity, 'Budgets are set by services');
        return {
          budgets: budgets
            .current()
            .filter((budget) => budget.app_id === app_id)
            .map(viewOf),
        };
      },
    }),
    route({
      method: 'post',
      path: '/api/budgets',
      summary: 'Set a budget',
      tag: 'budgets',
      input: z.object({ body: budgetRequestSchema }),
      answer: budgetSchema,
      problems: [503],
      async run({ body }, { identity }) {
        requireService(identity, 'Budgets are set by services');
        return viewOf(await budgets.create(body, now()));
      },
    }),
    route({
      method: 'get',
      path: '/api/budgets/{budget_id}',
      summary: 'A budget, and how far it is used',
      tag: 'budgets',
      input: z.object({ params: budgetPath }),
      answer: budgetStateSchema,
      problems: [404],
      async run({ params: { budget_id } }, { identity }) {
        requireService(identity, 'Budgets are set by services');
        const budget = budgets.find(budget_id);
        if (budget === undefined) throw notFound(budget_id);
        const windows = await budgets.readWindows(budget, now());
        return {
          ...viewOf(budget),
          windows: windows.map(({ subject, window_key, used, held, ends_at }) => ({
            subject,
            window_key,
            used: Number(used),
            held: Number(held),
            frees_at: ends_at?.toISOString() ?? null,
          })),
        };
      },
    }),
    route({
      method: 'put',
      path: '/api/budgets/{budget_id}',
      summary: "Change a budget's limit or enforcement",
      tag: 'budgets',
      input: z.object({ params: budgetPath, body: budgetChangeSchema }),
      answer: budgetSchema,
      problems: [404, 503],
      async run({ params: { budget_id }, body }, { identity }) {
        requireService(identity, 'Budgets are set by services');
        const change: Partial<Pick<BudgetRequest, 'limit' | 'enforcement'>> = {
          ...(body.limit === undefined ? {} : { limit: body.limit }),
          ...(body.enforcement === undefined ? {} : { enforcement: body.enforcement }),
        };
        const budget = await budgets.update(budget_id, change, now());
        if (budget === null) throw notFound(budget_id);
        onRaised(budget.app_id);
        return viewOf(budget);
      },
    }),
    route({
      method: 'delete',
      path: '/api/budgets/{budget_id}',
      summary: 'Remove a budget',
      tag: 'budgets',
      input: z.object({ params: budgetPath }),
      answer: z.strictObject({ removed: z.literal(true) }),
      problems: [404, 503],
      async run({ params: { budget_id } }, { identity }) {
        requireService(identity, 'Budgets are set by services');
        const budget = budgets.find(budget_id);
        if (!(await budgets.remove(budget_id))) throw notFound(budget_id);
        if (budget !== undefined) onRaised(budget.app_id);
        return { removed: true as const };
      },
    }),
  ];
}

function viewOf({
  _id,
  limit,
  created_at,
  updated_at,
  ...budget
}: BudgetDocument): z.infer<typeof budgetSchema> {
  return {
    ...budget,
    budget_id: _id,
    limit: Number(limit),
    created_at: created_at.toISOString(),
    updated_at: updated_at.toISOString(),
  };
}
