import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import {
  closeCodes,
  type DurableFrame,
  type EphemeralFrameType,
  type FrameBody,
} from '../core/contracts/frames.ts';
import { type MessageInFlight, streamFrame } from './ui-event-processor.ts';

/**
 * One socket that listens to one chat. It is `replaying` until the log has been read up to the present, then `live`;
 * durable frames that are committed meanwhile wait, so each arrives once and in order. Everything said in one turn of
 * the event loop leaves in one write.
 */
export type ChatConnectionOptions = {
  socket: WebSocket;
  /** The TCP connection underneath, to be corked. */
  stream: Duplex;
  chatId: string;
  now: () => Date;
  limits: SlowReaderLimits;
};

export type SlowReaderLimits = { coalesceAboveBytes: number; closeAboveBytes: number; closeAfterMs: number };

export class ChatConnection {
  readonly chatId: string;
  readonly #socket: WebSocket;
  readonly #stream: Duplex;
  readonly #now: () => Date;
  readonly #limits: SlowReaderLimits;
  #outbox: string[] = [];
  #isReplaying = false;
  #waiting: { frame: DurableFrame; text: string }[] = [];
  #lastSequence = 0;
  /** How many characters of each message in flight this listener has. */
  readonly #offsets = new Map<string, number>();
  readonly #unsent = new Map<string, MessageInFlight>();
  #flush: NodeJS.Immediate | null = null;
  #slowSince: number | null = null;

  constructor({ socket, stream, chatId, now, limits }: ChatConnectionOptions) {
    this.#socket = socket;
    this.#stream = stream;
    this.chatId = chatId;
    this.#now = now;
    this.#limits = limits;
  }

  get isOpen(): boolean {
    return this.#socket.readyState === this.#socket.OPEN;
  }

  /** A frame of the log. `text` is the frame as JSON, made once for all listeners. */
  deliver(frame: DurableFrame, text: string): void {
    if (this.#isReplaying) {
      this.#waiting.push({ frame, text });
      return;
    }
    if (frame.seq <= this.#lastSequence) return;
    if (frame.type === 'chat.text') this.#finishStream(frame.data.message_id);
    this.#lastSequence = frame.seq;
    this.#push(text);
  }

  /** A frame for this listener alone, which is in no log. */
  send(body: FrameBody<EphemeralFrameType> | FrameBody<'chat.error'>): void {
    this.#push(
      JSON.stringify({ ...body, timestamp: this.#now().toISOString(), chat_id: this.chatId, seq: null }),
    );
  }

  /** More of a message was said; it leaves with the next write, together with what else was said by then. */
  stream(message: MessageInFlight): void {
    if (this.#isReplaying) return;
    this.#unsent.set(message.message_id, message);
    this.#schedule();
  }

  /**
   * Replays the log after `afterSequence`, then every message in flight from its beginning, then the boundary; after
   * that the connection is live.
   */
  async replay(
    afterSequence: number,
    readFrames: (after: number) => Promise<readonly DurableFrame[]>,
    inFlight: () => readonly MessageInFlight[],
  ): Promise<void> {
    this.#isReplaying = true;
    let last = afterSequence;
    let count = 0;
    for (;;) {
      const frames = await readFrames(last);
      if (frames.length === 0 || !this.isOpen) break;
      let unread = 0;
      for (const frame of frames) {
        const text = JSON.stringify(frame);
        this.#push(text);
        last = frame.seq;
        count += 1;
        unread += text.length;
        // A whole page of large frames is more than a reader who does read can take in time.
        if (unread <= this.#limits.coalesceAboveBytes) continue;
        await this.#drained();
        unread = 0;
      }
      await this.#drained();
    }
    this.#lastSequence = last;
    this.#isReplaying = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { frame, text } of waiting) {
      if (frame.seq <= this.#lastSequence) continue;
      this.deliver(frame, text);
      count += 1;
    }
    this.#offsets.clear();
    for (const message of inFlight()) this.#pushStream(message, 0);
    this.send({
      type: 'chat.resume_boundary',
      data: { replayed_count: count, client_had: afterSequence, persisted_had: this.#lastSequence },
    });
  }

  /** Begins without the past: live from now on, with what is being said at the moment. */
  begin(inFlight: readonly MessageInFlight[]): void {
    for (const message of inFlight) this.#pushStream(message, 0);
  }

  close(code: number, reason: string): void {
    this.#writeOut();
    this.#socket.close(code, reason);
  }

  #finishStream(messageId: string): void {
    const message = this.#unsent.get(messageId);
    if (message !== undefined) this.#pushStream(message, this.#offsets.get(messageId) ?? 0);
    this.#unsent.delete(messageId);
    this.#offsets.delete(messageId);
  }

  #pushStream(message: MessageInFlight, offset: number): void {
    if (message.text.length > offset) this.send(streamFrame(message, offset));
    this.#offsets.set(message.message_id, message.text.length);
  }

  #push(text: string): void {
    this.#outbox.push(text);
    this.#schedule();
  }

  #schedule(): void {
    this.#flush ??= setImmediate(() => {
      this.#flush = null;
      const isBehind = this.#socket.bufferedAmount > this.#limits.coalesceAboveBytes;
      // A slow reader gets the words later and in larger pieces; what it lacks is known by its offset.
      if (!isBehind) {
        for (const message of this.#unsent.values())
          this.#pushStream(message, this.#offsets.get(message.message_id) ?? 0);
        this.#unsent.clear();
        if (this.#flush !== null) clearImmediate(this.#flush);
        this.#flush = null;
      }
      this.#writeOut();
      this.#closeIfStuck();
    });
  }

  #writeOut(): void {
    const texts = this.#outbox;
    this.#outbox = [];
    if (texts.length === 0 || !this.isOpen) return;
    this.#stream.cork();
    for (const text of texts) this.#socket.send(text);
    this.#stream.uncork();
  }

  #closeIfStuck(): void {
    if (this.#socket.bufferedAmount <= this.#limits.closeAboveBytes) {
      this.#slowSince = null;
      return;
    }
    const now = performance.now();
    if (this.#slowSince === null)
      setTimeout(() => this.#closeIfStuck(), this.#limits.closeAfterMs + 1).unref();
    this.#slowSince ??= now;
    if (now - this.#slowSince < this.#limits.closeAfterMs) return;
    this.#socket.close(closeCodes.too_fast, 'reading too slowly; reconnect and resume');
    // It may read again and learn why; if it does not, it will not answer the closing handshake either.
    setTimeout(() => this.#socket.terminate(), this.#limits.closeAfterMs).unref();
  }

  /** Lets a long replay go no faster than it is read. */
  async #drained(): Promise<void> {
    this.#writeOut();
    while (this.isOpen && this.#socket.bufferedAmount > this.#limits.coalesceAboveBytes)
      await new Promise((resolve) => setTimeout(resolve, 10));
    this.#slowSince = null;
  }
}
