import { createHash } from 'node:crypto';
import { thresholdReached, windowAt } from '../usage/budget.ts';
import type { GrantLot, LedgerDocument, WalletDocument, WalletUnit } from './collections.ts';

/**
 * Wallets and their ledger, pure. A wallet's lines form a chain: each holds its place, the balance after it and the
 * hash of the line before, so that a changed, removed or invented line is found. Usage that happened is never clamped
 * away: what goes below zero is a line of kind `debt`.
 */
export const walletId = (appId: string, userId: string): string => `${appId}|${userId}`;

export type WalletOwner = { app_id: string; user_id: string };

export function newWallet(owner: WalletOwner, unit: WalletUnit, now: Date): WalletDocument {
  return {
    _id: walletId(owner.app_id, owner.user_id),
    app_id: owner.app_id,
    user_id: owner.user_id,
    unit,
    balance: 0n,
    held: 0n,
    version: 0n,
    lots: [],
    auto_refill: null,
    alert_base: 0n,
    alerted: 0,
    line_count: 0n,
    last_hash: null,
    created_at: now,
    updated_at: now,
  };
}

export const availableIn = (wallet: WalletDocument): bigint => wallet.balance - wallet.held;

export type LineFacts = Pick<LedgerDocument, '_id' | 'kind' | 'created_at'> &
  Partial<
    Omit<
      LedgerDocument,
      'wallet_id' | 'line' | 'balance_after' | 'held_after' | 'unit' | 'previous_hash' | 'hash'
    >
  >;

/** Adds a line at the end of the wallet's chain and moves its balance (`wallet` is changed in place). */
export function appendLine(wallet: WalletDocument, facts: LineFacts): LedgerDocument {
  const { amount = 0n, held_change = 0n } = facts;
  const line: Omit<LedgerDocument, 'hash'> = {
    wallet_id: wallet._id,
    line: wallet.line_count + 1n,
    app_id: wallet.app_id,
    user_id: wallet.user_id,
    unit: wallet.unit,
    balance_after: wallet.balance + amount,
    held_after: wallet.held + held_change,
    hold_id: null,
    chat_id: null,
    run_id: null,
    sequence: null,
    event_uuid: null,
    agent: null,
    model: null,
    tokens: null,
    by_model: [],
    cost_nano_usd: null,
    reported_cost: null,
    price_version: null,
    reason: null,
    request_hash: null,
    previous_hash: wallet.last_hash,
    ...facts,
    amount,
    held_change,
  };
  const hash = hashLine(line);
  wallet.balance = line.balance_after;
  wallet.held = line.held_after;
  wallet.line_count = line.line;
  wallet.last_hash = hash;
  wallet.updated_at = facts.created_at;
  return { ...line, hash };
}

export type Grant = LineFacts & { kind: 'grant' | 'refund' | 'adjustment'; amount: bigint };

/** Adds units. With an end, what is left of them then leaves by a line of kind `expiry`. */
export function grant(
  wallet: WalletDocument,
  facts: Grant,
  lot?: { expires_at: Date; priority: number },
): LedgerDocument {
  const line = appendLine(wallet, facts);
  if (lot !== undefined)
    wallet.lots = [...wallet.lots, { line_id: line._id, remaining: facts.amount, ...lot }].toSorted(
      bySpendingOrder,
    );
  wallet.alert_base = wallet.balance;
  wallet.alerted = 0;
  return line;
}

/** The first line of a wallet that comes into being. */
export function startGrant(wallet: WalletDocument, amount: bigint, now: Date): LedgerDocument {
  return grant(wallet, {
    _id: `start-grant|${wallet._id}`,
    kind: 'grant',
    amount,
    reason: 'start balance',
    created_at: now,
  });
}

/**
 * Takes units for usage that happened. What the wallet does not have is a second line, of kind `debt`, under an id of
 * its own. Grants that end are used up first.
 */
export function debit(
  wallet: WalletDocument,
  units: bigint,
  facts: Omit<LineFacts, 'kind' | 'amount'>,
): LedgerDocument[] {
  const covered = units <= wallet.balance ? units : wallet.balance > 0n ? wallet.balance : 0n;
  takeFromLots(wallet, units);
  // Even a wholly uncovered debit keeps its own line: it carries the tokens and the cost.
  const lines = [appendLine(wallet, { ...facts, kind: 'debit', amount: -covered })];
  if (covered < units)
    lines.push(
      appendLine(wallet, {
        _id: facts._id.replace(/^debit/, 'debt'),
        kind: 'debt',
        amount: covered - units,
        created_at: facts.created_at,
        ...pickOrigin(facts),
        reason: 'usage beyond the balance',
      }),
    );
  return lines;
}

function pickOrigin({
  chat_id = null,
  run_id = null,
  sequence = null,
  event_uuid = null,
  agent = null,
  model = null,
}: Partial<LedgerDocument>) {
  return { chat_id, run_id, sequence, event_uuid, agent, model };
}

function takeFromLots(wallet: WalletDocument, units: bigint): void {
  let left = units;
  wallet.lots = wallet.lots.flatMap((lot) => {
    const taken = left < lot.remaining ? left : lot.remaining;
    left -= taken;
    return taken === lot.remaining ? [] : [{ ...lot, remaining: lot.remaining - taken }];
  });
}

function bySpendingOrder(left: GrantLot, right: GrantLot): number {
  return left.priority - right.priority || left.expires_at.getTime() - right.expires_at.getTime();
}

/** Takes out what ended by `now`. What is owed already is not taken twice: an end never makes a balance negative. */
export function expireLots(wallet: WalletDocument, now: Date): LedgerDocument[] {
  const ended = wallet.lots.filter((lot) => lot.expires_at <= now);
  if (ended.length === 0) return [];
  wallet.lots = wallet.lots.filter((lot) => lot.expires_at > now);
  return ended.map((lot) => {
    const units = lot.remaining < wallet.balance ? lot.remaining : wallet.balance > 0n ? wallet.balance : 0n;
    return appendLine(wallet, {
      _id: `expiry|${lot.line_id}`,
      kind: 'expiry',
      amount: -units,
      reason: `the rest of ${lot.line_id}`,
      created_at: now,
    });
  });
}

/** Tops the wallet up if it asks for that and has not been in this window; the id makes it once under any race. */
export function refillIfLow(wallet: WalletDocument, now: Date): LedgerDocument[] {
  const refill = wallet.auto_refill;
  if (refill === null || availableIn(wallet) >= refill.threshold) return [];
  const { key } = windowAt(refill.window, refill.time_zone, now);
  if (refill.last_window === key) return [];
  wallet.auto_refill = { ...refill, last_window: key };
  return [
    grant(wallet, {
      _id: `refill|${wallet._id}|${refill.window}|${key}`,
      kind: 'grant',
      amount: refill.amount,
      reason: 'auto-refill',
      created_at: now,
    }),
  ];
}

/** The threshold (percent of the last grant's balance) that was crossed since the last call; undefined when none was. */
export function crossedThreshold(wallet: WalletDocument): number | undefined {
  if (wallet.alert_base <= 0n) return undefined;
  const reached = thresholdReached(wallet.alert_base - wallet.balance, wallet.alert_base);
  if (reached <= wallet.alerted) return undefined;
  wallet.alerted = reached;
  return reached;
}

/**
 * SHA-256 (hex) of the line as JSON with its keys in alphabetical order at every depth, int64 as decimal texts and
 * dates as ISO 8601, without the `hash` itself. `previous_hash` is part of it: that makes the chain.
 */
export function hashLine(line: Omit<LedgerDocument, 'hash'>): string {
  return createHash('sha256').update(canonicalJson(line)).digest('hex');
}

/** One text for one value, whatever the order of its keys. */
export function canonicalJson(value: unknown): string {
  if (typeof value === 'bigint') return `"${value}"`;
  if (value instanceof Date) return JSON.stringify(value.toISOString());
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .filter(([key, member]) => key !== 'hash' && member !== undefined)
    .toSorted(([left], [right]) => (left < right ? -1 : 1));
  return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(',')}}`;
}
