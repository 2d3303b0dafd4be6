import { afterAll, afterEach, beforeAll, expect, it } from '@jest/globals';
import { chatSessionSchema } from '../../core/contracts/documents.ts';
import { balanceSchema, eventsAnswerSchema } from '../../core/contracts/http.ts';
import { type ScriptedProvider, startScriptedProvider } from '../support/scripted-provider.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** Running out of funds is a state: the chat says how much and why, and a credit takes it up from where it stood. */
let provider: ScriptedProvider;
let server: TestServer;
beforeAll(async () => {
  provider = await startScriptedProvider();
  server = await startTestServer({ provider, environment: { WALLET_START_BALANCE: '200' } });
});
afterEach(() => {
  provider.expectAllStepsRead();
  provider.setScript(undefined);
});
afterAll(async () => {
  await server.stop();
  await provider.stop();
});

const balanceOf = async (user_id: string) =>
  balanceSchema.parse((await server.get(`/api/tokens/${user_id}/balance?app_id=acme`)).body);
const credit = (user_id: string, amount: number) =>
  server.post(
    `/api/tokens/${user_id}/credit`,
    { app_id: 'acme', amount, reason: 'a top-up' },
    { 'idempotency-key': `credit-${amount}` },
  );

it('a run that cannot pay for its next agent pauses, and a credit lets that agent speak', async () => {
  const owner = { app_id: 'acme', user_id: 'pauser' };
  const usage = { prompt_tokens: 60, completion_tokens: 60 };
  provider.setScript([
    { reply: 'A bold idea.', usage },
    { reply: 'It is too bold.', usage: { prompt_tokens: 10, completion_tokens: 5 } },
    { reply: 'A bit less bold.', usage: { prompt_tokens: 10, completion_tokens: 5 } },
  ]);
  const chat = await server.startChat('brainstorm', owner);
  const socket = await server.connect(chat);
  socket.send({ type: 'user_message', content: 'An idea, please', client_message_id: 'm1' });

  const ended = await socket.untilRunComplete();
  expect(ended.data.result).toBe('out_of_funds');
  const [exhausted] = socket.of('token_exhausted');
  expect(exhausted?.data).toMatchObject({ scope: 'wallet', remaining_balance: 80, blocked_until: null });
  expect(socket.of('chat.error').at(-1)?.data.message).toMatch(
    /The wallet holds 80; the next call needs up to \d+/,
  );
  const paused = chatSessionSchema.parse((await server.get(`/api/sessions/${chat.chat_id}`)).body);
  expect(paused).toMatchObject({ status: 'paused', pause_reason: 'insufficient_tokens' });
  expect(await balanceOf('pauser')).toMatchObject({ balance: 80, held: 0 });
  expect(provider.bill).toHaveLength(1);

  await credit('pauser', 10_000);
  const again = await socket.untilRunComplete(2);
  expect(again.data.result).toBe('success');
  expect(again.data.total_turns).toBe(2);
  expect(socket.of('chat.text').map(({ data }) => [data.agent, data.content])).toEqual([
    ['user', 'An idea, please'],
    ['dreamer', 'A bold idea.'],
    ['critic', 'It is too bold.'],
    ['editor', 'A bit less bold.'],
  ]);
  expect(await balanceOf('pauser')).toMatchObject({ balance: 200 + 10_000 - 120 - 30, held: 0 });
  await socket.close();
});

it('two credits at once take a run up once', async () => {
  const owner = { app_id: 'acme', user_id: 'twice' };
  provider.setScript([{ reply: 'Here it is.', usage: { prompt_tokens: 10, completion_tokens: 5 } }]);
  const chat = await server.startChat('assistant', owner);
  const socket = await server.connect(chat);
  await server.post(
    '/api/tokens/twice/consume',
    { app_id: 'acme', amount: 190, reason: 'spent elsewhere' },
    { 'idempotency-key': 'spent' },
  );
  socket.send({ type: 'user_message', content: 'Hello', client_message_id: 'm1' });
  expect((await socket.untilRunComplete()).data.result).toBe('out_of_funds');
  await Promise.all([credit('twice', 5_000), credit('twice', 6_000)]);
  expect((await socket.untilRunComplete(2)).data.result).toBe('success');
  expect(socket.of('chat.run_start')).toHaveLength(2);
  await socket.close();
});

it('raising a hard budget lets the chats go on that it stopped', async () => {
  const owner = { app_id: 'budgeted', user_id: 'ann' };
  provider.setScript([{ reply: 'Now I may.', usage: { prompt_tokens: 10, completion_tokens: 5 } }]);
  await server.post(
    '/api/tokens/ann/credit',
    { app_id: 'budgeted', amount: 10_000, reason: 'a start' },
    { 'idempotency-key': 'start' },
  );
  const set = await server.post('/api/budgets', {
    app_id: 'budgeted',
    scope: 'chat',
    limit: 50,
    window: 'day',
  });
  const { budget_id } = Object(set.body);
  const chat = await server.startChat('assistant', owner);
  const socket = await server.connect(chat);
  socket.send({ type: 'user_message', content: 'Hello', client_message_id: 'm1' });
  expect((await socket.untilRunComplete()).data.result).toBe('out_of_funds');
  const [exhausted] = socket.of('token_exhausted');
  expect(exhausted?.data).toMatchObject({ scope: 'budget:chat', remaining_balance: 50 });
  expect(Date.parse(exhausted?.data.blocked_until ?? '')).toBeGreaterThan(Date.now());
  const raised = await fetch(`${server.url}/api/budgets/${budget_id}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ limit: 5_000 }),
  });
  expect(raised.status).toBe(200);
  expect((await socket.untilRunComplete(2)).data.result).toBe('success');
  await socket.close();
});

it('a remote run is told to stop, with the scope, once wallet or hard budget are used up', async () => {
  const post = async (tokens: number) =>
    eventsAnswerSchema.parse(
      (
        await server.post('/api/events', [
          usageEnvelope('remote', [{ completion_tokens: tokens }], { user_id: 'remote' }),
        ])
      ).body,
    ).results[0];
  expect(await post(150)).toEqual({ uuid: expect.any(String), outcome: 'recorded' });
  expect(await post(250)).toMatchObject({ outcome: 'recorded', stop: true, scope: 'wallet' });
});
