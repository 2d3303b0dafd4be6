import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';
import { z } from 'zod';
import {
  type ClientFrame,
  clientFrameSchema,
  closeCodes,
  type DurableFrame,
} from '../core/contracts/frames.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { ChatIdentity } from '../core/data/new-session.ts';
import type { Logger } from '../core/observability/logging.ts';
import type { OrchestrationEngine } from '../core/orchestration/orchestration-engine.ts';
import { ChatConnection, type SlowReaderLimits } from './chat-connection.ts';
import { problemOf, ProblemError } from './problem.ts';
import { type Identity, mayActFor, type SignIn } from './sign-in.ts';
import type { SimpleTransport } from './simple-transport.ts';
import type { UserInput } from './user-input.ts';

/**
 * The socket's door (docs/PROTOCOL.md). A socket is opened, signed in by cookie, header or its first frame, checked
 * against the chat in its path, and then listens. Frames of a client are taken one after the other. A frame that
 * cannot be read closes the socket with a code that says why; it never touches the chat.
 */
export type SocketServerOptions = {
  transport: SimpleTransport;
  engine: Pick<OrchestrationEngine, 'submit' | 'cancel'>;
  userInput: Pick<UserInput, 'answer'>;
  /** Asks the process that runs the chat's agents elsewhere to end the run. */
  cancelRemote: (chat: ChatIdentity) => Promise<void>;
  findSession: (chatId: string) => Promise<(ChatIdentity & { last_sequence: number }) | null>;
  readFrames: (chatId: string, after: number, limit: number) => Promise<DurableFrame[]>;
  signIn: SignIn;
  log: Logger;
  now: () => Date;
  limits?: Partial<SocketLimits>;
};

export type SocketLimits = SlowReaderLimits & {
  frameBytes: number;
  signInMs: number;
  pingMs: number;
  /** Frames of one client that may wait to be handled. */
  waitingFrames: number;
};

const defaultLimits: SocketLimits = {
  frameBytes: 256 * 1024,
  signInMs: 5_000,
  pingMs: 15_000,
  waitingFrames: 100,
  coalesceAboveBytes: 256 * 1024,
  closeAboveBytes: 1024 * 1024,
  closeAfterMs: 2_000,
};

const replayPage = 500;

export type SocketServer = { stop: () => Promise<void> };

export function startSocketServer(server: Server, options: SocketServerOptions): SocketServer {
  const limits = { ...defaultLimits, ...options.limits };
  const sockets = new WebSocketServer({
    noServer: true,
    // Larger frames are refused by our own code; this one only keeps memory bounded.
    maxPayload: limits.frameBytes * 4,
    perMessageDeflate: false,
  });
  const onUpgrade = (request: IncomingMessage, stream: Duplex, head: Buffer) => {
    stream.on('error', (cause) => options.log.debug({ err: cause }, 'a socket broke off'));
    sockets.handleUpgrade(request, stream, head, (socket) => {
      openSocket(socket, request, stream, limits, options);
    });
  };
  server.on('upgrade', onUpgrade);
  const heartbeat = startHeartbeat(sockets, limits.pingMs);
  return {
    async stop() {
      clearInterval(heartbeat);
      server.off('upgrade', onUpgrade);
      options.transport.closeAll(closeCodes.restarting, 'the server is restarting; reconnect in a moment');
      for (const socket of sockets.clients) socket.close(closeCodes.restarting, 'the server is restarting');
      const deadline = setTimeout(() => {
        for (const socket of sockets.clients) socket.terminate();
      }, 1_000);
      await new Promise<void>((resolve) => sockets.close(() => resolve()));
      clearTimeout(deadline);
    },
  };
}

/** A peer that answered no ping since the last one is gone, whatever TCP believes. */
function startHeartbeat(sockets: WebSocketServer, pingMs: number): NodeJS.Timeout {
  const silent = new WeakSet<WebSocket>();
  return setInterval(() => {
    for (const socket of sockets.clients) {
      if (silent.has(socket)) socket.terminate();
      else {
        silent.add(socket);
        socket.ping();
        socket.once('pong', () => silent.delete(socket));
      }
    }
  }, pingMs).unref();
}

const pathSchema = z.tuple([z.literal(''), z.literal('ws'), idSchema, idSchema, idSchema, idSchema]);
const lastSequenceSchema = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional();

function openSocket(
  socket: WebSocket,
  request: IncomingMessage,
  stream: Duplex,
  limits: SocketLimits,
  options: SocketServerOptions,
): void {
  const { signIn, log } = options;
  const client = new SocketClient(socket, request, stream, limits, options);
  let waiting = 0;
  const fail = (cause: unknown) => {
    const { problem } = problemOf(cause);
    if (problem.status >= 500) log.error({ err: cause }, 'a socket failed');
    socket.close(closeCodeOf(problem.status), problem.detail.slice(0, 120));
  };
  let handled: Promise<void> = client.open().catch(fail);
  socket.on('message', (data, isBinary) => {
    waiting += 1;
    if (waiting > limits.waitingFrames) {
      socket.close(closeCodes.too_fast, `more than ${limits.waitingFrames} frames are waiting to be handled`);
      return;
    }
    handled = handled
      .then(() => (socket.readyState === socket.OPEN ? client.receive(data, isBinary) : undefined))
      .catch(fail)
      .finally(() => {
        waiting -= 1;
      });
  });
  socket.on('error', (cause) => log.debug({ err: cause }, 'a socket broke off'));
  socket.on('close', () => client.close());
  if (signIn.isConfigured)
    setTimeout(() => {
      if (!client.isSignedIn) socket.close(closeCodes.sign_in_timeout, 'no auth frame in time');
    }, limits.signInMs).unref();
}

function closeCodeOf(status: number): number {
  switch (status) {
    case 401:
      return closeCodes.not_signed_in;
    case 403:
      return closeCodes.not_yours;
    case 404:
      return closeCodes.no_such_chat;
    case 413:
      return closeCodes.too_large;
    case 429:
      return closeCodes.too_fast;
    case 503:
      return closeCodes.restarting;
    default:
      return status >= 500 ? 1011 : closeCodes.bad_frame;
  }
}

/** What one socket has become so far: unknown, signed in, listening. */
class SocketClient {
  readonly #socket: WebSocket;
  readonly #request: IncomingMessage;
  readonly #stream: Duplex;
  readonly #limits: SocketLimits;
  readonly #options: SocketServerOptions;
  #chat: ChatIdentity | null = null;
  #connection: ChatConnection | null = null;

  constructor(
    socket: WebSocket,
    request: IncomingMessage,
    stream: Duplex,
    limits: SocketLimits,
    options: SocketServerOptions,
  ) {
    this.#socket = socket;
    this.#request = request;
    this.#stream = stream;
    this.#limits = limits;
    this.#options = options;
  }

  get isSignedIn(): boolean {
    return this.#connection !== null;
  }

  async open(): Promise<void> {
    const { signIn } = this.#options;
    signIn.checkOrigin(this.#request);
    // Cookies of other programs on the same host are no sign-in: the first frame may still be one.
    if (signIn.isConfigured && !signIn.hasToken(this.#request)) return;
    await this.#listen(await signIn.identify(this.#request));
  }

  close(): void {
    if (this.#connection !== null) this.#options.transport.leave(this.#connection);
  }

  async receive(data: RawData, isBinary: boolean): Promise<void> {
    const frame = this.#parse(data, isBinary);
    if (frame.type === 'auth') {
      const identity = await this.#options.signIn.identifyToken(frame.token);
      if (this.#connection === null) await this.#listen(identity);
      else if (this.#chat !== null && !mayActFor(identity, this.#chat))
        throw new ProblemError(403, 'not_yours', 'the token is of another user');
      return;
    }
    if (this.#connection === null || this.#chat === null)
      throw new ProblemError(401, 'not_signed_in', 'the first frame must be auth');
    await this.#act(frame, this.#connection, this.#chat);
  }

  async #listen(identity: Identity): Promise<void> {
    const { transport, findSession, now } = this.#options;
    const url = new URL(this.#request.url ?? '/', 'http://localhost');
    const path = pathSchema.safeParse(url.pathname.split('/').map(decoded));
    const lastSequence = lastSequenceSchema.safeParse(url.searchParams.get('last_sequence') ?? undefined);
    if (!path.success)
      throw new ProblemError(
        404,
        'unknown_chat',
        'the path must be /ws/{workflow_name}/{app_id}/{chat_id}/{user_id}',
      );
    if (!lastSequence.success)
      throw new ProblemError(400, 'invalid_request', 'last_sequence must be a whole number');
    const [, , workflow_name, app_id, chat_id, user_id] = path.data;
    const found = await findSession(chat_id);
    if (
      found === null ||
      found.app_id !== app_id ||
      found.workflow_name !== workflow_name ||
      found.user_id !== user_id
    )
      throw new ProblemError(404, 'unknown_chat', 'there is no such chat');
    if (!mayActFor(identity, found))
      throw new ProblemError(403, 'not_yours', 'the chat belongs to somebody else');
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#chat = { chat_id, app_id, user_id, workflow_name };
    this.#connection = new ChatConnection({
      socket: this.#socket,
      stream: this.#stream,
      chatId: chat_id,
      now,
      limits: this.#limits,
    });
    // It hears of commits before it reads the log, so that nothing can fall between the two.
    if (lastSequence.data === undefined) this.#connection.begin(transport.live.inFlight(chat_id));
    const replayed =
      lastSequence.data === undefined
        ? undefined
        : this.#replay(this.#connection, lastSequence.data, found.last_sequence);
    transport.join(this.#connection);
    await replayed;
  }

  #replay(connection: ChatConnection, after: number, persisted: number): Promise<void> {
    const { transport, readFrames } = this.#options;
    return connection.replay(
      // Taken at its word, a client ahead of the log (one of a restored database) would get nothing for a long time.
      Math.min(after, persisted),
      (last) => readFrames(connection.chatId, last, replayPage),
      () => transport.live.inFlight(connection.chatId),
    );
  }

  async #act(
    frame: Exclude<ClientFrame, { type: 'auth' }>,
    connection: ChatConnection,
    chat: ChatIdentity,
  ): Promise<void> {
    const { engine, userInput, cancelRemote } = this.#options;
    switch (frame.type) {
      case 'user_message':
        await this.#tell(connection, async () => {
          await engine.submit(chat, { content: frame.content, client_message_id: frame.client_message_id });
        });
        return;
      case 'user_input_response':
        await this.#tell(connection, () => userInput.answer(chat, frame.input_request_id, frame.user_input));
        return;
      case 'cancel':
        if (!engine.cancel(chat.chat_id)) await this.#tell(connection, () => cancelRemote(chat));
        return;
      case 'resume':
        await this.#replay(
          connection,
          frame.last_sequence,
          (await this.#options.findSession(chat.chat_id))?.last_sequence ?? 0,
        );
        return;
      case 'ping':
        connection.send({ type: 'pong', data: {} });
        return;
    }
  }

  /** What goes wrong with a good frame is said on the socket that sent it, and closes nothing. */
  async #tell(connection: ChatConnection, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (cause) {
      const { problem } = problemOf(cause);
      if (problem.status === 500)
        this.#options.log.error({ err: cause, chat_id: connection.chatId }, 'a frame could not be handled');
      connection.send({
        type: 'chat.error',
        data: {
          error_type: problem.code,
          message: problem.detail,
          details: {},
          retryable: problem.status >= 500,
        },
      });
    }
  }

  #parse(data: RawData, isBinary: boolean): ClientFrame {
    if (isBinary) throw new ProblemError(400, 'bad_frame', 'frames are JSON texts');
    const text = textOf(data);
    if (text.length > this.#limits.frameBytes)
      throw new ProblemError(413, 'too_large', `a frame may have ${this.#limits.frameBytes} bytes`);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      throw new ProblemError(400, 'bad_frame', 'the frame is not JSON');
    }
    const parsed = clientFrameSchema.safeParse(json);
    if (parsed.success) return parsed.data;
    const [issue] = parsed.error.issues;
    throw new ProblemError(
      400,
      'bad_frame',
      `${issue?.path.map(String).join('.') || 'frame'}: ${issue?.message ?? 'not valid'}`,
    );
  }
}

/** An id that is encoded wrongly stays as it is, and is refused as such. */
function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

function textOf(data: RawData): string {
  if (Array.isArray(data)) return Buffer.concat(data).toString('utf8');
  return Buffer.isBuffer(data) ? data.toString('utf8') : Buffer.from(data).toString('utf8');
}
