import { hash } from 'node:crypto';
import { BSON } from 'mongodb';
import { z } from 'zod';
import { tokenKinds } from '../usage/token-counts.ts';
import type { Differences } from './differences.ts';
import { eventDocumentId } from './event-log.ts';
import type { LineBytes, Members } from './line-bytes.ts';
import { canonicalJson, walletId } from './wallet-ledger.ts';

/**
 * Checks the chain of one wallet, line by line. After a difference it goes on from what the line itself says, so that
 * one changed line is not reported as a thousand.
 */
export type ChainEnd = {
  wallet_id: string;
  line: bigint;
  hash: string | null;
  balance: bigint;
  held: bigint;
  /** A debit that took less than the usage it is for: the next line must be a debt for the rest. */
  open_debit: { id: string; event_uuid: string; units: bigint } | null;
};

export const chainStart = (walletId: string): ChainEnd => ({
  wallet_id: walletId,
  line: 0n,
  hash: null,
  balance: 0n,
  held: 0n,
  open_debit: null,
});

const countNames = [...tokenKinds, 'total_tokens'] as const;
const counts = z.record(z.enum(tokenKinds), z.bigint());

/** What the chain's rules look at. Everything else of a line is covered by its hash. */
const lineSchema = z.object({
  _id: z.string(),
  wallet_id: z.string(),
  line: z.bigint(),
  kind: z.string(),
  app_id: z.string(),
  user_id: z.string(),
  unit: z.string(),
  amount: z.bigint(),
  balance_after: z.bigint(),
  held_change: z.bigint(),
  held_after: z.bigint(),
  chat_id: z.string().nullable(),
  event_uuid: z.string().nullable(),
  reason: z.string().nullable(),
  tokens: counts.and(z.object({ total_tokens: z.bigint() })).nullable(),
  by_model: z.array(counts.and(z.object({ cost_nano_usd: z.bigint().nullable() }))),
  cost_nano_usd: z.bigint().nullable(),
  previous_hash: z.string().nullable(),
  hash: z.string(),
});

type Line = Omit<z.infer<typeof lineSchema>, 'tokens' | 'by_model'> & {
  /** By kind, then the total; null when the line is not about usage. */
  tokens: bigint[] | null;
  /** The same, added up over the models, and what is known of their cost. */
  models: { sums: bigint[]; cost: bigint | null };
};

/** The line as its bytes say, with the hash it should have; or why it is none. */
export function readLine(
  bytes: Buffer,
  reader: LineBytes,
): { line: Line; hash: string } | { malformed: string; id: string; wallet_id: string } {
  const read = reader.read(bytes);
  const line = read === undefined ? undefined : lineOfMembers(read.members, reader);
  if (read !== undefined && line !== undefined && line.hash === read.hash) return { line, hash: read.hash };
  return readLineByDefinition(bytes);
}

/** As {@link readLine}, by the definition of the hash: for lines that are unusual, or differ. */
function readLineByDefinition(bytes: Buffer): ReturnType<typeof readLine> {
  let document: Record<string, unknown>;
  let text: string;
  try {
    document = BSON.deserialize(bytes, { useBigInt64: true });
    text = canonicalJson(document);
  } catch (cause) {
    return { malformed: String(cause), id: 'a line that cannot be read', wallet_id: '' };
  }
  const parsed = lineSchema.safeParse(document);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return {
      malformed: `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
      id: String(document['_id']),
      wallet_id: String(document['wallet_id']),
    };
  }
  const { tokens, by_model, ...rest } = parsed.data;
  const costs = by_model.flatMap(({ cost_nano_usd }) => cost_nano_usd ?? []);
  return {
    line: {
      ...rest,
      tokens: tokens === null ? null : countNames.map((name) => tokens[name]),
      models: {
        sums: tokenKinds.map((kind) => sum(by_model.map((model) => model[kind]))),
        cost: costs.length === 0 ? null : sum(costs),
      },
    },
    hash: hash('sha256', text),
  };
}

function lineOfMembers(members: Members, reader: LineBytes): Line | undefined {
  const [_id, wallet_id, kind, app_id, user_id, unit, ownHash] = [
    members.string('_id'),
    members.string('wallet_id'),
    members.string('kind'),
    members.string('app_id'),
    members.string('user_id'),
    members.string('unit'),
    members.string('hash'),
  ];
  const [line, amount, balance_after, held_change, held_after] = [
    members.int64('line'),
    members.int64('amount'),
    members.int64('balance_after'),
    members.int64('held_change'),
    members.int64('held_after'),
  ];
  const [chat_id, event_uuid, reason, previous_hash] = [
    nullable(members, 'chat_id'),
    nullable(members, 'event_uuid'),
    nullable(members, 'reason'),
    nullable(members, 'previous_hash'),
  ];
  const cost_nano_usd = members.isNull('cost_nano_usd') ? null : members.int64('cost_nano_usd');
  const tokens = members.isNull('tokens') ? null : countsOf(reader.membersOf(members, 'tokens')?.[0]);
  const models = modelsOf(reader.membersOf(members, 'by_model'));
  if (
    _id === undefined ||
    wallet_id === undefined ||
    kind === undefined ||
    app_id === undefined ||
    user_id === undefined ||
    unit === undefined ||
    ownHash === undefined ||
    line === undefined ||
    amount === undefined ||
    balance_after === undefined ||
    held_change === undefined ||
    held_after === undefined ||
    chat_id === undefined ||
    event_uuid === undefined ||
    reason === undefined ||
    previous_hash === undefined ||
    cost_nano_usd === undefined ||
    tokens === undefined ||
    models === undefined
  )
    return undefined;
  return {
    _id,
    wallet_id,
    kind,
    app_id,
    user_id,
    unit,
    hash: ownHash,
    line,
    amount,
    balance_after,
    held_change,
    held_after,
    chat_id,
    event_uuid,
    reason,
    previous_hash,
    cost_nano_usd,
    tokens,
    models,
  };
}

const nullable = (members: Members, name: string): string | null | undefined =>
  members.isNull(name) ? null : members.string(name);

function countsOf(members: Members | undefined): bigint[] | undefined {
  const found = countNames.flatMap((name) => members?.int64(name) ?? []);
  return found.length === countNames.length ? found : undefined;
}

function modelsOf(models: readonly Members[] | undefined): Line['models'] | undefined {
  if (models === undefined) return undefined;
  const sums = tokenKinds.map(() => 0n);
  let cost: bigint | null = null;
  for (const model of models) {
    for (const [index, kind] of tokenKinds.entries()) {
      const count = model.int64(kind);
      if (count === undefined) return undefined;
      sums[index] = (sums[index] ?? 0n) + count;
    }
    if (model.isNull('cost_nano_usd')) continue;
    const own = model.int64('cost_nano_usd');
    if (own === undefined) return undefined;
    cost = (cost ?? 0n) + own;
  }
  return { sums, cost };
}

/** Checks one line against the chain before it, and moves the chain's end (`end` is changed in place). */
export function followChain(end: ChainEnd, line: Line, hashed: string, differences: Differences): void {
  const { _id } = line;
  const expect = (
    kind: Parameters<Differences['add']>[0],
    expected: string | bigint | null,
    found: string | bigint | null,
    detail: string,
  ) => {
    if (expected !== found) differences.add(kind, _id, expected, found, detail);
  };
  expect(
    'line_hash',
    hashed,
    line.hash,
    'the line is not what was written: its hash is that of another text',
  );
  expect(
    'line_number',
    end.line + 1n,
    line.line,
    `after line ${end.line} of ${end.wallet_id} a line was removed, invented or moved`,
  );
  expect('line_previous_hash', end.hash, line.previous_hash, 'it does not follow the line before it');
  expect('line_balance', end.balance + line.amount, line.balance_after, 'balance_after is not the sum');
  expect('line_held', end.held + line.held_change, line.held_after, 'held_after is not the sum');
  expect('line_owner', walletId(line.app_id, line.user_id), line.wallet_id, 'the line names another owner');
  if (line.event_uuid !== null && line.chat_id !== null)
    expect(
      'line_id',
      `${line.kind}|${eventDocumentId(line.chat_id, line.event_uuid)}`,
      _id,
      'its id is not derived from its event, so the event could be debited again',
    );
  checkUsage(end, line, differences);
  end.line = line.line;
  end.hash = line.hash;
  end.balance = line.balance_after;
  end.held = line.held_after;
}

/** A debit takes what its tokens (or their cost) say, and what the balance lacked is a debt right behind it. */
function checkUsage(end: ChainEnd, line: Line, differences: Differences): void {
  const open = end.open_debit;
  end.open_debit = null;
  if (open !== null) {
    const isItsDebt = line.kind === 'debt' && line.event_uuid === open.event_uuid;
    if (!isItsDebt || line.amount !== -open.units) addOpenDebit(open, isItsDebt ? line : null, differences);
  }
  if (line.tokens === null) return;
  const [prompt = 0n, completion = 0n] = line.tokens;
  const expected = [...line.models.sums, prompt + completion];
  for (const [index, name] of countNames.entries())
    if (line.tokens[index] !== expected[index])
      differences.add('line_tokens', line._id, expected[index], line.tokens[index], `tokens.${name}`);
  if (line.models.cost !== line.cost_nano_usd)
    differences.add('line_tokens', line._id, line.models.cost, line.cost_nano_usd, 'cost_nano_usd');
  if (line.kind !== 'debit' || line.event_uuid === null) return;
  const used = line.unit === 'tokens' ? (line.tokens.at(-1) ?? 0n) : (line.cost_nano_usd ?? 0n);
  const units = line.reason === 'free_trial' ? 0n : used;
  if (-line.amount !== units)
    end.open_debit = { id: line._id, event_uuid: line.event_uuid, units: units + line.amount };
}

/** Nothing may be owed at the end of a chain either. */
export function closeChain(end: ChainEnd, differences: Differences): void {
  if (end.open_debit !== null) addOpenDebit(end.open_debit, null, differences);
}

function addOpenDebit(
  open: NonNullable<ChainEnd['open_debit']>,
  debt: Line | null,
  differences: Differences,
): void {
  differences.add(
    'line_amount',
    open.id,
    -open.units,
    debt?.amount ?? 0n,
    'the debit took another amount than the usage it is for, and the debt behind it is not the rest',
  );
}

const sum = (values: readonly bigint[]): bigint => values.reduce((total, each) => total + each, 0n);
