import type { Envelope, RunResult } from '../contracts/agent-events.ts';
import { isZero, totalOf } from '../usage/token-counts.ts';
import { type AgentTurns, compactTurns, countUnaccounted, newTurns } from '../usage/turn-accounts.ts';
import type { RunAccount, SessionDocument, TotalsDocument } from './collections.ts';
import { FrameEmitter } from './frame-emitter.ts';
import { newShare } from './new-session.ts';
import { runStartDocumentId } from './event-log.ts';
import type { ChatDraft, FoldContext, FoldNote, Step } from './session-fold.ts';
import { trueUp } from './usage-fold.ts';
import { addShare, groupShares, totalsOf, wireShare } from './usage-share.ts';

/** The beginning and the end of a run, and what its end brings to light, pure. */
const keptRuns = 8;

export function openRun(
  draft: ChatDraft,
  envelope: Envelope,
  isNew: boolean,
  emitter: FrameEmitter,
  context: FoldContext,
): RunAccount {
  const { session } = draft;
  const { runs } = session.usage_state;
  const found = runs.find((run) => run.run_id === envelope.run_id);
  if (found !== undefined) return found;
  const run: RunAccount = {
    run_id: envelope.run_id,
    started_at: new Date(envelope.ts),
    result: null,
    accounting: null,
    is_cancelled: false,
    turns: 0,
    shares: [],
    agents: [],
    unaccounted_turns: 0,
    speaker: null,
  };
  runs.push(run);
  if (runs.length > keptRuns) runs.shift();
  if (!isNew) return run;
  session.status = 'in_progress';
  session.pause_reason = null;
  session.paused_run = null;
  session.completed_at = null;
  if (envelope.dialect === 'mozaiks')
    session.run = {
      run_id: run.run_id,
      owner: context.node_id,
      lease_until: new Date(context.now.getTime() + dayMs),
      turn: 0,
    };
  emitter.emit(
    { type: 'chat.run_start', data: { run_id: run.run_id, workflow_name: session.workflow_name } },
    runStartDocumentId(session._id, run.run_id),
  );
  return run;
}

const dayMs = 24 * 60 * 60 * 1000;

export function completeRun(
  {
    result = 'success',
    reason = '',
    spoken = [],
  }: { result?: RunResult | undefined; reason?: string | undefined; spoken?: string[] | undefined },
  step: Step,
): FoldNote[] {
  const { draft, run, emitter, envelope, context } = step;
  const { session } = draft;
  if (run.result !== null) return [];
  run.result = result;
  const notes = settleRun(step);
  const { tokens, overall } = session.real_time_tracking;
  const totals = totalsOf(run.shares.reduce(addShare, newShare()));
  const durationSec = Math.max(0, (Date.parse(envelope.ts) - run.started_at.getTime()) / 1000);
  overall.runtime_sec += durationSec;
  tokens.final = finalTotals(session);
  emitter.emit({
    type: 'chat.usage_summary',
    data: {
      run_id: run.run_id,
      totals,
      by_agent: groupShares(run.shares, 'agent').map(({ name, share }) => ({
        agent: name,
        ...wireShare(share),
      })),
      by_model: groupShares(run.shares, 'model').map(({ name, share }) => ({
        model: name,
        ...wireShare(share),
      })),
      unaccounted_turns: run.unaccounted_turns,
    },
  });
  emitter.emit({
    type: 'chat.run_complete',
    data: {
      run_id: run.run_id,
      workflow_name: session.workflow_name,
      result,
      total_turns: run.turns,
      totals,
      reason,
    },
  });
  session.status = statusAfter(result);
  session.pause_reason = result === 'out_of_funds' ? 'insufficient_tokens' : null;
  // A run of a foreign process cannot be taken up from here.
  session.paused_run =
    result === 'out_of_funds' && envelope.dialect === 'mozaiks' ? { run_id: run.run_id, spoken } : null;
  session.completed_at = session.status === 'completed' || session.status === 'failed' ? context.now : null;
  if (session.run?.run_id === run.run_id) session.run = null;
  recordTaskMetrics(draft, run, durationSec, result, context.now);
  return notes;
}

function statusAfter(result: RunResult): SessionDocument['status'] {
  switch (result) {
    case 'success':
    case 'stopped':
      return 'completed';
    case 'error':
      return 'failed';
    case 'out_of_funds':
      return 'paused';
  }
}

/**
 * Compares an ended run's replies and final counters with what was billed, and shows what does not agree. Runs again
 * when late events arrive; what was shown once is not shown again.
 */
function settleRun(step: Step): FoldNote[] {
  const { draft, run, emitter, context } = step;
  const { session } = draft;
  if (context.finalUsagePolicy === 'true_up') trueUp(step);
  const { tokens } = session.real_time_tracking;
  const notes: FoldNote[] = [];
  const unaccounted = run.agents.reduce((sum, turns) => sum + countUnaccounted(turns), 0);
  if (unaccounted > run.unaccounted_turns) {
    notes.push({ code: 'missing_usage_summary' });
    emitter.emit({
      type: 'chat.error',
      data: {
        error_type: 'missing_usage_summary',
        message: `${unaccounted} ${unaccounted === 1 ? 'reply' : 'replies'} of this run came without usage, so what ${unaccounted === 1 ? 'it' : 'they'} cost is not known and was not debited.`,
        details: { run_id: run.run_id, unaccounted_turns: unaccounted },
        retryable: false,
      },
    });
  }
  tokens.unaccounted_turns += unaccounted - run.unaccounted_turns;
  run.unaccounted_turns = unaccounted;
  const mismatch = !isZero(session.usage_state.final_excess);
  if (mismatch && !tokens.usage_mismatch) {
    notes.push({ code: 'usage_mismatch' });
    emitter.emit({
      type: 'chat.error',
      data: {
        error_type: 'usage_mismatch',
        message:
          "The producer's final totals are above what its summaries added up to: a summary is missing.",
        details: { run_id: run.run_id, missing_tokens: Number(totalOf(session.usage_state.final_excess)) },
        retryable: false,
      },
    });
  }
  tokens.usage_mismatch = mismatch;
  if (tokens.final !== null || run.result !== null) tokens.final = finalTotals(session);
  return notes;
}

/** Late events of ended runs, once for each chat and batch: settled on their own, they would cry wolf half-way. */
export function settleLateEvents(draft: ChatDraft, context: FoldContext): FoldNote[] {
  return draft.session.usage_state.runs
    .filter((run) => run.result !== null)
    .flatMap((run) => {
      const envelope = settlementEnvelope(draft, run, context);
      const emitter = new FrameEmitter(draft, { envelope, uuid: envelope.event.content.uuid }, context);
      return settleRun({ draft, run, envelope, emitter, context });
    });
}

/** What late events bring to light has no event of its own; the document's next version gives it an id. */
function settlementEnvelope({ session }: ChatDraft, run: RunAccount, { now }: FoldContext) {
  const uuid = `settle:${run.run_id}:${session.version + 1}`;
  return {
    v: 1 as const,
    dialect: 'mozaiks',
    chat_id: session._id,
    run_id: run.run_id,
    seq: 0,
    ts: now.toISOString(),
    agent: null,
    event: { type: 'settlement', content: { uuid } },
  };
}

function finalTotals(session: SessionDocument): TotalsDocument {
  const { tokens } = session.real_time_tracking;
  const excess = session.usage_state.final_excess;
  return {
    total_tokens: tokens.total_tokens + totalOf(excess),
    prompt_tokens: tokens.prompt_tokens + excess.prompt_tokens,
    completion_tokens: tokens.completion_tokens + excess.completion_tokens,
    total_cost: tokens.total_cost,
  };
}

function recordTaskMetrics(
  draft: ChatDraft,
  run: RunAccount,
  durationSec: number,
  status: RunResult,
  timestamp: Date,
): void {
  const { _id, app_id, user_id } = draft.session;
  const facts = { task_id: _id, app_id, user_id, status, timestamp };
  draft.writes.taskMetrics.push(
    {
      _id: `${_id}|${run.run_id}|duration`,
      ...facts,
      metric_name: 'task_duration_seconds',
      metric_value: durationSec,
    },
    {
      _id: `${_id}|${run.run_id}|success`,
      ...facts,
      metric_name: 'task_success',
      metric_value: status === 'success' ? 1 : 0,
    },
  );
}

export function turnsOf(run: RunAccount, agent: string): AgentTurns {
  let turns = run.agents.find((each) => each.agent === agent);
  if (turns === undefined) {
    turns = newTurns(agent);
    run.agents.push(turns);
  }
  compactTurns(turns);
  return turns;
}
