import type { DurableFrame } from '../contracts/frames.ts';
import type {
  LedgerDocument,
  SessionDocument,
  UsageMarkDocument,
  WalletDocument,
  WalletUnit,
} from './collections.ts';
import { spillMarks } from './mark-spill.ts';
import { type ChatIdentity, newSession } from './new-session.ts';
import { settleLateEvents } from './run-fold.ts';
import type { BatchWrites, FoldContext, FoldNote } from './session-fold.ts';
import { newWallet, startGrant, walletId, type WalletOwner } from './wallet-ledger.ts';

export type BatchContext = FoldContext & { walletUnit: WalletUnit; walletStartBalance: bigint };

/** What was read for a batch. `seen` holds the ids of log entries and `lines` the ledger lines that exist already. */
export type BatchReads = {
  sessions: Map<string, SessionDocument>;
  wallets: Map<string, WalletDocument>;
  seen: Set<string>;
  lines: Map<string, LedgerDocument>;
};

/**
 * One batch in the making: copies of the documents it touches, and everything it will write. It is built anew for
 * each attempt, so a failed one leaves nothing behind.
 */
export class BatchDraft {
  readonly context: BatchContext;
  readonly writes: BatchWrites = { events: [], ledger: [], llmUsage: [], taskMetrics: [], frames: [] };
  readonly marks: UsageMarkDocument[] = [];
  readonly notes: (FoldNote & { chat_id: string })[] = [];
  readonly #reads: BatchReads;
  readonly #sessions = new Map<string, SessionDocument>();
  readonly #wallets = new Map<string, WalletDocument>();
  readonly #touched = new Set<string>();
  readonly #late = new Set<string>();

  constructor(reads: BatchReads, context: BatchContext) {
    this.#reads = reads;
    this.context = context;
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
    if (read === undefined)
      this.writes.ledger.push(startGrant(wallet, this.context.walletStartBalance, this.context.now));
    return wallet;
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
  finish(): { sessions: SessionDocument[]; wallets: WalletDocument[]; frames: DurableFrame[] } {
    const sessions = [...this.#touched].flatMap((id) => this.#sessions.get(id) ?? []);
    for (const session of sessions) {
      if (this.#late.has(session._id)) {
        const draft = { session, wallet: this.wallet(session), writes: this.writes };
        for (const note of settleLateEvents(draft, this.context))
          this.notes.push({ ...note, chat_id: session._id });
      }
      this.marks.push(...spillMarks(session));
      session.version += 1;
    }
    const wallets = [...this.#wallets.values()].filter(
      (wallet) => wallet.line_count !== (this.#reads.wallets.get(wallet._id)?.line_count ?? 0n),
    );
    for (const wallet of wallets) wallet.version += 1n;
    return {
      sessions,
      wallets: wallets.toSorted((a, b) => (a._id < b._id ? -1 : 1)),
      frames: this.writes.frames,
    };
  }
}
