import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import type { StartChatAnswer } from '../../core/contracts/http.ts';
import { eventually } from '../support/eventually.ts';
import { type ScriptedProvider, startScriptedProvider } from '../support/scripted-provider.ts';
import { SocketClient } from '../support/socket-client.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/start-server.ts';

/** The socket's door: what it takes, what it refuses and with which code, and that nothing of it touches the chat. */
let provider: ScriptedProvider;
let server: TestServer;
let chat: StartChatAnswer;
beforeAll(async () => {
  provider = await startScriptedProvider();
  server = await startTestServer({ provider });
  chat = await server.startChat('assistant');
});
afterAll(async () => {
  await server.stop();
  await provider.stop();
});

let own: { stop: () => Promise<void> }[] = [];
afterEach(async () => {
  for (const each of own.toReversed()) await each.stop();
  own = [];
});
async function startOwn(options: TestServerOptions): Promise<TestServer> {
  const started = await startTestServer({ provider, ...options });
  own.push(started);
  return started;
}

const sessionOf = async () => (await server.get(`/api/sessions/${chat.chat_id}`)).body;

describe('a frame that cannot be read', () => {
  const frames: [string, string | Buffer, RegExp][] = [
    ['no JSON', 'hello', /not JSON/],
    ['nothing', '', /not JSON/],
    ['half of a frame', '{"type":"ping"', /not JSON/],
    ['null', 'null', /frame/],
    ['a list', '[]', /frame/],
    ['without a type', '{}', /type/],
    ['of a type of the server', '{"type":"chat.text"}', /type/],
    ['of no known type', '{"type":"hologram"}', /type/],
    ['with a field too many', '{"type":"ping","more":1}', /more/],
    ['with a wrong type inside', '{"type":"resume","last_sequence":"7"}', /last_sequence/],
    ['without its words', '{"type":"user_message","client_message_id":"m"}', /content/],
    [
      'with an operator for an id',
      '{"type":"user_message","content":"x","client_message_id":{"$ne":1}}',
      /client_message_id/,
    ],
    ['with a prototype', '{"type":"ping","__proto__":{"x":1},"constructor":{"prototype":{}}}', /constructor/],
    ['binary', Buffer.from('{"type":"ping"}'), /JSON texts/],
  ];
  test.each(frames)(
    '%s closes the socket with 4400 and a reason, and leaves the chat as it was',
    async (_, frame, reason) => {
      const before = await sessionOf();
      const socket = await server.connect(chat);
      socket.socket.send(frame);
      expect(await socket.untilClosed()).toEqual({ code: 4400, reason: expect.stringMatching(reason) });
      expect(await sessionOf()).toEqual(before);
      const next = await server.connect(chat);
      await next.settled();
    },
  );

  test('what follows it is not acted on', async () => {
    const asked = provider.requests.length;
    const socket = await server.connect(chat);
    socket.socket.send('hello');
    socket.say('Do not answer this', 'after-a-bad-frame');
    expect((await socket.untilClosed()).code).toBe(4400);
    const next = await server.connect(chat);
    await next.settled();
    expect(provider.requests.length).toBe(asked);
  });
});

describe('a frame that is too large', () => {
  test('closes the socket with 4413, and the chat goes on', async () => {
    const before = await sessionOf();
    const socket = await server.connect(chat);
    socket.say('x'.repeat(256 * 1024), 'large');
    expect((await socket.untilClosed()).code).toBe(4413);
    const huge = await server.connect(chat);
    huge.say('x'.repeat(8 * 1024 * 1024), 'huge');
    expect([1009, 4413, 1006]).toContain((await huge.untilClosed()).code);
    expect(await sessionOf()).toEqual(before);
  });
});

describe('a socket to nowhere', () => {
  test.each([
    ['an unknown chat', '/ws/assistant/acme/never/ann'],
    ['another workflow', () => `/ws/brainstorm/acme/${chat.chat_id}/ann`],
    ['another app', () => `/ws/assistant/other/${chat.chat_id}/ann`],
    ['another user', () => `/ws/assistant/acme/${chat.chat_id}/eve`],
    ['a path that is too short', '/ws/assistant/acme'],
    ['a path that is too long', () => `/ws/assistant/acme/${chat.chat_id}/ann/more`],
    ['an operator', '/ws/assistant/acme/$ne/ann'],
    ['a path that cannot be decoded', '/ws/assistant/acme/%E0%A4%A/ann'],
    ['another path', '/socket.io/'],
  ])('is closed with 4404: %s', async (_, path) => {
    const websocket_url = typeof path === 'string' ? path : path();
    const socket = await server.connect({ websocket_url });
    expect((await socket.untilClosed()).code).toBe(4404);
  });

  test('or to a place in the log that is no number is closed with 4400', async () => {
    for (const query of ['?last_sequence=x', '?last_sequence=-1', '?last_sequence=1.5']) {
      const socket = await server.connect(chat, query);
      expect((await socket.untilClosed()).code).toBe(4400);
    }
  });
});

describe('an open socket', () => {
  test('answers ping with pong', async () => {
    const socket = await server.connect(chat);
    socket.send({ type: 'ping' });
    await socket.until(() => socket.frames.length === 1, 'a pong');
    expect(socket.frames).toMatchObject([{ type: 'pong', data: {}, seq: null, chat_id: chat.chat_id }]);
  });

  test('says what went wrong with a good frame, and stays open', async () => {
    const socket = await server.connect(chat);
    socket.send({ type: 'user_input_response', input_request_id: 'never-asked', user_input: 'yes' });
    socket.send({ type: 'cancel' });
    await socket.settled();
    expect(socket.of('chat.error')).toMatchObject([
      { data: { error_type: 'unknown_input_request' }, seq: null },
    ]);
  });

  test('of which the page belongs to another site is refused', async () => {
    const socket = await server.connect(chat, '', { origin: 'https://attacker.example' });
    expect((await socket.untilClosed()).code).toBe(4403);
    const page = await server.connect(chat, '', { origin: server.url });
    await page.settled();
  });

  test('that sends faster than it can be answered is closed with 4429', async () => {
    const strict = await startOwn({ socketLimits: { waitingFrames: 10 } });
    const socket = await strict.connect(await strict.startChat('assistant'));
    for (let count = 0; count < 500; count += 1) socket.send({ type: 'resume', last_sequence: 0 });
    expect((await socket.untilClosed()).code).toBe(4429);
  });

  test('whose peer is dead is ended; one that answers pings stays', async () => {
    const nervous = await startOwn({ socketLimits: { pingMs: 100 } });
    const started = await nervous.startChat('assistant');
    const alive = await nervous.connect(started);
    let pings = 0;
    alive.socket.on('ping', () => (pings += 1));
    const dead = await SocketClient.connect(nervous.wsUrl(started.websocket_url), { autoPong: false });
    expect((await dead.untilClosed()).code).toBe(1006);
    await eventually(() => expect(pings).toBeGreaterThanOrEqual(3));
    await alive.settled();
  });

  test('is told with 1012 that the server restarts, whether it was signed in or not', async () => {
    const restarting = await startOwn({
      environment: { AUTH_SECRET: 's'.repeat(32), AUTH_SERVICE_KEY: 'k'.repeat(32) },
    });
    const service = { authorization: `Bearer ${'k'.repeat(32)}` };
    const started = await restarting.startChat('assistant', {}, service);
    const listening = await restarting.connect(started, '', service);
    await listening.settled();
    const waiting = await restarting.connect(started);
    await restarting.stop();
    expect(listening.closed).toMatchObject({ code: 1012, reason: expect.stringMatching(/restarting/) });
    expect(waiting.closed).toMatchObject({ code: 1012 });
  });
});

describe('signing in', () => {
  const secret = 'a secret of at least 32 characters, for tests';
  let secured: TestServer;
  let hasty: TestServer;
  let annsChat: StartChatAnswer;
  const tokenFor = (sub: string, app_id = 'acme', expires = '1h') =>
    new SignJWT({ sub, app_id })
      .setProtectedHeader({ alg: 'HS256' })
      .setExpirationTime(expires)
      .sign(new TextEncoder().encode(secret));
  beforeAll(async () => {
    secured = await startTestServer({ provider, environment: { AUTH_SECRET: secret } });
    hasty = await startTestServer({
      provider,
      environment: { AUTH_SECRET: secret },
      socketLimits: { signInMs: 1_000 },
      database: secured.database,
    });
    annsChat = await secured.startChat('assistant', {}, { authorization: `Bearer ${await tokenFor('ann')}` });
  });
  afterAll(async () => {
    await hasty.stop();
    await secured.stop();
  });

  test('is done by header, by cookie, or by the first frame', async () => {
    const token = await tokenFor('ann');
    for (const headers of [{ authorization: `Bearer ${token}` }, { cookie: `a=b; mozaiks_token=${token}` }]) {
      const socket = await secured.connect(annsChat, '', headers);
      await socket.settled();
    }
    // A cookie of another program on the same host is no sign-in, and no hindrance either.
    for (const headers of [{}, { cookie: 'theme=dark' }]) {
      const socket = await secured.connect(annsChat, '?last_sequence=0', headers);
      socket.send({ type: 'auth', token });
      await socket.until(() => socket.of('chat.resume_boundary').length === 1, 'the boundary');
    }
  });

  test('by a frame lets a message through that was sent right behind it', async () => {
    const socket = await secured.connect(annsChat);
    socket.send({ type: 'auth', token: await tokenFor('ann') });
    socket.say('Hello', 'right-behind');
    expect((await socket.untilRunComplete()).data.result).toBe('success');
  });

  test('not at all closes the socket with 4408', async () => {
    const socket = await hasty.connect(annsChat);
    expect((await socket.untilClosed()).code).toBe(4408);
    const inUrl = await hasty.connect(annsChat, `?token=${await tokenFor('ann')}`);
    expect((await inUrl.untilClosed()).code).toBe(4408);
  });

  test('in time keeps the socket open afterwards', async () => {
    const socket = await hasty.connect(annsChat);
    socket.send({ type: 'auth', token: await tokenFor('ann') });
    await socket.settled();
    const late = await hasty.connect(annsChat);
    expect((await late.untilClosed()).code).toBe(4408);
    await socket.settled();
  });

  test('with what is no token closes the socket with 4401', async () => {
    const none = await secured.connect(annsChat);
    none.send({ type: 'ping' });
    expect((await none.untilClosed()).code).toBe(4401);
    for (const token of ['x', await tokenFor('ann', 'acme', '-1h')]) {
      const byFrame = await secured.connect(annsChat);
      byFrame.send({ type: 'auth', token });
      expect((await byFrame.untilClosed()).code).toBe(4401);
      const byHeader = await secured.connect(annsChat, '', { authorization: `Bearer ${token}` });
      expect((await byHeader.untilClosed()).code).toBe(4401);
    }
  });

  test("with another user's token closes the socket with 4403, before a word of the chat", async () => {
    for (const token of [await tokenFor('eve'), await tokenFor('ann', 'evil')]) {
      const socket = await secured.connect(annsChat, '?last_sequence=0');
      socket.send({ type: 'auth', token });
      expect((await socket.untilClosed()).code).toBe(4403);
      expect(socket.frames).toEqual([]);
    }
  });

  test('again as somebody else closes it too; again as oneself does not', async () => {
    const socket = await secured.connect(annsChat, '', { authorization: `Bearer ${await tokenFor('ann')}` });
    socket.send({ type: 'auth', token: await tokenFor('ann') });
    await socket.settled();
    socket.send({ type: 'auth', token: await tokenFor('eve') });
    expect((await socket.untilClosed()).code).toBe(4403);
  });
});

describe('a reader that stops reading', () => {
  test('is closed while another gets everything, and finds all of it when it comes back', async () => {
    const small = await startOwn({
      socketLimits: { coalesceAboveBytes: 16 * 1024, closeAboveBytes: 64 * 1024, closeAfterMs: 500 },
    });
    const started = await small.startChat('assistant');
    const [fast, slow] = [await small.connect(started), await small.connect(started)];
    await slow.settled();
    slow.socket.pause();
    // More than the buffers of two kernels hold.
    const pieces = 30;
    for (let seq = 1; seq <= pieces; seq += 1) {
      const content = { uuid: `text-${seq}`, sender: 'planner', content: `${seq} `.padEnd(900_000, 'x') };
      const event = {
        v: 1,
        dialect: 'ag2-classic/0.14.1',
        chat_id: started.chat_id,
        run_id: 'r',
        seq,
        agent: 'planner',
      };
      const posted = await small.post('/api/events', [
        { ...event, ts: new Date().toISOString(), event: { type: 'text', content } },
      ]);
      expect(posted.body).toMatchObject({ recorded: 1 });
    }
    await fast.until(() => fast.of('chat.text').length === pieces, 'everything');
    expect(fast.durable.map(({ seq }) => seq)).toEqual(fast.durable.map((_, index) => index + 1));
    await eventually(async () =>
      expect((await small.get('/metrics')).text).toMatch(/^mozaiks_websocket_connections 1$/m),
    );
    slow.socket.resume();
    expect([4429, 1006]).toContain((await slow.untilClosed()).code);

    const back = await small.connect(started, `?last_sequence=${slow.durable.length}`);
    await back.until(() => back.of('chat.resume_boundary').length === 1, 'the boundary');
    expect([...slow.durable, ...back.durable].map(({ seq }) => seq)).toEqual(
      fast.durable.map(({ seq }) => seq),
    );
  });
});
