import {
  chatSessionSchema,
  type ChatSession,
  ledgerEntrySchema,
  type LedgerEntry,
} from '../contracts/documents.ts';
import type { DurableFrame } from '../contracts/frames.ts';
import type { ChatSummary } from '../contracts/http.ts';
import type { IncomingEvent, RefusalCode } from '../events/ag2-dialect.ts';
import type { BatchDraft } from './batch-draft.ts';
import type { ChatEventDocument, Collections, SessionDocument } from './collections.ts';
import type { DurableWriter } from './durable-writer.ts';
import {
  eventDocumentId,
  inputResponseUuid,
  readFrames,
  readTexts,
  runStartDocumentId,
  type SpokenText,
} from './event-log.ts';
import { jsonView } from './json-view.ts';
import type { ChatIdentity } from './new-session.ts';
import { foldEvent } from './session-fold.ts';
import type { TokenCounts } from '../usage/token-counts.ts';
import { exhausted, openBudgets } from './spending.ts';
import { wouldOverflow } from './usage-fold.ts';

/** What became of an event. `blocking` names what keeps the next call from being made: `wallet`, `budget:user`, `cancelled`. */
export type EventRecord =
  | { outcome: 'recorded' | 'repeated'; blocking: string | null }
  | { outcome: 'refused'; code: RefusalCode; reason: string };

const chatKinds = ['debit', 'debt', 'refund', 'adjustment'] as const;

/** The public face of storage for chats and their log. All writes go through the one durable writer. */
export class PersistenceManager {
  readonly #collections: Collections;
  readonly #writer: DurableWriter;

  constructor(collections: Collections, writer: DurableWriter) {
    this.#collections = collections;
    this.#writer = writer;
  }

  /**
   * Counts a usage summary: ledger line, wallet, `real_time_tracking` and the frame in one transaction, guarded
   * against double debit by the counters' high-water marks and by the event's id.
   */
  saveUsageSummary(event: IncomingEvent, isFresh: boolean): Promise<EventRecord> {
    return this.#record(event, isFresh);
  }

  /** Puts any other event into its chat's log, with the frames it is shown by. */
  appendEvent(event: IncomingEvent, isFresh: boolean): Promise<EventRecord> {
    return this.#record(event, isFresh);
  }

  #record(event: IncomingEvent, isFresh: boolean): Promise<EventRecord> {
    const { envelope, uuid } = event;
    const { chat_id, run_id, meter } = envelope;
    return this.#writer.write({
      chatIds: [chat_id],
      ...(envelope.app_id === undefined || envelope.user_id === undefined
        ? {}
        : { owners: [{ app_id: envelope.app_id, user_id: envelope.user_id }] }),
      eventIds: [eventDocumentId(chat_id, uuid), runStartDocumentId(chat_id, run_id)],
      isFresh,
      counter: {
        chat_id,
        run_id,
        client: meter?.client ?? envelope.agent ?? 'unknown',
        isMetered: meter != null,
      },
      spends: {
        chat_id,
        identity: definedOnly({
          app_id: envelope.app_id,
          user_id: envelope.user_id,
          workflow_name: envelope.workflow_name,
        }),
        models: modelsOf(event),
      },
      ...(meter?.hold_id === undefined ? {} : { holdIds: [meter.hold_id] }),
      fold: (draft) => record(draft, event),
    });
  }

  /** Opens a chat under the given id; `false` when it was there already. */
  openChat(identity: ChatIdentity): Promise<boolean> {
    const { chat_id, app_id, user_id } = identity;
    return this.#writer.write({
      chatIds: [chat_id],
      owners: [{ app_id, user_id }],
      fold: (draft) => {
        if (draft.session(chat_id) !== undefined) return false;
        draft.openSession(identity);
        draft.wallet({ app_id, user_id });
        return true;
      },
    });
  }

  findSession(chatId: string): Promise<SessionDocument | null> {
    return this.#collections.sessions.findOne({ _id: chatId });
  }

  /** The newest chat of this user and workflow that has not ended. */
  findOpenChat(identity: Omit<ChatIdentity, 'chat_id'>): Promise<SessionDocument | null> {
    return this.#collections.sessions.findOne(
      { ...identity, status: 'in_progress' },
      { sort: { last_updated_at: -1 } },
    );
  }

  /** Chats of an owner that stopped for want of funds. */
  findPausedChats(owner: { app_id: string; user_id?: string }): Promise<SessionDocument[]> {
    return this.#collections.sessions
      .find({ ...owner, status: 'paused', paused_run: { $ne: null } }, { limit: 1000 })
      .toArray();
  }

  /** Chats whose run this node had under way when it ended without a word. */
  findOrphanedRuns(nodeId: string): Promise<SessionDocument[]> {
    return this.#collections.sessions.find({ 'run.owner': nodeId }).toArray();
  }

  async listChats(identity: Omit<ChatIdentity, 'chat_id'>, limit: number): Promise<ChatSummary[]> {
    const documents = await this.#collections.sessions
      .find({ ...identity }, { sort: { last_updated_at: -1 }, limit })
      .toArray();
    return documents.map(summaryOf);
  }

  /** A question that was put to the user, and the answer if there is one. */
  async findInput(
    chatId: string,
    requestId: string,
  ): Promise<{ request: ChatEventDocument; answer: string | null } | null> {
    const ids = [eventDocumentId(chatId, requestId), eventDocumentId(chatId, inputResponseUuid(requestId))];
    const found = await this.#collections.events.find({ _id: { $in: ids } }).toArray();
    const request = found.find(({ frame }) => frame?.type === 'chat.input_request');
    if (request === undefined) return null;
    const value = found.find(({ frame }) => frame?.type === 'chat.input_ack')?.event.content?.['value'];
    return { request, answer: typeof value === 'string' ? value : null };
  }

  readFrames(chatId: string, afterSequence: number, limit: number): Promise<DurableFrame[]> {
    return readFrames(this.#collections, chatId, afterSequence, limit);
  }

  readTexts(chatId: string, limit: number): Promise<SpokenText[]> {
    return readTexts(this.#collections, chatId, limit);
  }

  /** Lines of a chat or a wallet, oldest first; `after` is the last line's number. Of a chat, what usage took. */
  async readLedger(
    of: { chat_id: string } | { wallet_id: string },
    after: number,
    limit: number,
  ): Promise<LedgerEntry[]> {
    const documents =
      'chat_id' in of
        ? await this.#collections.ledger
            .find(
              { chat_id: of.chat_id, line: { $gt: BigInt(after) }, kind: { $in: [...chatKinds] } },
              { sort: { line: 1 }, limit },
            )
            .toArray()
        : await this.#collections.ledger
            .find({ wallet_id: of.wallet_id, line: { $gt: BigInt(after) } }, { sort: { line: 1 }, limit })
            .toArray();
    return documents.map((document) => jsonView(ledgerEntrySchema, document));
  }
}

function record(draft: BatchDraft, event: IncomingEvent): EventRecord {
  const { envelope, uuid, known } = event;
  const { chat_id, app_id, user_id, workflow_name } = envelope;
  const found = draft.session(chat_id);
  if (found === undefined && (app_id === undefined || user_id === undefined || workflow_name === undefined))
    return {
      outcome: 'refused',
      code: 'unknown_chat',
      reason: 'there is no such chat; name app_id, user_id and workflow_name to open it',
    };
  if (
    found !== undefined &&
    ((app_id ?? found.app_id) !== found.app_id || (user_id ?? found.user_id) !== found.user_id)
  )
    return { outcome: 'refused', code: 'wrong_chat', reason: 'the chat belongs to another app or user' };
  const usage = known?.type === 'usage_summary' || known?.type === 'call_usage' ? known : null;
  const accounting =
    found?.usage_state.runs.find(({ run_id }) => run_id === envelope.run_id)?.accounting ?? null;
  if (usage !== null && accounting !== null && accounting !== usage.type)
    return {
      outcome: 'refused',
      code: 'mixed_usage',
      reason: `this run is counted by ${accounting}; a ${usage.type} beside it would count twice`,
    };
  const { context } = draft;
  const owner = { app_id: found?.app_id ?? app_id ?? '', user_id: found?.user_id ?? user_id ?? '' };
  const wallet = draft.wallet(owner);
  const costOf = (model: string, counts: TokenCounts) =>
    context.price({ model, app_id: owner.app_id, at: new Date(envelope.ts), counts })?.cost_nano_usd ?? 0n;
  if (usage !== null && wouldOverflow(found, wallet, usage, costOf))
    return {
      outcome: 'refused',
      code: 'invalid_usage',
      reason: 'the chat or the wallet would count more than 2^53 - 1',
    };
  const session =
    found ??
    draft.openSession({
      chat_id,
      app_id: app_id ?? '',
      user_id: user_id ?? '',
      workflow_name: workflow_name ?? '',
    });
  const blocking = () => {
    if (
      session.usage_state.runs.some(({ run_id, is_cancelled }) => run_id === envelope.run_id && is_cancelled)
    )
      return 'cancelled';
    const { spending } = draft;
    const facts = {
      app_id: session.app_id,
      user_id: session.user_id,
      workflow_name: session.workflow_name,
      chat_id,
    };
    const budgets = modelsOf(event).flatMap((model) =>
      openBudgets(context.budgets, { ...facts, model }, context.now, spending.windowOf),
    );
    const scope = exhausted(wallet, budgets, context.freeTrial)?.scope ?? null;
    if (scope !== null) draft.isRefusing = true;
    return scope;
  };
  if (draft.hasSeen(eventDocumentId(chat_id, uuid))) return { outcome: 'repeated', blocking: blocking() };
  const run = session.usage_state.runs.find((each) => each.run_id === envelope.run_id);
  const runIsNew = run === undefined && !draft.hasSeen(runStartDocumentId(chat_id, envelope.run_id));
  const isLate = run !== undefined && run.result !== null;
  const notes = foldEvent(
    { session, wallet, writes: draft.writes, spending: draft.spending },
    event,
    runIsNew,
    draft.context,
  );
  draft.notes.push(...notes.map((note) => ({ ...note, chat_id })));
  draft.touch(session, isLate);
  return { outcome: 'recorded', blocking: blocking() };
}

/** The models an event may be charged for. An event of another kind concerns none in particular. */
function modelsOf({ known }: IncomingEvent): string[] {
  if (known?.type === 'call_usage') return [known.content.model];
  if (known?.type !== 'usage_summary') return [''];
  const { actual, total } = known.content;
  return [...new Set([...(actual.usages ?? []), ...(total.usages ?? [])].map(({ model }) => model))];
}

export function summaryOf(session: SessionDocument): ChatSummary {
  return {
    chat_id: session._id,
    workflow_name: session.workflow_name,
    status: session.status,
    created_at: session.created_at.toISOString(),
    last_updated_at: session.last_updated_at.toISOString(),
    last_sequence: session.last_sequence,
    total_tokens: Number(session.real_time_tracking.tokens.total_tokens),
  };
}

/** The session as people read it: without the counting rules' memory. */
export function sessionView(session: SessionDocument): ChatSession {
  return jsonView(chatSessionSchema.strip(), session);
}

function definedOnly(identity: {
  [Key in 'app_id' | 'user_id' | 'workflow_name']: string | undefined;
}): Partial<ChatIdentity> {
  const { app_id, user_id, workflow_name } = identity;
  return {
    ...(app_id === undefined ? {} : { app_id }),
    ...(user_id === undefined ? {} : { user_id }),
    ...(workflow_name === undefined ? {} : { workflow_name }),
  };
}

/** The latest run that has not ended; a remote one is only known by its events. */
export function openRunOf({ usage_state }: SessionDocument): string | undefined {
  return usage_state.runs.findLast(({ result }) => result === null)?.run_id;
}

/** The run a session has under way, and whose model call nobody heard the end of. */
export function interruptedRun({
  run,
  usage_state,
}: SessionDocument): { run_id: string; speaker: string | null } | null {
  if (run === null) return null;
  const account = usage_state.runs.find(({ run_id }) => run_id === run.run_id);
  const speaker = account?.speaker ?? null;
  const replies = account?.agents.find(({ agent }) => agent === speaker?.agent)?.replies ?? [];
  const isAnswered = speaker === null || replies.some((reply) => reply > speaker.seq);
  return { run_id: run.run_id, speaker: isAnswered ? null : speaker.agent };
}
