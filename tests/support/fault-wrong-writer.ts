import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type AnyBulkWriteOperation,
  type ClientSession,
  type Collection,
  type MongoClient,
  MongoError,
} from 'mongodb';
import { BatchDraft } from '../../core/data/batch-draft.ts';
import type { LedgerDocument, SessionDocument, WalletDocument } from '../../core/data/collections.ts';
import { crashPoint } from '../../core/data/crash-point.ts';
import {
  DurableWriter,
  type DurableWriterOptions,
  type DurableWrite,
} from '../../core/data/durable-writer.ts';
import { isDuplicateKey, StaleReadError } from '../../core/data/storage-errors.ts';
import { appendLine, type LineFacts, walletId } from '../../core/data/wallet-ledger.ts';

/**
 * Writers that are wrong in the ways people get this wrong, and one that is right: all of them slow, one event a
 * transaction. The fault tests must tell them apart, or they prove nothing.
 */
export const writerWays = [
  'right',
  /** What an event adds is computed from what this process remembers, as if it were the only one. */
  'from_memory',
  /** The wallet is debited after the transaction that counted the event. */
  'debit_outside',
  /** After an answer that was lost, the debits that were computed are written again. */
  'blind_retry',
  /** Acknowledged as soon as one server has it in its memory. */
  'not_durable',
] as const;
export type WriterWay = (typeof writerWays)[number];

type Folded<Result> = {
  result: Result;
  draft: BatchDraft;
  sessions: SessionDocument[];
  wallets: WalletDocument[];
};

export class WrongWriter extends DurableWriter {
  readonly #options: DurableWriterOptions;
  readonly #client: MongoClient;
  readonly #way: WriterWay;
  readonly #sessions = new Map<string, SessionDocument>();
  readonly #wallets = new Map<string, WalletDocument>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: DurableWriterOptions, client: MongoClient, way: WriterWay) {
    super(options);
    this.#options = options;
    this.#client = client;
    this.#way = way;
  }

  override write<Result>(write: DurableWrite<Result>): Promise<Result> {
    const turn = this.#turn.then(() => this.#insist(write));
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  async #insist<Result>(write: DurableWrite<Result>): Promise<Result> {
    let folded: Folded<Result> | undefined;
    for (let attempt = 0; ; attempt += 1) {
      const session = this.#begin();
      try {
        if (folded !== undefined && this.#way === 'blind_retry') {
          await this.#debitAnew(folded, `~${attempt}`, session);
          await session.commitTransaction();
          return folded.result;
        }
        folded = await this.#fold(write, session);
        await this.#writeChats(folded, session);
        if (this.#way !== 'debit_outside') await this.#writeWallets(folded, session);
        await session.commitTransaction();
        if (folded.draft.writes.ledger.length > 0) crashPoint('after_commit');
        if (this.#way === 'debit_outside') await this.#debitAfterwards(folded);
        return folded.result;
      } catch (cause) {
        if (session.inTransaction()) await session.abortTransaction().catch(() => undefined);
        // It takes another node's line for its own.
        if (this.#way === 'from_memory' && folded !== undefined && isDuplicateKey(cause))
          return folded.result;
        // It knows at least that a conflict has written nothing.
        if (!isUnknown(cause)) folded = undefined;
        await delay(Math.random() * Math.min(200, 5 * 2 ** attempt));
      } finally {
        await session.endSession();
      }
    }
  }

  #begin(): ClientSession {
    const session = this.#client.startSession();
    session.startTransaction({
      readConcern: { level: 'snapshot' },
      writeConcern: this.#way === 'not_durable' ? { w: 1, journal: false } : { w: 'majority', journal: true },
      readPreference: 'primary',
    });
    return session;
  }

  async #fold<Result>(write: DurableWrite<Result>, session: ClientSession): Promise<Folded<Result>> {
    const { collections, context } = this.#options;
    const { chatIds = [], owners = [], eventIds = [] } = write;
    const walletIds = owners.map(({ app_id, user_id }) => walletId(app_id, user_id));
    const byId = (ids: readonly string[]) => ({ _id: { $in: [...ids] } });
    const read = {
      sessions: await collections.sessions.find(byId(chatIds), { session }).toArray(),
      wallets: await collections.wallets.find(byId(walletIds), { session }).toArray(),
      events: await collections.events.find(byId(eventIds), { session }).toArray(),
    };
    const sessions = new Map(read.sessions.map((document) => [document._id, document]));
    const wallets = new Map(read.wallets.map((document) => [document._id, document]));
    if (this.#way === 'from_memory') {
      for (const [id, document] of this.#sessions) sessions.set(id, document);
      for (const [id, document] of this.#wallets) wallets.set(id, document);
    }
    const draft = new BatchDraft(
      {
        sessions,
        wallets,
        seen: new Set(read.events.map(({ _id }) => _id)),
        lines: new Map(),
        holds: new Map(),
        windows: new Map(),
      },
      context(),
      randomUUID(),
    );
    const result = write.fold(draft);
    const folded = { result, draft, ...draft.finish() };
    for (const document of folded.sessions) this.#sessions.set(document._id, document);
    for (const document of folded.wallets) this.#wallets.set(document._id, document);
    return folded;
  }

  async #writeChats({ draft, sessions }: Folded<unknown>, session: ClientSession): Promise<void> {
    const { collections } = this.#options;
    await writeVersions(
      collections.sessions,
      sessions.map((document) => ({
        replaceOne: {
          filter: this.#isBlind
            ? { _id: document._id }
            : { _id: document._id, version: document.version - 1 },
          replacement: document,
          upsert: this.#isBlind || document.version === 1,
        },
      })),
      session,
    );
    await insertAll(collections.events, draft.writes.events, session);
    await insertAll(collections.llmUsage, draft.writes.llmUsage, session);
    for (const { _id, ...mark } of draft.marks)
      await collections.usageMarks.replaceOne({ _id }, mark, { session, upsert: true });
  }

  async #writeWallets({ draft, wallets }: Folded<unknown>, session: ClientSession): Promise<void> {
    const { collections } = this.#options;
    await insertAll(collections.ledger, draft.writes.ledger, session);
    await writeVersions(
      collections.wallets,
      wallets.map((document) => ({
        replaceOne: {
          filter: this.#isBlind
            ? { _id: document._id }
            : { _id: document._id, version: document.version - 1n },
          replacement: document,
          upsert: this.#isBlind || document.version === 1n,
        },
      })),
      session,
    );
  }

  /** Whoever believes to be alone checks nobody's version. */
  get #isBlind(): boolean {
    return this.#way === 'from_memory';
  }

  async #debitAfterwards(folded: Folded<unknown>): Promise<void> {
    for (;;) {
      const session = this.#begin();
      try {
        await this.#debitAnew(folded, '', session);
        await session.commitTransaction();
        return;
      } catch (cause) {
        if (session.inTransaction()) await session.abortTransaction().catch(() => undefined);
        // Somebody else opened the wallet: it thinks that its own lines are there, too.
        if (isDuplicateKey(cause)) return;
        await delay(Math.random() * 20);
      } finally {
        await session.endSession();
      }
    }
  }

  /** Puts the lines that were computed before at the end of the wallets as they are now. */
  async #debitAnew(
    { draft, wallets }: Folded<unknown>,
    suffix: string,
    session: ClientSession,
  ): Promise<void> {
    const { collections } = this.#options;
    const ids = wallets.map(({ _id }) => _id);
    const read = await collections.wallets.find({ _id: { $in: ids } }, { session }).toArray();
    const stored = new Map(read.map((document) => [document._id, document]));
    for (const wallet of wallets) {
      const before = stored.get(wallet._id) ?? { ...wallet, balance: 0n, line_count: 0n, last_hash: null };
      const after = { ...before, version: before.version + 1n };
      const lines = draft.writes.ledger
        .filter(({ wallet_id }) => wallet_id === wallet._id)
        .map((line) => appendLine(after, { ...factsOf(line), _id: `${line._id}${suffix}` }));
      await insertAll(collections.ledger, lines, session);
      await collections.wallets.replaceOne({ _id: wallet._id }, after, { session, upsert: true });
    }
  }
}

async function writeVersions<Document extends { _id: string }>(
  collection: Collection<Document>,
  operations: AnyBulkWriteOperation<Document>[],
  session: ClientSession,
): Promise<void> {
  if (operations.length === 0) return;
  const { matchedCount, upsertedCount } = await collection.bulkWrite(operations, { session });
  if (matchedCount + upsertedCount !== operations.length) throw new StaleReadError(collection.collectionName);
}

async function insertAll<Document extends { _id: string }>(
  collection: Collection<Document>,
  documents: Parameters<Collection<Document>['insertMany']>[0],
  session: ClientSession,
): Promise<void> {
  if (documents.length > 0) await collection.insertMany(documents, { session });
}

const isUnknown = (cause: unknown): boolean =>
  cause instanceof MongoError && cause.hasErrorLabel('UnknownTransactionCommitResult');

/** What a line says, without its place in a chain. */
function factsOf(line: LedgerDocument): LineFacts {
  const { wallet_id, line: place, balance_after, held_after, unit, previous_hash, hash, ...facts } = line;
  return facts;
}
