import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { z } from 'zod';
import { type Envelope, envelopeSchema } from '../../core/contracts/agent-events.ts';
import { sessionView } from '../../core/data/persistence-manager.ts';
import { shuffled } from '../support/shuffled.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** Captured runs of real AG2 1.x, which counts by the call. The provider's bill is the judge. */
let storage: TestStorage;
beforeAll(async () => {
  storage = await openTestStorage();
});
afterAll(() => storage.close());

const read = (file: string) => readFileSync(new URL(`../fixtures/ag2-v1/${file}`, import.meta.url), 'utf8');
const billSchema = z.looseObject({
  totals: z.looseObject({
    prompt_tokens: z.number(),
    completion_tokens: z.number(),
    total_tokens: z.number(),
  }),
});

function capture(name: string, chat_id: string): Envelope[] {
  const events = read(`${name}.jsonl`)
    .trim()
    .split('\n')
    .map((line) => envelopeSchema.parse(JSON.parse(line)));
  const shiftMs = Date.now() - Math.max(...events.map(({ ts }) => Date.parse(ts)));
  return events.map((event) => ({
    ...event,
    chat_id,
    app_id: 'fixtures',
    user_id: `owner-of-${chat_id}`,
    workflow_name: 'ag2',
    ts: new Date(Date.parse(event.ts) + shiftMs).toISOString(),
  }));
}

async function tokensOf(chat: string) {
  const session = await storage.persistence.findSession(chat);
  if (session === null) throw new Error(`there is no chat ${chat}`);
  return sessionView(session).real_time_tracking.tokens;
}

it.each(['delegation', 'stream'])(
  'the captured run %s is debited as the provider billed it, in any order, however often',
  async (name) => {
    const { totals } = billSchema.parse(JSON.parse(read(`${name}.billed.json`)));
    for (const way of ['in-order', 'mangled']) {
      const chat = `v1-${name}-${way}`;
      const events = capture(name, chat);
      await storage.dispatcher.publish(way === 'mangled' ? shuffled([...events, ...events], 3) : events);
      expect(await tokensOf(chat)).toMatchObject({
        prompt_tokens: totals.prompt_tokens,
        completion_tokens: totals.completion_tokens,
        unverifiable: false,
      });
      const lines = await storage.persistence.readLedger({ chat_id: chat }, 0, 1000);
      expect(lines.reduce((sum, { amount }) => sum - amount, 0)).toBe(totals.total_tokens);
    }
  },
);

it('a run that is counted by the call refuses counters, which would count it twice', async () => {
  const chat = 'v1-mixed';
  const events = capture('delegation', chat);
  await storage.dispatcher.publish(events);
  const before = await tokensOf(chat);
  const [mixed] = await storage.dispatcher.publish([
    usageEnvelope(chat, [{ prompt_tokens: 500 }], {
      run_id: events[0]?.run_id ?? '',
      app_id: 'fixtures',
      user_id: `owner-of-${chat}`,
    }),
  ]);
  expect(mixed?.recorded).toMatchObject({ outcome: 'refused', code: 'mixed_usage' });
  expect(await tokensOf(chat)).toEqual(before);
});
