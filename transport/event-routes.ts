import { z } from 'zod';
import { type EventOutcome, eventsAnswerSchema } from '../core/contracts/http.ts';
import type { EventRecord } from '../core/data/persistence-manager.ts';
import type { UnifiedEventDispatcher } from '../core/events/unified-event-dispatcher.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { requireService } from './sign-in.ts';

const mostEvents = 1000;

/** The door for agents that run elsewhere: a JSON array of envelopes, or NDJSON. */
export function eventRoutes({ dispatcher }: { dispatcher: UnifiedEventDispatcher<EventRecord> }): Route[] {
  return [
    route({
      method: 'post',
      path: '/api/events',
      summary:
        'Publish agent events (envelopes of docs/EVENT_ARCHITECTURE.md), up to 1,000, as JSON array or NDJSON',
      tag: 'events',
      input: z.object({
        body: z.union([z.array(z.unknown()).min(1).max(mostEvents), z.string()]).meta({
          description: 'An array of envelopes; or, as application/x-ndjson, one envelope a line',
        }),
      }),
      answer: eventsAnswerSchema,
      problems: [413, 503],
      async run({ body }, { identity }) {
        requireService(identity, 'Events are taken from services');
        const published = await dispatcher.publish(typeof body === 'string' ? readLines(body) : body);
        const results = published.map((each): EventOutcome => {
          if (each.refused !== undefined)
            return {
              uuid: each.refused.uuid,
              outcome: 'refused',
              code: each.refused.code,
              reason: each.refused.reason,
            };
          const { recorded, uuid } = each;
          if (recorded.outcome === 'refused')
            return { uuid, outcome: 'refused', code: recorded.code, reason: recorded.reason };
          const { blocking } = recorded;
          return {
            uuid,
            outcome: recorded.outcome,
            ...(blocking === null ? {} : { stop: true as const, scope: blocking }),
          };
        });
        const count = (outcome: EventOutcome['outcome']) =>
          results.filter((each) => each.outcome === outcome).length;
        return {
          results,
          recorded: count('recorded'),
          repeated: count('repeated'),
          refused: count('refused'),
        };
      },
    }),
  ];
}

/** A line that is no JSON is refused like any other event that cannot be read; its neighbours are taken. */
function readLines(body: string): unknown[] {
  const lines = body.split('\n').filter((line) => line.trim() !== '');
  if (lines.length === 0 || lines.length > mostEvents)
    throw new ProblemError(
      400,
      'invalid_request',
      `The body must hold 1 to ${mostEvents} events, one a line; it holds ${lines.length}.`,
    );
  return lines.map((line): unknown => {
    try {
      return JSON.parse(line);
    } catch {
      return line;
    }
  });
}
