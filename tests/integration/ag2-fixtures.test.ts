import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { sessionView } from '../../core/data/persistence-manager.ts';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import { fixtureNames, readFixture } from '../support/ag2-fixtures.ts';
import { shuffled } from '../support/shuffled.ts';
import { openTestStorage, type TestStorage } from '../support/test-storage.ts';

/** Events of real AG2 runs, delivered as networks deliver; the provider's bill is the judge. */
let storage: TestStorage;
beforeAll(async () => {
  storage = await openTestStorage();
});
afterAll(() => storage.close());

const deliveries: Record<string, (events: Envelope[]) => Envelope[]> = {
  'in order': (events) => events,
  shuffled: (events) => shuffled(events, 7),
  'duplicated and shuffled': (events) => shuffled([...events, ...events, ...events], 11),
  'in reverse': (events) => events.toReversed(),
};

describe.each(fixtureNames)('the captured run %s', (name) => {
  it.each(Object.keys(deliveries))(
    'counts and debits exactly what the provider billed, delivered %s',
    async (way) => {
      const chat_id = `${name}-${way.replaceAll(' ', '-')}`;
      const owner = { app_id: 'fixtures', user_id: `owner-of-${chat_id}` };
      const { envelopes, billed } = readFixture(name, { chat_id, ...owner });
      const before = await storage.wallets.readBalance(owner);
      await storage.dispatcher.publish(deliveries[way]?.(envelopes) ?? []);

      const document = await storage.persistence.findSession(chat_id);
      if (document === null) throw new Error('the chat was not opened');
      const { tokens } = sessionView(document).real_time_tracking;
      expect(tokens).toMatchObject(billed.totals);
      for (const [agent, counts] of Object.entries(billed.by_agent))
        expect(tokens.by_agent.find((each) => each.agent === agent)).toMatchObject({
          prompt_tokens: counts.prompt_tokens,
          completion_tokens: counts.completion_tokens,
        });
      expect(tokens).toMatchObject({ unaccounted_turns: 0, unverifiable: false, usage_mismatch: false });
      const after = await storage.wallets.readBalance(owner);
      expect(before.balance - after.balance).toBe(billed.totals.total_tokens);
      const lines = await storage.persistence.readLedger({ chat_id }, 0, 1000);
      expect(lines.reduce((sum, line) => sum - line.amount, 0)).toBe(billed.totals.total_tokens);
      const sequences = storage.frames.filter((frame) => frame.chat_id === chat_id).map(({ seq }) => seq);
      expect(sequences).toEqual(sequences.map((_, index) => index + 1));
    },
  );
});

it('a repeated event answers "repeated", changes nothing and sends nothing', async () => {
  const { envelopes } = readFixture('events', {
    chat_id: 'repeated',
    app_id: 'fixtures',
    user_id: 'repeater',
  });
  await storage.dispatcher.publish(envelopes);
  const [document, frameCount] = [await storage.persistence.findSession('repeated'), storage.frames.length];
  const answers = await storage.dispatcher.publish(envelopes);
  expect(new Set(answers.map(({ recorded }) => recorded?.outcome))).toEqual(new Set(['repeated']));
  expect(await storage.persistence.findSession('repeated')).toEqual(document);
  expect(storage.frames.length).toBe(frameCount);
});
