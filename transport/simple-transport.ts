import type { DurableFrame } from '../core/contracts/frames.ts';
import type { ChatConnection } from './chat-connection.ts';
import { UiEventProcessor } from './ui-event-processor.ts';

/** Who listens to which chat. Frames come from commits, words from the engine; both go to every listener. */
export class SimpleTransport {
  readonly live: UiEventProcessor;
  readonly #rooms = new Map<string, Set<ChatConnection>>();

  constructor() {
    this.live = new UiEventProcessor((chatId, messageId) => {
      const room = this.#rooms.get(chatId);
      const message = room === undefined ? undefined : this.live.find(chatId, messageId);
      if (message !== undefined) for (const connection of room ?? []) connection.stream(message);
    });
  }

  get connectionCount(): number {
    let count = 0;
    for (const room of this.#rooms.values()) count += room.size;
    return count;
  }

  publish(frames: readonly DurableFrame[]): void {
    for (const frame of frames) {
      const room = this.#rooms.get(frame.chat_id);
      if (room !== undefined) {
        const text = JSON.stringify(frame);
        for (const connection of room) connection.deliver(frame, text);
      }
      this.live.finish(frame);
    }
  }

  join(connection: ChatConnection): void {
    const room = this.#rooms.get(connection.chatId) ?? new Set();
    this.#rooms.set(connection.chatId, room);
    room.add(connection);
  }

  leave(connection: ChatConnection): void {
    const room = this.#rooms.get(connection.chatId);
    room?.delete(connection);
    if (room?.size === 0) this.#rooms.delete(connection.chatId);
  }

  closeAll(code: number, reason: string): void {
    for (const room of this.#rooms.values()) for (const connection of room) connection.close(code, reason);
  }
}
