import { clientFrameSchema, type ClientFrame, type ServerFrame } from '../../core/contracts/frames.ts';
import type { ChatSocket } from '../../ChatUI/src/chat/chat-connection.ts';

type Listener = (event: { data: unknown; code: number }) => void;

/** The browser's end of a socket whose server is the test. What the page sends is parsed as the server would. */
export class ScriptedSocket implements ChatSocket {
  static opened: ScriptedSocket[] = [];
  readonly url: URL;
  readonly sent: ClientFrame[] = [];
  readonly #listeners: { type: string; listener: Listener }[] = [];

  constructor(url: string) {
    this.url = new URL(url);
    ScriptedSocket.opened.push(this);
  }

  addEventListener(type: 'open' | 'error', listener: () => void): void;
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void;
  addEventListener(type: 'close', listener: (event: { code: number }) => void): void;
  addEventListener(type: string, listener: Listener): void {
    this.#listeners.push({ type, listener });
  }

  send(text: string): void {
    this.sent.push(clientFrameSchema.parse(JSON.parse(text)));
  }

  close(): void {
    this.#tell('close', { data: null, code: 1005 });
  }

  accept(): void {
    this.#tell('open', { data: null, code: 0 });
  }

  deliver(...frames: ServerFrame[]): void {
    for (const frame of frames) this.#tell('message', { data: JSON.stringify(frame), code: 0 });
  }

  breakOff(code = 1006): void {
    this.#tell('close', { data: null, code });
  }

  #tell(type: string, event: { data: unknown; code: number }): void {
    for (const each of this.#listeners) if (each.type === type) each.listener(event);
  }
}
