import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { compactTurns, countUnaccounted, isLlmSpeaker, newTurns } from '../../core/usage/turn-accounts.ts';
import { shuffled } from '../support/shuffled.ts';

const reading = (seq: number, tokens: number, client = 'c1') => ({ seq, client, tokens });
const unaccounted = (replies: number[], summaries: ReturnType<typeof reading>[]) =>
  countUnaccounted({ ...newTurns('planner'), replies, summaries });

describe('a reply is accounted for', () => {
  test('by the summary right after it, or right before it', () => {
    expect(unaccounted([1], [reading(2, 10)])).toBe(0);
    expect(unaccounted([2], [reading(1, 10)])).toBe(0);
    expect(unaccounted([2, 4], [reading(1, 10), reading(3, 20)])).toBe(0);
  });

  test('by a later summary of the same client, when nobody read the counters in between', () => {
    expect(unaccounted([1, 2, 3], [reading(4, 30)])).toBe(0);
    expect(unaccounted([2, 3, 5], [reading(1, 5), reading(4, 30), reading(6, 40)])).toBe(0);
  });

  test('at no cost, when its completion came from the cache', () => {
    expect(unaccounted([1, 3], [reading(2, 10), reading(4, 20)])).toBe(0);
  });

  test('when it is the last word of a run whose only summary is the final one', () => {
    expect(unaccounted([1, 2, 3, 4], [reading(9, 50)])).toBe(0);
  });
});

describe('a reply is not accounted for', () => {
  test('when no summary came at all', () => {
    expect(unaccounted([1], [])).toBe(1);
    expect(unaccounted([1, 2, 3], [])).toBe(3);
  });

  test('when the counters were read around it and had not moved', () => {
    expect(unaccounted([2, 4], [reading(1, 10), reading(3, 10)])).toBe(1);
    expect(unaccounted([2, 4], [reading(1, 0), reading(3, 0)])).toBe(2);
  });

  test('also when the reply after it has its usage', () => {
    expect(unaccounted([2, 4, 6], [reading(1, 10), reading(3, 10), reading(5, 20)])).toBe(1);
  });

  test('when nothing was read after it', () => {
    expect(unaccounted([2, 3, 4], [reading(1, 10)])).toBe(2);
  });

  test('when only a client that came to be after it moved', () => {
    expect(unaccounted([2, 4, 5], [reading(1, 10, 'c1'), reading(6, 7, 'c2')])).toBe(1);
  });
});

test('nothing said needs no summary', () => {
  expect(unaccounted([], [])).toBe(0);
  expect(unaccounted([], [reading(1, 10)])).toBe(0);
});

test('the order of delivery changes nothing', () => {
  const event = fc.record({ isReply: fc.boolean(), more: fc.nat(3), client: fc.constantFrom('c1', 'c2') });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 20 }), fc.nat(), (events, seed) => {
      const replies: number[] = [];
      const summaries: ReturnType<typeof reading>[] = [];
      let tokens = 0;
      for (const [seq, { isReply, more, client }] of events.entries()) {
        tokens += more;
        if (isReply) replies.push(seq);
        else summaries.push(reading(seq, tokens, client));
      }
      const inOrder = unaccounted(replies, summaries);
      expect(unaccounted(shuffled(replies, seed), shuffled(summaries, seed + 1))).toBe(inOrder);
      expect(inOrder).toBeLessThanOrEqual(replies.length);
    }),
  );
});

test('people, tool executors and wrapped chats make no model calls', () => {
  for (const agent of ['user', '_User', '_Group_Tool_Executor', 'chat_manager', 'wrapped_research'])
    expect([agent, isLlmSpeaker(agent)]).toEqual([agent, false]);
  for (const agent of ['planner', 'User', 'users', '_planner', 'my_wrapped_agent'])
    expect([agent, isLlmSpeaker(agent)]).toEqual([agent, true]);
});

test('a long run that is settled by halves counts the same as one that is kept whole', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ tokens: fc.nat(2), isRead: fc.boolean() }), { minLength: 200, maxLength: 400 }),
      (calls) => {
        const [whole, halved] = [newTurns('planner'), newTurns('planner')];
        let tokens = 0;
        for (const [index, call] of calls.entries()) {
          tokens += call.tokens;
          for (const turns of [whole, halved]) {
            if (call.isRead) turns.summaries.push(reading(2 * index, tokens));
            turns.replies.push(2 * index + 1);
          }
          compactTurns(halved);
        }
        const last = reading(2 * calls.length, tokens + 1);
        whole.summaries.push(last);
        halved.summaries.push(last);
        expect(halved.summaries.length).toBeLessThan(100);
        expect(countUnaccounted(halved)).toBe(countUnaccounted(whole));
      },
    ),
    { numRuns: 50 },
  );
});
