import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { AnyBulkWriteOperation, ClientSession, Collection } from 'mongodb';
import type { DurableFrame } from '../contracts/frames.ts';
import type { Logger } from '../observability/logging.ts';
import { BatchDraft, type BatchContext, type BatchReads } from './batch-draft.ts';
import type {
  BudgetWindowDocument,
  Collections,
  HoldDocument,
  SessionDocument,
  WalletDocument,
} from './collections.ts';
import { CommitQueue } from './commit-queue.ts';
import { crashPoint } from './crash-point.ts';
import { DocumentCache } from './document-cache.ts';
import { missingClient, restoreMarks } from './mark-spill.ts';
import type { SpendFacts } from '../usage/budget.ts';
import type { NodeSession } from './node-session.ts';
import { budgetWindowsFor } from './spending.ts';
import { isDuplicateKey, isTransient, StaleReadError } from './storage-errors.ts';
import { walletId, type WalletOwner } from './wallet-ledger.ts';

/**
 * The one durable writer of a node (PERSISTENCE.md, "How a batch becomes durable"). Whatever arrives while a commit is
 * under way goes into the next transaction. Inside a transaction documents are read (or taken from the cache of what
 * this node committed last), folded purely, and written with a check of the version that was read. Any failure, an
 * unknown commit result too, starts again from the read: all effects are functions of what is stored and of the event,
 * under ids the event already had, so running again can neither lose nor double.
 */
export type DurableWrite<Result> = {
  /** The chats, wallets, log entries and ledger lines that `fold` will ask the draft for. */
  chatIds?: readonly string[];
  owners?: readonly WalletOwner[];
  /** Ids of the log entries and lines it will make. `isFresh` when they were minted just now, so none can be there yet. */
  eventIds?: readonly string[];
  isFresh?: boolean;
  lineIds?: readonly string[];
  /** The counter this write may move, so that its spilled marks are read. */
  counter?: { chat_id: string; run_id: string; client: string; isMetered: boolean };
  /** What is spent on, so that the budgets it concerns are read. `identity` is for a chat that may not exist yet. */
  spends?: { chat_id: string; identity: Partial<SpendFacts>; models: readonly string[] };
  holdIds?: readonly string[];
  /** Reservations it will make; like minted ids, they are looked for only after a failure. */
  newHoldIds?: readonly string[];
  fold: (draft: BatchDraft) => Result;
};

/** What a commit made durable: its frames in order, and the session documents as they are now (not to be changed). */
export type Committed = {
  frames: readonly DurableFrame[];
  sessions: readonly SessionDocument[];
  /** Whose wallet got something. */
  credited: readonly WalletOwner[];
};

export type DurableWriterOptions = {
  collections: Collections;
  node: NodeSession;
  context: () => BatchContext;
  /** Called after each commit, before any writer learns of it. */
  publish: (committed: Committed) => void;
  log: Logger;
};

/** What one attempt at a batch folded; kept until its fate is known. */
type FoldedBatch = { draft: BatchDraft; finished: ReturnType<BatchDraft['finish']> };
type BatchAttempt = { readonly commitId: string; draft: FoldedBatch | null };

export class DurableWriter {
  readonly #queue: CommitQueue<DurableWrite<void>>;
  readonly #options: DurableWriterOptions;
  readonly #sessions = new DocumentCache<SessionDocument>(5_000);
  readonly #wallets = new DocumentCache<WalletDocument>(5_000);
  readonly #holds = new DocumentCache<HoldDocument>(10_000);
  readonly #windows = new DocumentCache<BudgetWindowDocument>(5_000);
  #isClosing = false;

  constructor(options: DurableWriterOptions) {
    this.#options = options;
    this.#queue = new CommitQueue({ commit: (writes) => this.#commitUntilKnown(writes) });
  }

  get queueLength(): number {
    return this.#queue.length;
  }

  /**
   * Resolves with what `fold` answered in the attempt that was committed.
   * @throws QueueFullError, QueueClosedError before anything was taken; what `fold` or the database refused it for.
   */
  async write<Result>(write: DurableWrite<Result>): Promise<Result> {
    const results: Result[] = [];
    await this.#queue.add({
      ...write,
      fold: (draft) => {
        results[0] = write.fold(draft);
      },
    });
    for (const result of results) return result;
    throw new TypeError('a write was committed without being folded');
  }

  /** Takes nothing more and waits until everything taken is durable. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#queue.close();
  }

  async #commitUntilKnown(writes: readonly DurableWrite<void>[]): Promise<void> {
    const { log } = this.#options;
    let duplicates = 0;
    const batch: BatchAttempt = { commitId: randomUUID(), draft: null };
    for (let attempt = 0; ; attempt += 1) {
      try {
        if (attempt > 0 && (await this.#wasCommitted(batch))) return;
        await this.#commit(writes, attempt > 0, batch);
        return;
      } catch (cause) {
        await this.#abort();
        this.#forget(writes);
        if (isDuplicateKey(cause)) duplicates += 1;
        // A duplicate id means that the log has what was thought to be new. Read again, it is a repeat; if it still is
        // none, something else holds that id, and running again will not help.
        if ((!isTransient(cause) && !isDuplicateKey(cause)) || duplicates > 3) throw cause;
        if (this.#isClosing && attempt >= 20) throw cause;
        log.debug(
          { err: cause, attempt, writes: writes.length },
          'a batch was not committed; running it again',
        );
        if (attempt > 0 && attempt % 20 === 0)
          log.warn(
            { err: cause, attempt, writes: writes.length },
            'the database does not take writes; still trying',
          );
        await backoff(attempt);
      }
    }
  }

  /**
   * Whether the attempt before went through although its answer was lost: then what it folded is what was promised,
   * and its frames are still to be sent.
   */
  async #wasCommitted({ commitId, draft }: BatchAttempt): Promise<boolean> {
    const [event] = draft?.draft.writes.events ?? [];
    if (draft === null || event === undefined) return false;
    const stored = await this.#options.collections.events.findOne(
      { _id: event._id },
      { projection: { commit_id: 1 }, readPreference: 'primary', readConcern: { level: 'majority' } },
    );
    if (stored?.commit_id !== commitId) return false;
    this.#announce(draft);
    return true;
  }

  #announce({ draft, finished: { sessions, frames } }: FoldedBatch): void {
    for (const { code, chat_id, model } of draft.notes)
      this.#options.log.warn({ chat_id, code, model }, 'usage needs attention');
    this.#options.publish({
      frames,
      sessions,
      credited: draft.writes.ledger.filter(({ amount }) => amount > 0n),
    });
  }

  async #commit(writes: readonly DurableWrite<void>[], readAll: boolean, batch: BatchAttempt): Promise<void> {
    const { collections, node, context } = this.#options;
    const { session } = node;
    crashPoint('before_transaction');
    session.startTransaction({
      readConcern: { level: 'snapshot' },
      writeConcern: { w: 'majority', journal: true },
      readPreference: 'primary',
    });
    const batchContext = context();
    const reads = await this.#read(writes, session, readAll, batchContext);
    crashPoint('after_read');
    const draft = new BatchDraft(reads, batchContext, batch.commitId);
    for (const write of writes) write.fold(draft);
    if (draft.isRefusing && !readAll) throw new StaleReadError('the cache');
    const finished = draft.finish();
    const { sessions, wallets, windows } = finished;
    batch.draft = { draft, finished };
    await writeVersions(collections.sessions, sessions, session, (document) =>
      document.version === 1
        ? { insertOne: { document } }
        : {
            replaceOne: {
              filter: { _id: document._id, version: document.version - 1 },
              replacement: document,
            },
          },
    );
    crashPoint('after_sessions');
    await insertAll(collections.ledger, draft.writes.ledger, session);
    crashPoint('after_ledger');
    await insertAll(collections.events, draft.writes.events, session);
    crashPoint('after_events');
    await insertAll(collections.llmUsage, draft.writes.llmUsage, session);
    await insertAll(collections.taskMetrics, draft.writes.taskMetrics, session);
    if (draft.marks.length > 0)
      await collections.usageMarks.bulkWrite(
        draft.marks.map(({ _id, ...mark }) => ({
          replaceOne: { filter: { _id }, replacement: mark, upsert: true },
        })),
        { session, ordered: false },
      );
    await writeHolds(collections.holds, draft.holds, session);
    await writeVersions(collections.budgetWindows, windows, session, (document) =>
      document.version === 1n
        ? { insertOne: { document } }
        : {
            replaceOne: {
              filter: { _id: document._id, version: document.version - 1n },
              replacement: document,
            },
          },
    );
    await writeVersions(collections.wallets, wallets, session, (document) =>
      document.version === 1n
        ? { insertOne: { document } }
        : {
            replaceOne: {
              filter: { _id: document._id, version: document.version - 1n },
              replacement: document,
            },
          },
    );
    crashPoint('after_wallets');
    // Even a batch of nothing but repeats: only a commit promises that what was read is safe on a majority.
    crashPoint('before_commit');
    await session.commitTransaction();
    crashPoint('after_commit');
    for (const document of sessions) this.#sessions.set(document._id, document);
    for (const document of wallets) this.#wallets.set(document._id, document);
    for (const document of windows) this.#windows.set(document._id, document);
    for (const hold of draft.holds.added.values()) this.#holds.set(hold._id, hold);
    for (const id of draft.holds.removed) this.#holds.delete(id);
    this.#announce({ draft, finished });
    crashPoint('after_publish');
  }

  async #read(
    writes: readonly DurableWrite<void>[],
    session: ClientSession,
    readAll: boolean,
    context: BatchContext,
  ): Promise<BatchReads> {
    const { collections } = this.#options;
    const sessions = await readThrough(
      this.#sessions,
      unique(writes.flatMap(({ chatIds }) => chatIds ?? [])),
      readAll,
      (ids) => collections.sessions.find({ _id: { $in: ids } }, { session }).toArray(),
    );
    const owners = [...writes.flatMap((write) => write.owners ?? []), ...sessions.values()];
    const walletIds = unique(owners.map((owner) => walletId(owner.app_id, owner.user_id)));
    const wallets = await readThrough(this.#wallets, walletIds, readAll, (ids) =>
      collections.wallets.find({ _id: { $in: ids } }, { session }).toArray(),
    );
    // After a failure even ids that were minted just now may be there: the commit may have gone through.
    const eventIds = unique(
      writes.flatMap((write) => (write.isFresh === true && !readAll ? [] : (write.eventIds ?? []))),
    );
    const seen =
      eventIds.length === 0
        ? []
        : await collections.events
            .find({ _id: { $in: eventIds } }, { session, projection: { _id: 1 } })
            .toArray();
    const lineIds = unique(
      writes.flatMap((write) => (write.isFresh === true && !readAll ? [] : (write.lineIds ?? []))),
    );
    const lines =
      lineIds.length === 0
        ? []
        : await collections.ledger.find({ _id: { $in: lineIds } }, { session }).toArray();
    await this.#readMarks(writes, sessions, session);
    const holds = await readThrough(
      this.#holds,
      unique(
        writes.flatMap((write) => [...(write.holdIds ?? []), ...(readAll ? (write.newHoldIds ?? []) : [])]),
      ),
      readAll,
      (ids) => collections.holds.find({ _id: { $in: ids } }, { session }).toArray(),
    );
    const windowIds = [
      ...writes.flatMap((write) => budgetWindowIds(write, sessions, context)),
      ...[...holds.values()].flatMap((hold) => hold.windows.map(({ window_id }) => window_id)),
    ];
    const windows = await readThrough(this.#windows, unique(windowIds), readAll, (ids) =>
      collections.budgetWindows.find({ _id: { $in: ids } }, { session }).toArray(),
    );
    return {
      holds,
      windows,
      sessions,
      wallets,
      seen: new Set(seen.map(({ _id }) => _id)),
      lines: new Map(lines.map((line) => [line._id, line])),
    };
  }

  async #readMarks(
    writes: readonly DurableWrite<void>[],
    sessions: Map<string, SessionDocument>,
    session: ClientSession,
  ): Promise<void> {
    const wanted = writes.flatMap(({ counter }) => {
      const held = counter === undefined ? undefined : sessions.get(counter.chat_id);
      if (counter === undefined || held === undefined) return [];
      const missing = missingClient(held, counter.run_id, counter.client, counter.isMetered);
      return missing === undefined ? [] : [{ chat_id: counter.chat_id, ...missing }];
    });
    if (wanted.length === 0) return;
    const documents = await this.#options.collections.usageMarks.find({ $or: wanted }, { session }).toArray();
    for (const [id, held] of sessions) {
      const own = documents.filter(({ chat_id }) => chat_id === id);
      if (own.length === 0) continue;
      const copy = structuredClone(held);
      restoreMarks(copy, own);
      sessions.set(id, copy);
    }
  }

  async #abort(): Promise<void> {
    const { session } = this.#options.node;
    // The transaction may be gone already (that is often why we are here); the next one ends it on the server.
    if (session.inTransaction()) await session.abortTransaction().catch(() => undefined);
  }

  #forget(writes: readonly DurableWrite<void>[]): void {
    for (const id of writes.flatMap(({ chatIds }) => chatIds ?? [])) this.#sessions.delete(id);
    // Whose wallets the batch touched follows from sessions that may be stale themselves.
    this.#wallets.clear();
    this.#windows.clear();
    for (const id of writes.flatMap(({ holdIds }) => holdIds ?? [])) this.#holds.delete(id);
  }
}

/** The windows of all budgets that this write may be charged to. */
function budgetWindowIds(
  { spends }: DurableWrite<void>,
  sessions: Map<string, SessionDocument>,
  context: BatchContext,
): string[] {
  if (spends === undefined || context.budgets.length === 0) return [];
  const { app_id = '', user_id = '', workflow_name = '' } = sessions.get(spends.chat_id) ?? spends.identity;
  const facts = { app_id, user_id, workflow_name, chat_id: spends.chat_id };
  return spends.models.flatMap((model) =>
    budgetWindowsFor(context.budgets, { ...facts, model }, context.now).map(({ id }) => id),
  );
}

const unique = (ids: readonly string[]): string[] => [...new Set(ids)];

async function readThrough<Value extends { _id: string }>(
  cache: DocumentCache<Value>,
  ids: readonly string[],
  readAll: boolean,
  read: (ids: string[]) => Promise<Value[]>,
): Promise<Map<string, Value>> {
  const found = new Map<string, Value>();
  const missing: string[] = [];
  for (const id of ids) {
    const cached = readAll ? undefined : cache.get(id);
    if (cached === undefined) missing.push(id);
    else found.set(id, cached);
  }
  if (missing.length > 0) for (const value of await read(missing)) found.set(value._id, value);
  return found;
}

/** A hold that is gone was settled, released or expired by somebody else: its units must not be given back twice. */
async function writeHolds(
  collection: Collections['holds'],
  { added, removed }: { added: Map<string, HoldDocument>; removed: Set<string> },
  session: ClientSession,
): Promise<void> {
  await insertAll(collection, [...added.values()], session);
  if (removed.size === 0) return;
  const { deletedCount } = await collection.deleteMany({ _id: { $in: [...removed] } }, { session });
  if (deletedCount !== removed.size) throw new StaleReadError('Holds');
}

/** Inserts documents of their first version and replaces the others, each only at the version it was read at. */
async function writeVersions<Document extends { _id: string; version: number | bigint }>(
  collection: Collection<Document>,
  documents: readonly Document[],
  session: ClientSession,
  toOperation: (document: Document) => AnyBulkWriteOperation<Document>,
): Promise<void> {
  if (documents.length === 0) return;
  const operations = documents.map(toOperation);
  const { insertedCount, matchedCount } = await collection.bulkWrite(operations, { session, ordered: true });
  if (insertedCount + matchedCount !== documents.length) throw new StaleReadError(collection.collectionName);
}

async function insertAll<Document extends { _id: string }>(
  collection: Collection<Document>,
  documents: Parameters<Collection<Document>['insertMany']>[0],
  session: ClientSession,
): Promise<void> {
  if (documents.length > 0) await collection.insertMany(documents, { session, ordered: true });
}

/** From 5 ms to half a second, with jitter, so that nodes in each other's way come apart. */
function backoff(attempt: number): Promise<void> {
  return delay(Math.min(500, 5 * 1.6 ** attempt) * (0.5 + Math.random() / 2));
}
