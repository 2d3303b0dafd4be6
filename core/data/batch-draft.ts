import type { DurableFrame } from '../contracts/frames.ts';
import type {
  BudgetWindowDocument,
  HoldDocument,
  LedgerDocument,
  SessionDocument,
  UsageMarkDocument,
  WalletDocument,
  WalletUnit,
} from './collections.ts';
import { spillMarks } from './mark-spill.ts';
import { type ChatIdentity, newSession } from './new-session.ts';
import { settleLateEvents } from './run-fold.ts';
import type { BatchWrites, FoldContext, FoldNote, SpendingDraft } from './session-fold.ts';
import { expireLots, newWallet, startGrant, walletId, type WalletOwner } from './wallet-ledger.ts';

export type BatchContext = Omit<FoldContext, 'commit_id'> & {
  walletUnit: WalletUnit;
  walletStartBalance: bigint;
};

/** What was read for a batch. `seen` holds the ids of log entries and `lines` the ledger lines that exist already. */
export type BatchReads = {
  sessions: Map<string, SessionDocument>;
  wallets: Map<string, WalletDocument>;
  seen: Set<string>;
  lines: Map<string, LedgerDocument>;
  holds: Map<string, HoldDocument>;
  windows: Map<string, BudgetWindowDocument>;
};

/**
 * One batch in the making: copies of the documents it touches, and everything it will write. It is built anew for
 * each attempt, so a failed one leaves nothing behind.
 */
export class BatchDraft {
  readonly context: BatchContext & FoldContext;
  readonly writes: BatchWrites = { events: [], ledger: [], llmUsage: [], taskMetrics: [], frames: [] };
  readonly marks: UsageMarkDocument[] = [];
  readonly notes: (FoldNote & { chat_id: string })[] = [];
  /** Something was refused for what a document held: that must not have come from a cache gone stale. */
  isRefusing = false;
  readonly #reads: BatchReads;
  readonly #sessions = new Map<string, SessionDocument>();
  readonly #wallets = new Map<string, WalletDocument>();
  readonly #windows = new Map<string, BudgetWindowDocument>();
  readonly holds: { added: Map<string, HoldDocument>; removed: Set<string> } = {
    added: new Map(),
    removed: new Set(),
  };
  readonly #touched = new Set<string>();
  readonly #late = new Set<string>();

  constructor(reads: BatchReads, context: BatchContext, commitId: string) {
    this.#reads = reads;
    this.context = { ...context, commit_id: commitId };
  }

  session(chatId: string): SessionDocument | undefined {
    const held = this.#sessions.get(chatId);
    if (held !== undefined) return held;
    const read = this.#reads.sessions.get(chatId);
    if (read === undefined) return undefined;
    const copy = structuredClone(read);
    this.#sessions.set(chatId, copy);
    return copy;
  }

  openSession(identity: ChatIdentity): SessionDocument {
    const session = newSession(identity, this.context.now, !this.context.freeTrial);
    this.#sessions.set(session._id, session);
    this.#touched.add(session._id);
    return session;
  }

  /** The owner's wallet; it comes into being here, with its start balance as its first line. */
  wallet(owner: WalletOwner): WalletDocument {
    const id = walletId(owner.app_id, owner.user_id);
    const held = this.#wallets.get(id);
    if (held !== undefined) return held;
    const read = this.#reads.wallets.get(id);
    const wallet =
      read === undefined ? newWallet(owner, this.context.walletUnit, this.context.now) : { ...read };
    this.#wallets.set(id, wallet);
    // What ended must not be spent, even if nobody has swept it out yet.
    this.writes.ledger.push(...expireLots(wallet, this.context.now));
    if (read === undefined)
      this.writes.ledger.push(startGrant(wallet, this.context.walletStartBalance, this.context.now));
    return wallet;
  }

  readonly spending: SpendingDraft = {
    windowOf: (id, blank) => {
      const window = this.spending.findWindow(id) ?? {
        ...blank,
        used: 0n,
        held: 0n,
        alerted: 0,
        version: 0n,
      };
      this.#windows.set(id, window);
      return window;
    },
    findWindow: (id) => {
      const held = this.#windows.get(id);
      if (held !== undefined) return held;
      const read = this.#reads.windows.get(id);
      if (read === undefined) return undefined;
      const copy = { ...read };
      this.#windows.set(id, copy);
      return copy;
    },
    takeHold: (id) => {
      const hold = this.findHold(id);
      // One that was made in this batch was never written, so there is nothing to remove.
      if (hold !== undefined && !this.holds.added.delete(id)) this.holds.removed.add(id);
      return hold;
    },
  };

  /** A reservation by its id, whether it was made before this batch or in it. */
  findHold(id: string): HoldDocument | undefined {
    return this.holds.added.get(id) ?? (this.holds.removed.has(id) ? undefined : this.#reads.holds.get(id));
  }

  /** Whether the log has an entry of this id, before this batch or by it. */
  hasSeen(eventDocumentId: string): boolean {
    if (this.#reads.seen.has(eventDocumentId)) return true;
    this.#reads.seen.add(eventDocumentId);
    return false;
  }

  line(id: string): LedgerDocument | undefined {
    return this.#reads.lines.get(id) ?? this.writes.ledger.find((line) => line._id === id);
  }

  /** Says that the session was changed; `isLate` when the event belongs to a run that has ended. */
  touch(session: SessionDocument, isLate: boolean): void {
    this.#touched.add(session._id);
    if (isLate) this.#late.add(session._id);
  }

  /** Settles what only the whole batch can tell, and gives the documents to write, each with its next version. */
  finish(): {
    sessions: SessionDocument[];
    wallets: WalletDocument[];
    windows: BudgetWindowDocument[];
    frames: DurableFrame[];
  } {
    const sessions = [...this.#touched].flatMap((id) => this.#sessions.get(id) ?? []);
    for (const session of sessions) {
      if (this.#late.has(session._id)) {
        const draft = { session, wallet: this.wallet(session), writes: this.writes, spending: this.spending };
        for (const note of settleLateEvents(draft, this.context))
          this.notes.push({ ...note, chat_id: session._id });
      }
      this.marks.push(...spillMarks(session));
      session.version += 1;
    }
    const wallets = [...this.#wallets.values()].filter((wallet) => {
      const read = this.#reads.wallets.get(wallet._id);
      return wallet.line_count !== (read?.line_count ?? 0n) || wallet.auto_refill !== read?.auto_refill;
    });
    for (const wallet of wallets) wallet.version += 1n;
    const windows = [...this.#windows.values()].filter((window) => {
      const read = this.#reads.windows.get(window._id);
      return window.used !== (read?.used ?? 0n) || window.held !== (read?.held ?? 0n);
    });
    for (const window of windows) window.version += 1n;
    return {
      sessions,
      wallets: wallets.toSorted(byId),
      windows: windows.toSorted(byId),
      frames: this.writes.frames,
    };
  }
}

/** Documents are written in one order everywhere, so that two nodes never wait for each other. */
const byId = (left: { _id: string }, right: { _id: string }): number => (left._id < right._id ? -1 : 1);
