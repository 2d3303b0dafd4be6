import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { ServerFrame } from '../../core/contracts/frames.ts';
import {
  chatReducer,
  initialChatState,
  isThinking,
  usageByAgent,
  type ChatState,
} from '../../ChatUI/src/chat/chat-state.ts';
import { resumeBoundary, runComplete, serverFrame, tokenUpdate } from './server-frame.ts';

const after = (frames: readonly ServerFrame[], from: ChatState = initialChatState): ChatState =>
  frames.reduce((state, frame) => chatReducer(state, { type: 'frame_received', frame }), from);
const textsOf = (state: ChatState): string[] =>
  state.entries.flatMap((entry) => (entry.kind === 'message' ? [entry.content] : []));
const piece = (offset: number, delta: string): ServerFrame =>
  serverFrame('chat.stream', { message_id: 'message-1', agent: 'planner', offset, delta });
const finalText = (content: string, seq: number): ServerFrame =>
  serverFrame('chat.text', { message_id: 'message-1', agent: 'planner', content, role: 'assistant' }, seq);

/** A text, cut into pieces at any places, each sent once or more, in any order, with all so far repeated in between. */
const deliveries = fc
  .tuple(fc.string({ minLength: 1, maxLength: 60, unit: 'binary' }), fc.array(fc.nat(60), { maxLength: 12 }))
  .chain(([text, cuts]) => {
    const bounds = [...new Set([0, ...cuts.filter((cut) => cut < text.length), text.length])].sort(
      (left, right) => left - right,
    );
    const pieces = bounds
      .slice(0, -1)
      .map((offset, index) => ({ offset, delta: text.slice(offset, bounds[index + 1]) }));
    const replays = bounds.map((end) => ({ offset: 0, delta: text.slice(0, end) }));
    const repeats = fc.array(fc.constantFrom(...pieces, ...replays), { maxLength: 12 });
    return repeats
      .chain((more) => fc.shuffledSubarray([...pieces, ...more], { minLength: pieces.length + more.length }))
      .map((sent) => ({ text, sent }));
  });

describe('streaming', () => {
  test('a streamed text is the same however it was split, repeated, replayed and re-ordered', () => {
    fc.assert(
      fc.property(deliveries, ({ text, sent }) => {
        const state = after(sent.map(({ offset, delta }) => piece(offset, delta)));
        expect(textsOf(state)).toEqual([text]);
      }),
    );
  });

  test('the final text replaces what was streamed, and a piece that comes late adds nothing', () => {
    const state = after([piece(0, 'Hel'), finalText('Hello', 1), piece(3, 'lo, again')]);
    expect(textsOf(state)).toEqual(['Hello']);
    expect(state.entries).toMatchObject([{ streaming: null, isPartial: false }]);
  });

  test('two agents that write at the same time do not mix', () => {
    const other = serverFrame('chat.stream', {
      message_id: 'message-2',
      agent: 'critic',
      offset: 0,
      delta: 'No',
    });
    expect(textsOf(after([piece(0, 'Ye'), other, piece(2, 's')]))).toEqual(['Yes', 'No']);
  });

  test('a run that ends in mid-sentence keeps what was seen and says that it was cut short', () => {
    const state = after([piece(0, 'Half a'), runComplete(1, 'error')]);
    expect(state.entries[0]).toMatchObject({ content: 'Half a', streaming: null, isPartial: true });
  });
});

describe('durable frames', () => {
  test('a frame counts once, however often it is replayed', () => {
    const frames = [finalText('Hello', 1), tokenUpdate(2, { total: 100 }), runComplete(3)];
    const once = after(frames);
    const twice = after([...frames, ...frames, frames[1] ?? runComplete(3)]);
    expect(twice).toEqual(once);
    expect(usageByAgent(twice)).toMatchObject([{ agent: 'planner', totals: { total_tokens: 100 } }]);
  });

  test('a message waits as pending until its own text comes back', () => {
    const written = chatReducer(initialChatState, {
      type: 'message_written',
      message: { clientMessageId: 'mine', content: 'Hello' },
    });
    expect(written.pending).toHaveLength(1);
    const confirmed = after(
      [
        serverFrame(
          'chat.text',
          {
            message_id: 'message-1',
            agent: 'user',
            content: 'Hello',
            role: 'user',
            client_message_id: 'mine',
          },
          1,
        ),
      ],
      written,
    );
    expect(confirmed.pending).toEqual([]);
    expect(confirmed.entries).toMatchObject([{ key: 'mine', role: 'user' }]);
  });

  test('the inspector keeps the last 500 frames and counts all', () => {
    const state = after(Array.from({ length: 620 }, (_, index) => piece(index, 'a')));
    expect(state.inspected).toHaveLength(500);
    expect(state.inspected.at(-1)?.number).toBe(620);
    expect(state.frameCount).toBe(620);
  });
});

describe('money', () => {
  test('a balance out of the history is not shown as the one of now', () => {
    const replayed = after([tokenUpdate(1, { balance: 900 })]);
    expect(replayed.wallet.balance).toBeNull();
    expect(after([resumeBoundary(), tokenUpdate(2, { balance: 800 })], replayed).wallet.balance).toBe(800);
  });

  test('a balance that was asked for before a debit does not overwrite the debit', () => {
    const debited = after([resumeBoundary(), tokenUpdate(5, { balance: 700 })]);
    const late = chatReducer(debited, { type: 'balance_read', balance: 1000, asOfSequence: 4 });
    expect(late.wallet.balance).toBe(700);
    const fresh = chatReducer(debited, { type: 'balance_read', balance: 650, asOfSequence: 5 });
    expect(fresh.wallet.balance).toBe(650);
  });

  test("a run's summary takes the place of what its updates had added up", () => {
    const share = {
      agent: 'planner',
      total_tokens: 150,
      prompt_tokens: 110,
      completion_tokens: 40,
      total_cost: 0.0002,
      cached_tokens: 0,
      reasoning_tokens: 0,
    };
    const { agent: _, cached_tokens: __, reasoning_tokens: ___, ...totals } = share;
    const state = after([
      tokenUpdate(1, { agent: 'planner', delta: 100 }),
      serverFrame(
        'chat.usage_summary',
        { run_id: 'run-1', totals, by_agent: [share], by_model: [], unaccounted_turns: 0 },
        2,
      ),
      tokenUpdate(3, { agent: 'planner', delta: 30 }),
    ]);
    expect(usageByAgent(state)).toMatchObject([{ agent: 'planner', totals: { total_tokens: 180 } }]);
  });

  test('out of funds stays on the screen until the wallet is filled or a run starts', () => {
    const exhausted = after([
      serverFrame('token_exhausted', { remaining_balance: 0, scope: 'wallet', blocked_until: null }, 1),
    ]);
    expect(exhausted.exhausted).not.toBeNull();
    const filled = chatReducer(exhausted, { type: 'balance_read', balance: 500, asOfSequence: 1 });
    expect(filled.exhausted).toBeNull();
    const started = serverFrame('chat.run_start', { run_id: 'run-2', workflow_name: 'support_desk' }, 2);
    expect(after([started], exhausted).exhausted).toBeNull();
  });
});

describe('who is at work', () => {
  const running = after([
    serverFrame('chat.run_start', { run_id: 'run-1', workflow_name: 'support_desk' }, 1),
    serverFrame('chat.select_speaker', { agent: 'planner' }, 2),
  ]);

  test('a chosen agent is thinking until its first word', () => {
    expect(isThinking(running)).toBe(true);
    expect(isThinking(after([piece(0, 'Well')], running))).toBe(false);
    expect(isThinking(after([runComplete(3)], running))).toBe(false);
  });

  test('a question to the user is open until it is answered, timed out or the run ends', () => {
    const asked = after(
      [
        serverFrame(
          'chat.input_request',
          {
            request_id: 'question-1',
            prompt: 'Which colour?',
            agent: 'planner',
            password: false,
            expires_at: '2026-01-05T11:00:00.000Z',
          },
          3,
        ),
      ],
      running,
    );
    expect(asked.openInput?.prompt).toBe('Which colour?');
    expect(isThinking(asked)).toBe(false);
    for (const type of ['chat.input_ack', 'chat.input_timeout'] as const) {
      expect(after([serverFrame(type, { request_id: 'question-1' }, 4)], asked).openInput).toBeNull();
    }
    expect(after([runComplete(4)], asked).openInput).toBeNull();
  });

  test('a tool is one line that tells its progress and its end', () => {
    const called = serverFrame(
      'chat.tool_call',
      { tool_call_id: 'call-1', tool_name: 'find_order', agent: 'planner', arguments: { order: 7 } },
      3,
    );
    const progress = serverFrame('chat.tool_progress', {
      tool_call_id: 'call-1',
      tool_name: 'find_order',
      progress_percent: 40,
      status_message: 'asking',
    });
    const responded = serverFrame(
      'chat.tool_response',
      { tool_call_id: 'call-1', tool_name: 'find_order', agent: 'planner', success: true, content: 'ok' },
      4,
    );
    expect(after([called, progress], running).entries).toMatchObject([{ progress: { percent: 40 } }]);
    expect(after([called, progress, responded], running).entries).toMatchObject([
      { progress: null, response: { success: true } },
    ]);
  });
});
