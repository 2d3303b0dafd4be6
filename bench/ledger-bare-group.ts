import { randomUUID } from 'node:crypto';
import type { ClientSession, Collection, MongoClient } from 'mongodb';

/** The least that an accounting keeps: who, how much, since when nobody asks. */
export type Row = {
  _id: string;
  chat?: string | number;
  wallet?: string;
  amount?: bigint;
  tokens?: bigint;
  balance?: bigint;
};

export type Rows = Record<'events' | 'sessions' | 'wallets' | 'ledger', Collection<Row>>;
type Waiting = {
  chat: string;
  wallet: string;
  amount: bigint;
  resolve: () => void;
  reject: (cause: unknown) => void;
};

/** Group commit and nothing else: one transaction for whatever came in meanwhile, with the least documents that count. */
export class BareGroupCommit {
  readonly #rows: Rows;
  readonly #session: ClientSession;
  #waiting: Waiting[] = [];
  #running: Promise<void> | null = null;

  constructor(client: MongoClient, rows: Rows) {
    this.#rows = rows;
    this.#session = client.startSession();
  }

  debit(chat: string, wallet: string, amount: bigint): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ chat, wallet, amount, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  async close(): Promise<void> {
    await this.#running;
    await this.#session.endSession();
  }

  async #run(): Promise<void> {
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, 256);
      try {
        await this.#commit(batch);
        for (const { resolve } of batch) resolve();
      } catch (cause) {
        for (const { reject } of batch) reject(cause);
      }
    }
    this.#running = null;
  }

  async #commit(batch: Waiting[]): Promise<void> {
    const session = this.#session;
    const { sessions, ledger, events, wallets } = this.#rows;
    session.startTransaction({
      readConcern: { level: 'snapshot' },
      writeConcern: { w: 'majority', journal: true },
    });
    await sessions.find({ _id: { $in: [...new Set(batch.map(({ chat }) => chat))] } }, { session }).toArray();
    await sessions.bulkWrite(
      incrementsOf(batch, ({ chat }) => chat, 'tokens', 1n),
      { session },
    );
    const lines = batch.map(({ chat, wallet, amount }) => ({
      _id: randomUUID(),
      chat,
      wallet,
      amount: -amount,
    }));
    await ledger.insertMany(lines, { session });
    await events.insertMany(
      lines.map(({ _id, chat }) => ({ _id, chat })),
      { session },
    );
    await wallets.bulkWrite(
      incrementsOf(batch, ({ wallet }) => wallet, 'balance', -1n),
      { session },
    );
    await session.commitTransaction();
  }
}

function incrementsOf(
  batch: Waiting[],
  of: (each: Waiting) => string,
  field: 'tokens' | 'balance',
  sign: bigint,
) {
  const sums = new Map<string, bigint>();
  for (const each of batch) sums.set(of(each), (sums.get(of(each)) ?? 0n) + each.amount * sign);
  return [...sums]
    .toSorted(([left], [right]) => (left < right ? -1 : 1))
    .map(([_id, amount]) => ({
      updateOne: {
        filter: { _id },
        update: { $inc: field === 'tokens' ? { tokens: amount } : { balance: amount } },
      },
    }));
}
