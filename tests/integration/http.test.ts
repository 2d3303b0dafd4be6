import { mkdir, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import { z } from 'zod';
import type { EnvironmentVariable } from '../../core/config/core-config.ts';
import { chatSessionSchema } from '../../core/contracts/documents.ts';
import { parseServerFrame } from '../../core/contracts/frames.ts';
import {
  balanceSchema,
  chatExistsSchema,
  chatListSchema,
  chatMetaSchema,
  chatPerformanceSchema,
  eventsAnswerSchema,
  healthSchema,
  ledgerPageSchema,
  performanceAggregateSchema,
  problemSchema,
  startChatAnswerSchema,
  taskMetricsReportSchema,
  usageReportSchema,
  walletChangeSchema,
  workflowListSchema,
} from '../../core/contracts/http.ts';
import {
  type Answer,
  startTestServer,
  type TestServer,
  type TestServerOptions,
} from '../support/start-server.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

/** Servers of single tests; they end with the test, however it ends. */
let own: { stop: () => Promise<void> }[] = [];
afterEach(async () => {
  for (const each of own.toReversed()) await each.stop();
  own = [];
});
async function startOwn(options: TestServerOptions = {}): Promise<TestServer> {
  const started = await startTestServer(options);
  own.push(started);
  return started;
}

/** A problem is JSON of its own media type, and its status is the answer's. */
function problemOf({ status, headers, body }: Answer) {
  expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
  const problem = problemSchema.parse(body);
  expect(problem.status).toBe(status);
  expect(problem.type).toBe(`urn:mozaiks:problem:${problem.code}`);
  return problem;
}

const start = (workflow: string, body: unknown, app = 'acme') =>
  server.post(`/api/chats/${app}/${workflow}/start`, body);
const postEvents = async (events: unknown[], on = server, headers = {}) => {
  const answer = await on.post('/api/events', events, headers);
  expect(answer.status).toBe(200);
  return eventsAnswerSchema.parse(answer.body);
};
const balanceOf = async (user: string, on = server) =>
  balanceSchema.parse((await on.get(`/api/tokens/${user}/balance?app_id=acme`)).body);
const sessionOf = async (chatId: string) =>
  chatSessionSchema.parse((await server.get(`/api/sessions/${chatId}`)).body);
const framesOf = async (chatId: string) =>
  z
    .object({ events: z.array(z.unknown()), last_sequence: z.int() })
    .parse((await server.get(`/api/sessions/${chatId}/events`)).body);
const ledgerOf = async (user: string, query = '', on = server) =>
  ledgerPageSchema.parse((await on.get(`/api/tokens/${user}/ledger?app_id=acme${query}`)).body);
const credit = (user: string, body: object, key: string, on = server, headers = {}) =>
  on.post(`/api/tokens/${user}/credit`, body, { 'idempotency-key': key, ...headers });
const consume = (user: string, body: object, key: string) =>
  server.post(`/api/tokens/${user}/consume`, body, { 'idempotency-key': key });

describe('starting a chat', () => {
  test('answers with the chat, its socket and the balance', async () => {
    const answer = startChatAnswerSchema.parse((await start('assistant', { user_id: 'starter' })).body);
    expect(answer).toMatchObject({
      success: true,
      app_id: 'acme',
      user_id: 'starter',
      workflow_name: 'assistant',
      websocket_url: `/ws/assistant/acme/${answer.chat_id}/starter`,
      remaining_balance: 1_000_000,
      reused: false,
    });
  });

  test('an unknown workflow is named, and so are those that there are', async () => {
    const problem = problemOf(await start('hologram', { user_id: 'ann' }));
    expect(problem).toMatchObject({ status: 404, code: 'unknown_workflow' });
    expect(problem['workflows']).toEqual(expect.arrayContaining(['assistant', 'brainstorm']));
    expect(problem.detail).toMatch(/hologram.*assistant, brainstorm/);
  });

  test('a chat that was not written to yet is taken up again, unless a new one is wanted', async () => {
    const begin = async (more = {}, workflow = 'assistant') =>
      startChatAnswerSchema.parse((await start(workflow, { user_id: 'reuser', ...more })).body);
    const first = await begin();
    expect(await begin()).toMatchObject({ chat_id: first.chat_id, reused: true });
    const second = await begin({ force_new: true });
    expect(second).toMatchObject({ reused: false });
    expect(second.chat_id).not.toBe(first.chat_id);
    expect(await begin({}, 'brainstorm')).toMatchObject({ reused: false });
    expect(
      startChatAnswerSchema.parse((await start('assistant', { user_id: 'somebody-else' })).body),
    ).toMatchObject({ reused: false });
  });

  test('the same client_request_id starts one chat, however often and however parallel it is sent', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => start('assistant', { user_id: 'eager', client_request_id: 'r-1' })),
    );
    const started = answers.map(({ body }) => startChatAnswerSchema.parse(body));
    expect(new Set(started.map(({ chat_id }) => chat_id)).size).toBe(1);
    expect(started.filter(({ reused }) => !reused)).toHaveLength(1);
    const list = await server.get('/api/chats/acme/assistant?user_id=eager');
    expect(chatListSchema.parse(list.body).chats).toHaveLength(1);
    const other = await start('assistant', { user_id: 'eager', client_request_id: 'r-2' });
    expect(startChatAnswerSchema.parse(other.body)).toMatchObject({ reused: false });
  });

  test('needs a wallet that holds what is required', async () => {
    const problem = problemOf(
      await start('assistant', { user_id: 'ambitious', required_min_tokens: 1_000_001 }),
    );
    expect(problem).toMatchObject({
      status: 402,
      code: 'insufficient_tokens',
      scope: 'wallet',
      remaining_balance: 1_000_000,
      required_min_tokens: 1_000_001,
    });
    const enough = await start('assistant', { user_id: 'ambitious', required_min_tokens: 1_000_000 });
    expect(enough.status).toBe(200);
  });

  test('an empty wallet starts nothing, until it is topped up', async () => {
    const poor = await startOwn({ environment: { WALLET_START_BALANCE: '0' } });
    const begin = () => poor.post('/api/chats/acme/assistant/start', { user_id: 'poor' });
    expect(problemOf(await begin())).toMatchObject({ status: 402, remaining_balance: 0 });
    await credit('poor', { app_id: 'acme', amount: 10, reason: 'gift' }, 'gift-1', poor);
    expect((await begin()).status).toBe(200);
  });

  test.each([
    ['no body', '', /body/],
    ['no user', {}, /body\.user_id/],
    ['a number for a user', { user_id: 7 }, /body\.user_id/],
    ['an operator for a user', { user_id: { $ne: null } }, /body\.user_id/],
    ['an operator as text', { user_id: '$ne' }, /body\.user_id/],
    ['a list of users', { user_id: ['ann'] }, /body\.user_id/],
    ['a path for a user', { user_id: '../../etc' }, /body\.user_id/],
    ['a prototype for a user', { user_id: '__proto__' }, /body\.user_id/],
    ['half a token', { user_id: 'ann', required_min_tokens: 0.5 }, /body\.required_min_tokens/],
    ['a negative minimum', { user_id: 'ann', required_min_tokens: -1 }, /body\.required_min_tokens/],
    ['yes for true', { user_id: 'ann', force_new: 'yes' }, /body\.force_new/],
    ['a field that does not exist', { user_id: 'ann', admin: true }, /admin/],
    ['a list', [], /body/],
    ['null', 'null', /body/],
  ])('%s is refused, and the answer names the field', async (_, body, field) => {
    const problem = problemOf(await start('assistant', body));
    expect(problem).toMatchObject({
      status: 400,
      code: 'invalid_request',
      detail: expect.stringMatching(field),
    });
  });
});

describe('reading a chat', () => {
  let chatId: string;
  beforeAll(async () => {
    chatId = (await server.startChat('assistant', { user_id: 'reader' })).chat_id;
    await postEvents([
      usageEnvelope(chatId, [{ prompt_tokens: 60, completion_tokens: 20 }], {
        user_id: 'reader',
        workflow_name: 'assistant',
      }),
      usageEnvelope(chatId, [{ prompt_tokens: 90, completion_tokens: 30 }], {
        user_id: 'reader',
        workflow_name: 'assistant',
        seq: 2,
      }),
    ]);
  });

  test('lists, checks and summaries agree with the session document', async () => {
    const session = await sessionOf(chatId);
    expect(session.real_time_tracking.tokens).toMatchObject({ total_tokens: 120, prompt_tokens: 90 });
    const summary = { chat_id: chatId, total_tokens: 120, last_sequence: session.last_sequence };
    const list = await server.get('/api/chats/acme/assistant?user_id=reader');
    expect(chatListSchema.parse(list.body).chats).toMatchObject([summary]);
    const meta = await server.get(`/api/chats/meta/acme/assistant/${chatId}`);
    expect(chatMetaSchema.parse(meta.body)).toMatchObject({ ...summary, app_id: 'acme', user_id: 'reader' });
    const exists = async (path: string) =>
      chatExistsSchema.parse((await server.get(`/api/chats/exists/${path}`)).body).exists;
    expect(await exists(`acme/assistant/${chatId}`)).toBe(true);
    expect(await exists(`acme/brainstorm/${chatId}`)).toBe(false);
    expect(await exists(`other/assistant/${chatId}`)).toBe(false);
    expect(await exists('acme/assistant/never')).toBe(false);
  });

  test('its frames come in order, and page by page', async () => {
    const { events, last_sequence } = await framesOf(chatId);
    const frames = events.map((event) => parseServerFrame(event));
    expect(frames.map((frame) => frame?.seq)).toEqual([1, 2, 3]);
    expect(last_sequence).toBe(3);
    const page = await server.get(`/api/sessions/${chatId}/events?after=1&limit=1`);
    expect(page.body).toEqual({ events: [events[1]], last_sequence: 3 });
  });

  test('its ledger lines add up to its tokens, page by page too', async () => {
    const read = async (query = '') =>
      ledgerPageSchema.parse((await server.get(`/api/sessions/${chatId}/ledger${query}`)).body);
    const { entries, next_cursor } = await read();
    expect(entries.map(({ amount }) => amount)).toEqual([-80, -40]);
    expect(next_cursor).toBeNull();
    const first = await read('?limit=1');
    expect(first.entries).toEqual(entries.slice(0, 1));
    expect((await read(`?limit=1&cursor=${first.next_cursor}`)).entries).toEqual(entries.slice(1));
  });

  test('its counters and reports say the same as its document', async () => {
    const chat = await server.get(`/metrics/perf/chats/${chatId}`);
    expect(chatPerformanceSchema.parse(chat.body)).toMatchObject({
      prompt_tokens: 90,
      completion_tokens: 30,
    });
    const chats = z.array(chatPerformanceSchema).parse((await server.get('/metrics/perf/chats')).body);
    expect(chats.find(({ chat_id }) => chat_id === chatId)).toMatchObject({ prompt_tokens: 90 });
    const aggregate = await server.get('/metrics/perf/aggregate');
    expect(performanceAggregateSchema.parse(aggregate.body).total_prompt_tokens).toBeGreaterThanOrEqual(90);
    const task = await server.get(`/api/v1/usage/task/${chatId}`);
    expect(usageReportSchema.loose().parse(task.body)).toMatchObject({ task_id: chatId, total_tokens: 120 });
    const user = await server.get('/api/v1/usage/user/reader?days=1&app_id=acme');
    expect(usageReportSchema.loose().parse(user.body)).toMatchObject({ total_tokens: 120, period_days: 1 });
    const overall = await server.get('/api/v1/usage/overall');
    expect(usageReportSchema.loose().parse(overall.body).total_tokens).toBeGreaterThanOrEqual(120);
    const tasks = await server.get('/api/v1/usage/metrics/tasks?days=30');
    expect(taskMetricsReportSchema.loose().parse(tasks.body)).toMatchObject({ period_days: 30 });
  });

  test.each([
    '/api/sessions/never',
    '/api/sessions/never/events',
    '/api/sessions/never/ledger',
    '/api/v1/usage/task/never',
    '/metrics/perf/chats/never',
    '/api/chats/meta/acme/assistant/never',
  ])('%s is not found', async (path) => {
    expect(problemOf(await server.get(path)).status).toBe(404);
  });

  test.each([
    ['/api/chats/acme/assistant', /query\.user_id/],
    ['/api/chats/acme/assistant?user_id[$ne]=x', /query\.user_id/],
    ['/api/chats/acme/assistant?user_id=ann&user_id=bob', /query\.user_id/],
    ['/api/chats/acme/assistant?user_id=ann&limit=0', /query\.limit/],
    ['/api/chats/acme/assistant?user_id=ann&limit=many', /query\.limit/],
    ['/api/sessions/any/events?after=-1', /query\.after/],
    ['/api/sessions/any/events?limit=1001', /query\.limit/],
    ['/api/tokens/ann/balance', /query\.app_id/],
    ['/api/tokens/ann/balance?app_id[$gt]=', /query\.app_id/],
    ['/api/tokens/ann/ledger?app_id=acme&cursor=x', /query\.cursor/],
    ['/api/v1/usage/overall?days=0', /query\.days/],
    ['/api/v1/usage/overall?days=1.5', /query\.days/],
    ['/api/v1/usage/user/ann?days=100000', /query\.days/],
    ['/api/sessions/$where', /params\.chat_id/],
    ['/api/sessions/a%7Cb', /params\.chat_id/],
  ])('%s is refused, and the answer names the field', async (path, field) => {
    const problem = problemOf(await server.get(path));
    expect(problem).toMatchObject({ status: 400, detail: expect.stringMatching(field) });
  });
});

describe('every route', () => {
  const documentSchema = z.object({
    openapi: z.string().regex(/^3\.1\.\d$/),
    info: z.object({ title: z.string(), version: z.string() }),
    components: z.looseObject({}),
    paths: z.record(
      z.string().startsWith('/'),
      z.partialRecord(
        z.enum(['get', 'post', 'put', 'patch', 'delete']),
        z.object({
          summary: z.string().min(1),
          parameters: z
            .array(
              z.object({
                name: z.string(),
                in: z.enum(['path', 'query', 'header', 'cookie']),
                required: z.boolean().optional(),
                schema: z.looseObject({}),
              }),
            )
            .default([]),
          requestBody: z
            .object({ content: z.record(z.string(), z.object({ schema: z.looseObject({}) })) })
            .optional(),
          responses: z.record(
            z.string().regex(/^[1-5]\d\d$/),
            z.object({ description: z.string().min(1), content: z.looseObject({}).optional() }),
          ),
        }),
      ),
    ),
  });
  const readDocument = async () => documentSchema.parse((await server.get('/openapi.json')).body);
  const send = async (method: string, path: string, body?: unknown): Promise<Answer> => {
    const response = await fetch(`${server.url}${path}`, {
      method: method.toUpperCase(),
      headers: { 'content-type': 'application/json', 'idempotency-key': 'k' },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const json: unknown = await response.json();
    return { status: response.status, headers: response.headers, text: '', body: json };
  };
  const filled = (path: string, id: string) => path.replaceAll(/\{\w+\}/g, encodeURIComponent(id));

  test('is named in openapi.json, which holds together', async () => {
    const document = await readDocument();
    expect(Object.keys(document.paths)).toEqual(
      expect.arrayContaining([
        '/health',
        '/livez',
        '/readyz',
        '/api/workflows',
        '/api/chats/{app_id}/{workflow_name}/start',
        '/api/chats/{app_id}/{workflow_name}',
        '/api/chats/exists/{app_id}/{workflow_name}/{chat_id}',
        '/api/chats/meta/{app_id}/{workflow_name}/{chat_id}',
        '/api/sessions/{chat_id}',
        '/api/sessions/{chat_id}/events',
        '/api/sessions/{chat_id}/ledger',
        '/api/events',
        '/api/tokens/{user_id}/balance',
        '/api/tokens/{user_id}/credit',
        '/api/tokens/{user_id}/consume',
        '/api/tokens/{user_id}/ledger',
        '/api/v1/usage/task/{task_id}',
        '/api/v1/usage/user/{user_id}',
        '/api/v1/usage/overall',
        '/api/v1/usage/metrics/tasks',
        '/metrics/perf/aggregate',
        '/metrics/perf/chats',
        '/metrics/perf/chats/{chat_id}',
      ]),
    );
    for (const [path, operations] of Object.entries(document.paths))
      for (const { parameters, responses } of Object.values(operations)) {
        const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
        const described = parameters.filter((each) => each.in === 'path');
        expect(described.map(({ name }) => name).toSorted()).toEqual(
          inPath.toSorted((a = '', b = '') => (a < b ? -1 : 1)),
        );
        expect(described.every(({ required }) => required === true)).toBe(true);
        expect(responses).toHaveProperty('200');
      }
    const { body, text: json } = await server.get('/openapi.json');
    for (const [, pointer = ''] of json.matchAll(/"\$ref":"#\/([^"]+)"/g)) {
      const found = pointer
        .split('/')
        .reduce<unknown>((value, key) => z.record(z.string(), z.unknown()).parse(value)[key], body);
      expect(found).toBeDefined();
    }
  });

  test('answers another method with 405 and those it takes', async () => {
    for (const [path, operations] of Object.entries((await readDocument()).paths)) {
      const answer = await send('propfind', filled(path, 'x'));
      const problem = problemOf(answer);
      expect(problem).toMatchObject({ status: 405, code: 'method_not_allowed' });
      const allowed = answer.headers.get('allow')?.split(', ').toSorted();
      expect(allowed).toEqual(
        Object.keys(operations)
          .map((method) => method.toUpperCase())
          .toSorted(),
      );
    }
  });

  test('refuses identifiers that are operators, paths, prototypes or nothing at all', async () => {
    for (const [path, operations] of Object.entries((await readDocument()).paths).filter(([each]) =>
      each.includes('{'),
    ))
      for (const id of ['$ne', '__proto__', '../../x', 'a|b', '{"$gt":""}', ' ', '\0', 'é', 'x'.repeat(129)])
        for (const method of Object.keys(operations)) {
          const answer = await send(method, filled(path, id), method === 'get' ? undefined : {});
          expect([method, path, id, problemOf(answer).status]).toEqual([method, path, id, 400]);
        }
  });

  test('that takes a body refuses what is no JSON, and what is larger than 1 MB', async () => {
    for (const [path, operations] of Object.entries((await readDocument()).paths)) {
      const method = ['post', 'put', 'patch'].find((each) => each in operations);
      if (method === undefined) continue;
      const malformed = await send(method, filled(path, 'x'), '{"user_id": "ann"');
      expect(problemOf(malformed)).toMatchObject({ status: 400, code: 'malformed_json' });
      const large = await send(method, filled(path, 'x'), { text: 'x'.repeat(1024 * 1024) });
      expect(problemOf(large)).toMatchObject({ status: 413, code: 'too_large' });
      const prototype = await send(
        method,
        filled(path, 'x'),
        '{"__proto__": {"user_id": "ann", "app_id": "acme"}, "constructor": {"prototype": {"x": 1}}}',
      );
      expect(problemOf(prototype).status).toBe(400);
    }
  });

  test('a path that nobody knows, or that cannot be read, is a problem too', async () => {
    for (const path of ['/api/nothing', '/api', '/ws/assistant/acme/c/ann', '/openapi.json/x'])
      expect(problemOf(await server.get(path))).toMatchObject({ status: 404, code: 'not_found' });
    expect(problemOf(await server.get('/api/sessions/%E0%A4%A')).status).toBe(400);
    expect(problemOf(await server.post('/nothing', {})).status).toBe(404);
  });
});

describe('wallets', () => {
  const order = { app_id: 'acme', amount: 400, reason: 'order 1' };

  test('come into being at their first reading, with a grant as their first line', async () => {
    expect(await balanceOf('newcomer')).toEqual({
      balance: 1_000_000,
      held: 0,
      available: 1_000_000,
      unit: 'tokens',
    });
    expect((await ledgerOf('newcomer')).entries).toMatchObject([
      { line: 1, kind: 'grant', amount: 1_000_000, balance_after: 1_000_000, previous_hash: null },
    ]);
  });

  test('a change is done once for each Idempotency-Key, and a repeat is answered as one', async () => {
    const first = await consume('buyer', order, 'order-1');
    expect(walletChangeSchema.parse(first.body)).toMatchObject({ outcome: 'recorded', balance: 999_600 });
    const again = await consume('buyer', order, 'order-1');
    expect(walletChangeSchema.parse(again.body)).toMatchObject({
      outcome: 'repeated',
      balance: 999_600,
      ledger_entry_id: walletChangeSchema.parse(first.body).ledger_entry_id,
    });
    const other = await consume('buyer', { ...order, amount: 500 }, 'order-1');
    expect(problemOf(other)).toMatchObject({ status: 409, code: 'idempotency_key_reused' });
    expect((await balanceOf('buyer')).balance).toBe(999_600);
    const gift = { app_id: 'acme', amount: 100, reason: 'gift' };
    const given = await credit('buyer', gift, 'order-1');
    expect(walletChangeSchema.parse(given.body)).toMatchObject({ outcome: 'recorded', balance: 999_700 });
    const lines = (await ledgerOf('buyer')).entries;
    expect(lines.map(({ amount }) => amount)).toEqual([1_000_000, -400, 100]);
    expect(lines.map(({ previous_hash }) => previous_hash)).toEqual([null, lines[0]?.hash, lines[1]?.hash]);
  });

  test('20 parallel requests of the same key debit once', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => consume('parallel', order, 'once')));
    const outcomes = answers.map(({ body }) => walletChangeSchema.parse(body).outcome);
    expect(outcomes.filter((outcome) => outcome === 'recorded')).toHaveLength(1);
    expect((await balanceOf('parallel')).balance).toBe(999_600);
    expect((await ledgerOf('parallel')).entries).toHaveLength(2);
  });

  test('20 parallel requests for more than there is never take more than there is', async () => {
    const large = { app_id: 'acme', amount: 300_000, reason: 'a third' };
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => consume('crowd', large, `third-${index}`)),
    );
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([
      ...Array.from({ length: 3 }, () => 200),
      ...Array.from({ length: 17 }, () => 402),
    ]);
    expect((await balanceOf('crowd')).balance).toBe(100_000);
  });

  test('taking more than there is changes nothing, and the key can be used when there is enough', async () => {
    const all = { app_id: 'acme', amount: 1_000_001, reason: 'everything and more' };
    expect(problemOf(await consume('greedy', all, 'all'))).toMatchObject({
      status: 402,
      code: 'insufficient_tokens',
      scope: 'wallet',
      remaining_balance: 1_000_000,
    });
    expect((await ledgerOf('greedy')).entries).toHaveLength(1);
    await credit('greedy', { app_id: 'acme', amount: 1, reason: 'one more' }, 'one-more');
    expect(walletChangeSchema.parse((await consume('greedy', all, 'all')).body).balance).toBe(0);
  });

  test('their ledger is read page by page', async () => {
    for (const key of ['p1', 'p2', 'p3']) await consume('pages', { ...order, amount: 1 }, key);
    const first = await ledgerOf('pages', '&limit=3');
    expect(first.next_cursor).toBe('3');
    const second = await ledgerOf('pages', `&limit=3&cursor=${first.next_cursor}`);
    expect([...first.entries, ...second.entries].map(({ line }) => line)).toEqual([1, 2, 3, 4]);
    expect(second.next_cursor).toBeNull();
  });

  test('one user has a wallet of its own in each app', async () => {
    await consume('traveller', order, 'order-1');
    const elsewhere = await server.get('/api/tokens/traveller/balance?app_id=elsewhere');
    expect(balanceSchema.parse(elsewhere.body).balance).toBe(1_000_000);
  });

  test.each([
    ['nothing', { ...order, amount: 0 }, /body\.amount/],
    ['a negative amount', { ...order, amount: -5 }, /body\.amount/],
    ['a fraction', { ...order, amount: 1.5 }, /body\.amount/],
    ['a text', { ...order, amount: '5' }, /body\.amount/],
    ['too much', { ...order, amount: 2 ** 53 }, /body\.amount/],
    ['no reason', { app_id: 'acme', amount: 5 }, /body\.reason/],
    ['an operator for an app', { ...order, app_id: { $ne: '' } }, /body\.app_id/],
  ])('taking %s is refused', async (_, body, field) => {
    for (const verb of ['credit', 'consume']) {
      const answer = await server.post(`/api/tokens/careful/${verb}`, body, { 'idempotency-key': 'k' });
      expect(problemOf(answer)).toMatchObject({ status: 400, detail: expect.stringMatching(field) });
    }
  });

  test('a change without an Idempotency-Key is refused', async () => {
    const answer = await server.post('/api/tokens/careful/consume', order);
    expect(problemOf(answer)).toMatchObject({
      status: 400,
      detail: expect.stringMatching(/idempotency-key/),
    });
  });
});

describe('agent events from outside', () => {
  test('are taken as a JSON array and as NDJSON, once each', async () => {
    const events = [40, 70].map((prompt_tokens, index) =>
      usageEnvelope('from-outside', [{ prompt_tokens }], { seq: index + 1 }),
    );
    expect(await postEvents(events)).toMatchObject({ recorded: 2, repeated: 0, refused: 0 });
    const lines = `${events.map((event) => JSON.stringify(event)).join('\n')}\n\n`;
    const again = await server.post('/api/events', lines, { 'content-type': 'application/x-ndjson' });
    expect(eventsAnswerSchema.parse(again.body)).toMatchObject({ recorded: 0, repeated: 2, refused: 0 });
    expect((await sessionOf('from-outside')).real_time_tracking.tokens.total_tokens).toBe(70);
  });

  test('a line that cannot be read is refused, and its neighbours are recorded', async () => {
    const [one, two] = [1, 2].map((seq) =>
      usageEnvelope('neighbours', [{ prompt_tokens: seq * 10 }], { seq, uuid: `neighbour-${seq}` }),
    );
    const body = [JSON.stringify(one), '{"v": 1, "dia', JSON.stringify({ v: 2 }), JSON.stringify(two)].join(
      '\n',
    );
    const answer = await server.post('/api/events', body, { 'content-type': 'application/x-ndjson' });
    expect(eventsAnswerSchema.parse(answer.body)).toMatchObject({
      results: [
        { uuid: 'neighbour-1', outcome: 'recorded' },
        { uuid: null, outcome: 'refused', code: 'invalid_envelope' },
        { uuid: null, outcome: 'refused', code: 'invalid_envelope' },
        { uuid: 'neighbour-2', outcome: 'recorded' },
      ],
      recorded: 2,
      refused: 2,
    });
    expect((await sessionOf('neighbours')).real_time_tracking.tokens.total_tokens).toBe(20);
  });

  test('of types that nobody knows are stored and shown as nothing', async () => {
    const event = {
      ...usageEnvelope('unknown-type', null, { seq: 2 }),
      event: { type: 'hologram', content: { uuid: 'h-1', depth: 3 } },
    };
    await postEvents([usageEnvelope('unknown-type', [{ prompt_tokens: 5 }])]);
    const before = await framesOf('unknown-type');
    expect(await postEvents([event, event])).toMatchObject({ recorded: 1, repeated: 1, refused: 0 });
    expect(await framesOf('unknown-type')).toEqual(before);
  });

  describe('with numbers that cannot be', () => {
    beforeAll(async () => {
      await postEvents([usageEnvelope('invalid', [{ prompt_tokens: 100, completion_tokens: 10 }])]);
    });
    const numbers: [string, string][] = [
      ['negative', '-1'],
      ['fractional', '1.5'],
      ['NaN as null', 'null'],
      ['NaN as text', '"NaN"'],
      ['a number as text', '"200"'],
      ['beyond 2^53', '9007199254740992'],
      ['beyond every number', '1e400'],
      ['true', 'true'],
      ['an operator', '{"$inc": 5}'],
    ];
    const fields = ['prompt_tokens', 'completion_tokens', 'cached_tokens', 'reasoning_tokens'] as const;
    test.each(numbers.flatMap(([what, json]) => fields.map((field) => [what, field, json] as const)))(
      '%s %s are refused and change nothing',
      async (_, field, json) => {
        const facts = { chat: await sessionOf('invalid'), frames: await framesOf('invalid') };
        const [balance, ledger] = [await balanceOf('ann'), await ledgerOf('ann')];
        const event = JSON.stringify(
          usageEnvelope('invalid', [{ prompt_tokens: 900, completion_tokens: 90, [field]: 424_242 }], {
            seq: 2,
          }),
        ).replaceAll('424242', json);
        const answer = eventsAnswerSchema.parse((await server.post('/api/events', `[${event}]`)).body);
        expect(answer).toMatchObject({
          recorded: 0,
          results: [{ outcome: 'refused', code: 'invalid_usage' }],
        });
        expect(answer.results[0]?.reason).toMatch(new RegExp(field));
        expect({ chat: await sessionOf('invalid'), frames: await framesOf('invalid') }).toEqual(facts);
        expect(await balanceOf('ann')).toEqual(balance);
        expect(await ledgerOf('ann')).toEqual(ledger);
      },
    );
  });

  test('a chat never counts beyond 2^53', async () => {
    const most = { model: 'unpriced-model', prompt_tokens: Number.MAX_SAFE_INTEGER - 1 };
    const owner = { user_id: 'most', app_id: 'most' };
    await postEvents([usageEnvelope('most', [most], owner)]);
    const more = usageEnvelope('most', [{ model: 'unpriced-model', prompt_tokens: 5 }], {
      ...owner,
      client: 'c2',
      seq: 2,
    });
    expect(await postEvents([more])).toMatchObject({
      results: [{ outcome: 'refused', code: 'invalid_usage' }],
    });
    expect((await sessionOf('most')).real_time_tracking.tokens.total_tokens).toBe(most.prompt_tokens);
  });

  test('from the future, or from long ago, are refused with how far they are off', async () => {
    const minute = 60_000;
    const at = (shiftMs: number) => new Date(Date.now() + shiftMs).toISOString();
    const answer = await postEvents([
      usageEnvelope('clock', [{ prompt_tokens: 1 }], { ts: at(6 * minute) }),
      usageEnvelope('clock', [{ prompt_tokens: 2 }], { ts: at(-36 * 24 * 60 * minute) }),
      usageEnvelope('clock', [{ prompt_tokens: 3 }], { ts: 'yesterday' }),
      usageEnvelope('clock', [{ prompt_tokens: 4 }], { ts: at(4 * minute) }),
    ]);
    expect(answer.results).toMatchObject([
      { outcome: 'refused', code: 'event_from_future', reason: expect.stringMatching(/3\d\d s ahead/) },
      { outcome: 'refused', code: 'event_too_old', reason: expect.stringMatching(/36 days/) },
      { outcome: 'refused', code: 'invalid_envelope', reason: expect.stringMatching(/ts/) },
      { outcome: 'recorded' },
    ]);
  });

  test("another tenant's chat takes nothing, and a chat that nobody opened says what is missing", async () => {
    await postEvents([usageEnvelope('tenants', [{ prompt_tokens: 1 }])]);
    const before = await sessionOf('tenants');
    const anonymous = usageEnvelope('nobodys', [{ prompt_tokens: 1 }]);
    delete anonymous.user_id;
    const answer = await postEvents([
      usageEnvelope('tenants', [{ prompt_tokens: 500 }], { app_id: 'evil', seq: 2 }),
      usageEnvelope('tenants', [{ prompt_tokens: 500 }], { user_id: 'eve', seq: 2 }),
      anonymous,
    ]);
    expect(answer.results).toMatchObject([
      { outcome: 'refused', code: 'wrong_chat' },
      { outcome: 'refused', code: 'wrong_chat' },
      { outcome: 'refused', code: 'unknown_chat', reason: expect.stringMatching(/app_id, user_id/) },
    ]);
    expect(await sessionOf('tenants')).toEqual(before);
  });

  test('an existing chat needs no names: its own are taken', async () => {
    await postEvents([usageEnvelope('short', [{ prompt_tokens: 5 }])]);
    const { app_id, user_id, workflow_name, ...rest } = usageEnvelope('short', [{ prompt_tokens: 9 }], {
      seq: 2,
    });
    expect([app_id, user_id, workflow_name]).toEqual(['acme', 'ann', 'ag2']);
    expect(await postEvents([rest])).toMatchObject({ recorded: 1 });
    expect((await sessionOf('short')).real_time_tracking.tokens.total_tokens).toBe(9);
  });

  test('a used-up wallet asks the remote run to stop', async () => {
    const poor = await startOwn({ environment: { WALLET_START_BALANCE: '100' } });
    const within = await postEvents([usageEnvelope('remote', [{ prompt_tokens: 60 }])], poor);
    expect(within.results[0]).not.toHaveProperty('stop');
    const beyond = await postEvents([usageEnvelope('remote', [{ prompt_tokens: 160 }], { seq: 2 })], poor);
    expect(beyond.results).toMatchObject([{ outcome: 'recorded', stop: true, scope: 'wallet' }]);
    expect((await balanceOf('ann', poor)).balance).toBe(-60);
  });

  test('a wallet in money is debited what the tokens cost', async () => {
    const rich = await startOwn({ environment: { WALLET_UNIT: 'nano_usd' } });
    await postEvents(
      [usageEnvelope('money', [{ model: 'gpt-4o', prompt_tokens: 10, completion_tokens: 1 }])],
      rich,
    );
    expect(await balanceOf('ann', rich)).toMatchObject({
      balance: 1_000_000 - 25_000 - 10_000,
      unit: 'nano_usd',
    });
  });

  test.each([
    ['no event', '[]', 'application/json'],
    ['1,001 events', JSON.stringify(Array.from({ length: 1001 }, () => ({}))), 'application/json'],
    ['one event that is not in an array', '{"v": 1}', 'application/json'],
    ['no line', '\n\n', 'application/x-ndjson'],
    ['1,001 lines', '{}\n'.repeat(1001), 'application/x-ndjson'],
    ['a body of another kind', '<events/>', 'application/xml'],
  ])('%s cannot be posted', async (_, body, type) => {
    expect(problemOf(await server.post('/api/events', body, { 'content-type': type })).status).toBe(400);
  });
});

describe('pages and health', () => {
  test('health, readiness, workflows and metrics are answered', async () => {
    for (const path of ['/health', '/livez', '/readyz'])
      expect(healthSchema.parse((await server.get(path)).body).status).toBe('ok');
    const { workflows } = workflowListSchema.parse((await server.get('/api/workflows')).body);
    expect(workflows.find(({ workflow_name }) => workflow_name === 'brainstorm')).toMatchObject({
      display_name: 'Brainstorm',
      pattern: 'round_robin',
      agents: [{ name: 'dreamer' }, { name: 'critic' }, { name: 'editor' }],
    });
    const metrics = await server.get('/metrics');
    expect(metrics.headers.get('content-type')).toMatch(/^text\/plain/);
    expect(metrics.text).toMatch(/^mozaiks_active_chats \d+/m);
  });

  test('the documentation is served, with scripts of this server only', async () => {
    const page = await server.get('/docs/');
    expect(page.status).toBe(200);
    expect(page.text).toMatch(/swagger-ui/);
    expect(page.headers.get('content-security-policy')).toMatch(/default-src 'self'/);
    expect(page.headers.get('content-security-policy')).not.toMatch(/script-src[^;]*unsafe/);
    for (const [, source = ''] of page.text.matchAll(/<script src="([^"]+)"/g))
      expect((await server.get(new URL(source, `${server.url}/docs/`).pathname)).status).toBe(200);
  });

  test('the ChatUI is served under every path of its own, wherever the project lies, with headers that keep others out', async () => {
    const folder = await createTemporaryFolder();
    own.push({ stop: folder.remove });
    const uiFolder = join(folder.path, '.checkouts', 'ui');
    await mkdir(join(uiFolder, 'assets'), { recursive: true });
    await writeFile(join(uiFolder, 'index.html'), '<title>Chat</title>');
    await writeFile(join(uiFolder, 'assets', 'app-1a2b.js'), 'export {};');
    const withUi = await startOwn({ uiFolder });
    for (const path of ['/', '/chats/some-chat']) {
      const page = await withUi.get(path);
      expect([page.status, page.text]).toEqual([200, '<title>Chat</title>']);
      expect(page.headers.get('content-security-policy')).toMatch(
        /default-src 'self';script-src 'self';.*object-src 'none';.*frame-ancestors 'none'/,
      );
      expect(page.headers.get('x-content-type-options')).toBe('nosniff');
      expect(page.headers.get('x-powered-by')).toBeNull();
      expect(page.headers.get('cache-control')).toBe('no-cache');
    }
    const asset = await withUi.get('/assets/app-1a2b.js');
    expect(asset.headers.get('cache-control')).toMatch(/immutable/);
    expect((await withUi.get('/assets/..%2f..%2f..%2f..%2fetc%2fpasswd')).text).not.toMatch(/root:/);
  });

  test('without a built ChatUI it says how to build it', async () => {
    expect(problemOf(await server.get('/'))).toMatchObject({ code: 'ui_not_built', detail: /npm run build/ });
  });
});

/** `fetch` sets the Host itself, so a request of another site is made by hand. */
async function ask(
  path: string,
  headers: Record<string, string>,
  on: TestServer,
  method = 'GET',
): Promise<{ status: number | undefined; body: unknown }> {
  const asked = request(`${on.url}${path}`, { method, headers });
  asked.end(method === 'POST' ? JSON.stringify({ user_id: 'ann' }) : undefined);
  const [response] = z.tuple([z.custom<IncomingMessage>()]).parse(await once(asked, 'response'));
  return { status: response.statusCode, body: JSON.parse(await text(response)) };
}

describe('without sign-in', () => {
  const balance = '/api/tokens/ann/balance?app_id=acme';
  const startPath = '/api/chats/acme/assistant/start';
  const json = { 'content-type': 'application/json' };

  test.each(['attacker.example', 'localhost.attacker.example', '192.168.1.5:8000', '[fe80::1]:80'])(
    'a name that is not loopback is refused (DNS rebinding): %s',
    async (host) => {
      const refused = await ask(balance, { host }, server);
      expect(refused).toMatchObject({ status: 403, body: { code: 'host_not_allowed' } });
    },
  );

  test.each(['localhost', 'localhost:8000', '127.0.0.1:1', '[::1]:8000'])(
    'a loopback name is taken: %s',
    async (host) => {
      expect((await ask(balance, { host }, server)).status).toBe(200);
    },
  );

  test.each(['https://attacker.example', 'null', 'http://localhost.attacker.example', 'file://'])(
    'a page of another origin is refused, before anything is done: %s',
    async (origin) => {
      for (const method of ['GET', 'POST']) {
        const path = method === 'GET' ? balance : startPath;
        const refused = await ask(path, { ...json, origin }, server, method);
        expect(refused).toMatchObject({ status: 403, body: { code: 'origin_not_allowed' } });
      }
    },
  );

  test("the server's own pages and the dev server's are taken", async () => {
    for (const origin of [server.url, 'http://localhost:5173'])
      expect((await ask(startPath, { ...json, origin }, server, 'POST')).status).toBe(200);
  });

  test('a token is not taken for sign-in', async () => {
    const refused = await server.get(balance, { authorization: 'Bearer something' });
    expect(problemOf(refused)).toMatchObject({ status: 401 });
  });

  test('a production server refuses to start', async () => {
    const production: Partial<Record<EnvironmentVariable, string>> = { ENVIRONMENT: 'production' };
    await expect(startTestServer({ environment: production })).rejects.toThrow(/AUTH_SECRET/);
  });
});

describe('with sign-in', () => {
  const secret = 'a secret of at least 32 characters, for tests';
  const serviceKey = 'a-service-key-of-at-least-32-characters';
  let secured: TestServer;
  let chatId: string;
  let ann: Record<string, string>;
  const service = { authorization: `Bearer ${serviceKey}` };

  const tokenFor = async (claims: object, { key = secret, expires = '1h' } = {}) => ({
    authorization: `Bearer ${await new SignJWT({ ...claims })
      .setProtectedHeader({ alg: 'HS256' })
      .setExpirationTime(expires)
      .sign(new TextEncoder().encode(key))}`,
  });
  const unsigned = (claims: object) => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    return { authorization: `Bearer ${part({ alg: 'none' })}.${part(claims)}.` };
  };

  beforeAll(async () => {
    secured = await startTestServer({
      environment: {
        AUTH_SECRET: secret,
        AUTH_SERVICE_KEY: serviceKey,
        ENVIRONMENT: 'production',
        WALLET_START_BALANCE: '1000',
      },
    });
    ann = await tokenFor({ sub: 'ann', app_id: 'acme' });
    chatId = (await secured.startChat('assistant', {}, ann)).chat_id;
  });
  afterAll(() => secured.stop());

  const ownPaths = () => [
    `/api/sessions/${chatId}`,
    `/api/sessions/${chatId}/events`,
    `/api/sessions/${chatId}/ledger`,
    `/api/chats/meta/acme/assistant/${chatId}`,
    '/api/chats/acme/assistant?user_id=ann',
    '/api/tokens/ann/balance?app_id=acme',
    '/api/tokens/ann/ledger?app_id=acme',
    `/api/v1/usage/task/${chatId}`,
    '/api/v1/usage/user/ann?app_id=acme',
    `/metrics/perf/chats/${chatId}`,
  ];

  test('the owner reads and does what is theirs, by header or cookie', async () => {
    const cookie = { cookie: `theme=dark; mozaiks_token=${ann['authorization']?.slice(7)}` };
    for (const headers of [ann, cookie])
      for (const path of ownPaths())
        expect([path, (await secured.get(path, headers)).status]).toEqual([path, 200]);
  });

  test.each([
    ['another user', { sub: 'eve', app_id: 'acme' }],
    ['another app', { sub: 'ann', app_id: 'evil' }],
  ])('%s finds nothing there', async (_, claims) => {
    const stranger = await tokenFor(claims);
    for (const path of ownPaths())
      expect([path, problemOf(await secured.get(path, stranger)).status]).toEqual([path, 404]);
    const exists = await secured.get(`/api/chats/exists/acme/assistant/${chatId}`, stranger);
    expect(exists.body).toEqual({ exists: false });
    const started = await secured.post('/api/chats/acme/assistant/start', { user_id: 'ann' }, stranger);
    expect(problemOf(started).status).toBe(404);
  });

  test("another user's lists and sums show nothing of it", async () => {
    const eve = await tokenFor({ sub: 'eve', app_id: 'acme' });
    expect((await secured.get('/metrics/perf/chats', eve)).body).toEqual([]);
    expect((await secured.get('/api/v1/usage/overall', eve)).body).toMatchObject({ total_requests: 0 });
  });

  test('a token that is missing, forged, expired or without its claims signs nobody in', async () => {
    const claims = { sub: 'ann', app_id: 'acme' };
    const tokens = [
      {},
      { authorization: 'Bearer not.a.token' },
      { authorization: `Basic ${Buffer.from('ann:acme').toString('base64')}` },
      { cookie: 'mozaiks_token=x' },
      unsigned(claims),
      await tokenFor(claims, { key: 'another secret of at least 32 characters' }),
      await tokenFor({ sub: 'ann' }),
      await tokenFor({ app_id: 'acme' }),
      await tokenFor({ sub: { $ne: null }, app_id: 'acme' }),
      await tokenFor({ sub: '$ne', app_id: 'acme' }),
    ];
    for (const headers of tokens) {
      const problem = problemOf(await secured.get(`/api/sessions/${chatId}`, headers));
      expect(problem).toMatchObject({ status: 401, code: 'not_signed_in' });
    }
    const expired = problemOf(
      await secured.get('/api/workflows', await tokenFor(claims, { expires: '-1h' })),
    );
    expect(expired).toMatchObject({ status: 401, code: 'token_expired' });
  });

  test('events, wallets and metrics are moved and read by services only', async () => {
    const event = usageEnvelope(chatId, [{ prompt_tokens: 5 }]);
    const top = { app_id: 'acme', amount: 5, reason: 'top-up' };
    expect(problemOf(await secured.post('/api/events', [event])).status).toBe(401);
    const refused = [
      await secured.post('/api/events', [event], ann),
      await credit('ann', top, 'mine', secured, ann),
      await secured.get('/metrics', ann),
      await secured.get('/metrics/perf/aggregate', ann),
    ];
    for (const answer of refused)
      expect(problemOf(answer)).toMatchObject({ status: 403, code: 'service_only' });
    expect(await postEvents([event], secured, service)).toMatchObject({ recorded: 1 });
    expect((await credit('ann', top, 'theirs', secured, service)).status).toBe(200);
    expect((await secured.get('/metrics', service)).status).toBe(200);
    const wrongKey = { authorization: `Bearer ${serviceKey.slice(0, -1)}!` };
    expect(problemOf(await secured.post('/api/events', [event], wrongKey)).status).toBe(401);
  });

  test('health and documentation are open to everyone', async () => {
    for (const path of ['/health', '/livez', '/readyz', '/openapi.json', '/docs/'])
      expect([path, (await secured.get(path)).status]).toEqual([path, 200]);
  });
});
