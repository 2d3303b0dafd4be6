import { type IncomingEvent, readEvent, type RefusedEvent } from './ag2-dialect.ts';

/**
 * The one door for agent events. The engine and foreign AG2 processes hand in the same envelopes; each is read once,
 * and goes to the one handler of its kind. What came of it travels back as the return value.
 */
export type EventHandlers<Outcome> = {
  usage: (event: IncomingEvent, isFresh: boolean) => Promise<Outcome>;
  other: (event: IncomingEvent, isFresh: boolean) => Promise<Outcome>;
};

export type Published<Outcome> =
  | { uuid: string; chat_id: string; recorded: Outcome; refused?: never }
  | { refused: RefusedEvent; recorded?: never };

export type PublishOptions = {
  /** The ids were minted just now, by this process: nothing of these events can be in the log yet. */
  isFresh?: boolean;
  now?: Date;
};

export class UnifiedEventDispatcher<Outcome> {
  readonly #handlers: EventHandlers<Outcome>;

  constructor(handlers: EventHandlers<Outcome>) {
    this.#handlers = handlers;
  }

  /**
   * Publishes envelopes in order; what is handed in together becomes durable together where possible.
   * @throws QueueFullError, QueueClosedError when an event could not be taken. Others of the batch may have been:
   *   published again, they are repeats.
   */
  publish(
    envelopes: readonly unknown[],
    { isFresh = false, now = new Date() }: PublishOptions = {},
  ): Promise<Published<Outcome>[]> {
    // Handlers are started in one turn of the event loop, so that their writes stand side by side in the queue.
    return Promise.all(
      envelopes.map(async (input) => {
        const read = readEvent(input, now);
        if ('refused' in read) return { refused: read.refused };
        const { event } = read;
        const handler = isUsage(event) ? this.#handlers.usage : this.#handlers.other;
        return { uuid: event.uuid, chat_id: event.envelope.chat_id, recorded: await handler(event, isFresh) };
      }),
    );
  }
}

function isUsage({ known }: IncomingEvent): boolean {
  return known?.type === 'usage_summary' || known?.type === 'call_usage';
}
