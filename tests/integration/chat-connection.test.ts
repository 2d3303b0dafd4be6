import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { z } from 'zod';
import { WebSocket, WebSocketServer } from 'ws';
import { ChatConnection, type ConnectionStatus } from '../../ChatUI/src/chat/chat-connection.ts';
import { closeVerdict } from '../../ChatUI/src/chat/close-verdict.ts';
import { reconnectDelayMs } from '../../ChatUI/src/chat/reconnect-delay.ts';
import {
  clientFrameSchema,
  closeCodes,
  type ClientFrame,
  type ServerFrame,
} from '../../core/contracts/frames.ts';
import { eventually } from '../support/eventually.ts';

/** One accepted socket, seen from the server. */
type Visit = { url: URL; socket: WebSocket; received: ClientFrame[] };

let server: WebSocketServer;
let port: number;
let visits: Visit[];
let connection: ChatConnection;
let frames: ServerFrame[];
let statuses: ConnectionStatus[];
let unreadable: unknown[];

async function listen(wantedPort: number): Promise<void> {
  server = new WebSocketServer({ port: wantedPort, host: '127.0.0.1' });
  server.on('connection', (socket, request) => {
    const visit: Visit = { url: new URL(request.url ?? '', 'http://server'), socket, received: [] };
    visits.push(visit);
    socket.on('message', (data) => {
      visit.received.push(clientFrameSchema.parse(JSON.parse(z.instanceof(Buffer).parse(data).toString())));
    });
  });
  await once(server, 'listening');
  port = z.object({ port: z.int() }).parse(server.address()).port;
}

async function stopListening(): Promise<void> {
  for (const socket of server.clients) socket.terminate();
  await new Promise((resolve) => {
    server.close(resolve);
  });
}

function connect(options: { pingEveryMs?: number } = {}): void {
  connection = new ChatConnection({
    websocketUrl: '/ws/support_desk/acme/chat-1/ann',
    baseUrl: `http://127.0.0.1:${port}/`,
    WebSocket,
    onFrame: (frame) => frames.push(frame),
    onStatus: (status) => statuses.push(status),
    onUnreadableFrame: (error) => unreadable.push(error),
    random: () => 0,
    ...options,
  });
  connection.open();
}

async function visit(number: number): Promise<Visit> {
  return eventually(() => {
    const found = visits[number - 1];
    if (found === undefined) throw new Error(`there was no visit ${number}`);
    return found;
  });
}

async function settledOn(state: ConnectionStatus['state']): Promise<void> {
  await eventually(() => expect(statuses.at(-1)?.state).toBe(state));
}

const timestamp = '2026-01-05T10:00:00.000Z';
const speaker = (seq: number, more: object = {}): object => ({
  type: 'chat.select_speaker',
  data: { agent: 'planner' },
  timestamp,
  chat_id: 'chat-1',
  seq,
  ...more,
});
const ownText = (seq: number, client_message_id: string): object => ({
  type: 'chat.text',
  data: { message_id: `m${seq}`, agent: 'user', content: 'Hello', role: 'user', client_message_id },
  timestamp,
  chat_id: 'chat-1',
  seq,
});
const boundary = {
  type: 'chat.resume_boundary',
  data: { replayed_count: 0, client_had: 0, persisted_had: 0 },
  timestamp,
  chat_id: 'chat-1',
  seq: null,
};
const tell = ({ socket }: Visit, ...what: object[]): void => {
  for (const frame of what) socket.send(JSON.stringify(frame));
};
const seen = (): (number | null)[] => frames.map(({ seq }) => seq);

beforeEach(async () => {
  visits = [];
  frames = [];
  statuses = [];
  unreadable = [];
  await listen(0);
});

afterEach(async () => {
  connection.close();
  await stopListening();
});

describe('resuming', () => {
  test('a lost socket is replaced, and the new one says what was already seen', async () => {
    connect();
    const first = await visit(1);
    expect(first.url.pathname).toBe('/ws/support_desk/acme/chat-1/ann');
    expect(first.url.searchParams.get('last_sequence')).toBe('0');
    tell(first, boundary, speaker(1), speaker(2));
    await eventually(() => expect(seen()).toEqual([null, 1, 2]));
    first.socket.terminate();
    const second = await visit(2);
    expect(second.url.searchParams.get('last_sequence')).toBe('2');
    await settledOn('open');
    expect(statuses.map(({ state }) => state)).toEqual(['connecting', 'open', 'reconnecting', 'open']);
  });

  test('a frame that comes again is dropped', async () => {
    connect();
    tell(await visit(1), speaker(1), speaker(1), speaker(2), speaker(1), speaker(3));
    await eventually(() => expect(seen()).toEqual([1, 2, 3]));
  });

  test('a gap is asked for once, and nothing behind it is shown before it is filled', async () => {
    connect();
    const first = await visit(1);
    tell(first, speaker(1), speaker(4), speaker(5));
    await eventually(() => expect(first.received).toEqual([{ type: 'resume', last_sequence: 1 }]));
    expect(seen()).toEqual([1]);
    tell(first, speaker(2), speaker(3), speaker(4), speaker(5), boundary, speaker(6));
    await eventually(() => expect(seen()).toEqual([1, 2, 3, 4, 5, null, 6]));
    expect(first.received).toHaveLength(1);
  });

  test('token updates that were put together into the last of them are no gap', async () => {
    connect();
    const first = await visit(1);
    tell(first, speaker(1), speaker(4, { from_seq: 2 }), speaker(5));
    await eventually(() => expect(seen()).toEqual([1, 4, 5]));
    expect(first.received).toEqual([]);
  });

  test('a frame of an unknown type, or one that cannot be read, is skipped and not asked for again', async () => {
    connect();
    const first = await visit(1);
    first.socket.send('no json');
    tell(first, speaker(1), speaker(2, { type: 'chat.hologram' }), speaker(3, { data: {} }), speaker(4));
    await eventually(() => expect(seen()).toEqual([1, 4]));
    expect(unreadable).toHaveLength(2);
    expect(first.received).toEqual([]);
  });
});

describe('sending', () => {
  test('what is written before the socket is open, or while it is gone, is sent when it opens', async () => {
    connect();
    expect(connection.sendMessage('Hello', 'one')).toBe('accepted');
    const first = await visit(1);
    await eventually(() => expect(first.received).toMatchObject([{ client_message_id: 'one' }]));
    tell(first, ownText(1, 'one'));
    await eventually(() => expect(seen()).toEqual([1]));
    first.socket.terminate();
    await settledOn('reconnecting');
    connection.sendMessage('Hello', 'two');
    const second = await visit(2);
    await eventually(() => expect(second.received).toMatchObject([{ client_message_id: 'two' }]));
  });

  test('a message is sent again under its id until its own text comes back', async () => {
    connect();
    connection.sendMessage('Hello', 'one');
    const first = await visit(1);
    await eventually(() => expect(first.received).toHaveLength(1));
    first.socket.terminate();
    const second = await visit(2);
    await eventually(() => expect(second.received).toEqual(first.received));
    tell(second, ownText(1, 'one'));
    await eventually(() => expect(seen()).toEqual([1]));
    second.socket.terminate();
    const third = await visit(3);
    await settledOn('open');
    connection.cancel();
    await eventually(() => expect(third.received).toEqual([{ type: 'cancel' }]));
  });

  test("an answer to an agent's question is kept until it is acknowledged", async () => {
    connect();
    connection.answerInput('question-1', '');
    const first = await visit(1);
    await eventually(() => expect(first.received).toMatchObject([{ input_request_id: 'question-1' }]));
    tell(first, {
      type: 'chat.input_ack',
      data: { request_id: 'question-1' },
      timestamp,
      chat_id: 'c',
      seq: 1,
    });
    await eventually(() => expect(seen()).toEqual([1]));
    first.socket.terminate();
    const second = await visit(2);
    await settledOn('open');
    connection.cancel();
    await eventually(() => expect(second.received).toEqual([{ type: 'cancel' }]));
  });

  test('a cancel is for this moment only, and an empty message is refused', async () => {
    connect();
    expect(connection.cancel()).toBe('offline');
    expect(connection.sendMessage('   ', 'one')).toBe('refused');
    await settledOn('open');
    expect(connection.cancel()).toBe('sent');
    const first = await visit(1);
    await eventually(() => expect(first.received).toEqual([{ type: 'cancel' }]));
  });
});

describe('closing', () => {
  test.each([
    ['bad_frame', closeCodes.bad_frame],
    ['not_signed_in', closeCodes.not_signed_in],
    ['not_yours', closeCodes.not_yours],
    ['no_such_chat', closeCodes.no_such_chat],
    ['sign_in_timeout', closeCodes.sign_in_timeout],
    ['superseded', closeCodes.superseded],
    ['too_large', closeCodes.too_large],
  ] as const)('after %s it stays closed, says why, and comes back only when asked to', async (_, code) => {
    connect();
    const first = await visit(1);
    await settledOn('open');
    first.socket.close(code);
    await settledOn('closed');
    expect(statuses.at(-1)).toEqual({ state: 'closed', code, explanation: expect.stringMatching(/\w{3}/) });
    connection.reconnect();
    await settledOn('open');
    expect(visits).toHaveLength(2);
  });

  test('a restarting server is found again by itself, even when it was away for some attempts', async () => {
    connect();
    const first = await visit(1);
    await settledOn('open');
    first.socket.close(closeCodes.restarting);
    await settledOn('reconnecting');
    await stopListening();
    await eventually(() => expect(statuses.at(-1)).toMatchObject({ state: 'reconnecting', attempt: 2 }));
    await listen(port);
    await settledOn('open');
  });

  test('a message that was too large is not sent again', async () => {
    connect();
    connection.sendMessage('Hello', 'one');
    const first = await visit(1);
    await eventually(() => expect(first.received).toHaveLength(1));
    first.socket.close(closeCodes.too_large);
    await settledOn('closed');
    connection.reconnect();
    await settledOn('open');
    connection.cancel();
    const second = await visit(2);
    await eventually(() => expect(second.received).toEqual([{ type: 'cancel' }]));
  });

  test('a server that no longer answers pings is left and looked for again', async () => {
    connect({ pingEveryMs: 40 });
    const first = await visit(1);
    await eventually(() => expect(first.received).toEqual([{ type: 'ping' }]));
    await visit(2);
    expect(statuses.some(({ state }) => state === 'reconnecting')).toBe(true);
  });

  test('closing ends everything, also a reconnect that was waiting', async () => {
    connect();
    const first = await visit(1);
    await settledOn('open');
    first.socket.terminate();
    await settledOn('reconnecting');
    connection.close();
    connection.close();
    await new Promise((resolve) => {
      setTimeout(resolve, 700);
    });
    expect(visits).toHaveLength(1);
    expect(statuses.at(-1)?.state).toBe('closed');
  });
});

describe('waiting', () => {
  test('each attempt may wait twice as long as the one before, from half a second to half a minute', () => {
    const longest = Array.from({ length: 9 }, (_, attempt) => reconnectDelayMs(attempt, 0.999_999));
    expect(longest.map((delayMs) => Math.round(delayMs / 1000))).toEqual([1, 2, 4, 8, 16, 30, 30, 30, 30]);
    expect(reconnectDelayMs(9, 0)).toBe(500);
    expect(reconnectDelayMs(10_000, 0.5)).toBeLessThanOrEqual(30_000);
  });

  test('a client that was too fast waits at least five seconds', () => {
    const verdict = closeVerdict(closeCodes.too_fast);
    expect(verdict).toEqual({ kind: 'reconnect', atLeastMs: 5000 });
    expect(reconnectDelayMs(0, 0, 5000)).toBe(5000);
  });
});
