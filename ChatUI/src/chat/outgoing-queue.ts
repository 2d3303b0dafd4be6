import type { ClientFrame, ServerFrame } from '../../../core/contracts/frames.ts';

export type OutgoingFrame = Extract<ClientFrame, { type: 'user_message' | 'user_input_response' }>;

/**
 * What the user said and the server has not yet confirmed, in the order it was said. It is sent again after every
 * reconnect until the confirmation arrives; the server starts nothing twice for a repeated id.
 */
export class OutgoingQueue {
  readonly #unconfirmed = new Map<string, OutgoingFrame>();

  add(frame: OutgoingFrame): void {
    this.#unconfirmed.set(idOf(frame), frame);
  }

  unconfirmed(): OutgoingFrame[] {
    return [...this.#unconfirmed.values()];
  }

  clear(): void {
    this.#unconfirmed.clear();
  }

  confirmBy(frame: ServerFrame): void {
    if (frame.type === 'chat.text' && frame.data.client_message_id !== undefined) {
      this.#unconfirmed.delete(frame.data.client_message_id);
    }
    if (frame.type === 'chat.input_ack' || frame.type === 'chat.input_timeout') {
      this.#unconfirmed.delete(frame.data.request_id);
    }
  }
}

function idOf(frame: OutgoingFrame): string {
  return frame.type === 'user_message' ? frame.client_message_id : frame.input_request_id;
}
