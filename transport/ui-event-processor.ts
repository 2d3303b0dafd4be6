import type { DurableFrame, FrameBody } from '../core/contracts/frames.ts';
import type { LiveStream } from '../core/orchestration/live-stream.ts';

/**
 * Words on their way: for each message that is being said, all of it so far. A listener that joins late gets the whole
 * and goes on from there; a finished message leaves, because its `chat.text` is in the log.
 */
export type MessageInFlight = { message_id: string; agent: string; text: string };

export class UiEventProcessor implements LiveStream {
  readonly #chats = new Map<string, Map<string, MessageInFlight>>();
  readonly #onAppend: (chatId: string, messageId: string) => void;

  constructor(onAppend: (chatId: string, messageId: string) => void) {
    this.#onAppend = onAppend;
  }

  append({ chat_id, message_id, agent, delta }: Parameters<LiveStream['append']>[0]): void {
    const messages = this.#chats.get(chat_id) ?? new Map<string, MessageInFlight>();
    this.#chats.set(chat_id, messages);
    const message = messages.get(message_id) ?? { message_id, agent, text: '' };
    messages.set(message_id, message);
    message.text += delta;
    this.#onAppend(chat_id, message_id);
  }

  drop({ chat_id, message_id }: Parameters<LiveStream['drop']>[0]): void {
    const messages = this.#chats.get(chat_id);
    messages?.delete(message_id);
    if (messages?.size === 0) this.#chats.delete(chat_id);
  }

  /** What was finished by a commit is no longer on its way. */
  finish(frame: DurableFrame): void {
    if (frame.type === 'chat.text') this.drop({ chat_id: frame.chat_id, message_id: frame.data.message_id });
  }

  inFlight(chatId: string): MessageInFlight[] {
    return [...(this.#chats.get(chatId)?.values() ?? [])];
  }

  find(chatId: string, messageId: string): MessageInFlight | undefined {
    return this.#chats.get(chatId)?.get(messageId);
  }
}

/** The words of a message from `offset` on, as a frame. */
export function streamFrame(
  { message_id, agent, text }: MessageInFlight,
  offset: number,
): FrameBody<'chat.stream'> {
  return { type: 'chat.stream', data: { message_id, agent, offset, delta: text.slice(offset) } };
}
