import type { z } from 'zod';
import { readAg2V1Event } from './ag2-v1-dialect.ts';
import {
  type Envelope,
  envelopeSchema,
  type KnownAgentEvent,
  knownAgentEventSchema,
} from '../contracts/agent-events.ts';

/**
 * Reads one event at the door: an envelope with an event of classic AG2 (0.14) or of this runtime's own engine, which
 * makes the same. Everything after the door trusts what comes out of here.
 */
export type IncomingEvent = {
  envelope: Envelope;
  /** The producer's id of the event; a repeat of it does nothing. */
  uuid: string;
  /** Null for types that are stored and counted, and shown as nothing. */
  known: KnownAgentEvent | null;
};

export type RefusedEvent = { uuid: string | null; code: RefusalCode; reason: string };
export type RefusalCode =
  | 'invalid_envelope'
  | 'invalid_event'
  | 'invalid_usage'
  | 'event_from_future'
  | 'event_too_old'
  | 'unknown_chat'
  | 'wrong_chat'
  | 'mixed_usage';

/** A producer's clock may be this far ahead, and its events this late. */
const futureToleranceMs = 5 * 60 * 1000;
const oldestEventMs = 35 * 24 * 60 * 60 * 1000;

const knownTypes: ReadonlySet<string> = new Set(
  knownAgentEventSchema.options.map((option) => option.shape.type.value),
);

const usageTypes: ReadonlySet<string> = new Set(['usage_summary', 'call_usage']);

export function readEvent(input: unknown, now: Date): { event: IncomingEvent } | { refused: RefusedEvent } {
  const parsed = envelopeSchema.safeParse(input);
  if (!parsed.success)
    return {
      refused: { uuid: uuidOf(input), code: 'invalid_envelope', reason: describeIssues(parsed.error) },
    };
  const envelope = parsed.data;
  const uuid = envelope.event.content.uuid ?? `${envelope.run_id}:${envelope.seq}`;
  const age = now.getTime() - Date.parse(envelope.ts);
  if (age < -futureToleranceMs)
    return {
      refused: {
        uuid,
        code: 'event_from_future',
        reason: `ts is ${Math.round(-age / 1000)} s ahead of this server's clock; at most 300 s are taken`,
      },
    };
  if (age > oldestEventMs)
    return {
      refused: {
        uuid,
        code: 'event_too_old',
        reason: `ts is ${Math.floor(age / 86_400_000)} days ago; at most 35 days are taken`,
      },
    };
  if (envelope.dialect.startsWith('ag2/')) return readForeign(envelope, uuid);
  if (!knownTypes.has(envelope.event.type)) return { event: { envelope, uuid, known: null } };
  const known = knownAgentEventSchema.safeParse(envelope.event);
  if (!known.success) {
    const code = usageTypes.has(envelope.event.type) ? 'invalid_usage' : 'invalid_event';
    return { refused: { uuid, code, reason: describeIssues(known.error) } };
  }
  return { event: { envelope, uuid, known: known.data } };
}

/** AG2 1.x speaks otherwise; what it says is told in classic AG2's terms where they have one. */
function readForeign(envelope: Envelope, uuid: string): { event: IncomingEvent } | { refused: RefusedEvent } {
  const reading = readAg2V1Event(envelope);
  if (reading === null) return { event: { envelope, uuid, known: null } };
  if ('refused' in reading) return { refused: { uuid, ...reading.refused } };
  if ('known' in reading) return { event: { envelope, uuid, known: reading.known } };
  return { event: { envelope, uuid, known: { type: 'call_usage', content: reading.usage } } };
}

function describeIssues(error: z.ZodError): string {
  return error.issues
    .slice(0, 5)
    .map((issue) => `${issue.path.map(String).join('.') || 'event'}: ${issue.message}`)
    .join('; ');
}

function uuidOf(input: unknown): string | null {
  const parsed = envelopeSchema.shape.event.safeParse(
    typeof input === 'object' && input !== null && 'event' in input ? input.event : undefined,
  );
  return parsed.success ? (parsed.data.content.uuid ?? null) : null;
}
