/** Where an engine's words go while they are being said. Nothing here is durable: the finished text is. */
export type LiveStream = {
  append: (words: { chat_id: string; message_id: string; agent: string; delta: string }) => void;
  /** The message will not be finished, or nothing of it was said. */
  drop: (message: { chat_id: string; message_id: string }) => void;
};
