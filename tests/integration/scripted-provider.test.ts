import { afterEach, expect, test } from '@jest/globals';
import OpenAI, {
  APIConnectionError,
  APIError,
  AuthenticationError,
  AzureOpenAI,
  InternalServerError,
  RateLimitError,
} from 'openai';
import {
  startScriptedProvider,
  type ScriptedProvider,
  type ScriptedProviderOptions,
} from '../support/scripted-provider.ts';
import type { ScriptStep } from '../support/scripted-provider-step.ts';

const messages = [
  { role: 'system' as const, content: 'You are planner, and you plan.' },
  { role: 'user' as const, content: 'Plan my day' },
];
const model = 'gpt-4o-mini';
const streamed = { model, messages, stream: true as const, stream_options: { include_usage: true } };

let provider: ScriptedProvider | undefined;

afterEach(async () => {
  await provider?.stop();
  provider = undefined;
});

async function start(options: ScriptedProviderOptions) {
  provider = await startScriptedProvider(options);
  return { provider, client: new OpenAI({ baseURL: provider.baseUrl, apiKey: 'test', maxRetries: 0 }) };
}

const startWith = (...script: ScriptStep[]) => start({ script });

async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

const contentOf = (chunks: OpenAI.ChatCompletionChunk[]) =>
  chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

test('without a script the same conversation gets the same words and the same bill', async () => {
  const { provider, client } = await start({});
  const first = await client.chat.completions.create({ model, messages });
  const second = await client.chat.completions.create({ model, messages });
  const streamedChunks = await collect(await client.chat.completions.create(streamed));

  expect(first.choices[0]?.message.content).toMatch(/^\w+( \w+){23}$/);
  expect(second.choices).toEqual(first.choices);
  expect(contentOf(streamedChunks)).toBe(first.choices[0]?.message.content);
  expect(streamedChunks.at(-1)?.usage).toEqual(first.usage);
  expect(first.usage).toEqual({ prompt_tokens: 20, completion_tokens: 24, total_tokens: 44 });
  expect(provider.totals()).toMatchObject({ calls: 3, prompt_tokens: 60, total_tokens: 132 });
  provider.expectAllStepsRead();
});

test('derived words keep to the cap of the caller and say so', async () => {
  const { client } = await start({});
  const completion = await client.chat.completions.create({ model, messages, max_completion_tokens: 5 });
  expect(completion.choices[0]?.finish_reason).toBe('length');
  expect(completion.usage?.completion_tokens).toBe(5);
});

test('a scripted reply is streamed in its chunks, and the last chunk has the usage and no choices', async () => {
  const { provider, client } = await startWith({
    chunks: ['Hel', 'lo ', 'you'],
    usage: {
      prompt_tokens: 100,
      completion_tokens: 7,
      prompt_tokens_details: { cached_tokens: 64 },
      completion_tokens_details: { reasoning_tokens: 4 },
    },
  });
  const chunks = await collect(await client.chat.completions.create(streamed));

  expect(chunks.map((chunk) => chunk.choices[0]?.delta.content)).toEqual([
    '',
    'Hel',
    'lo ',
    'you',
    undefined,
    undefined,
  ]);
  expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop');
  expect(chunks.at(-1)).toMatchObject({
    choices: [],
    usage: { prompt_tokens: 100, completion_tokens: 7, total_tokens: 107 },
  });
  expect(provider.bill).toEqual([
    {
      n: 1,
      id: 'chatcmpl-00001',
      model,
      agent: 'planner',
      prompt_tokens: 100,
      completion_tokens: 7,
      total_tokens: 107,
      cached_tokens: 64,
      reasoning_tokens: 4,
      stream: true,
      aborted: false,
      usage_reported: true,
      started_at_ms: expect.any(Number),
      ended_at_ms: expect.any(Number),
    },
  ]);
  provider.expectAllStepsRead();
});

test('a text is cut into as many chunks as asked for, and never inside a character', async () => {
  const { client } = await startWith({ reply: 'été 🙂🙂🙂🙂 !', chunks: 5 });
  const chunks = await collect(await client.chat.completions.create(streamed));
  const parts = chunks.flatMap((chunk) => chunk.choices[0]?.delta.content || []);
  expect(parts).toEqual(['ét', 'é ', '🙂🙂', '🙂🙂', ' !']);
});

test('usage that is not asked for is not streamed, but billed', async () => {
  const { provider, client } = await startWith({ reply: 'fine' });
  const chunks = await collect(await client.chat.completions.create({ model, messages, stream: true }));
  expect(chunks.every((chunk) => chunk.usage === undefined)).toBe(true);
  expect(provider.bill[0]).toMatchObject({ completion_tokens: 1, usage_reported: false });
});

test('missing usage is billed and never reported, streamed or not', async () => {
  const { provider, client } = await startWith(
    { reply: 'no counts', usage: 'missing' },
    { reply: 'no counts', usage: 'missing' },
  );
  const chunks = await collect(await client.chat.completions.create(streamed));
  const completion = await client.chat.completions.create({ model, messages });
  expect(chunks.some((chunk) => Boolean(chunk.usage))).toBe(false);
  expect(completion.usage).toBeUndefined();
  expect(provider.totals((line) => line.usage_reported).calls).toBe(0);
  expect(provider.totals()).toMatchObject({ calls: 2, completion_tokens: 4 });
});

test('a provider with the quirk reports usage on the closing chunk, beside its choices', async () => {
  const { client } = await startWith({ reply: 'odd', usageInChunkWithChoices: true });
  const chunks = await collect(await client.chat.completions.create(streamed));
  expect(chunks.at(-1)).toMatchObject({
    choices: [{ finish_reason: 'stop' }],
    usage: { completion_tokens: 1 },
  });
});

test('tool calls arrive whole, streamed or not', async () => {
  const step: ScriptStep = {
    toolCalls: [
      { name: 'get_weather', arguments: { city: 'Oslo' } },
      { id: 'b', name: 'broken', arguments: '{"a":' },
    ],
  };
  const { client } = await startWith(step, step);
  const plain = await client.chat.completions.create({ model, messages });
  const stream = client.chat.completions.stream({ model, messages });
  const assembled = (await stream.finalChatCompletion()).choices[0]?.message.tool_calls ?? [];

  expect(plain.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: null } });
  expect(plain.choices[0]?.message.tool_calls?.map((call) => 'function' in call && call.function)).toEqual([
    { name: 'get_weather', arguments: '{"city":"Oslo"}' },
    { name: 'broken', arguments: '{"a":' },
  ]);
  expect(assembled.map((call) => 'function' in call && call.function.arguments)).toEqual([
    '{"city":"Oslo"}',
    '{"a":',
  ]);
});

test.each([
  [401, AuthenticationError],
  [429, RateLimitError],
  [500, InternalServerError],
  [503, InternalServerError],
])('a scripted %i reaches the client as that error and bills nothing', async (status, errorClass) => {
  const { provider, client } = await startWith({ error: { status, code: 'why', retryAfterSeconds: 7 } });
  const error: unknown = await client.chat.completions.create(streamed).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(errorClass);
  expect(error).toMatchObject({ status, code: 'why' });
  expect(error instanceof APIError && error.headers?.get('retry-after')).toBe('7');
  expect(provider.bill).toEqual([]);
  provider.expectAllStepsRead();
});

test('a client that retries after 429 takes the next step', async () => {
  const { provider } = await startWith({ error: { status: 429, retryAfterSeconds: 0 } }, { reply: 'now' });
  const client = new OpenAI({ baseURL: provider.baseUrl, apiKey: 'test', maxRetries: 1 });
  const completion = await client.chat.completions.create({ model, messages });
  expect(completion.choices[0]?.message.content).toBe('now');
  provider.expectAllStepsRead();
});

test('a connection cut in mid-stream delivers the chunks before the cut, and bills their share', async () => {
  const { provider, client } = await startWith({ reply: 'one two three four', failAfterChunks: 2 });
  const seen: OpenAI.ChatCompletionChunk[] = [];
  const reading = async () => {
    for await (const chunk of await client.chat.completions.create(streamed)) seen.push(chunk);
  };
  await expect(reading()).rejects.toThrow();
  expect(contentOf(seen)).toBe('one two');
  expect(provider.bill).toMatchObject([{ completion_tokens: 2, aborted: false, usage_reported: false }]);
});

test('a connection cut before an unstreamed answer is a connection error', async () => {
  const { client } = await startWith({ reply: 'never', failAfterChunks: 0 });
  await expect(client.chat.completions.create({ model, messages })).rejects.toBeInstanceOf(
    APIConnectionError,
  );
});

test('a stalled stream goes on where it stopped when it is released', async () => {
  const { provider, client } = await startWith({ reply: 'one two three', stallAfterChunks: 2 });
  const reading = client.chat.completions.create(streamed).then(collect);
  const stall = await provider.stalled();
  expect(stall.chunksSent).toBe(2);
  expect(provider.bill).toEqual([]);
  stall.release();
  expect(contentOf(await reading)).toBe('one two three');
  expect(provider.bill).toMatchObject([{ completion_tokens: 3, usage_reported: true }]);
});

test('a client that goes away during a stall is noticed, and billed for what was sent', async () => {
  const { provider, client } = await startWith({
    reply: 'one two three four',
    stallAfterChunks: 1,
    usage: { completion_tokens: 40 },
  });
  const stream = await client.chat.completions.create(streamed);
  await provider.stalled();
  const abortedAtMs = Date.now();
  stream.controller.abort();
  await provider.untilBilled(1);
  expect(provider.bill).toMatchObject([{ completion_tokens: 10, aborted: true, usage_reported: false }]);
  expect(provider.bill[0]?.ended_at_ms).toBeGreaterThanOrEqual(abortedAtMs);
});

test('a client that goes away between two slow chunks, or before a slow answer, is noticed at once', async () => {
  const { provider, client } = await startWith(
    { reply: 'one two', delayPerChunkMs: 60_000 },
    { reply: 'one two', delayMs: 60_000 },
  );
  for (const [index, request] of [streamed, { model, messages }].entries()) {
    const leaving = new AbortController();
    const asking = client.chat.completions.create(request, { signal: leaving.signal }).catch(() => undefined);
    await provider.untilAsked(index + 1);
    leaving.abort();
    await asking;
  }
  await provider.untilBilled(2);
  expect(provider.bill).toMatchObject([
    { completion_tokens: 0, aborted: true },
    { completion_tokens: 0, aborted: true },
  ]);
});

test('a call that no step is left for is refused once, not retried, and told about', async () => {
  const { provider } = await startWith({ reply: 'only one' });
  const client = new OpenAI({ baseURL: provider.baseUrl, apiKey: 'test', maxRetries: 2 });
  await client.chat.completions.create({ model, messages });
  await expect(client.chat.completions.create({ model, messages })).rejects.toMatchObject({ status: 500 });
  expect(provider.requests).toHaveLength(2);
  expect(() => provider.expectAllStepsRead()).toThrow('unexpected completion: all 1 steps');
});

test('a step that nobody asked for, and a request that is not as expected, are told about', async () => {
  const { provider, client } = await startWith(
    { expect: ({ tools }) => tools !== undefined, reply: 'with tools' },
    { reply: 'unread' },
  );
  await expect(client.chat.completions.create({ model, messages })).rejects.toMatchObject({ status: 500 });
  expect(() => provider.expectAllStepsRead()).toThrow(
    /step 1 refused its request\n.*step 2 was never asked for/,
  );
});

test('an Azure client is answered under its deployment', async () => {
  const { provider } = await startWith({ reply: 'from azure' }, { reply: 'unread' });
  const options = { endpoint: provider.url, deployment: 'my-gpt', apiVersion: '2024-10-21', maxRetries: 0 };
  const client = new AzureOpenAI({ ...options, apiKey: 'test' });
  const completion = await client.chat.completions.create({ model, messages });
  expect(completion.choices[0]?.message.content).toBe('from azure');
  const keyless = await fetch(`${provider.url}/openai/deployments/x/chat/completions?api-version=1`, {
    method: 'POST',
    body: '{}',
  });
  expect(keyless.status).toBe(401);
});

test('another process can read the bill, set the script and release stalls', async () => {
  const { provider, client } = await start({});
  const post = (path: string, body: unknown) =>
    fetch(provider.url + path, { method: 'POST', body: JSON.stringify(body) });
  expect((await post('/script', [{ reply: 'x', typo: 1 }])).status).toBe(400);
  expect((await post('/script', [{ reply: 'one two', stallAfterChunks: 1 }])).status).toBe(200);
  const reading = client.chat.completions.create(streamed).then(collect);
  await provider.stalled();
  await post('/release', {});
  expect(contentOf(await reading)).toBe('one two');
  const answer: unknown = await (await fetch(`${provider.url}/bill`)).json();
  expect(answer).toMatchObject({
    bill: [{ n: 1, completion_tokens: 2 }],
    totals: { calls: 1 },
    script_problems: [],
  });
});

test('it lists models, refuses what it does not know, and stops twice', async () => {
  const { provider, client } = await start({ models: ['a', 'b'] });
  expect((await collect(client.models.list())).map(({ id }) => id)).toEqual(['a', 'b']);
  await expect(client.embeddings.create({ model, input: 'x' })).rejects.toMatchObject({ status: 404 });
  await provider.stop();
  await provider.stop();
});
