import { Agent, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { eventsAnswerSchema } from '../../core/contracts/http.ts';
import type { FaultCredit, FaultEvent, FaultHistory } from './fault-history.ts';
import { type FaultRandom, faultRandom } from './fault-random.ts';

/**
 * A producer as it should be: it sends each event until some node has acknowledged it, in batches, over several
 * connections at once, to whichever node it comes upon. It also behaves badly where it may: it repeats, delays and
 * shuffles.
 */
export type FaultProducerOptions = {
  readonly history: FaultHistory;
  /** Base addresses of the nodes. */
  readonly targets: readonly string[];
  readonly seed: number;
  readonly writers?: number;
  readonly batchLimit?: number;
  /** How often each event is delivered on purpose. */
  readonly copies?: (random: FaultRandom) => number;
  /** How far events may stand from where they belong; 0 keeps the order. */
  readonly disorder?: number;
};

export type FaultProduction = {
  /** Resolves when everything is acknowledged. */
  readonly finished: Promise<void>;
  /** Gives up; `finished` resolves when the writers have noticed. */
  stop: () => void;
  /** Events acknowledged at least once. */
  acknowledged: () => number;
  /** The longest time without an answer that acknowledged something, so far. */
  longestStallMs: () => number;
  readonly report: {
    deliveries: number;
    /** Answers that never came, or came broken. */
    lostReplies: number;
    /** Answers other than 200, by status and code. */
    refusals: Map<string, number>;
    /** What must not be: events counted again after they had been counted, and events nobody would take. */
    breaches: string[];
  };
};

export function startProducer({
  history,
  targets,
  seed,
  writers = 8,
  batchLimit = 50,
  copies = (random) => (random.chance(0.3) ? 2 : 1),
  disorder = 200,
}: FaultProducerOptions): FaultProduction {
  const random = faultRandom(seed);
  const agent = new Agent({ keepAlive: true, maxSockets: writers * 2 });
  const deliveries = planDeliveries(history.events, copies, disorder, random);
  const credits = history.credits.flatMap((credit) => [credit, credit]);
  const acknowledged = new Set<string>();
  const recorded = new Set<string>();
  let answeredAt = performance.now();
  let longestStallMs = 0;
  const report: FaultProduction['report'] = {
    deliveries: 0,
    lostReplies: 0,
    refusals: new Map(),
    breaches: [],
  };
  let isStopping = false;

  /** Sends until there is an answer that says what became of it. */
  const insist = async (send: (target: string) => Promise<Answer>): Promise<unknown> => {
    while (!isStopping) {
      try {
        const { status, text } = await send(random.pick(targets));
        const body: unknown = JSON.parse(text);
        if (status === 200) return body;
        const { code } = problemSchema.parse(body);
        const key = `${status} ${code}`;
        report.refusals.set(key, (report.refusals.get(key) ?? 0) + 1);
        if (status < 500) {
          report.breaches.push(`a request was answered ${key}`);
          return undefined;
        }
      } catch {
        report.lostReplies += 1;
      }
      // Let the others have a turn; a node that is down refuses at once.
      await delay(random.between(5, 50));
    }
    return undefined;
  };

  const deliver = async (batch: readonly FaultEvent[]): Promise<void> => {
    const payload = batch.map(({ json }) => json).join('\n');
    const body = await insist((target) =>
      post(agent, `${target}/api/events`, payload, { 'content-type': 'application/x-ndjson' }),
    );
    if (body === undefined) return;
    const now = performance.now();
    longestStallMs = Math.max(longestStallMs, now - answeredAt);
    answeredAt = now;
    const { results } = eventsAnswerSchema.parse(body);
    for (const [index, { uuid }] of batch.entries()) {
      const result = results[index];
      if (result?.uuid !== uuid) report.breaches.push(`the answer for ${uuid} is missing`);
      else if (result.outcome === 'refused')
        report.breaches.push(`${uuid} was refused: ${result.code ?? ''} ${result.reason ?? ''}`);
      else {
        if (result.outcome === 'recorded' && recorded.has(uuid))
          report.breaches.push(`${uuid} was recorded, and then recorded again`);
        if (result.outcome === 'recorded') recorded.add(uuid);
        acknowledged.add(uuid);
      }
    }
    report.deliveries += batch.length;
  };

  const credit = async ({ app_id, user_id, amount, key }: FaultCredit): Promise<void> => {
    await insist((target) =>
      post(
        agent,
        `${target}/api/tokens/${user_id}/credit`,
        JSON.stringify({ app_id, amount, reason: 'top-up' }),
        { 'content-type': 'application/json', 'idempotency-key': key },
      ),
    );
  };

  let next = 0;
  const write = async (): Promise<void> => {
    while (next < deliveries.length && !isStopping) {
      const batch = deliveries.slice(next, next + random.between(1, batchLimit));
      next += batch.length;
      if (random.chance(0.02)) await delay(random.between(1, 100));
      await deliver(batch);
    }
  };
  const writeCredits = async (): Promise<void> => {
    for (const each of credits) await credit(each);
  };
  const run = async () => {
    await Promise.all([...Array.from({ length: writers }, write), writeCredits()]);
    agent.destroy();
  };
  return {
    finished: run(),
    stop: () => {
      isStopping = true;
    },
    acknowledged: () => acknowledged.size,
    longestStallMs: () => longestStallMs,
    report,
  };
}

/** Each event as often as wanted, each copy a little away from its place. */
function planDeliveries(
  events: readonly FaultEvent[],
  copies: (random: FaultRandom) => number,
  disorder: number,
  random: FaultRandom,
): FaultEvent[] {
  return events
    .flatMap((event, index) =>
      Array.from({ length: copies(random) }, (_, copy) => ({
        event,
        place: index + (disorder === 0 ? copy * 0.1 : random.next() * disorder * (copy + 1)),
      })),
    )
    .toSorted((a, b) => a.place - b.place)
    .map(({ event }) => event);
}

const problemSchema = z.looseObject({ code: z.string() });

type Answer = { status: number; text: string };

/** A reply that does not come within this time is a lost one: the network may swallow it without a word. */
const longestReplyMs = 20_000;

function post(agent: Agent, url: string, payload: string, headers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      {
        method: 'POST',
        agent,
        headers: { ...headers, 'content-length': String(Buffer.byteLength(payload)) },
        signal: AbortSignal.timeout(longestReplyMs),
      },
      (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => {
          text += chunk;
        });
        incoming.once('error', reject);
        incoming.once('end', () => resolve({ status: incoming.statusCode ?? 0, text }));
      },
    );
    outgoing.once('error', reject);
    outgoing.end(payload);
  });
}
