import { describe, expect, test } from '@jest/globals';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import { serverFrames } from '../../core/contracts/frames.ts';
import { readEvent } from '../../core/events/ag2-dialect.ts';
import { framesOfEvent } from '../../core/events/event-frames.ts';
import { fixtureNames, readFixture } from '../support/ag2-fixtures.ts';

const now = new Date('2026-01-05T10:00:00.000Z');
const envelope = (type: string, content: object, agent: string | null = 'planner'): Envelope => ({
  v: 1,
  dialect: 'ag2-classic/0.14.1',
  chat_id: 'c',
  run_id: 'r',
  seq: 1,
  ts: now.toISOString(),
  agent,
  event: { type, content: { uuid: 'event-1', ...content } },
});

/** The frames of an event as the door takes it; each must keep to the protocol. */
function framesOf(incoming: Envelope, at = now) {
  const read = readEvent(incoming, at);
  if ('refused' in read) throw new Error(`refused: ${read.refused.reason}`);
  const { event } = read;
  const frames = event.known === null ? [] : framesOfEvent(event.known, event.envelope, at);
  for (const { type, data } of frames)
    serverFrames[type].parse({ type, data, timestamp: now.toISOString(), chat_id: 'c', seq: 1 });
  return frames;
}
const shown = (type: string, content: object, agent?: string | null) =>
  framesOf(envelope(type, content, agent));

describe('a text', () => {
  test('of an agent is its words', () => {
    expect(shown('text', { content: 'Hello', sender: 'planner', message_id: 'm-1', partial: true })).toEqual([
      {
        type: 'chat.text',
        data: { message_id: 'm-1', agent: 'planner', content: 'Hello', role: 'assistant', partial: true },
      },
    ]);
  });

  test.each(['user', '_User'])('of %s is the user', (sender) => {
    expect(shown('text', { content: 'Hello', sender, client_message_id: 'c-1' })).toEqual([
      {
        type: 'chat.text',
        data: {
          message_id: 'event-1',
          agent: 'user',
          content: 'Hello',
          role: 'user',
          client_message_id: 'c-1',
        },
      },
    ]);
  });

  test.each([
    [
      'parts',
      [
        { type: 'text', text: 'See ' },
        { type: 'image_url', image_url: 'x' },
        { type: 'text', text: 'this' },
      ],
      'See this',
    ],
    ['null', null, ''],
    ['a number', 7, '7'],
    ['markup', '<script>alert(1)</script>', '<script>alert(1)</script>'],
  ])('of %s becomes a text', (_, content, text) => {
    expect(shown('text', { content, sender: 'planner' })).toMatchObject([{ data: { content: text } }]);
  });
});

describe('a tool', () => {
  const call = (name: string | null, args: string | null, id: string | null = 'call-1') => ({
    sender: 'planner',
    tool_calls: [{ id, type: 'function', function: { name, arguments: args } }],
  });

  test('is shown with its arguments as an object', () => {
    expect(shown('tool_call', call('look_up', '{"city":"Bern"}'))).toEqual([
      {
        type: 'chat.tool_call',
        data: { tool_call_id: 'call-1', tool_name: 'look_up', agent: 'planner', arguments: { city: 'Bern' } },
      },
    ]);
  });

  test.each([
    ['{"city":', '{"city":'],
    ['', {}],
    [null, {}],
    ['[1]', [1]],
  ])('whose arguments are %p is shown all the same', (args, expected) => {
    expect(shown('tool_call', call('look_up', args))).toMatchObject([{ data: { arguments: expected } }]);
  });

  test('without an id or a name is shown all the same', () => {
    expect(shown('tool_call', call(null, '{}', null))).toMatchObject([
      { data: { tool_call_id: 'event-1', tool_name: '' } },
    ]);
  });

  test('that hands off is not shown as a tool', () => {
    expect(shown('tool_call', call('transfer_to_writer_1', '{}'))).toEqual([]);
    expect(shown('executed_function', { func_name: 'transfer_to_writer_1', is_exec_success: true })).toEqual(
      [],
    );
  });

  test('answers once, with whether it went well', () => {
    const executed = {
      func_name: 'look_up',
      call_id: 'call-1',
      is_exec_success: false,
      content: { error: 'none' },
    };
    expect(shown('executed_function', executed, '_Group_Tool_Executor')).toEqual([
      {
        type: 'chat.tool_response',
        data: {
          tool_call_id: 'call-1',
          tool_name: 'look_up',
          agent: '_Group_Tool_Executor',
          success: false,
          content: '{"error":"none"}',
        },
      },
    ]);
    const response = {
      sender: '_Group_Tool_Executor',
      tool_responses: [{ tool_call_id: 'call-1', content: 'x' }],
    };
    expect(shown('tool_response', response)).toEqual([]);
  });
});

describe('the turn of a speaker', () => {
  test('is shown for agents, not for people and plumbing', () => {
    expect(shown('group_chat_run_chat', { speaker: 'writer' })).toEqual([
      { type: 'chat.select_speaker', data: { agent: 'writer' } },
    ]);
    for (const speaker of ['user', '_User', '_Group_Tool_Executor'])
      expect(shown('group_chat_run_chat', { speaker })).toEqual([]);
  });

  test.each([
    ['after_works_transition', 'after_work'],
    ['on_context_condition_transition', 'context_condition'],
    ['on_condition_l_l_m_transition', 'llm_condition'],
    ['reply_result_transition', 'tool_result'],
  ])('that comes by %s is a handoff', (type, reason) => {
    const to = (name: string | null) => ({
      source_agent: 'planner',
      transition_target: { type: 'AgentTarget', name },
    });
    expect(shown(type, to('writer'))).toEqual([
      { type: 'chat.handoff', data: { from_agent: 'planner', to_agent: 'writer', reason } },
    ]);
    for (const nobody of [null, '', 'planner']) expect(shown(type, to(nobody))).toEqual([]);
  });
});

describe('a question to the user', () => {
  test('is asked for seven days, and a secret answer is marked', () => {
    expect(shown('input_request', { prompt: 'Password?', password: true })).toEqual([
      {
        type: 'chat.input_request',
        data: {
          request_id: 'event-1',
          prompt: 'Password?',
          agent: 'planner',
          password: true,
          expires_at: '2026-01-12T10:00:00.000Z',
        },
      },
    ]);
  });
});

describe('an error', () => {
  test('of a foreign producer is shown as text, and is not retried', () => {
    expect(shown('error', { error: 'boom' })).toEqual([
      {
        type: 'chat.error',
        data: { error_type: 'agent_error', message: 'boom', details: {}, retryable: false },
      },
    ]);
    expect(shown('error', { error: { code: 7 } })).toMatchObject([{ data: { message: '{"code":7}' } }]);
  });

  test('for want of funds is also said as a state that programs can act on', () => {
    const details = { remaining_balance: -5, scope: 'wallet' };
    const exhausted = shown('error', { error: 'empty', error_type: 'insufficient_tokens', details });
    expect(exhausted.map(({ type }) => type)).toEqual(['token_exhausted', 'chat.error']);
    expect(exhausted[0]?.data).toEqual({ remaining_balance: -5, scope: 'wallet', blocked_until: null });
    const incomplete = shown('error', { error: 'empty', error_type: 'insufficient_tokens' });
    expect(incomplete.map(({ type }) => type)).toEqual(['chat.error']);
  });
});

test('what needs the totals of the chat, or is for programs only, shows nothing by itself', () => {
  const side = { usages: null };
  expect(shown('usage_summary', { actual: side, total: side })).toEqual([]);
  expect(shown('run_completion', { summary: 'x' })).toEqual([]);
  expect(shown('termination', { termination_reason: 'x' })).toEqual([]);
  expect(shown('never_heard_of', { depth: 3 })).toEqual([]);
});

test.each(fixtureNames)(
  'every event of the captured run %s is taken, and shown by frames of the protocol',
  (name) => {
    const { envelopes } = readFixture(name, { chat_id: 'c', app_id: 'a', user_id: 'u' });
    const types = envelopes.flatMap((each) => framesOf(each, new Date()).map(({ type }) => type));
    expect(types).toContain('chat.text');
  },
);
