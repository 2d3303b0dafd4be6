import { createHash } from 'node:crypto';
import type { LedgerDocument, WalletDocument, WalletUnit } from './collections.ts';

/**
 * Wallets and their ledger, pure. A wallet's lines form a chain: each holds its place, the balance after it and the
 * hash of the line before, so that a changed, removed or invented line is found. A balance may fall below zero: usage
 * that happened is never clamped away.
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
    line_count: 0n,
    last_hash: null,
    created_at: now,
    updated_at: now,
  };
}

type LineFacts = Pick<LedgerDocument, '_id' | 'kind' | 'amount' | 'created_at'> &
  Partial<Omit<LedgerDocument, 'wallet_id' | 'line' | 'balance_after' | 'unit' | 'previous_hash' | 'hash'>>;

/** Adds a line at the end of the wallet's chain and moves its balance (`wallet` is changed in place). */
export function appendLine(wallet: WalletDocument, facts: LineFacts): LedgerDocument {
  const line: Omit<LedgerDocument, 'hash'> = {
    wallet_id: wallet._id,
    line: wallet.line_count + 1n,
    app_id: wallet.app_id,
    user_id: wallet.user_id,
    unit: wallet.unit,
    balance_after: wallet.balance + facts.amount,
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
  };
  const hash = hashLine(line);
  wallet.balance = line.balance_after;
  wallet.line_count = line.line;
  wallet.last_hash = hash;
  wallet.updated_at = facts.created_at;
  return { ...line, hash };
}

/** The first line of a wallet that comes into being. */
export function startGrant(wallet: WalletDocument, amount: bigint, now: Date): LedgerDocument {
  return appendLine(wallet, {
    _id: `grant|start|${wallet._id}`,
    kind: 'grant',
    amount,
    reason: 'start balance',
    created_at: now,
  });
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
