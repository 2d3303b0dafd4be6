import type { KnownAgentEvent } from '../contracts/agent-events.ts';
import type { CallUsageContent } from '../contracts/usage.ts';
import {
  addCounts,
  countsOf,
  growthOf,
  isZero,
  type TokenCounts,
  tokenKinds,
  totalOf,
  zeroCounts,
} from '../usage/token-counts.ts';
import { type ModelDelta, recordObservation } from '../usage/usage-delta.ts';
import type { HoldDocument, SessionDocument, UsageShare, WalletDocument } from './collections.ts';
import type { FrameEmitter } from './frame-emitter.ts';
import { eventDocumentId } from './event-log.ts';
import { idPart } from './id-part.ts';
import { turnsOf } from './run-fold.ts';
import type { FoldNote, Step } from './session-fold.ts';
import { addToShares, raiseShare, shareOf, totalsDocument, totalsOf, usd } from './usage-share.ts';
import { chargeBudgets, openBudgets, releaseHold, scopeOf } from './spending.ts';
import { crossedThreshold, debit, refillIfLow } from './wallet-ledger.ts';

/** What a usage summary does to a chat, pure: growth becomes a ledger line, the wallet, the totals and a frame. */
type UsageContent = Extract<KnownAgentEvent, { type: 'usage_summary' }>['content'];
export type UsageEvent = Extract<KnownAgentEvent, { type: 'usage_summary' | 'call_usage' }>;

export function recordUsage(content: UsageContent, step: Step): FoldNote[] {
  const { draft, envelope, run } = step;
  const { usage_state, real_time_tracking } = draft.session;
  const meter = envelope.meter ?? null;
  run.accounting = 'usage_summary';
  const agent = meter?.agent ?? envelope.agent ?? 'unknown';
  const { deltas, finalExcessChange } = recordObservation(usage_state, {
    run_id: envelope.run_id,
    seq: envelope.seq,
    agent,
    meter,
    content,
  });
  usage_state.final_excess = addCounts(usage_state.final_excess, finalExcessChange);
  const hold = meter?.hold_id === undefined ? undefined : settleHold(meter.hold_id, step);
  turnsOf(run, agent).summaries.push({
    seq: envelope.seq,
    client: meter === null ? agent : `${meter.client}~${meter.epoch}`,
    tokens: (content.total.usages ?? content.actual.usages ?? []).reduce(
      (sum, usage) => sum + usage.prompt_tokens + usage.completion_tokens,
      0,
    ),
  });
  const notes: FoldNote[] = [];
  if (meter === null && !real_time_tracking.tokens.unverifiable) {
    real_time_tracking.tokens.unverifiable = true;
    notes.push({ code: 'unverifiable_usage' });
  }
  if (deltas.length > 0)
    notes.push(
      ...debitUsage(
        deltas,
        { agent, hold, reported_cost: content.actual.total_cost ?? null, reason: null },
        step,
      ),
    );
  return notes;
}

function settleHold(holdId: string, { draft, context }: Step): HoldDocument | undefined {
  const { wallet, writes, spending } = draft;
  const hold = spending.takeHold(holdId);
  if (hold !== undefined) writes.ledger.push(releaseHold(hold, wallet, spending.findWindow, context.now));
  return hold;
}

/** Counts what one call spent; the event's id keeps it from being counted twice. */
export function recordCallUsage(content: CallUsageContent, step: Step): FoldNote[] {
  const { draft, envelope, run } = step;
  const agent = envelope.meter?.agent ?? envelope.agent ?? 'unknown';
  run.accounting = 'call_usage';
  turnsOf(run, agent).summaries.push({
    seq: envelope.seq,
    client: content.uuid,
    tokens: content.prompt_tokens + content.completion_tokens,
  });
  const hold = envelope.meter?.hold_id === undefined ? undefined : settleHold(envelope.meter.hold_id, step);
  const counts = countsOf(content);
  if (isZero(counts)) return [];
  const { call_counts } = draft.session.usage_state;
  const counted = call_counts.find(({ model }) => model === content.model);
  if (counted === undefined) call_counts.push({ model: content.model, counts });
  else counted.counts = addCounts(counted.counts, counts);
  return debitUsage(
    [{ model: content.model, counts }],
    { agent, hold, reported_cost: null, reason: null },
    step,
  );
}

type DebitFacts = {
  agent: string;
  hold: HoldDocument | undefined;
  reported_cost: number | null;
  reason: string | null;
};

function debitUsage(
  deltas: ModelDelta[],
  { agent, hold, reported_cost, reason }: DebitFacts,
  step: Step,
): FoldNote[] {
  const { draft, envelope, run, emitter, context } = step;
  const { session, wallet, writes } = draft;
  const tracking = session.real_time_tracking;
  const { tokens } = tracking;
  // The price is that of the moment the call began, whatever changed while it ran.
  const at = hold?.created_at ?? new Date(envelope.ts);
  const priced = deltas.map(({ model, counts }) => ({
    model,
    counts,
    price: context.price({ model, app_id: session.app_id, at, counts }),
  }));
  const known = priced.filter(({ price }) => price !== undefined);
  const cost =
    known.length === 0 ? null : known.reduce((sum, { price }) => sum + (price?.cost_nano_usd ?? 0n), 0n);
  const counts = deltas.map((delta) => delta.counts).reduce(addCounts, zeroCounts());
  const units = wallet.unit === 'tokens' ? totalOf(counts) : (cost ?? 0n);
  const lastModel = deltas.at(-1)?.model ?? null;
  const lineId = `debit|${eventDocumentId(session._id, emitter.uuid)}`;
  const lines = debit(wallet, context.freeTrial ? 0n : units, {
    _id: lineId,
    hold_id: hold?._id ?? null,
    chat_id: session._id,
    run_id: run.run_id,
    sequence: session.last_sequence + 1,
    event_uuid: emitter.uuid,
    agent,
    model: lastModel,
    tokens: { ...counts, total_tokens: totalOf(counts) },
    by_model: priced.map(({ model, counts: modelCounts, price }) => ({
      model,
      ...modelCounts,
      cost_nano_usd: price?.cost_nano_usd ?? null,
      price_version: price?.price_version ?? null,
    })),
    cost_nano_usd: cost,
    reported_cost,
    price_version: priced.length === 1 ? (priced[0]?.price?.price_version ?? null) : null,
    reason: context.freeTrial ? 'free_trial' : reason,
    created_at: context.now,
  });
  writes.ledger.push(...lines, ...refillIfLow(wallet, context.now));

  for (const { model, counts: modelCounts, price } of priced) {
    const share: UsageShare = shareOf(modelCounts, price?.cost_nano_usd ?? 0n);
    raiseShare(tokens, share);
    addToShares(tokens.by_agent, { agent }, share);
    addToShares(tokens.by_model, { model }, share);
    addToShares(run.shares, { agent, model }, share);
    writes.llmUsage.push({
      _id: `${eventDocumentId(session._id, emitter.uuid)}|${idPart(model)}`,
      ...llmUsageFacts(session, agent, model, at),
      prompt_tokens: modelCounts.prompt_tokens,
      completion_tokens: modelCounts.completion_tokens,
      total_tokens: totalOf(modelCounts),
      cost_nano_usd: price?.cost_nano_usd ?? null,
      cost_usd: price === undefined ? null : usd(price.cost_nano_usd),
      latency_ms: envelope.meter?.latency_ms ?? null,
      status: 'success',
      error_message: null,
    });
  }
  const delta = totalsOf(shareOf(counts, cost ?? 0n));
  tokens.last_model = lastModel;
  tokens.remaining_balance = wallet.balance;
  tokens.last_delta = totalsDocument(shareOf(counts, cost ?? 0n));
  tracking.last_usage_recorded_at = context.now;
  tracking.last_flush_at = context.now;
  emitter.emit(
    {
      type: 'token_update',
      data: {
        chat_id: session._id,
        agent,
        model: lastModel,
        cumulative: { ...totalsOf(tokens), last_model: lastModel },
        delta,
        remaining_balance: Number(wallet.balance),
        ledger_entry_id: lineId,
        incremental_debits: tokens.incremental_debits,
      },
    },
    undefined,
    envelope.event.content,
  );
  warnOfThresholds(
    priced.map(({ model, counts: used, price }) => ({
      model,
      tokens: totalOf(used),
      cost: price?.cost_nano_usd ?? null,
    })),
    step,
  );
  return surfaceUnpriced(
    priced.filter(({ price }) => price === undefined).map(({ model }) => model),
    wallet.unit === 'nano_usd',
    session,
    emitter,
  );
}

/** Says once for each window that half, most or all of a limit (or of the wallet since its last grant) is used. */
function warnOfThresholds(
  spent: { model: string; tokens: bigint; cost: bigint | null }[],
  { draft, emitter, context }: Step,
): void {
  const { session, wallet, spending } = draft;
  const warn = (remaining: bigint, threshold: number, scope: string) =>
    emitter.emit({ type: 'token_warning', data: { remaining_balance: Number(remaining), threshold, scope } });
  for (const { model, tokens, cost } of spent) {
    const facts = { ...factsOf(session), model };
    const budgets = openBudgets(context.budgets, facts, context.now, spending.windowOf);
    for (const { open, threshold } of chargeBudgets(budgets, tokens, cost))
      warn(open.budget.limit - open.window.used, threshold, scopeOf(open));
  }
  const threshold = context.freeTrial ? undefined : crossedThreshold(wallet);
  if (threshold !== undefined) warn(wallet.balance, threshold, 'wallet');
}

const factsOf = ({ app_id, user_id, chat_id, workflow_name }: SessionDocument) => ({
  app_id,
  user_id,
  chat_id,
  workflow_name,
});

function surfaceUnpriced(
  models: string[],
  isMoney: boolean,
  session: SessionDocument,
  emitter: FrameEmitter,
): FoldNote[] {
  const { unpriced_models } = session.real_time_tracking.tokens;
  return models
    .filter((model) => !unpriced_models.includes(model))
    .map((model) => {
      unpriced_models.push(model);
      emitter.emit({
        type: 'chat.error',
        data: {
          error_type: 'unpriced_model',
          message: `There is no price for the model ${model}: ${isMoney ? 'what it cost is not known, so nothing was debited' : 'its tokens are debited, what they cost is not known'}.`,
          details: { model },
          retryable: false,
        },
      });
      return { code: 'unpriced_model', model };
    });
}

/** Debits what final totals showed beyond the summaries, under the run's own event, so once. */
export function trueUp(step: Step): void {
  const { session } = step.draft;
  const { usage_state } = session;
  const missing: ModelDelta[] = [];
  const raise = (model: string, billed: TokenCounts, final: TokenCounts): TokenCounts => {
    const growth = growthOf(billed, final);
    if (!isZero(growth)) missing.push({ model, counts: growth });
    return addCounts(billed, growth);
  };
  for (const mark of usage_state.marks)
    if (mark.final !== null) mark.billed = raise(mark.model, mark.billed, mark.final);
  for (const client of usage_state.unmetered)
    for (const { model, counts } of client.final) {
      const billed = client.billed.find((each) => each.model === model);
      const raised = raise(model, billed?.counts ?? zeroCounts(), counts);
      if (billed === undefined) client.billed.push({ model, counts: raised });
      else billed.counts = raised;
    }
  if (missing.length === 0) return;
  debitUsage(missing, { agent: 'unknown', hold: undefined, reported_cost: null, reason: 'true_up' }, step);
  // Marks that were spilled keep what is missing there, and it stays in sight.
  usage_state.final_excess = growthOf(
    missing.map(({ counts }) => counts).reduce(addCounts, zeroCounts()),
    usage_state.final_excess,
  );
}

/**
 * Whether counting this could take a total, a cost or the wallet beyond what JSON numbers hold exactly. Nobody uses so
 * much: it is a producer gone wrong, and it must not spoil the documents.
 */
export function wouldOverflow(
  session: SessionDocument | undefined,
  wallet: WalletDocument,
  event: UsageEvent,
  price: (model: string, counts: TokenCounts) => bigint,
): boolean {
  const limit = BigInt(Number.MAX_SAFE_INTEGER);
  const tokens = session?.real_time_tracking.tokens;
  const sides =
    event.type === 'call_usage'
      ? [[event.content]]
      : [event.content.actual.usages, event.content.total.usages];
  return sides.some((usages) => {
    const models = (usages ?? []).map((usage) => ({ model: usage.model, counts: countsOf(usage) }));
    const sum = models.map(({ counts }) => counts).reduce(addCounts, zeroCounts());
    const cost = models.reduce((total, { model, counts }) => total + price(model, counts), 0n);
    const units = wallet.unit === 'tokens' ? totalOf(sum) : cost;
    return (
      totalOf(sum) + (tokens?.total_tokens ?? 0n) > limit ||
      tokenKinds.some((kind) => sum[kind] + (tokens?.[kind] ?? 0n) > limit) ||
      cost + (tokens?.total_cost_nano_usd ?? 0n) > limit ||
      units - wallet.balance > limit
    );
  });
}

export function recordFailedCall(
  call: { model: string; latency_ms: number },
  error: unknown,
  step: Step,
): void {
  const { draft, envelope, emitter } = step;
  draft.writes.llmUsage.push({
    _id: `${eventDocumentId(draft.session._id, emitter.uuid)}|${idPart(call.model)}`,
    ...llmUsageFacts(draft.session, envelope.agent, call.model, new Date(envelope.ts)),
    prompt_tokens: 0n,
    completion_tokens: 0n,
    total_tokens: 0n,
    cost_nano_usd: 0n,
    cost_usd: 0,
    latency_ms: call.latency_ms,
    status: 'error',
    error_message: typeof error === 'string' ? error.slice(0, 500) : 'the model call failed',
  });
}

function llmUsageFacts(session: SessionDocument, agent: string | null, model: string, timestamp: Date) {
  const { _id, app_id, user_id, workflow_name } = session;
  return { task_id: _id, app_id, user_id, workflow_name, agent, model, timestamp };
}
