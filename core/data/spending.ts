import {
  type BudgetDocument,
  type SpendFacts,
  subjectOf,
  thresholdReached,
  windowAt,
} from '../usage/budget.ts';
import type { BudgetWindowDocument, HoldDocument, LedgerDocument, WalletDocument } from './collections.ts';
import { idPart } from './id-part.ts';
import { appendLine, availableIn } from './wallet-ledger.ts';

/**
 * Reserving before a call and charging after it, pure, over the wallet and every budget at once. A call is admitted
 * only if its upper bound fits everywhere, so any number of calls in parallel cannot overrun a hard limit.
 */
export type Blocked = {
  outcome: 'blocked';
  /** `wallet`, or the budget's scope (`budget:user`). */
  scope: string;
  budget_id: string | null;
  limit: bigint;
  used: bigint;
  held: bigint;
  needed: bigint;
  /** A wallet of money cannot bound what a model without a price will cost. */
  is_unpriced: boolean;
  /** When the limit frees by itself; null when only a top-up or a higher limit helps. */
  frees_at: Date | null;
};
/** `settled`: the call was reserved for, and over, before this request came again. */
export type HoldOutcome = { outcome: 'held'; hold: HoldDocument } | { outcome: 'settled' } | Blocked;

export type HoldRequest = {
  hold_id: string;
  facts: SpendFacts;
  run_id: string;
  agent: string;
  /** The most that the call can use. `cost_nano_usd` is null when the model has no price. */
  tokens: bigint;
  cost_nano_usd: bigint | null;
  expires_at: Date;
};

/** A budget with the window that the present moment falls into. */
export type OpenBudget = { budget: BudgetDocument; subject: string; window: BudgetWindowDocument };

export type WindowOf = (
  id: string,
  blank: Omit<BudgetWindowDocument, 'used' | 'held' | 'alerted' | 'version'>,
) => BudgetWindowDocument;

/** The windows of the budgets that concern these facts at this moment. */
export function budgetWindowsFor(
  budgets: readonly BudgetDocument[],
  facts: SpendFacts,
  now: Date,
): { budget: BudgetDocument; subject: string; id: string; key: string; endsAt: Date | null }[] {
  return budgets.flatMap((budget) => {
    const subject = subjectOf(budget, facts);
    if (subject === undefined) return [];
    const { key, endsAt } = windowAt(budget.window, budget.time_zone, now);
    return [{ budget, subject, id: `${budget._id}|${idPart(subject)}|${key}`, key, endsAt }];
  });
}

export function openBudgets(
  budgets: readonly BudgetDocument[],
  facts: SpendFacts,
  now: Date,
  windowOf: WindowOf,
): OpenBudget[] {
  return budgetWindowsFor(budgets, facts, now).map(({ budget, subject, id, key, endsAt }) => ({
    budget,
    subject,
    window: windowOf(id, {
      _id: id,
      budget_id: budget._id,
      app_id: budget.app_id,
      subject,
      window_key: key,
      ends_at: endsAt,
    }),
  }));
}

type Spender = {
  wallet: WalletDocument;
  budgets: readonly OpenBudget[];
  freeTrial: boolean;
  node_id: string;
  now: Date;
};

/** Reserves over everything, or nothing and says what stands in the way (wallet and windows are changed in place). */
export function placeHold(
  request: HoldRequest,
  { wallet, budgets, freeTrial, node_id, now }: Spender,
): { result: HoldOutcome; lines: LedgerDocument[] } {
  const { facts, tokens, cost_nano_usd } = request;
  const units = freeTrial ? 0n : ((wallet.unit === 'tokens' ? tokens : cost_nano_usd) ?? 0n);
  // A wallet of money cannot bound the cost of a model without a price, so it must not begin.
  const isUnbounded = !freeTrial && wallet.unit === 'nano_usd' && cost_nano_usd === null;
  if (isUnbounded) return { result: { ...blockedByWallet(wallet, 0n), is_unpriced: true }, lines: [] };
  if (!freeTrial && availableIn(wallet) < units) return { result: blockedByWallet(wallet, units), lines: [] };
  for (const open of budgets) {
    const amount = amountFor(open.budget, tokens, cost_nano_usd);
    if (
      open.budget.enforcement === 'hard' &&
      (amount === null || open.window.used + open.window.held + amount > open.budget.limit)
    )
      return { result: blockedBy(open, amount ?? 0n), lines: [] };
  }
  const windows = budgets.map(({ budget, window }) => {
    const amount = amountFor(budget, tokens, cost_nano_usd) ?? 0n;
    window.held += amount;
    return { window_id: window._id, amount };
  });
  const hold: HoldDocument = {
    _id: request.hold_id,
    wallet_id: wallet._id,
    app_id: facts.app_id,
    user_id: facts.user_id,
    chat_id: facts.chat_id,
    run_id: request.run_id,
    agent: request.agent,
    model: facts.model,
    units,
    windows,
    node_id,
    created_at: now,
    expires_at: request.expires_at,
  };
  return { result: { outcome: 'held', hold }, lines: [holdLine(wallet, hold, 'hold', now)] };
}

/** Gives back what was reserved; `windowOf` finds the windows it was reserved in. */
export function releaseHold(
  hold: HoldDocument,
  wallet: WalletDocument,
  windowOf: (id: string) => BudgetWindowDocument | undefined,
  now: Date,
  reason: string | null = null,
): LedgerDocument {
  for (const { window_id, amount } of hold.windows) {
    const window = windowOf(window_id);
    if (window !== undefined) window.held -= amount;
  }
  return { ...holdLine(wallet, hold, 'release', now, reason) };
}

function holdLine(
  wallet: WalletDocument,
  hold: HoldDocument,
  kind: 'hold' | 'release',
  now: Date,
  reason: string | null = null,
): LedgerDocument {
  return appendLine(wallet, {
    _id: `${kind}|${hold._id}`,
    kind,
    held_change: kind === 'hold' ? hold.units : -hold.units,
    hold_id: hold._id,
    chat_id: hold.chat_id,
    run_id: hold.run_id,
    agent: hold.agent,
    model: hold.model,
    reason,
    created_at: now,
  });
}

/** Counts what was used against the budgets; says which thresholds were crossed. */
export function chargeBudgets(
  budgets: readonly OpenBudget[],
  tokens: bigint,
  cost_nano_usd: bigint | null,
): { open: OpenBudget; threshold: number }[] {
  const crossed: { open: OpenBudget; threshold: number }[] = [];
  for (const open of budgets) {
    const { budget, window } = open;
    window.used += amountFor(budget, tokens, cost_nano_usd) ?? 0n;
    const threshold = thresholdReached(window.used, budget.limit);
    if (threshold <= window.alerted) continue;
    window.alerted = threshold;
    crossed.push({ open, threshold });
  }
  return crossed;
}

/** What keeps the next call from being made, without knowing its size; undefined when nothing does. */
export function exhausted(
  wallet: WalletDocument,
  budgets: readonly OpenBudget[],
  freeTrial: boolean,
): Blocked | undefined {
  if (!freeTrial && availableIn(wallet) <= 0n) return blockedByWallet(wallet, 1n);
  const full = budgets.find(
    ({ budget, window }) => budget.enforcement === 'hard' && window.used + window.held >= budget.limit,
  );
  return full === undefined ? undefined : blockedBy(full, 1n);
}

export const scopeOf = ({ budget }: OpenBudget): string => `budget:${budget.scope}`;

function amountFor(budget: BudgetDocument, tokens: bigint, cost_nano_usd: bigint | null): bigint | null {
  return budget.unit === 'tokens' ? tokens : cost_nano_usd;
}

function blockedByWallet(wallet: WalletDocument, needed: bigint): Blocked {
  return {
    outcome: 'blocked',
    scope: 'wallet',
    budget_id: null,
    is_unpriced: false,
    limit: wallet.balance,
    used: 0n,
    held: wallet.held,
    needed,
    frees_at: null,
  };
}

function blockedBy(open: OpenBudget, needed: bigint): Blocked {
  const { budget, window } = open;
  return {
    outcome: 'blocked',
    scope: scopeOf(open),
    budget_id: budget._id,
    is_unpriced: false,
    limit: budget.limit,
    used: window.used,
    held: window.held,
    needed,
    frees_at: window.ends_at,
  };
}

/** One sentence that tells apart: no money, reserved by calls under way, the limit of which scope, and what helps. */
export function explainBlock({ scope, limit, used, held, needed, frees_at, is_unpriced }: Blocked): string {
  if (is_unpriced)
    return 'The model has no price, so what the call may cost cannot be reserved from a wallet of money. Set a price for it, or use another model.';
  if (scope === 'wallet') {
    const reserved = held > 0n ? `, ${held} of it reserved for calls under way` : '';
    return held > 0n && limit >= needed
      ? `The wallet holds ${limit}${reserved}; the next call needs up to ${needed}. Wait for the other replies, or top the wallet up.`
      : `The wallet holds ${limit}${reserved}; the next call needs up to ${needed}. Top it up and the chat goes on.`;
  }
  const frees =
    frees_at === null
      ? 'Raise the limit to go on.'
      : `It frees at ${frees_at.toISOString()}; a higher limit helps at once.`;
  return `The limit of ${scope} is ${limit}, with ${used} used and ${held} reserved; the next call needs up to ${needed}. ${frees}`;
}
