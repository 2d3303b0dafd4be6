import { describe, expect, test } from '@jest/globals';
import type { SessionDocument, UsageMarkDocument } from '../../core/data/collections.ts';
import { missingClient, restoreMarks, spillMarks } from '../../core/data/mark-spill.ts';
import { newSession } from '../../core/data/new-session.ts';
import { zeroCounts } from '../../core/usage/token-counts.ts';
import { recordObservation, type UsageObservation } from '../../core/usage/usage-delta.ts';

const chat = { chat_id: 'c', app_id: 'a', user_id: 'u', workflow_name: 'w' };
const session = () => newSession(chat, new Date('2026-01-05T10:00:00.000Z'), true);

function observation(
  client: string,
  prompt_tokens: number,
  more: { model?: string; run_id?: string; epoch?: number; seq?: number } = {},
): UsageObservation {
  const { model = 'm', run_id = 'r', epoch = 1, seq = 1 } = more;
  const side = { usages: [{ model, prompt_tokens, completion_tokens: 0 }] };
  return {
    run_id,
    seq,
    agent: client,
    meter: { client, epoch },
    content: { uuid: 'u', actual: side, total: side, mode: 'both' },
  };
}

/** Where spilled marks are kept; a client that is heard of again gets its own back, as the writer does it. */
function store() {
  const documents = new Map<string, UsageMarkDocument>();
  return {
    documents,
    count: (held: SessionDocument, seen: UsageObservation): bigint => {
      const client = seen.meter?.client ?? seen.agent;
      const missing = missingClient(held, seen.run_id, client, seen.meter !== null);
      if (missing !== undefined)
        restoreMarks(
          held,
          [...documents.values()].filter(
            (each) => each.run_id === missing.run_id && each.client === missing.client,
          ),
        );
      const { deltas } = recordObservation(held.usage_state, seen);
      for (const document of spillMarks(held)) documents.set(document._id, structuredClone(document));
      return deltas.reduce((sum, { counts }) => sum + counts.prompt_tokens, 0n);
    },
  };
}

describe('high-water marks', () => {
  test('stay in the session while they are few', () => {
    const held = session();
    for (let index = 0; index < 48; index += 1)
      recordObservation(held.usage_state, observation(`c${index}`, 10));
    expect(spillMarks(held)).toEqual([]);
    expect(held.usage_state).toMatchObject({ spilled: false });
    expect(missingClient(held, 'r', 'c99', true)).toBeUndefined();
  });

  test('of the oldest clients leave when they are many, each client with all of its own', () => {
    const held = session();
    for (let index = 0; index < 30; index += 1)
      for (const model of ['gpt-4.1', 'org/model'])
        recordObservation(held.usage_state, observation(`c${index}`, 10, { model }));
    const spilled = spillMarks(held);
    expect(held.usage_state.marks).toHaveLength(32);
    expect(held.usage_state.spilled).toBe(true);
    expect(spilled).toHaveLength(28);
    expect(new Set(spilled.map(({ _id }) => _id)).size).toBe(28);
    const [gone, kept] = [
      spilled.map(({ client }) => client),
      held.usage_state.marks.map(({ client }) => client),
    ];
    expect(gone.filter((client) => kept.includes(client))).toEqual([]);
    expect(gone).toContain('c0');
    expect(kept).toContain('c29');
  });

  test('of one client with very many models stay together', () => {
    const held = session();
    for (let index = 0; index < 60; index += 1)
      recordObservation(held.usage_state, observation('c', 10, { model: `m${index}` }));
    expect(spillMarks(held)).toEqual([]);
  });

  test('that left are asked for when their client is heard of again, and only then', () => {
    const held = session();
    const { count, documents } = store();
    for (let index = 0; index < 60; index += 1) count(held, observation(`c${index}`, 10));
    expect(missingClient(held, 'r', 'c59', true)).toBeUndefined();
    expect(missingClient(held, 'r', 'c0', true)).toEqual({ run_id: 'r', client: 'c0' });
    expect(missingClient(held, 'other-run', 'c59', true)).toEqual({ run_id: 'other-run', client: 'c59' });
    expect(documents.size).toBeGreaterThan(0);
  });

  test('give the same bill wherever they are kept', () => {
    const [held, whole] = [session(), session()];
    const { count } = store();
    let [counted, expected] = [0n, 0n];
    for (let round = 1; round <= 4; round += 1)
      for (let index = 0; index < 80; index += 1)
        for (const more of [{}, { model: 'gpt-4.1' }, { epoch: 2 }]) {
          // Repeats, and summaries that were overtaken.
          for (const value of [round * 10, round * 10, round * 10 - 5]) {
            const seen = observation(`c${(index * 7) % 80}`, value, more);
            counted += count(held, seen);
            for (const { counts } of recordObservation(whole.usage_state, seen).deltas)
              expected += counts.prompt_tokens;
          }
          expect(held.usage_state.marks.length).toBeLessThanOrEqual(48);
        }
    expect(counted).toBe(expected);
    expect(expected).toBe(80n * 3n * 40n);
  });

  test('what the session holds is newer than what was spilled', () => {
    const held = session();
    recordObservation(held.usage_state, observation('c', 50));
    const [mark] = held.usage_state.marks;
    if (mark === undefined) throw new Error('a mark was made');
    const old = { ...mark, billed: { ...zeroCounts(), prompt_tokens: 10n } };
    restoreMarks(held, [{ _id: 'x', chat_id: 'c', run_id: 'r', client: 'c', mark: old, unmetered: null }]);
    expect(held.usage_state.marks).toEqual([mark]);
  });
});

describe('clients without a meter', () => {
  const unmetered = (agent: string, prompt_tokens: number, seq: number): UsageObservation => ({
    ...observation(agent, prompt_tokens, { seq }),
    meter: null,
  });

  test('leave and come back like the others', () => {
    const held = session();
    const { count, documents } = store();
    for (let index = 0; index < 60; index += 1) expect(count(held, unmetered(`a${index}`, 10, 1))).toBe(10n);
    expect(documents.size).toBeGreaterThan(0);
    expect(held.usage_state.unmetered.length).toBeLessThanOrEqual(48);
    for (let index = 0; index < 60; index += 1) expect(count(held, unmetered(`a${index}`, 15, 2))).toBe(5n);
    for (let index = 0; index < 60; index += 1) expect(count(held, unmetered(`a${index}`, 15, 2))).toBe(0n);
  });
});
