import { z } from 'zod';
import {
  clientFrameSchema,
  parseServerFrame,
  type ClientFrame,
  type ServerFrame,
} from '../../../core/contracts/frames.ts';
import { closeVerdict } from './close-verdict.ts';
import { OutgoingQueue } from './outgoing-queue.ts';
import { reconnectDelayMs } from './reconnect-delay.ts';
import { socketUrl } from './socket-url.ts';

/**
 * The client's end of a chat's socket. It knows no framework and runs in browsers and in Node.
 *
 * States: `connecting` until the first socket is open, `open`, `reconnecting` while a lost socket is being replaced
 * (by itself, for as long as it takes), `closed` when the server said that coming back is pointless, or after
 * `close()`. `reconnect()` leaves `closed` and `reconnecting` at once.
 *
 * Every durable frame is passed on once and in order: the socket is opened with the last sequence seen, repeats are
 * dropped, and a gap is answered with `resume` while everything behind it waits for the replay.
 */
export type ConnectionStatus =
  | { state: 'connecting' }
  | { state: 'open' }
  | { state: 'reconnecting'; attempt: number; delayMs: number }
  | { state: 'closed'; code: number; explanation: string };

/** As much of the standard WebSocket as is used here: a browser's fits, and so does that of `ws`. */
export type ChatSocket = {
  send(text: string): void;
  close(): void;
  addEventListener(type: 'open' | 'error', listener: () => void): void;
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void;
  addEventListener(type: 'close', listener: (event: { code: number }) => void): void;
};
export type ChatSocketConstructor = new (url: string) => ChatSocket;

export type ChatConnectionOptions = {
  /** As `start` answered it: a path or a whole address. */
  websocketUrl: string;
  /** What a path is resolved against: the address of the page, or of the server. */
  baseUrl: string;
  WebSocket: ChatSocketConstructor;
  onFrame: (frame: ServerFrame) => void;
  onStatus: (status: ConnectionStatus) => void;
  /** A frame of a known type whose content is not what the contract says. It is skipped. */
  onUnreadableFrame?: (error: unknown) => void;
  lastSequence?: number;
  pingEveryMs?: number;
  random?: () => number;
};

const placeSchema = z.looseObject({
  seq: z.int().min(1).nullable(),
  from_seq: z.int().min(1).optional(),
});
const closedByUs = 1000;

export class ChatConnection {
  readonly #options: ChatConnectionOptions;
  readonly #outgoing = new OutgoingQueue();
  #socket: ChatSocket | undefined;
  #isOpen = false;
  #isResuming = false;
  #heardSincePing = true;
  #everOpen = false;
  #attempt = 0;
  #lastSequence: number;
  #reconnectTimer: ReturnType<typeof setTimeout> | undefined;
  #pingTimer: ReturnType<typeof setInterval> | undefined;

  constructor(options: ChatConnectionOptions) {
    this.#options = options;
    this.#lastSequence = options.lastSequence ?? 0;
  }

  get lastSequence(): number {
    return this.#lastSequence;
  }

  open(): void {
    if (this.#socket !== undefined) return;
    clearTimeout(this.#reconnectTimer);
    if (!this.#everOpen && this.#attempt === 0) this.#options.onStatus({ state: 'connecting' });
    const { websocketUrl, baseUrl } = this.#options;
    const socket = new this.#options.WebSocket(socketUrl(websocketUrl, baseUrl, this.#lastSequence));
    this.#socket = socket;
    // Each listener asks whether its socket is still the one in use: a socket given up may still have its say.
    socket.addEventListener('open', () => {
      if (socket === this.#socket) this.#becomeOpen();
    });
    socket.addEventListener('message', (event) => {
      if (socket === this.#socket) this.#receive(event.data);
    });
    socket.addEventListener('close', (event) => {
      if (socket === this.#socket) this.#becomeLost(event.code);
    });
    // A `close` follows every `error`; in Node an `error` without a listener would end the process.
    socket.addEventListener('error', () => {});
  }

  /** Tries again now: the network came back, or the user asked for it. */
  reconnect(): void {
    if (this.#socket !== undefined) return;
    this.#attempt = 0;
    this.#options.onStatus({ state: 'reconnecting', attempt: 0, delayMs: 0 });
    this.open();
  }

  sendMessage(content: string, clientMessageId: string): 'accepted' | 'refused' {
    return this.#enqueue({ type: 'user_message', content, client_message_id: clientMessageId });
  }

  answerInput(requestId: string, userInput: string): 'accepted' | 'refused' {
    return this.#enqueue({
      type: 'user_input_response',
      input_request_id: requestId,
      user_input: userInput,
    });
  }

  /** A cancel is about the run of this moment, so it is never kept for later. */
  cancel(): 'sent' | 'offline' {
    if (!this.#isOpen) return 'offline';
    this.#send({ type: 'cancel' });
    return 'sent';
  }

  close(): void {
    clearTimeout(this.#reconnectTimer);
    this.#dropSocket();
    this.#options.onStatus({ state: 'closed', code: closedByUs, explanation: '' });
  }

  #enqueue(
    frame: Extract<ClientFrame, { type: 'user_message' | 'user_input_response' }>,
  ): 'accepted' | 'refused' {
    if (!clientFrameSchema.safeParse(frame).success) return 'refused';
    this.#outgoing.add(frame);
    if (this.#isOpen) this.#send(frame);
    return 'accepted';
  }

  #send(frame: ClientFrame): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  #becomeOpen(): void {
    this.#isOpen = true;
    this.#everOpen = true;
    this.#isResuming = false;
    this.#heardSincePing = true;
    this.#options.onStatus({ state: 'open' });
    for (const frame of this.#outgoing.unconfirmed()) this.#send(frame);
    this.#pingTimer = setInterval(() => this.#ping(), this.#options.pingEveryMs ?? 25_000);
  }

  #ping(): void {
    // A dead network tells nobody: silence since the last ping is the only sign of it.
    if (!this.#heardSincePing) {
      this.#becomeLost(1006);
      return;
    }
    this.#heardSincePing = false;
    this.#send({ type: 'ping' });
  }

  #becomeLost(code: number): void {
    this.#dropSocket();
    const verdict = closeVerdict(code);
    switch (verdict.kind) {
      case 'stay_closed':
        if (verdict.blamesMessage) this.#outgoing.clear();
        this.#options.onStatus({ state: 'closed', code, explanation: verdict.explanation });
        return;
      case 'reconnect': {
        const random = (this.#options.random ?? Math.random)();
        const delayMs = reconnectDelayMs(this.#attempt, random, verdict.atLeastMs);
        this.#attempt += 1;
        this.#options.onStatus({ state: 'reconnecting', attempt: this.#attempt, delayMs });
        this.#reconnectTimer = setTimeout(() => this.open(), delayMs);
      }
    }
  }

  #dropSocket(): void {
    clearInterval(this.#pingTimer);
    const socket = this.#socket;
    this.#socket = undefined;
    this.#isOpen = false;
    socket?.close();
  }

  #receive(data: unknown): void {
    this.#heardSincePing = true;
    this.#attempt = 0;
    let input: unknown;
    let place: z.infer<typeof placeSchema>;
    try {
      input = JSON.parse(z.string().parse(data));
      place = placeSchema.parse(input);
    } catch (error) {
      this.#options.onUnreadableFrame?.(error);
      return;
    }
    if (place.seq !== null) {
      if (place.seq <= this.#lastSequence) return;
      if ((place.from_seq ?? place.seq) > this.#lastSequence + 1) {
        this.#askForMissing();
        return;
      }
      // Also for a frame that turns out to be unknown or unreadable: asking for it again would bring the same one.
      this.#lastSequence = place.seq;
    }
    this.#deliver(input);
  }

  #deliver(input: unknown): void {
    let frame: ServerFrame | undefined;
    try {
      frame = parseServerFrame(input);
    } catch (error) {
      this.#options.onUnreadableFrame?.(error);
      return;
    }
    if (frame === undefined) return;
    if (frame.type === 'chat.resume_boundary') this.#isResuming = false;
    this.#outgoing.confirmBy(frame);
    this.#options.onFrame(frame);
  }

  #askForMissing(): void {
    if (this.#isResuming) return;
    this.#isResuming = true;
    this.#send({ type: 'resume', last_sequence: this.#lastSequence });
  }
}
