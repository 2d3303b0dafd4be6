import { describe, expect, test } from '@jest/globals';
import { envelopeSchema } from '../../core/contracts/agent-events.ts';
import {
  clientFrameSchema,
  ephemeralFrameTypes,
  parseServerFrame,
  serverFrames,
} from '../../core/contracts/frames.ts';
import { idSchema } from '../../core/contracts/ids.ts';
import { tokenCountSchema } from '../../core/contracts/usage.ts';

describe('an identifier', () => {
  test.each(['a', '7', 'acme', 'user@example.com', 'chat-1_2.3:4+5', 'A'.repeat(128), '68f0c2-uuid'])(
    'may be %s',
    (id) => {
      expect(idSchema.parse(id)).toBe(id);
    },
  );

  test.each([
    '',
    ' ',
    'a b',
    '$ne',
    '$where',
    '.',
    '..',
    '../secrets',
    'a/../b',
    'a/b',
    'a\\b',
    '__proto__',
    'constructor',
    'prototype',
    'a|b',
    '|',
    'a\0b',
    'a\nb',
    'line\n',
    'é',
    '{"$gt":""}',
    '-dash',
    '_underscore',
    'A'.repeat(129),
  ])('may not be %j', (id) => {
    expect(idSchema.safeParse(id).success).toBe(false);
  });

  const others: unknown[] = [7, null, undefined, true, ['a'], { $ne: null }, { toString: 'a' }];
  test.each(others.map((id) => [id]))('is a text, not %j', (id) => {
    expect(idSchema.safeParse(id).success).toBe(false);
  });
});

describe('a count of tokens', () => {
  test.each([0, 1, 2 ** 31, 2 ** 40, Number.MAX_SAFE_INTEGER])('may be %d', (count) => {
    expect(tokenCountSchema.parse(count)).toBe(count);
  });

  test.each([-1, 0.1, 2 ** 53, Number.NaN, Infinity, -Infinity, '1', null, true, 1n])(
    'may not be %s',
    (count) => {
      expect(tokenCountSchema.safeParse(count).success).toBe(false);
    },
  );
});

describe('a frame of the client', () => {
  test.each([
    { type: 'user_message', content: 'Hello', client_message_id: 'm-1' },
    { type: 'user_input_response', input_request_id: 'r-1', user_input: '' },
    { type: 'cancel' },
    { type: 'resume', last_sequence: 0 },
    { type: 'ping' },
    { type: 'auth', token: 'x' },
  ])('is taken: %j', (frame) => {
    expect(clientFrameSchema.parse(frame)).toEqual(frame);
  });

  test.each([
    {},
    [],
    null,
    'ping',
    { type: 'PING' },
    { type: 'ping', more: 1 },
    { type: 'user_message', content: 'Hello' },
    { type: 'user_message', content: '   ', client_message_id: 'm-1' },
    { type: 'user_message', content: 'x'.repeat(100_001), client_message_id: 'm-1' },
    { type: 'user_message', content: 'Hello', client_message_id: '$ne' },
    { type: 'user_message', content: { $ne: '' }, client_message_id: 'm-1' },
    { type: 'user_message', content: 'Hello', client_message_id: 'm-1', role: 'system' },
    { type: 'resume', last_sequence: -1 },
    { type: 'resume', last_sequence: '0' },
    { type: 'chat.text', data: {} },
  ])('is refused: %j', (frame) => {
    expect(clientFrameSchema.safeParse(frame).success).toBe(false);
  });
});

describe('a frame of the server', () => {
  const pong = { type: 'pong', data: {}, timestamp: '2026-01-05T10:00:00.000Z', chat_id: 'c', seq: null };

  test('of a type that a client does not know is passed over', () => {
    expect(parseServerFrame(pong)).toEqual(pong);
    for (const type of ['chat.hologram', 'toString', '__proto__'])
      expect(parseServerFrame({ ...pong, type })).toBeUndefined();
  });

  test('with more or less than its fields is an error that someone should see', () => {
    expect(() => parseServerFrame({ ...pong, data: { more: 1 } })).toThrow();
    expect(() => parseServerFrame({ ...pong, seq: 0 })).toThrow();
    expect(() => parseServerFrame({ ...pong, timestamp: 'now' })).toThrow();
  });

  test('is durable unless it is listed as ephemeral', () => {
    expect(ephemeralFrameTypes.every((type) => Object.hasOwn(serverFrames, type))).toBe(true);
  });
});

describe('an envelope', () => {
  const envelope = {
    v: 1,
    dialect: 'ag2-classic/0.14.1',
    chat_id: 'c',
    run_id: 'r',
    seq: 1,
    ts: '2026-01-05T10:00:00+01:00',
    agent: null,
    event: { type: 'text', content: {} },
  };

  test('of a foreign producer may carry more than we know; what we do not know is passed over', () => {
    expect(envelopeSchema.parse({ ...envelope, producer: 'x' })).toEqual(envelope);
  });

  test.each([
    { v: 2 },
    { dialect: 'ag3' },
    { dialect: 'ag2/1.2.1; drop' },
    { chat_id: '$ne' },
    { run_id: 'a|b' },
    { app_id: '__proto__' },
    { user_id: { $gt: '' } },
    { seq: -1 },
    { seq: 1.5 },
    { ts: '2026-01-05' },
    { ts: 1_767_600_000 },
    { agent: '' },
    { meter: { agent: 'a', client: '', epoch: 1 } },
    { meter: { agent: 'a', client: 'c', epoch: -1 } },
    { event: { type: '', content: {} } },
    { event: { type: 'text' } },
    { event: { type: 'text', content: { uuid: '' } } },
  ])('is refused with %j', (change) => {
    expect(envelopeSchema.safeParse({ ...envelope, ...change }).success).toBe(false);
  });
});
