import { once } from 'node:events';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { parseServerFrame, type ServerFrame, type ServerFrameType } from '../../core/contracts/frames.ts';

type FrameOf<Type extends ServerFrameType> = Extract<ServerFrame, { type: Type }>;
export type SocketClosing = { code: number; reason: string };

/** A client on a real socket. A frame that breaks the protocol is kept as a failure, and thrown by whoever waits. */
export class SocketClient {
  readonly frames: ServerFrame[] = [];
  readonly socket: WebSocket;
  closed: SocketClosing | undefined;
  #failure: Error | undefined;
  readonly #changed = new Set<() => void>();

  constructor(url: string, options: { headers?: Record<string, string>; autoPong?: boolean } = {}) {
    this.socket = new WebSocket(url, { perMessageDeflate: false, ...options });
    this.socket.on('message', (data, isBinary) => {
      const text = z.instanceof(Buffer).parse(data).toString();
      try {
        const frame = isBinary ? undefined : parseServerFrame(JSON.parse(text));
        if (frame === undefined) throw new Error(`the server sent an unknown frame: ${text}`);
        this.frames.push(frame);
      } catch (cause) {
        this.#failure ??= new Error(`the server broke the protocol: ${text}`, { cause });
      }
      this.#notify();
    });
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: String(reason) };
      this.#notify();
    });
    // What ends a socket is its close; an error alone would only be said twice.
    this.socket.on('error', () => undefined);
  }

  /** @throws when the socket is refused. */
  static async connect(
    url: string,
    options: { headers?: Record<string, string>; autoPong?: boolean } = {},
  ): Promise<SocketClient> {
    const client = new SocketClient(url, options);
    await once(client.socket, 'open');
    return client;
  }

  get durable(): (ServerFrame & { seq: number })[] {
    return this.frames.flatMap((frame) => (frame.seq === null ? [] : [{ ...frame, seq: frame.seq }]));
  }

  of<Type extends ServerFrameType>(type: Type): FrameOf<Type>[] {
    const isOfType = (frame: ServerFrame): frame is FrameOf<Type> => frame.type === type;
    return this.frames.filter(isOfType);
  }

  send(frame: object): void {
    this.socket.send(JSON.stringify(frame));
  }

  say(content: string, client_message_id: string): void {
    this.send({ type: 'user_message', content, client_message_id });
  }

  /** Resolves once the server has acted on everything sent before: it takes frames one after the other. */
  async settled(): Promise<void> {
    const before = this.of('pong').length;
    this.send({ type: 'ping' });
    await this.until(() => this.of('pong').length > before, 'a pong');
  }

  /** Waits for the `count`-th end of a run, and gives the last. */
  async untilRunComplete(count = 1): Promise<FrameOf<'chat.run_complete'>> {
    await this.until(() => this.of('chat.run_complete').length >= count, `${count} chat.run_complete`);
    for (const frame of this.of('chat.run_complete').toReversed()) return frame;
    throw new Error('no run has completed');
  }

  async until(isSo: () => boolean, what: string, timeoutMs = 15_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      if (isSo()) return;
      const leftMs = deadline - Date.now();
      if (leftMs <= 0 || this.closed !== undefined)
        throw new Error(
          `waited in vain for ${what}; ${this.closed === undefined ? 'open' : `closed with ${this.closed.code} ${this.closed.reason}`}; frames: ${this.frames.map(({ type, seq }) => `${type}(${seq})`).join(' ')}`,
        );
      await this.#change(leftMs);
    }
  }

  async untilClosed(timeoutMs = 15_000): Promise<SocketClosing> {
    const deadline = Date.now() + timeoutMs;
    while (this.closed === undefined) {
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) throw new Error('the socket was not closed in time');
      await this.#change(leftMs);
    }
    return this.closed;
  }

  async close(): Promise<void> {
    if (this.closed === undefined) this.socket.close();
    await this.untilClosed();
  }

  #notify(): void {
    for (const wake of this.#changed) wake();
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#changed.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, timeoutMs);
      this.#changed.add(wake);
    });
  }
}
