import type { ClientSession, Document } from 'mongodb';
import { z } from 'zod';
import type { Checked, DifferenceKind } from '../contracts/verification.ts';
import { addCounts, type TokenCounts, tokenKinds, totalOf, zeroCounts } from '../usage/token-counts.ts';
import { nanoToUsd } from '../usage/token-pricing.ts';
import type { Collections } from './collections.ts';
import type { Differences } from './differences.ts';
import { walletId } from './wallet-ledger.ts';

/** Which chats: all of them, those of one app or user, or one. */
export type ChatScope = { app_id?: string; user_id?: string; _id?: string };

export type SessionStep = {
  collections: Pick<Collections, 'sessions' | 'ledger' | 'events' | 'usageMarks' | 'llmUsage'>;
  /** All that one step reads is of one moment. */
  session: ClientSession;
  scope: ChatScope;
  differences: Differences;
  checked: Checked;
};

const sessionsInStep = 400;

const counts = {
  prompt_tokens: z.bigint(),
  completion_tokens: z.bigint(),
  cached_tokens: z.bigint(),
  cache_write_tokens: z.bigint(),
  reasoning_tokens: z.bigint(),
};
const share = {
  ...counts,
  total_tokens: z.bigint(),
  total_cost_nano_usd: z.bigint(),
  total_cost: z.number(),
};
const markSchema = z.object({
  run_id: z.string(),
  client: z.string(),
  epoch: z.number(),
  model: z.string(),
  billed: z.object(counts),
});
const billedSchema = z.object({ model: z.string(), counts: z.object(counts) });
const unmeteredSchema = z.object({ run_id: z.string(), agent: z.string(), billed: z.array(billedSchema) });
const sessionSchema = z.object({
  _id: z.string(),
  app_id: z.string(),
  user_id: z.string(),
  last_sequence: z.number(),
  real_time_tracking: z.object({
    tokens: z.object({
      ...share,
      by_agent: z.array(z.object({ ...share, agent: z.string() })),
      by_model: z.array(z.object({ ...share, model: z.string() })),
    }),
  }),
  usage_state: z.object({
    marks: z.array(markSchema),
    unmetered: z.array(unmeteredSchema),
    call_counts: z.array(billedSchema),
  }),
});
type Session = z.infer<typeof sessionSchema>;
const projection = {
  app_id: 1,
  user_id: 1,
  last_sequence: 1,
  'real_time_tracking.tokens': 1,
  'usage_state.marks': 1,
  'usage_state.call_counts': 1,
  'usage_state.unmetered.run_id': 1,
  'usage_state.unmetered.agent': 1,
  'usage_state.unmetered.billed': 1,
} as const;

/** Usage with its cost, as it adds up. */
type Sum = { counts: TokenCounts; cost: bigint };
const noUsage = (): Sum => ({ counts: zeroCounts(), cost: 0n });

/** One chat, and what the other collections say of it. */
type Account = {
  session: Session;
  /** From ledger lines. */
  total: Sum;
  agents: Map<string, Sum>;
  models: Map<string, Sum>;
  wallets: Set<string>;
  lastLine: number;
  /** From marks. */
  marked: Map<string, TokenCounts>;
  rows: Sum & { total_tokens: bigint };
  frames: { count: number; first: number; last: number };
};

/**
 * Checks the next chats: each one's totals rebuilt from its ledger lines, from its counting marks and from its usage
 * rows, and its log without gaps. Sums are made by the database, so a long chat costs no more memory than a short one.
 * @returns the last chat checked, to go on after; null when there are no more.
 */
export async function verifySessions(after: string, step: SessionStep): Promise<string | null> {
  const { collections, session, scope, differences, checked } = step;
  const filter = scope._id === undefined ? { ...scope, _id: { $gt: after } } : { _id: scope._id };
  const listed = await collections.sessions
    .find(filter, { session, projection, sort: { _id: 1 }, limit: sessionsInStep })
    .map((document): unknown => document)
    .toArray();
  const ids: string[] = [];
  const accounts = new Map<string, Account | null>();
  for (const document of listed) {
    const { _id } = z.object({ _id: z.string() }).parse(document);
    ids.push(_id);
    const parsed = sessionSchema.safeParse(document);
    accounts.set(_id, parsed.success ? newAccount(parsed.data) : null);
    for (const issue of parsed.error?.issues ?? [])
      differences.add('session_malformed', _id, null, null, `${issue.path.join('.')}: ${issue.message}`);
  }
  const last = listed.length < sessionsInStep ? undefined : ids.at(-1);
  // Over everything, what lies between two chats is read too: that is where lines of unknown chats are found.
  const chats =
    Object.keys(scope).length > 0
      ? { $in: scope._id === undefined ? ids : [scope._id] }
      : { $gt: after, ...(last === undefined ? {} : { $lte: last }) };
  await sumLedger(chats, accounts, step);
  await sumUsageRows(chats, accounts, step);
  await readLog(chats, accounts, step);
  await sumSpilledMarks(chats, accounts, step);
  for (const account of accounts.values()) if (account !== null) compare(account, differences);
  checked.sessions += ids.length;
  return last ?? null;
}

/** Chats that the lines of these wallets name, and that do not exist. Needed where {@link verifySessions} is not given all. */
export async function verifyChatsNamed(
  wallets: Document,
  { collections, session, differences }: SessionStep,
): Promise<void> {
  const named = collections.ledger.aggregate(
    [
      { $match: { wallet_id: wallets, kind: { $in: ['debit', 'debt'] }, chat_id: { $type: 'string' } } },
      { $group: { _id: '$chat_id' } },
      {
        $lookup: {
          from: collections.sessions.collectionName,
          localField: '_id',
          foreignField: '_id',
          pipeline: [{ $project: { _id: 1 } }],
          as: 'session',
        },
      },
      { $match: { session: [] } },
    ],
    { session },
  );
  for await (const document of named.map((each): unknown => each))
    addMissingSession(z.object({ _id: chatId }).parse(document)._id, 'WalletLedger', differences);
}

function newAccount(session: Session): Account {
  const marked = new Map<string, TokenCounts>();
  const { marks, unmetered, call_counts } = session.usage_state;
  for (const { model, billed } of marks) addMark(marked, model, billed);
  for (const { model, counts: own } of [...unmetered.flatMap(({ billed }) => billed), ...call_counts])
    addMark(marked, model, own);
  return {
    session,
    total: noUsage(),
    agents: new Map(),
    models: new Map(),
    wallets: new Set(),
    lastLine: 0,
    marked,
    rows: { ...noUsage(), total_tokens: 0n },
    frames: { count: 0, first: 0, last: 0 },
  };
}

function addMark(marked: Account['marked'], model: string, billed: TokenCounts): void {
  marked.set(model, addCounts(marked.get(model) ?? zeroCounts(), billed));
}

/** int64 sums come as BigInt, sums of nothing as 0; a double that crept in is no integer and shows. */
const summed = z.union([z.bigint(), z.int().transform(BigInt)]);
const summedCounts = z.object({
  prompt_tokens: summed,
  completion_tokens: summed,
  cached_tokens: summed,
  cache_write_tokens: summed,
  reasoning_tokens: summed,
});
const chatId = z.string();

const ledgerCellSchema = summedCounts.extend({
  _id: z.object({ chat_id: chatId, agent: z.string().nullish(), model: z.string().nullish() }),
  cost: summed,
  last_line: z.number().nullable(),
  wallets: z.array(z.string()),
});

async function sumLedger(
  chats: Document,
  accounts: ReadonlyMap<string, Account | null>,
  step: SessionStep,
): Promise<void> {
  const cells = step.collections.ledger.aggregate(
    [
      { $match: { chat_id: chats, kind: { $in: ['debit', 'debt'] } } },
      { $project: { _id: 0, chat_id: 1, agent: 1, wallet_id: 1, sequence: 1, by_model: 1 } },
      { $unwind: { path: '$by_model', preserveNullAndEmptyArrays: true } },
      {
        $group: {
          _id: { chat_id: '$chat_id', agent: '$agent', model: '$by_model.model' },
          ...Object.fromEntries(tokenKinds.map((kind) => [kind, { $sum: `$by_model.${kind}` }])),
          cost: { $sum: '$by_model.cost_nano_usd' },
          last_line: { $max: '$sequence' },
          wallets: { $addToSet: '$wallet_id' },
        },
      },
    ],
    { session: step.session },
  );
  for await (const document of cells.map((cell): unknown => cell)) {
    const cell = ledgerCellSchema.parse(document);
    const account = accountOf(cell._id.chat_id, accounts, 'WalletLedger', step);
    if (account === null) continue;
    for (const id of cell.wallets) account.wallets.add(id);
    account.lastLine = Math.max(account.lastLine, cell.last_line ?? 0);
    const { model, agent } = cell._id;
    // A debt continues a debit and has no usage of its own.
    if (typeof model !== 'string') continue;
    account.total = addUsage(account.total, cell);
    account.models.set(model, addUsage(account.models.get(model) ?? noUsage(), cell));
    const speaker = agent ?? '';
    account.agents.set(speaker, addUsage(account.agents.get(speaker) ?? noUsage(), cell));
  }
}

const usageRowsSchema = z.object({
  _id: chatId,
  rows: z.number(),
  prompt_tokens: summed,
  completion_tokens: summed,
  total_tokens: summed,
  cost: summed,
});

async function sumUsageRows(
  chats: Document,
  accounts: ReadonlyMap<string, Account | null>,
  step: SessionStep,
): Promise<void> {
  const sums = step.collections.llmUsage.aggregate(
    [
      { $match: { task_id: chats } },
      {
        $group: {
          _id: '$task_id',
          rows: { $sum: 1 },
          prompt_tokens: { $sum: '$prompt_tokens' },
          completion_tokens: { $sum: '$completion_tokens' },
          total_tokens: { $sum: '$total_tokens' },
          cost: { $sum: '$cost_nano_usd' },
        },
      },
    ],
    { session: step.session },
  );
  for await (const document of sums.map((each): unknown => each)) {
    const { _id, rows, cost, total_tokens, ...own } = usageRowsSchema.parse(document);
    step.checked.usage_rows += rows;
    const account = accountOf(_id, accounts, 'llm_usage', step);
    if (account !== null) account.rows = { counts: { ...zeroCounts(), ...own }, cost, total_tokens };
  }
}

const logSchema = z.object({ _id: chatId, count: z.number(), first: z.number(), last: z.number() });

async function readLog(
  chats: Document,
  accounts: ReadonlyMap<string, Account | null>,
  step: SessionStep,
): Promise<void> {
  const logs = step.collections.events.aggregate(
    [
      { $match: { chat_id: chats, seq: { $gte: Number.MIN_SAFE_INTEGER } } },
      // Only what the index holds: no frame is read.
      { $project: { _id: 0, chat_id: 1, seq: 1 } },
      {
        $group: {
          _id: '$chat_id',
          count: { $sum: 1 },
          first: { $min: '$seq' },
          last: { $max: '$seq' },
        },
      },
    ],
    { session: step.session },
  );
  for await (const document of logs.map((each): unknown => each)) {
    const { _id, ...frames } = logSchema.parse(document);
    step.checked.events += frames.count;
    const account = accountOf(_id, accounts, 'ChatEvents', step);
    if (account !== null) account.frames = frames;
  }
}

const spilledSchema = z.object({
  chat_id: chatId,
  mark: markSchema.nullable(),
  unmetered: unmeteredSchema.nullable(),
});

async function sumSpilledMarks(
  chats: Document,
  accounts: ReadonlyMap<string, Account | null>,
  step: SessionStep,
): Promise<void> {
  const { usageMarks } = step.collections;
  const held = new Map<string, ReturnType<typeof heldCounters>>();
  const documents = usageMarks.find({ chat_id: chats }, { session: step.session, sort: { chat_id: 1 } });
  for await (const document of documents.map((each): unknown => each)) {
    step.checked.usage_marks += 1;
    const parsed = spilledSchema.safeParse(document);
    if (!parsed.success) {
      const { _id, chat_id } = z.object({ _id: z.string(), chat_id: chatId }).parse(document);
      step.differences.add('session_malformed', chat_id, null, null, `UsageMarks ${_id} cannot be read`);
      continue;
    }
    const { chat_id, mark, unmetered } = parsed.data;
    const account = accountOf(chat_id, accounts, 'UsageMarks', step);
    if (account === null) continue;
    const own = held.get(chat_id) ?? heldCounters(account.session);
    held.set(chat_id, own);
    // What came back into the session is newer there.
    if (mark !== null && !own.has(counterOf(mark))) addMark(account.marked, mark.model, mark.billed);
    if (unmetered !== null && !own.has(clientOf(unmetered)))
      for (const { model, counts: billed } of unmetered.billed) addMark(account.marked, model, billed);
  }
}

const heldCounters = ({ usage_state: { marks, unmetered } }: Session): Set<string> =>
  new Set([...marks.map(counterOf), ...unmetered.map(clientOf)]);
const counterOf = ({ run_id, client, epoch, model }: z.infer<typeof markSchema>): string =>
  JSON.stringify([run_id, client, epoch, model]);
const clientOf = ({ run_id, agent }: z.infer<typeof unmeteredSchema>): string =>
  JSON.stringify([run_id, agent]);

/** The chat's account; null, and a difference, when there is no such chat. */
function accountOf(
  id: string,
  accounts: ReadonlyMap<string, Account | null>,
  collection: string,
  { differences }: SessionStep,
): Account | null {
  const account = accounts.get(id);
  if (account === undefined) addMissingSession(id, collection, differences);
  return account ?? null;
}

function addMissingSession(id: string, collection: string, differences: Differences): void {
  differences.add('session_missing', id, id, null, `${collection} has entries of a chat that does not exist`);
}

const addUsage = (sum: Sum, usage: TokenCounts & { cost: bigint }): Sum => ({
  counts: addCounts(sum.counts, usage),
  cost: sum.cost + usage.cost,
});

type Share = TokenCounts & Pick<Session['real_time_tracking']['tokens'], keyof typeof share>;

function compare(account: Account, differences: Differences): void {
  const { session, total, frames, rows } = account;
  const { tokens } = session.real_time_tracking;
  const id = session._id;
  compareShare('session_tokens', id, '', total, tokens, differences);
  compareShares('session_by_agent', id, account.agents, tokens.by_agent, ({ agent }) => agent, differences);
  compareShares('session_by_model', id, account.models, tokens.by_model, ({ model }) => model, differences);
  for (const model of new Set([...account.marked.keys(), ...tokens.by_model.map((each) => each.model)])) {
    const marked = account.marked.get(model) ?? zeroCounts();
    const found = tokens.by_model.find((each) => each.model === model) ?? zeroCounts();
    for (const kind of tokenKinds)
      if (marked[kind] !== found[kind])
        differences.add(
          'session_marks',
          id,
          marked[kind],
          found[kind],
          `${model}: ${kind} of its counting marks add up to something else`,
        );
  }
  const usage = { ...rows.counts, total_tokens: rows.total_tokens, total_cost_nano_usd: rows.cost };
  for (const field of ['prompt_tokens', 'completion_tokens', 'total_tokens', 'total_cost_nano_usd'] as const)
    if (usage[field] !== tokens[field])
      differences.add(
        'session_usage_rows',
        id,
        usage[field],
        tokens[field],
        `${field}: its rows in llm_usage add up to something else`,
      );
  const own = walletId(session.app_id, session.user_id);
  for (const wallet of account.wallets)
    if (wallet !== own)
      differences.add('session_wallet', id, own, wallet, 'it was debited from the wallet of somebody else');
  const isGapless =
    frames.count === session.last_sequence &&
    frames.last === session.last_sequence &&
    frames.first === Math.min(1, session.last_sequence);
  if (!isGapless)
    differences.add(
      'event_sequence',
      id,
      `1 to ${session.last_sequence}`,
      `${frames.count} from ${frames.first} to ${frames.last}`,
      'its log has gaps, or more or fewer frames than the session says',
    );
  if (account.lastLine > session.last_sequence)
    differences.add(
      'event_sequence',
      id,
      session.last_sequence,
      account.lastLine,
      'a ledger line belongs to a frame that was never written',
    );
}

function compareShares<Found extends Share>(
  kind: DifferenceKind,
  id: string,
  expected: ReadonlyMap<string, Sum>,
  found: readonly Found[],
  nameOf: (share: Found) => string,
  differences: Differences,
): void {
  for (const each of found)
    compareShare(kind, id, `${nameOf(each)}: `, expected.get(nameOf(each)) ?? noUsage(), each, differences);
  const names = new Set(found.map(nameOf));
  if (names.size < found.length)
    differences.add(kind, id, names.size, found.length, 'a name stands there twice');
  for (const [name, { counts: used }] of expected)
    if (!names.has(name)) differences.add(kind, id, totalOf(used), null, `${name}: is missing`);
}

function compareShare(
  kind: DifferenceKind,
  id: string,
  prefix: string,
  { counts: used, cost }: Sum,
  found: Share,
  differences: Differences,
): void {
  const expected = { ...used, total_tokens: totalOf(used), total_cost_nano_usd: cost };
  for (const field of [...tokenKinds, 'total_tokens', 'total_cost_nano_usd'] as const)
    if (expected[field] !== found[field])
      differences.add(
        kind,
        id,
        expected[field],
        found[field],
        `${prefix}${field} of its ledger lines add up to something else`,
      );
  if (found.total_cost !== nanoToUsd(found.total_cost_nano_usd))
    differences.add(
      kind,
      id,
      nanoToUsd(found.total_cost_nano_usd),
      found.total_cost,
      `${prefix}total_cost is not the same as total_cost_nano_usd`,
    );
}
