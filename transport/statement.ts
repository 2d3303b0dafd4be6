import type { LedgerDocument, WalletDocument } from '../core/data/collections.ts';
import { canonicalJson } from '../core/data/wallet-ledger.ts';

/**
 * A wallet's statement as CSV (RFC 4180): a header, one row for each line of its ledger, and last the head of the
 * chain. Whoever gets it can check it offline (docs/examples/verify-statement.mjs): `canonical` is the text that
 * `hash` is the SHA-256 of, with everything that the line says; the other columns repeat it for people. A statement
 * without its last row was cut off.
 */
type Column = { name: string; of: (line: LedgerDocument) => string };

const columns: readonly Column[] = [
  { name: 'line', of: ({ line }) => number(line) },
  { name: 'created_at', of: ({ created_at }) => text(created_at.toISOString()) },
  { name: 'kind', of: ({ kind }) => text(kind) },
  { name: 'amount', of: ({ amount }) => number(amount) },
  { name: 'unit', of: ({ unit }) => text(unit) },
  { name: 'balance_after', of: ({ balance_after }) => number(balance_after) },
  { name: 'held_change', of: ({ held_change }) => number(held_change) },
  { name: 'held_after', of: ({ held_after }) => number(held_after) },
  { name: 'chat_id', of: ({ chat_id }) => text(chat_id) },
  { name: 'agent', of: ({ agent }) => text(agent) },
  { name: 'model', of: ({ model }) => text(model) },
  { name: 'prompt_tokens', of: ({ tokens }) => number(tokens?.prompt_tokens) },
  { name: 'completion_tokens', of: ({ tokens }) => number(tokens?.completion_tokens) },
  { name: 'total_tokens', of: ({ tokens }) => number(tokens?.total_tokens) },
  { name: 'cost_nano_usd', of: ({ cost_nano_usd }) => number(cost_nano_usd) },
  { name: 'reason', of: ({ reason }) => text(reason) },
  { name: '_id', of: ({ _id }) => text(_id) },
  { name: 'previous_hash', of: ({ previous_hash }) => text(previous_hash) },
  { name: 'hash', of: ({ hash }) => text(hash) },
  { name: 'canonical', of: (line) => text(canonicalJson(line)) },
];

/** What is sent at once. */
const rowsInPiece = 200;

/** The statement of a wallet as it was read, from its lines up to that moment, oldest first. */
export async function* writeStatement(
  wallet: WalletDocument,
  lines: AsyncIterable<LedgerDocument>,
  now: Date,
): AsyncGenerator<string> {
  let rows = [row(columns.map(({ name }) => name))];
  for await (const line of lines) {
    rows.push(row(columns.map(({ of }) => of(line))));
    if (rows.length < rowsInPiece) continue;
    yield rows.join('');
    rows = [];
  }
  yield rows.join('') + headRow(wallet, now);
}

/** Where the chain ends: as many lines, this balance, this hash. */
function headRow(wallet: WalletDocument, now: Date): string {
  const { _id, line_count, unit, balance, held, last_hash } = wallet;
  const cells = new Map([
    ['line', text('head')],
    ['created_at', text(now.toISOString())],
    ['unit', text(unit)],
    ['balance_after', number(balance)],
    ['held_after', number(held)],
    ['_id', text(_id)],
    ['hash', text(last_hash)],
    ['canonical', text(canonicalJson({ balance, head: last_hash, held, lines: line_count, wallet_id: _id }))],
  ]);
  return row(columns.map(({ name }) => cells.get(name) ?? ''));
}

const row = (cells: readonly string[]): string => `${cells.join(',')}\r\n`;

const number = (value: bigint | null | undefined): string =>
  value === null || value === undefined ? '' : String(value);

/**
 * A text as a cell. Spreadsheets take a cell that begins with = + - @ (or a tab, or a return) for a formula and would
 * run it; an apostrophe in front keeps it a text, and one in front of an apostrophe keeps that unambiguous.
 */
function text(value: string | null): string {
  if (value === null) return '';
  const harmless = /^[=+\-@'\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}
