import { z } from 'zod';
import { taskMetricsReportSchema, usageReportSchema } from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { Collections } from '../core/data/collections.ts';
import type { PersistenceManager } from '../core/data/persistence-manager.ts';
import { reportTasks, reportUsage, type UsageScope } from '../core/data/usage-reports.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor } from './sign-in.ts';

export type UsageRoutesOptions = {
  collections: Collections;
  persistence: PersistenceManager;
  now: () => Date;
};

const days = z.coerce.number().int().min(1).max(366);

/** What models were asked and what it cost, by task (a chat), by user and overall. */
export function usageRoutes({ collections, persistence, now }: UsageRoutesOptions): Route[] {
  const since = (count: number) => new Date(now().getTime() - count * 24 * 60 * 60 * 1000);
  return [
    route({
      method: 'get',
      path: '/api/v1/usage/task/{task_id}',
      summary: 'Usage of one task or chat',
      tag: 'usage',
      input: z.object({ params: z.object({ task_id: idSchema }) }),
      answer: usageReportSchema.extend({ task_id: z.string() }),
      problems: [404],
      async run({ params: { task_id } }, { identity }) {
        const session = await persistence.findSession(task_id);
        if (session === null || !mayActFor(identity, session))
          throw new ProblemError(404, 'unknown_task', `There is no task ${task_id}.`);
        return { task_id, ...(await reportUsage(collections, { task_id }, null)) };
      },
    }),
    route({
      method: 'get',
      path: '/api/v1/usage/user/{user_id}',
      summary: 'Usage of one user',
      tag: 'usage',
      input: z.object({
        params: z.object({ user_id: idSchema }),
        query: z.object({ days: days.default(30), app_id: idSchema.optional() }),
      }),
      answer: usageReportSchema.extend({ user_id: z.string(), period_days: z.int() }),
      problems: [404],
      async run({ params: { user_id }, query }, { identity }) {
        const app_id = query.app_id ?? (identity.kind === 'user' ? identity.app_id : undefined);
        if (!mayActFor(identity, { user_id, app_id: app_id ?? '' }))
          throw new ProblemError(404, 'unknown_user', `There is no user ${user_id} in this app.`);
        const scope: UsageScope = { user_id, ...(app_id === undefined ? {} : { app_id }) };
        return {
          user_id,
          period_days: query.days,
          ...(await reportUsage(collections, scope, since(query.days))),
        };
      },
    }),
    route({
      method: 'get',
      path: '/api/v1/usage/overall',
      summary: 'Usage overall: of everyone for services, of oneself for a user',
      tag: 'usage',
      input: z.object({ query: z.object({ days: days.default(7) }) }),
      answer: usageReportSchema.extend({ period_days: z.int() }),
      run: async ({ query }, { identity }) => ({
        period_days: query.days,
        ...(await reportUsage(collections, ownScope(identity), since(query.days))),
      }),
    }),
    route({
      method: 'get',
      path: '/api/v1/usage/metrics/tasks',
      summary: 'How many tasks ran, how they ended and how long they took',
      tag: 'usage',
      input: z.object({ query: z.object({ days: days.default(7) }) }),
      answer: taskMetricsReportSchema.extend({ period_days: z.int() }),
      run: async ({ query }, { identity }) => ({
        period_days: query.days,
        ...(await reportTasks(collections, ownScope(identity), since(query.days))),
      }),
    }),
  ];
}

function ownScope(identity: Identity): UsageScope {
  return identity.kind === 'user' ? { app_id: identity.app_id, user_id: identity.user_id } : {};
}
