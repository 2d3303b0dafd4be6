import type { Envelope, KnownAgentEvent } from '../contracts/agent-events.ts';
import type { DurableFrame } from '../contracts/frames.ts';
import type { IncomingEvent } from '../events/ag2-dialect.ts';
import { framesOfEvent, isUserSpeaker } from '../events/event-frames.ts';
import type { TokenCounts } from '../usage/token-counts.ts';
import type { BudgetDocument } from '../usage/budget.ts';
import { isLlmSpeaker } from '../usage/turn-accounts.ts';
import type {
  BudgetWindowDocument,
  ChatEventDocument,
  HoldDocument,
  LedgerDocument,
  LlmUsageDocument,
  RunAccount,
  SessionDocument,
  TaskMetricDocument,
  WalletDocument,
} from './collections.ts';
import { FrameEmitter } from './frame-emitter.ts';
import type { WindowOf } from './spending.ts';
import { completeRun, openRun, turnsOf } from './run-fold.ts';
import { recordCallUsage, recordFailedCall, recordUsage } from './usage-fold.ts';

/**
 * What an event does to its chat, pure: given a session, its wallet and an event it says every write and every frame.
 * The caller hands in copies and throws them away when the transaction fails, so nothing computed here is ever reused.
 */
export type ChatDraft = {
  session: SessionDocument;
  wallet: WalletDocument;
  writes: BatchWrites;
  spending: SpendingDraft;
};

/** Reservations and budgets, as far as they were read for this batch. */
export type SpendingDraft = {
  windowOf: WindowOf;
  findWindow: (id: string) => BudgetWindowDocument | undefined;
  /** Takes a reservation out; undefined when it is gone already (settled, released or expired). */
  takeHold: (id: string) => HoldDocument | undefined;
};

export type BatchWrites = {
  events: ChatEventDocument[];
  ledger: LedgerDocument[];
  llmUsage: LlmUsageDocument[];
  taskMetrics: TaskMetricDocument[];
  frames: DurableFrame[];
};

export type PriceUsage = (use: {
  model: string;
  app_id: string;
  at: Date;
  counts: TokenCounts;
}) => { cost_nano_usd: bigint; price_version: string } | undefined;

export type FoldContext = {
  now: Date;
  node_id: string;
  /** Marks what this commit wrote, so that a lost answer can be told from a failure. */
  commit_id: string;
  freeTrial: boolean;
  budgets: readonly BudgetDocument[];
  finalUsagePolicy: 'surface' | 'true_up';
  price: PriceUsage;
};

/** Facts worth a line in the log, by code. */
export type FoldNote = {
  code: 'unverifiable_usage' | 'unpriced_model' | 'usage_mismatch' | 'missing_usage_summary';
  model?: string;
};

/** Folds one event into the draft. `runIsNew` is false for a run whose start is in the log already. */
export function foldEvent(
  draft: ChatDraft,
  incoming: IncomingEvent,
  runIsNew: boolean,
  context: FoldContext,
): FoldNote[] {
  const { session } = draft;
  const { envelope, known } = incoming;
  const emitter = new FrameEmitter(draft, incoming, context);
  const run = openRun(draft, envelope, runIsNew, emitter, context);
  const notes: FoldNote[] = [];
  if (known === null) {
    emitter.recordSilently(envelope.event.content);
  } else {
    // The answer itself is in no frame, and whoever asked reads it from the log.
    const content = known.type === 'input_response' ? envelope.event.content : undefined;
    for (const body of framesOfEvent(known, envelope, context.now)) emitter.emit(body, undefined, content);
    notes.push(...actOn(known, { draft, envelope, run, emitter, context }));
    if (emitter.count === 0) emitter.recordSilently(envelope.event.content);
  }
  session.last_updated_at = context.now;
  return notes;
}

export type Step = {
  draft: ChatDraft;
  envelope: Envelope;
  run: RunAccount;
  emitter: FrameEmitter;
  context: FoldContext;
};

function actOn(event: KnownAgentEvent, step: Step): FoldNote[] {
  const { draft, envelope, run } = step;
  const tracking = draft.session.real_time_tracking;
  switch (event.type) {
    case 'usage_summary':
      return recordUsage(event.content, step);
    case 'call_usage':
      return recordCallUsage(event.content, step);
    case 'text': {
      const { sender, role } = event.content;
      if (role === 'user' || isUserSpeaker(sender) || !isLlmSpeaker(sender)) return [];
      // AG2 says this in an agent's name when a context condition hands off: no model was asked.
      if (typeof event.content.content === 'string' && event.content.content.startsWith('[Handing off to '))
        return [];
      if (event.content.llm === false) return [];
      tracking.counts.agent_turns += 1;
      run.turns += 1;
      turnsOf(run, sender).replies.push(envelope.seq);
      recordLatency(tracking, run, sender, envelope);
      return [];
    }
    case 'tool_call':
      if (isLlmSpeaker(event.content.sender)) turnsOf(run, event.content.sender).replies.push(envelope.seq);
      return [];
    case 'call_interrupted':
      turnsOf(run, event.content.agent).replies.push(envelope.seq);
      return [];
    case 'cancel_request':
      run.is_cancelled = true;
      return [];
    case 'executed_function':
      if (event.content.is_exec_success) tracking.counts.tool_calls += 1;
      else tracking.counts.errors += 1;
      return [];
    case 'group_chat_run_chat':
      run.speaker = { agent: event.content.speaker, seq: envelope.seq, at: new Date(envelope.ts) };
      if (draft.session.run?.run_id === run.run_id) draft.session.run.turn += 1;
      return [];
    case 'error':
      tracking.counts.errors += 1;
      if (event.content.llm_call !== undefined)
        recordFailedCall(event.content.llm_call, event.content.error, step);
      return [];
    case 'run_completion':
      return completeRun(event.content, step);
    case 'tool_response':
    case 'termination':
    case 'input_request':
    case 'input_response':
    case 'after_works_transition':
    case 'on_context_condition_transition':
    case 'on_condition_l_l_m_transition':
    case 'reply_result_transition':
      return [];
  }
}

function recordLatency(
  tracking: SessionDocument['real_time_tracking'],
  run: RunAccount,
  agent: string,
  envelope: Envelope,
): void {
  const { speaker } = run;
  if (speaker === null || speaker.agent !== agent || speaker.seq > envelope.seq) return;
  const seconds = Math.max(0, (Date.parse(envelope.ts) - speaker.at.getTime()) / 1000);
  const { latency } = tracking;
  latency.last_turn_duration_sec = seconds;
  latency.avg_turn_duration_sec = nextAverage(
    latency.avg_turn_duration_sec ?? 0,
    latency.turn_count,
    seconds,
  );
  latency.max_turn_duration_sec = Math.max(latency.max_turn_duration_sec ?? 0, seconds);
  latency.turn_count += 1;
  const own = latency.latency_by_agent[agent] ?? { count: 0, avg_sec: 0 };
  latency.latency_by_agent[agent] = {
    count: own.count + 1,
    avg_sec: nextAverage(own.avg_sec, own.count, seconds),
  };
}

const nextAverage = (average: number, count: number, value: number): number =>
  average + (value - average) / (count + 1);
