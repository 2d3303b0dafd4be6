import { z } from 'zod';
import { chatPerformanceSchema, healthSchema, performanceAggregateSchema } from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { PerformanceManager } from '../core/observability/performance-manager.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor, requireService } from './sign-in.ts';

export type Readiness = { isStopping: () => boolean; checkStorage: () => Promise<void> };

/** Health for load balancers, and the live counters of chats. */
export function operationsRoutes({
  performance,
  readiness,
}: {
  performance: PerformanceManager;
  readiness: Readiness;
}): Route[] {
  const alive = (path: string, summary: string) =>
    route({
      method: 'get',
      path,
      summary,
      tag: 'operations',
      isPublic: true,
      input: z.object({}),
      answer: healthSchema,
      run: async () => ({
        status: readiness.isStopping() ? ('stopping' as const) : ('ok' as const),
        checks: {},
      }),
    });
  const own = (identity: Identity) => performance.snapshotAll().filter((chat) => mayActFor(identity, chat));

  return [
    alive('/health', 'The process is alive'),
    alive('/livez', 'The process is alive'),
    route({
      method: 'get',
      path: '/readyz',
      summary: 'Requests may come here: the database answers and the server is not stopping',
      tag: 'operations',
      isPublic: true,
      input: z.object({}),
      answer: healthSchema,
      problems: [503],
      async run() {
        if (readiness.isStopping()) throw new ProblemError(503, 'shutting_down', 'The server is stopping.');
        try {
          await readiness.checkStorage();
        } catch {
          throw new ProblemError(503, 'storage_unavailable', 'MongoDB does not answer.');
        }
        return { status: 'ok' as const, checks: { mongodb: 'ok' } };
      },
    }),
    route({
      method: 'get',
      path: '/metrics/perf/aggregate',
      summary: 'Counters over the chats this process knows',
      tag: 'operations',
      input: z.object({}),
      answer: performanceAggregateSchema,
      async run(_input, { identity }) {
        requireService(identity, 'Counters over all chats are for services');
        return performance.aggregate();
      },
    }),
    route({
      method: 'get',
      path: '/metrics/perf/chats',
      summary: 'Counters of each chat this process knows',
      tag: 'operations',
      input: z.object({}),
      answer: z.array(chatPerformanceSchema),
      run: async (_input, { identity }) => own(identity),
    }),
    route({
      method: 'get',
      path: '/metrics/perf/chats/{chat_id}',
      summary: 'Counters of one chat',
      tag: 'operations',
      input: z.object({ params: z.object({ chat_id: idSchema }) }),
      answer: chatPerformanceSchema,
      problems: [404],
      async run({ params: { chat_id } }, { identity }) {
        const chat = await performance.snapshotChat(chat_id);
        if (chat === undefined || !mayActFor(identity, chat))
          throw new ProblemError(404, 'unknown_chat', `There is no chat ${chat_id}.`);
        return chat;
      },
    }),
  ];
}
