import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import { sessionView } from '../../core/data/persistence-manager.ts';
import { shuffled } from '../support/shuffled.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** What final totals do, and what happens when usage is missing, late or impossible. */
let surfacing: TestStorage;
let truingUp: TestStorage;
beforeAll(async () => {
  surfacing = await openTestStorage();
  truingUp = await openTestStorage({ finalUsagePolicy: 'true_up' });
});
afterAll(async () => {
  await surfacing.close();
  await truingUp.close();
});

const freshChat = () => `chat-${randomUUID()}`;
const usage = (chat: string, seq: number, total: number, mode: 'both' | 'total' = 'both') =>
  usageEnvelope(chat, [{ prompt_tokens: total }], { seq, mode });

function other(chat_id: string, seq: number, type: string, content: Record<string, unknown>): Envelope {
  return {
    ...usage(chat_id, seq, 0),
    meter: null,
    event: { type, content: { uuid: randomUUID(), ...content } },
  };
}
const says = (chat: string, seq: number) =>
  other(chat, seq, 'text', { content: 'words', sender: 'planner', recipient: 'chat_manager' });
const completes = (chat: string, seq: number) =>
  other(chat, seq, 'run_completion', { summary: '', last_speaker: 'planner' });

async function trackingOf(storage: TestStorage, chat: string) {
  const session = await storage.persistence.findSession(chat);
  if (session === null) throw new Error(`there is no chat ${chat}`);
  return sessionView(session).real_time_tracking.tokens;
}
const debited = async (storage: TestStorage, chat: string) =>
  (await storage.persistence.readLedger({ chat_id: chat }, 0, 1000)).reduce(
    (sum, line) => sum - line.amount,
    0,
  );
const errorsOf = (storage: TestStorage, chat: string) =>
  storage.frames.flatMap((frame) =>
    frame.chat_id === chat && frame.type === 'chat.error' ? frame.data.error_type : [],
  );

describe('final totals', () => {
  it('debit nothing when the summaries added up to them', async () => {
    const chat = freshChat();
    await surfacing.dispatcher.publish([
      usage(chat, 1, 10),
      usage(chat, 2, 30),
      usage(chat, 3, 30, 'total'),
      completes(chat, 4),
    ]);
    expect(await debited(surfacing, chat)).toBe(30);
    expect(await trackingOf(surfacing, chat)).toMatchObject({
      usage_mismatch: false,
      final: { total_tokens: 30 },
    });
  });

  it.each([1, 2, 3, 4, 5])('give the same wallet in any order (seed %i)', async (seed) => {
    const chat = freshChat();
    const events = [
      usage(chat, 1, 10),
      usage(chat, 2, 30),
      usage(chat, 3, 50),
      usage(chat, 4, 50, 'total'),
      completes(chat, 5),
    ];
    for (const event of shuffled([...events, ...events], seed)) await surfacing.dispatcher.publish([event]);
    expect(await debited(surfacing, chat)).toBe(50);
    expect(await trackingOf(surfacing, chat)).toMatchObject({
      usage_mismatch: false,
      final: { total_tokens: 50 },
    });
  });

  it('of a producer that sends nothing else are debited once, however many arrive at once', async () => {
    const chat = freshChat();
    await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        surfacing.dispatcher.publish([usage(chat, index + 1, 70, 'total')]),
      ),
    );
    expect(await debited(surfacing, chat)).toBe(70);
    await surfacing.dispatcher.publish([usage(chat, 30, 70)]);
    expect(await debited(surfacing, chat)).toBe(70);
  });

  it('above the summaries are surfaced once and not debited', async () => {
    const chat = freshChat();
    await surfacing.dispatcher.publish([usage(chat, 1, 10), usage(chat, 2, 25, 'total'), completes(chat, 3)]);
    expect(await debited(surfacing, chat)).toBe(10);
    expect(await trackingOf(surfacing, chat)).toMatchObject({
      usage_mismatch: true,
      total_tokens: 10,
      final: { total_tokens: 25 },
    });
    expect(errorsOf(surfacing, chat)).toEqual(['usage_mismatch']);
    await surfacing.dispatcher.publish([usage(chat, 4, 25)]);
    expect(await debited(surfacing, chat)).toBe(25);
    expect(await trackingOf(surfacing, chat)).toMatchObject({
      usage_mismatch: false,
      total_tokens: 25,
      final: { total_tokens: 25 },
    });
  });

  it('above the summaries are debited once with FINAL_USAGE_POLICY=true_up, also when they come late', async () => {
    const [early, late] = [freshChat(), freshChat()];
    await truingUp.dispatcher.publish([
      usage(early, 1, 10),
      usage(early, 2, 25, 'total'),
      completes(early, 3),
    ]);
    await truingUp.dispatcher.publish([usage(early, 4, 25)]);
    await truingUp.dispatcher.publish([usage(late, 1, 10), completes(late, 3)]);
    await truingUp.dispatcher.publish([usage(late, 2, 25, 'total')]);
    for (const chat of [early, late]) {
      expect(await debited(truingUp, chat)).toBe(25);
      expect(await trackingOf(truingUp, chat)).toMatchObject({
        usage_mismatch: false,
        total_tokens: 25,
        final: { total_tokens: 25 },
      });
    }
  });
});

describe('I6: a reply without usage is neither free nor estimated', () => {
  it('it is unaccounted for at the end of the run, and people are told', async () => {
    const chat = freshChat();
    await surfacing.dispatcher.publish([
      usage(chat, 1, 10),
      says(chat, 2),
      says(chat, 4),
      completes(chat, 5),
    ]);
    expect(await trackingOf(surfacing, chat)).toMatchObject({ unaccounted_turns: 1, total_tokens: 10 });
    expect(errorsOf(surfacing, chat)).toEqual(['missing_usage_summary']);
  });

  it('usage that arrives late accounts for it after all', async () => {
    const chat = freshChat();
    await surfacing.dispatcher.publish([
      usage(chat, 1, 10),
      says(chat, 2),
      says(chat, 4),
      completes(chat, 5),
    ]);
    await surfacing.dispatcher.publish([usage(chat, 3, 30)]);
    expect(await trackingOf(surfacing, chat)).toMatchObject({ unaccounted_turns: 0, total_tokens: 30 });
  });

  it('counters that were read and had not moved account for nothing (I7: reported nothing is not zero)', async () => {
    const chat = freshChat();
    await surfacing.dispatcher.publish([
      usage(chat, 1, 10),
      says(chat, 2),
      usage(chat, 3, 10),
      says(chat, 4),
      completes(chat, 5),
    ]);
    expect(await trackingOf(surfacing, chat)).toMatchObject({ unaccounted_turns: 1 });
  });

  it('a completion from the cache costs nothing and is accounted for (I9)', async () => {
    const chat = freshChat();
    const cached = usage(chat, 3, 10);
    const content = {
      ...cached.event.content,
      total: {
        usages: [{ model: 'gpt-4o-mini', prompt_tokens: 25, completion_tokens: 0 }],
        total_cost: null,
      },
    };
    await surfacing.dispatcher.publish([
      usage(chat, 1, 10),
      says(chat, 2),
      { ...cached, event: { type: 'usage_summary', content } },
      says(chat, 4),
      completes(chat, 5),
    ]);
    expect(await trackingOf(surfacing, chat)).toMatchObject({ unaccounted_turns: 0, total_tokens: 10 });
  });
});

describe('producers without a meter', () => {
  const unmetered = (chat: string, seq: number, total: number): Envelope => ({
    ...usage(chat, seq, total),
    meter: null,
  });

  it.each([1, 2, 3, 4])(
    'count each restart, in any order (seed %i), and are marked unverifiable',
    async (seed) => {
      const chat = freshChat();
      const events = [
        unmetered(chat, 1, 100),
        unmetered(chat, 2, 150),
        unmetered(chat, 3, 20),
        unmetered(chat, 4, 60),
      ];
      for (const event of shuffled(events, seed)) await surfacing.dispatcher.publish([event]);
      expect(await debited(surfacing, chat)).toBe(150 + 60);
      expect(await trackingOf(surfacing, chat)).toMatchObject({ unverifiable: true });
    },
  );
});

describe('time', () => {
  const at = (ms: number) => ({ ...usage(freshChat(), 1, 10), ts: new Date(Date.now() + ms).toISOString() });
  const day = 24 * 60 * 60_000;

  it.each([
    ['34 days late', -34 * day, undefined],
    ['36 days late', -36 * day, 'event_too_old'],
    ['4 minutes ahead', 4 * 60_000, undefined],
    ['6 minutes ahead', 6 * 60_000, 'event_from_future'],
  ])('an event %s is taken or refused', async (_words, offsetMs, code) => {
    const [published] = await surfacing.dispatcher.publish([at(offsetMs)]);
    expect(published?.refused?.code).toBe(code);
  });
});

it('I10: an unknown model is debited, its cost is unknown and that is said once', async () => {
  const chat = freshChat();
  const unknown = (seq: number, total: number) =>
    usageEnvelope(chat, [{ model: 'acme/never-heard-of', prompt_tokens: total }], { seq });
  await surfacing.dispatcher.publish([unknown(1, 10), unknown(2, 20)]);
  expect(await debited(surfacing, chat)).toBe(20);
  expect(await trackingOf(surfacing, chat)).toMatchObject({
    total_cost: 0,
    unpriced_models: ['acme/never-heard-of'],
  });
  expect(
    (await surfacing.persistence.readLedger({ chat_id: chat }, 0, 10)).map((line) => line.cost_nano_usd),
  ).toEqual([null, null]);
  expect(errorsOf(surfacing, chat)).toEqual(['unpriced_model']);
});

it('a client whose completions all came from the cache is not billed by its final total', async () => {
  const chat = freshChat();
  const cachedOnly = (seq: number, mode: 'both' | 'total'): Envelope => {
    const event = usage(chat, seq, 0, mode);
    const total = {
      usages: [{ model: 'gpt-4o-mini', prompt_tokens: 40, completion_tokens: 0 }],
      total_cost: null,
    };
    const content = { ...event.event.content, actual: { usages: null, total_cost: null }, total };
    return { ...event, event: { type: 'usage_summary', content } };
  };
  await surfacing.dispatcher.publish([cachedOnly(1, 'both'), cachedOnly(2, 'total'), completes(chat, 3)]);
  expect(await debited(surfacing, chat)).toBe(0);
});
