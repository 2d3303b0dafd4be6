/**
 * Group commit: everything that arrives while a commit is under way forms the next batch. There is no timer: an idle
 * queue commits at once, a busy one grows its batches to what the storage can take.
 *
 * A batch that fails is split until the item that cannot be committed is alone; its neighbours go through.
 */
export class QueueFullError extends Error {
  readonly code = 'queue_full';
  readonly retryAfterSec = 1;
  constructor(limit: number) {
    super(`${limit} writes are waiting for the database already; nothing was taken, try again in a moment`);
    this.name = 'QueueFullError';
  }
}

export class QueueClosedError extends Error {
  readonly code = 'shutting_down';
  readonly retryAfterSec = 5;
  constructor() {
    super('The server is shutting down; nothing was taken, try again in a moment');
    this.name = 'QueueClosedError';
  }
}

type Waiting<Item> = { item: Item; resolve: () => void; reject: (cause: unknown) => void };

export type CommitQueueOptions<Item> = {
  /** Makes all items durable or none; throws when none is. Transient failures are its own to retry. */
  commit: (items: readonly Item[]) => Promise<void>;
  batchLimit?: number;
  queueLimit?: number;
};

export class CommitQueue<Item> {
  readonly #commit: (items: readonly Item[]) => Promise<void>;
  readonly #batchLimit: number;
  readonly #queueLimit: number;
  #waiting: Waiting<Item>[] = [];
  #running: Promise<void> | null = null;
  #closed = false;

  constructor({ commit, batchLimit = 256, queueLimit = 10_000 }: CommitQueueOptions<Item>) {
    this.#commit = commit;
    this.#batchLimit = batchLimit;
    this.#queueLimit = queueLimit;
  }

  get length(): number {
    return this.#waiting.length;
  }

  /**
   * Resolves when the item is durable.
   * @throws QueueFullError, QueueClosedError before anything was taken; else what the commit threw for this item.
   */
  add(item: Item): Promise<void> {
    if (this.#closed) return Promise.reject(new QueueClosedError());
    if (this.#waiting.length >= this.#queueLimit) return Promise.reject(new QueueFullError(this.#queueLimit));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Takes nothing more and resolves when everything taken before is settled. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    // What the same caller adds before it yields belongs into the first batch.
    await Promise.resolve();
    while (this.#waiting.length > 0) await this.#settle(this.#waiting.splice(0, this.#batchLimit));
    this.#running = null;
  }

  async #settle(batch: Waiting<Item>[]): Promise<void> {
    try {
      await this.#commit(batch.map(({ item }) => item));
      for (const { resolve } of batch) resolve();
    } catch (cause) {
      const middle = Math.floor(batch.length / 2);
      if (middle === 0) {
        for (const { reject } of batch) reject(cause);
        return;
      }
      await this.#settle(batch.slice(0, middle));
      await this.#settle(batch.slice(middle));
    }
  }
}
