import { once } from 'node:events';
import { createServer } from 'node:http';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { z } from 'zod';
import { balanceSchema, type StartChatAnswer, usageReportSchema } from '../../core/contracts/http.ts';
import { chatSessionSchema, type LedgerEntry } from '../../core/contracts/documents.ts';
import { ledgerPageSchema } from '../../core/contracts/http.ts';
import { eventually } from '../support/eventually.ts';
import {
  type BilledCompletion,
  type ScriptedProvider,
  startScriptedProvider,
} from '../support/scripted-provider.ts';
import type { SocketClient } from '../support/socket-client.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';
import { freshDatabase } from '../support/test-database.ts';

/** The whole road: a chat over HTTP, a socket, a provider that bills, and what is stored in the end. */
let provider: ScriptedProvider;
let server: TestServer;
beforeAll(async () => {
  provider = await startScriptedProvider();
  server = await startTestServer({ provider });
});
/** Servers of single tests; they end with the test, however it ends. */
let own: { stop: () => Promise<void> }[] = [];
afterEach(async () => {
  provider.release();
  for (const each of own.toReversed()) await each.stop();
  own = [];
  provider.expectAllStepsRead();
  provider.setScript(undefined);
});
afterAll(async () => {
  await server.stop();
  await provider.stop();
});

async function startOwn(options: TestServerOptions): Promise<TestServer> {
  const started = await startTestServer({ provider, ...options });
  own.push(started);
  return started;
}

const ownerOf = (user_id: string) => ({ app_id: 'acme', user_id });

async function begin(workflow: string, user_id: string, on = server) {
  const chat = await on.startChat(workflow, ownerOf(user_id));
  return { chat, socket: await on.connect(chat) };
}

const sessionOf = async ({ chat_id }: Pick<StartChatAnswer, 'chat_id'>, on = server) =>
  chatSessionSchema.parse((await on.get(`/api/sessions/${chat_id}`)).body);
const linesOf = async ({ chat_id }: Pick<StartChatAnswer, 'chat_id'>): Promise<LedgerEntry[]> =>
  ledgerPageSchema.parse((await server.get(`/api/sessions/${chat_id}/ledger`)).body).entries;
const balanceOf = async (user_id: string, on = server) =>
  balanceSchema.parse((await on.get(`/api/tokens/${user_id}/balance?app_id=acme`)).body).balance;
const usageOf = async ({ chat_id }: Pick<StartChatAnswer, 'chat_id'>) =>
  usageReportSchema.loose().parse((await server.get(`/api/v1/usage/task/${chat_id}`)).body);

const typesOf = (socket: SocketClient) =>
  socket.frames.map(({ type }) => type).filter((type, index, all) => type !== all[index - 1]);
const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0);
const expectGapless = (socket: SocketClient, from = 1) =>
  expect(socket.durable.map(({ seq }) => seq)).toEqual(socket.durable.map((_, index) => from + index));

/** The stream frames of a message, put together; each must begin where the one before ended. */
function streamed(socket: SocketClient, messageId: string): string {
  return socket
    .of('chat.stream')
    .filter(({ data }) => data.message_id === messageId)
    .reduce((text, { data }) => {
      expect(data.offset).toBe(text.length);
      return text + data.delta;
    }, '');
}

function agentTexts(socket: SocketClient) {
  return socket.of('chat.text').filter(({ data }) => data.role === 'assistant');
}

function newlyBilled(): () => BilledCompletion[] {
  const before = provider.bill.length;
  return () => provider.bill.slice(before);
}

describe('one message', () => {
  test('is answered word by word, in the order of the protocol, and debited exactly what the provider billed', async () => {
    const bill = newlyBilled();
    provider.setScript([
      {
        chunks: ['Wallets ', 'hold ', 'tokens', ' 🪙', '.'],
        delayPerChunkMs: 5,
        usage: {
          prompt_tokens: 80,
          completion_tokens: 40,
          prompt_tokens_details: { cached_tokens: 16 },
          completion_tokens_details: { reasoning_tokens: 8 },
        },
      },
    ]);
    const { chat, socket } = await begin('assistant', 'exact');
    const before = await balanceOf('exact');
    socket.say('Explain prepaid wallets', 'message-1');
    const complete = await socket.untilRunComplete();

    expect(typesOf(socket)).toEqual([
      'chat.run_start',
      'chat.text',
      'chat.select_speaker',
      'chat.stream',
      'token_update',
      'chat.text',
      'chat.usage_summary',
      'chat.run_complete',
    ]);
    expectGapless(socket);
    expect(socket.frames.filter(({ seq }) => seq === null).every(({ type }) => type === 'chat.stream')).toBe(
      true,
    );
    expect(socket.of('chat.text')[0]?.data).toMatchObject({
      agent: 'user',
      role: 'user',
      content: 'Explain prepaid wallets',
      client_message_id: 'message-1',
    });
    const [answer] = agentTexts(socket);
    expect(answer?.data).toMatchObject({ agent: 'assistant', content: 'Wallets hold tokens 🪙.' });
    expect(streamed(socket, answer?.data.message_id ?? '')).toBe('Wallets hold tokens 🪙.');

    const [billed] = bill();
    const totals = { total_tokens: 120, prompt_tokens: 80, completion_tokens: 40 };
    expect(billed).toMatchObject({ ...totals, usage_reported: true, aborted: false });
    const [update] = socket.of('token_update');
    expect(update?.data).toMatchObject({
      chat_id: chat.chat_id,
      agent: 'assistant',
      model: 'gpt-4o-mini',
      cumulative: { ...totals, last_model: 'gpt-4o-mini' },
      delta: totals,
      remaining_balance: before - 120,
      incremental_debits: true,
    });
    expect(complete.data).toMatchObject({ result: 'success', total_turns: 1, totals });
    expect(socket.of('chat.usage_summary')[0]?.data).toMatchObject({ totals, unaccounted_turns: 0 });

    expect(await balanceOf('exact')).toBe(before - 120);
    const lines = await linesOf(chat);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({
      _id: update?.data.ledger_entry_id,
      kind: 'debit',
      amount: -120,
      sequence: update?.seq,
      agent: 'assistant',
      tokens: { ...totals, cached_tokens: 16, reasoning_tokens: 8 },
    });
    const session = await sessionOf(chat);
    expect(session).toMatchObject({
      status: 'completed',
      run: null,
      last_sequence: complete.seq,
      real_time_tracking: {
        counts: { agent_turns: 1, errors: 0 },
        tokens: {
          ...totals,
          cached_tokens: 16,
          reasoning_tokens: 8,
          remaining_balance: before - 120,
          final: totals,
          unaccounted_turns: 0,
          unverifiable: false,
          usage_mismatch: false,
        },
      },
    });
    expect(session.real_time_tracking.tokens.total_cost_nano_usd).toBe(lines[0]?.cost_nano_usd);
    expect(session.real_time_tracking.tokens.total_cost_nano_usd).toBeGreaterThan(0);
    expect(await usageOf(chat)).toMatchObject({
      total_requests: 1,
      ...totals,
      success_rate_percent: 100,
      total_cost_usd: update?.data.delta.total_cost,
    });
  });

  test('sent again under the same client_message_id starts nothing', async () => {
    const { socket } = await begin('assistant', 'repeater');
    const asked = provider.requests.length;
    socket.say('Hello', 'twice');
    await socket.untilRunComplete();
    const count = socket.durable.length;
    socket.say('Hello', 'twice');
    await socket.settled();
    socket.say('Good bye', 'once');
    await socket.untilRunComplete(2);
    expect(provider.requests.length).toBe(asked + 2);
    expect(socket.durable.length).toBe(2 * count);
    expectGapless(socket);
  });

  test('sent twice at once from two tabs starts one run', async () => {
    const { chat, socket } = await begin('assistant', 'two-tabs-at-once');
    const other = await server.connect(chat);
    const asked = provider.requests.length;
    socket.say('Hello', 'same');
    other.say('Hello', 'same');
    await Promise.all([socket.settled(), other.settled()]);
    await socket.untilRunComplete();
    await eventually(async () => expect((await sessionOf(chat)).run).toBeNull());
    expect(socket.of('chat.run_start')).toHaveLength(1);
    expect(provider.requests.length).toBe(asked + 1);
  });

  test('sent during a run is shown at once and answered by the next run, which knows all that was said', async () => {
    provider.setScript([{ reply: 'First answer.', stallAfterChunks: 1 }, { reply: 'Second answer.' }]);
    const { socket } = await begin('assistant', 'impatient');
    socket.say('First question', 'first');
    const stalled = await provider.stalled();
    socket.say('Second question', 'second');
    await socket.until(() => socket.of('chat.text').length === 2, 'the second message');
    stalled.release();
    await socket.untilRunComplete(2);
    expect(agentTexts(socket).map(({ data }) => data.content)).toEqual(['First answer.', 'Second answer.']);
    expect(provider.requests.at(-1)?.messages.slice(1)).toEqual([
      { role: 'user', content: 'First question' },
      { role: 'user', content: 'Second question' },
      { role: 'assistant', content: 'First answer.' },
    ]);
    expect(socket.of('chat.run_start')).toHaveLength(2);
    expectGapless(socket);
  });
});

describe('many messages at once', () => {
  test('start one run after the other, never two at a time, and none is left unanswered', async () => {
    // Of its own: how many runs it takes is not said, so the last may still be under way when the test ends.
    const talkative = await startScriptedProvider();
    own.push(talkative);
    const busy = await startOwn({ provider: talkative });
    const { chat, socket } = await begin('assistant', 'hasty-writer', busy);
    const other = await busy.connect(chat);
    const contents = Array.from({ length: 24 }, (_, index) => `Message ${index}`);
    for (const [index, content] of contents.entries()) {
      (index % 2 === 0 ? socket : other).say(content, `m-${index}`);
      // So that some arrive while a run begins, some while it speaks and some while it ends.
      if (index % 3 === 0) await socket.settled();
    }
    await socket.until(() => {
      const asked = talkative.requests.at(-1)?.messages.map((message) => message.content) ?? [];
      const starts = socket.of('chat.run_start').length;
      return (
        contents.every((each) => asked.includes(each)) && socket.of('chat.run_complete').length === starts
      );
    }, 'an answer to all');
    const bounds = socket.frames.flatMap(({ type }) =>
      type === 'chat.run_start' || type === 'chat.run_complete' ? [type] : [],
    );
    expect(bounds).toEqual(
      bounds.map((_, index) => (index % 2 === 0 ? 'chat.run_start' : 'chat.run_complete')),
    );
    expectGapless(socket);
  });
});

describe('a brainstorm of three agents', () => {
  test('lets each speak once, in order, and gives each the share that the provider billed for it', async () => {
    const bill = newlyBilled();
    const { chat, socket } = await begin('brainstorm', 'thinker');
    const before = await balanceOf('thinker');
    socket.say('How could a small library get more visitors?', 'topic');
    const complete = await socket.untilRunComplete();
    const order = ['dreamer', 'critic', 'editor'];
    expect(socket.of('chat.select_speaker').map(({ data }) => data.agent)).toEqual(order);
    expect(agentTexts(socket).map(({ data }) => data.agent)).toEqual(order);
    expect(socket.of('chat.handoff').map(({ data }) => `${data.from_agent}>${data.to_agent}`)).toEqual([
      'dreamer>critic',
      'critic>editor',
    ]);
    expectGapless(socket);
    for (const { data } of agentTexts(socket)) expect(streamed(socket, data.message_id)).toBe(data.content);

    expect(bill().map(({ agent }) => agent)).toEqual(order);
    const shares = bill().map(({ agent, prompt_tokens, completion_tokens, total_tokens }) => ({
      agent,
      prompt_tokens,
      completion_tokens,
      total_tokens,
    }));
    const total = sum(bill().map(({ total_tokens }) => total_tokens));
    expect(socket.of('chat.usage_summary')[0]?.data.by_agent).toMatchObject(shares);
    expect((await sessionOf(chat)).real_time_tracking.tokens.by_agent).toMatchObject(shares);
    expect(complete.data).toMatchObject({
      result: 'success',
      total_turns: 3,
      totals: { total_tokens: total },
    });
    expect(socket.of('token_update').at(-1)?.data.cumulative.total_tokens).toBe(total);
    const lines = await linesOf(chat);
    expect(lines.map(({ agent, amount }) => [agent, -amount])).toEqual(
      bill().map(({ agent, total_tokens }) => [agent, total_tokens]),
    );
    expect(await balanceOf('thinker')).toBe(before - total);
    expect(await usageOf(chat)).toMatchObject({ total_requests: 3, total_tokens: total });
  });

  test('counts on over several messages, and each token_update continues the one before', async () => {
    const bill = newlyBilled();
    const { chat, socket } = await begin('brainstorm', 'persistent-thinker');
    for (const round of [1, 2, 3]) {
      socket.say(`Round ${round}`, `round-${round}`);
      await socket.untilRunComplete(round);
    }
    expect(bill()).toHaveLength(9);
    let cumulative = 0;
    for (const { data } of socket.of('token_update')) {
      cumulative += data.delta.total_tokens;
      expect(data.cumulative.total_tokens).toBe(cumulative);
    }
    expect(cumulative).toBe(sum(bill().map(({ total_tokens }) => total_tokens)));
    expect((await sessionOf(chat)).real_time_tracking.tokens.total_tokens).toBe(cumulative);
    expect(sum((await linesOf(chat)).map(({ amount }) => -amount))).toBe(cumulative);
    expectGapless(socket);
  });
});

describe('cancelling', () => {
  test('from another tab ends the run down to the connection of the provider, keeps what was said, and says what is not accounted for', async () => {
    const bill = newlyBilled();
    provider.setScript([{ chunks: ['Half ', 'an ', 'answer'], stallAfterChunks: 2 }]);
    const { chat, socket } = await begin('assistant', 'canceller');
    const other = await server.connect(chat);
    const before = await balanceOf('canceller');
    socket.say('Tell me everything', 'long');
    await provider.stalled();
    await socket.until(() => socket.of('chat.stream').length > 0, 'the first words');
    const cancelledAtMs = Date.now();
    other.send({ type: 'cancel' });
    const complete = await socket.untilRunComplete();
    await eventually(() => expect(bill()).toMatchObject([{ aborted: true }]));
    // The rule is half a second; the rest is for a machine that does other things too.
    expect((bill()[0]?.ended_at_ms ?? Infinity) - cancelledAtMs).toBeLessThan(1500);

    expect(complete.data).toMatchObject({ result: 'stopped' });
    expect(agentTexts(socket).map(({ data }) => data)).toMatchObject([
      { content: 'Half an ', partial: true },
    ]);
    expect(socket.of('chat.error').map(({ data }) => data.error_type)).toEqual(['missing_usage_summary']);
    expect(socket.of('chat.usage_summary')[0]?.data.unaccounted_turns).toBe(1);
    expect((await sessionOf(chat)).real_time_tracking.tokens).toMatchObject({
      unaccounted_turns: 1,
      total_tokens: 0,
    });
    expect(await balanceOf('canceller')).toBe(before);

    other.send({ type: 'cancel' });
    await other.settled();
    await socket.settled();
    expect(socket.of('chat.run_complete')).toHaveLength(1);
    expect(other.durable).toEqual(socket.durable);
    expectGapless(socket);
  });

  test('in the middle of a group stops everyone; who had spoken is debited', async () => {
    const bill = newlyBilled();
    provider.setScript([{ reply: 'A dream.' }, { reply: 'But no.', stallAfterChunks: 0 }]);
    const { chat, socket } = await begin('brainstorm', 'group-canceller');
    socket.say('Dream', 'dream');
    await provider.stalled();
    socket.send({ type: 'cancel' });
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({
      result: 'stopped',
      totals: { total_tokens: bill()[0]?.total_tokens },
    });
    expect(sum((await linesOf(chat)).map(({ amount }) => -amount))).toBe(bill()[0]?.total_tokens);
  });

  test('a cancelled chat goes on with the next message', async () => {
    provider.setScript([{ reply: 'Never said', stallAfterChunks: 0 }, { reply: 'Here I am.' }]);
    const { socket } = await begin('assistant', 'undecided');
    socket.say('One', 'one');
    await provider.stalled();
    socket.send({ type: 'cancel' });
    await socket.untilRunComplete();
    socket.say('Two', 'two');
    expect((await socket.untilRunComplete(2)).data.result).toBe('success');
    expect(agentTexts(socket).map(({ data }) => data.content)).toEqual(['Here I am.']);
  });
});

describe('several tabs', () => {
  test('see the same frames, and the same words', async () => {
    const { chat, socket } = await begin('brainstorm', 'tabs');
    const other = await server.connect(chat);
    socket.say('Hello', 'hello');
    await Promise.all([socket.untilRunComplete(), other.untilRunComplete()]);
    expect(other.durable).toEqual(socket.durable);
    for (const { data } of agentTexts(other)) expect(streamed(other, data.message_id)).toBe(data.content);
  });

  test('a chat hears nothing of another', async () => {
    const one = await begin('assistant', 'neighbour-1');
    const two = await begin('assistant', 'neighbour-2');
    one.socket.say('Hello', 'hello');
    await one.socket.untilRunComplete();
    await two.socket.settled();
    expect(two.socket.of('pong')).toHaveLength(two.socket.frames.length);
    expect(new Set(one.socket.frames.map(({ chat_id }) => chat_id))).toEqual(new Set([one.chat.chat_id]));
  });
});

describe('coming back', () => {
  test('replays exactly the frames that are missing, then the words in flight from their beginning, then the boundary', async () => {
    provider.setScript([
      { reply: 'A dream.' },
      { chunks: ['Half ', 'a ', 'doubt'], stallAfterChunks: 2 },
      { reply: 'Both.' },
    ]);
    const { chat, socket } = await begin('brainstorm', 'resumer');
    socket.say('Dream', 'dream');
    const stalled = await provider.stalled();
    await socket.until(() => socket.of('chat.stream').at(-1)?.data.agent === 'critic', 'the critic');
    const known = socket.durable;
    const last = known.at(-1)?.seq ?? 0;
    expect(last).toBeGreaterThan(6);

    for (const had of [0, 3, last]) {
      const back = await server.connect(chat, `?last_sequence=${had}`);
      await back.until(() => back.of('chat.resume_boundary').length === 1, 'the boundary');
      expect(back.durable).toEqual(known.filter(({ seq }) => seq > had));
      expect(back.frames.slice(-2)).toMatchObject([
        { type: 'chat.stream', data: { agent: 'critic', offset: 0, delta: 'Half a ' } },
        {
          type: 'chat.resume_boundary',
          data: { replayed_count: last - had, client_had: had, persisted_had: last },
        },
      ]);
      await back.close();
    }

    const back = await server.connect(chat, '?last_sequence=0');
    back.send({ type: 'resume', last_sequence: 2 });
    await back.until(() => back.of('chat.resume_boundary').length === 2, 'the second boundary');
    stalled.release();
    await Promise.all([socket.untilRunComplete(), back.untilRunComplete()]);
    const afterwards = back.durable.filter(({ seq }) => seq > last);
    expect(afterwards).toEqual(socket.durable.filter(({ seq }) => seq > last));
    const critic = back.of('chat.stream').filter(({ data }) => data.agent === 'critic');
    expect(critic.at(-1)?.data).toMatchObject({ offset: 'Half a '.length, delta: 'doubt' });
  });

  test('a position beyond the log loses nothing that is said later', async () => {
    const { chat } = await begin('assistant', 'ahead');
    const ahead = await server.connect(chat, '?last_sequence=1000');
    await ahead.until(() => ahead.of('chat.resume_boundary').length === 1, 'the boundary');
    expect(ahead.of('chat.resume_boundary')[0]?.data).toMatchObject({ persisted_had: 0 });
    ahead.say('Hello', 'hello');
    await ahead.untilRunComplete();
    expectGapless(ahead);
  });

  test('a run goes on when nobody listens', async () => {
    provider.setScript([{ reply: 'Said to nobody.', stallAfterChunks: 1 }]);
    const { chat, socket } = await begin('assistant', 'absent');
    socket.say('Hello', 'hello');
    const stalled = await provider.stalled();
    await socket.close();
    stalled.release();
    await eventually(async () => expect((await sessionOf(chat)).status).toBe('completed'));
    const back = await server.connect(chat, `?last_sequence=${socket.durable.at(-1)?.seq ?? 0}`);
    await back.untilRunComplete();
    expect(agentTexts(back).map(({ data }) => data.content)).toEqual(['Said to nobody.']);
    expectGapless(back, socket.durable.length + 1);
  });
});

describe('a restart of the server', () => {
  test('keeps the numbering without a gap, and the model hears what was said before', async () => {
    const database = await freshDatabase();
    own.push({ stop: database.close });
    const first = await startOwn({ database });
    const { chat, socket } = await begin('assistant', 'stayer', first);
    provider.setScript([{ reply: 'Hello Ann.' }, { reply: 'You are Ann.' }]);
    socket.say('I am Ann', 'one');
    await socket.untilRunComplete();
    await first.stop();
    expect(socket.closed?.code).toBe(1012);

    const second = await startOwn({ database });
    const back = await second.connect(chat, `?last_sequence=${socket.durable.length}`);
    back.say('Who am I?', 'two');
    await back.untilRunComplete();
    expectGapless(back, socket.durable.length + 1);
    expect(provider.requests.at(-1)?.messages.slice(1)).toEqual([
      { role: 'user', content: 'I am Ann' },
      { role: 'assistant', content: 'Hello Ann.' },
      { role: 'user', content: 'Who am I?' },
    ]);
  });

  test('in the middle of a reply ends the run once, with a reason, and keeps what was said', async () => {
    const database = await freshDatabase();
    own.push({ stop: database.close });
    const first = await startOwn({ database });
    provider.setScript([{ chunks: ['Half', ' an answer'], stallAfterChunks: 1 }]);
    const { chat, socket } = await begin('assistant', 'interrupted', first);
    socket.say('Hello', 'one');
    await socket.until(() => socket.of('chat.stream').length === 1, 'the first words');
    await first.stop();
    const second = await startOwn({ database });
    const back = await second.connect(chat, '?last_sequence=0');
    const complete = await back.untilRunComplete();
    expect(complete.data).toMatchObject({ result: 'stopped', reason: 'restarting' });
    expect(agentTexts(back).map(({ data }) => data)).toMatchObject([{ content: 'Half', partial: true }]);
    expect((await sessionOf(chat, second)).run).toBeNull();
    expectGapless(back);
  });
});

describe('a provider that fails', () => {
  test.each([
    ['refuses the key', { error: { status: 401 } }, 'provider_unauthorized', /OPENAI_API_KEY/, false],
    [
      'refuses the request',
      { error: { status: 400, message: 'no such model' } },
      'provider_refused',
      /no such model/,
      false,
    ],
    ['breaks down', { error: { status: 500 } }, 'provider_unavailable', /try again/i, true],
    ['is over its limit', { error: { status: 429 } }, 'provider_rate_limited', /quota/, true],
    [
      'is cut before the first word',
      { reply: 'x', failAfterChunks: 0 },
      'provider_unavailable',
      /try again/i,
      true,
    ],
  ] as const)(
    'when it %s, the error says what to do and the run ends once',
    async (_, step, type, advice, retryable) => {
      provider.setScript([step]);
      const user = `failed-${type}-${'error' in step ? step.error.status : 'cut'}`;
      const { chat, socket } = await begin('assistant', user);
      const before = await balanceOf(user);
      socket.say('Hello', 'hello');
      const complete = await socket.untilRunComplete();
      await socket.settled();
      expect(complete.data).toMatchObject({ result: 'error', totals: { total_tokens: 0 } });
      expect(socket.of('chat.run_complete')).toHaveLength(1);
      const [error] = socket.of('chat.error');
      expect(error?.data).toMatchObject({
        error_type: type,
        retryable,
        message: expect.stringMatching(advice),
      });
      expect(error?.data.message).not.toMatch(/test|Bearer/);
      expectGapless(socket);
      expect(await balanceOf(user)).toBe(before);
      expect(await sessionOf(chat)).toMatchObject({ status: 'failed', run: null });
      expect(await usageOf(chat)).toMatchObject({
        total_requests: 1,
        total_tokens: 0,
        success_rate_percent: 0,
        by_model: { 'gpt-4o-mini': { requests: 1, tokens: 0 } },
      });
    },
  );

  test('a call that is limited or broken is tried again, and only what was billed is debited', async () => {
    const patient = await startOwn({ llm: { maxRetries: 3 } });
    const bill = newlyBilled();
    const retrySoon = { retryAfterSeconds: 0.01 };
    provider.setScript([
      { error: { status: 429, ...retrySoon } },
      { error: { status: 500, ...retrySoon } },
      { reply: 'At last.' },
    ]);
    const { socket } = await begin('assistant', 'patient', patient);
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({
      result: 'success',
      totals: { total_tokens: bill()[0]?.total_tokens },
    });
    expect(socket.of('chat.error')).toHaveLength(0);
  });

  test.each([
    ['accepts the call and says nothing', 0],
    ['falls silent in the middle of an answer', 1],
  ])('one that %s is given up after LLM_TIMEOUT_SEC', async (_, stallAfterChunks) => {
    const hasty = await startOwn({ llm: { timeoutMs: 250 } });
    provider.setScript([{ chunks: ['A', 'B'], stallAfterChunks }]);
    const { chat, socket } = await begin('assistant', 'hasty', hasty);
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data.result).toBe('error');
    expect(socket.of('chat.error')[0]?.data).toMatchObject({
      error_type: 'provider_timeout',
      retryable: true,
      message: expect.stringMatching(/LLM_TIMEOUT_SEC/),
    });
    expect((await sessionOf(chat, hasty)).status).toBe('failed');
  });

  test('one that is cut in the middle of an answer leaves the words, marked as partial and unaccounted for', async () => {
    provider.setScript([{ chunks: ['Half ', 'an ', 'answer'], failAfterChunks: 2 }]);
    const { chat, socket } = await begin('assistant', 'cut-off');
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data.result).toBe('error');
    expect(agentTexts(socket).map(({ data }) => data)).toMatchObject([
      { content: 'Half an ', partial: true },
    ]);
    expect(socket.of('chat.error').map(({ data }) => data.error_type)).toEqual([
      'provider_unavailable',
      'missing_usage_summary',
    ]);
    expect((await sessionOf(chat)).real_time_tracking.tokens.unaccounted_turns).toBe(1);
  });

  test('one that reports no usage is neither free nor estimated: the reply is shown as unaccounted for', async () => {
    provider.setScript([{ reply: 'For free?', usage: 'missing' }]);
    const { chat, socket } = await begin('assistant', 'unreported');
    const before = await balanceOf('unreported');
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({ result: 'success', totals: { total_tokens: 0 } });
    expect(socket.of('chat.error').map(({ data }) => data.error_type)).toEqual(['missing_usage_summary']);
    expect(socket.of('chat.usage_summary')[0]?.data.unaccounted_turns).toBe(1);
    expect((await sessionOf(chat)).real_time_tracking.tokens.unaccounted_turns).toBe(1);
    expect(await linesOf(chat)).toEqual([]);
    expect(await balanceOf('unreported')).toBe(before);
  });

  test('usage that rides on a chunk with choices is counted too', async () => {
    const bill = newlyBilled();
    provider.setScript([{ reply: 'Counted.', usageInChunkWithChoices: true }]);
    const { socket } = await begin('assistant', 'compatible');
    socket.say('Hello', 'hello');
    expect((await socket.untilRunComplete()).data.totals.total_tokens).toBe(bill()[0]?.total_tokens);
  });

  test('usage that was reported before the connection broke off is debited, and nothing is unaccounted for', async () => {
    // Some servers report usage so far with every chunk.
    const chunk = (content: string, completion_tokens: number) =>
      `data: ${JSON.stringify({
        id: 'c',
        object: 'chat.completion.chunk',
        created: 1,
        model: 'gpt-4o-mini',
        choices: [{ index: 0, delta: { content }, finish_reason: null }],
        usage: { prompt_tokens: 30, completion_tokens, total_tokens: 30 + completion_tokens },
      })}\n\n`;
    const talkative = createServer((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(chunk('Half ', 1) + chunk('an answer', 3), () => response.destroy());
    });
    talkative.listen(0, '127.0.0.1');
    await once(talkative, 'listening');
    own.push({ stop: async () => void talkative.close() });
    const { port } = z.object({ port: z.int() }).parse(talkative.address());
    const reporting = await startOwn({ llm: { baseUrl: `http://127.0.0.1:${port}/v1` } });
    const { chat, socket } = await begin('assistant', 'reported', reporting);
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({ result: 'error', totals: { total_tokens: 33 } });
    expect(agentTexts(socket)).toMatchObject([{ data: { content: 'Half an answer', partial: true } }]);
    expect((await sessionOf(chat, reporting)).real_time_tracking.tokens).toMatchObject({
      total_tokens: 33,
      unaccounted_turns: 0,
    });
  });

  test('a failed turn of a group ends the run; who spoke before is debited', async () => {
    const bill = newlyBilled();
    provider.setScript([{ reply: 'A dream.' }, { error: { status: 500 } }]);
    const { chat, socket } = await begin('brainstorm', 'half-group');
    socket.say('Dream', 'dream');
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({
      result: 'error',
      total_turns: 1,
      totals: { total_tokens: bill()[0]?.total_tokens },
    });
    expect(await usageOf(chat)).toMatchObject({ total_requests: 2, success_rate_percent: 50 });
  });
});

describe('an empty wallet', () => {
  let poor: TestServer;
  beforeAll(async () => {
    poor = await startTestServer({ provider, environment: { WALLET_START_BALANCE: '1000' } });
  });
  afterAll(() => poor.stop());

  test('stops the next message before the model is asked, says so twice, and changes nothing', async () => {
    const { chat, socket } = await begin('assistant', 'poor', poor);
    provider.setScript([{ reply: 'Spent.', usage: { prompt_tokens: 900, completion_tokens: 200 } }]);
    socket.say('Spend it all', 'one');
    await socket.untilRunComplete();
    const balance = await balanceOf('poor', poor);
    expect(balance).toBe(-100);
    const asked = provider.requests.length;
    socket.say('And more', 'two');
    const complete = await socket.untilRunComplete(2);
    expect(complete.data).toMatchObject({ result: 'out_of_funds', totals: { total_tokens: 0 } });
    expect(provider.requests.length).toBe(asked);
    expect(await balanceOf('poor', poor)).toBe(balance);
    expect(socket.of('token_exhausted').map(({ data }) => data)).toEqual([
      { remaining_balance: balance, scope: 'wallet', blocked_until: null },
    ]);
    expect(socket.of('chat.error').map(({ data }) => data)).toMatchObject([
      { error_type: 'insufficient_tokens', retryable: true, message: expect.stringMatching(/top it up/i) },
    ]);
    expect(await sessionOf(chat, poor)).toMatchObject({
      status: 'paused',
      pause_reason: 'insufficient_tokens',
    });
  });

  test('that is topped up lets the chat go on by itself, from where it stood', async () => {
    const { chat, socket } = await begin('assistant', 'topped-up', poor);
    provider.setScript([
      { reply: 'Spent.', usage: { prompt_tokens: 900, completion_tokens: 200 } },
      { reply: 'Here you are.' },
    ]);
    socket.say('Spend it all', 'one');
    await socket.untilRunComplete();
    socket.say('And more', 'two');
    expect((await socket.untilRunComplete(2)).data.result).toBe('out_of_funds');
    const top = { app_id: 'acme', amount: 5000, reason: 'top-up' };
    await poor.post('/api/tokens/topped-up/credit', top, { 'idempotency-key': 'top-up-1' });
    expect((await socket.untilRunComplete(3)).data.result).toBe('success');
    expect(agentTexts(socket).map(({ data }) => data.content)).toEqual(['Spent.', 'Here you are.']);
    expect(provider.requests.at(-1)?.messages.at(-1)).toEqual({ role: 'user', content: 'And more' });
    expect(await sessionOf(chat, poor)).toMatchObject({ status: 'completed', pause_reason: null });
    expectGapless(socket);
  });

  test('during a free trial stops nobody: usage is recorded, nothing is debited', async () => {
    const trial = await startOwn({
      environment: { WALLET_START_BALANCE: '0', FREE_TRIAL_ENABLED: 'true' },
    });
    const bill = newlyBilled();
    const { chat, socket } = await begin('assistant', 'guest', trial);
    socket.say('Hello', 'hello');
    const complete = await socket.untilRunComplete();
    expect(complete.data).toMatchObject({
      result: 'success',
      totals: { total_tokens: bill()[0]?.total_tokens },
    });
    expect(socket.of('token_update')[0]?.data).toMatchObject({
      remaining_balance: 0,
      incremental_debits: false,
    });
    expect(await balanceOf('guest', trial)).toBe(0);
    expect((await sessionOf(chat, trial)).real_time_tracking.tokens.total_tokens).toBe(
      bill()[0]?.total_tokens,
    );
  });
});
