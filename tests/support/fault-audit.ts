import type { Db } from 'mongodb';
import {
  type ChatEventDocument,
  type LedgerDocument,
  openCollections,
  type SessionDocument,
  type WalletDocument,
} from '../../core/data/collections.ts';
import { eventDocumentId } from '../../core/data/event-log.ts';
import { hashLine, walletId } from '../../core/data/wallet-ledger.ts';
import {
  addCounts,
  type TokenCounts,
  tokenKinds,
  totalOf,
  zeroCounts,
} from '../../core/usage/token-counts.ts';
import type { ChatBill, FaultHistory } from './fault-history.ts';

/** What every wallet gets at its first use, unless the server is told otherwise. */
const startBalance = 1_000_000n;

/**
 * Compares what is stored with the bill, and what is stored in one place with what is stored in another. It reads
 * MongoDB itself and trusts none of the program's own sums.
 * @returns what does not agree, in sentences; nothing when all is exact.
 */
export async function auditAccounts(database: Db, history: FaultHistory): Promise<string[]> {
  const collections = openCollections(database);
  const [sessions, events, lines, wallets, usage] = await Promise.all([
    collections.sessions.find().toArray(),
    collections.events.find({}, { sort: { chat_id: 1, seq: 1 } }).toArray(),
    collections.ledger.find({}, { sort: { wallet_id: 1, line: 1 } }).toArray(),
    collections.wallets.find().toArray(),
    collections.llmUsage.find().toArray(),
  ]);
  const breaches = new Breaches();
  const eventsOf = groupBy(events, ({ chat_id }) => chat_id);
  const debitsOf = groupBy(lines, ({ chat_id }) => chat_id ?? '');
  const usageOf = groupBy(usage, ({ task_id }) => task_id);
  const sessionOf = new Map(sessions.map((session) => [session._id, session]));

  auditLog(history, events, breaches);
  for (const bill of history.bills.values()) {
    const session = sessionOf.get(bill.chat_id);
    if (session === undefined) {
      breaches.add(`chat ${bill.chat_id} does not exist`);
      continue;
    }
    auditSession(session, bill, breaches);
    auditFrames(session, bill, eventsOf.get(bill.chat_id) ?? [], breaches);
    const debits = debitsOf.get(bill.chat_id) ?? [];
    const debited = debits.map(({ tokens }) => tokens ?? zeroCounts()).reduce(addCounts, zeroCounts());
    breaches.compareCounts(`ledger of chat ${bill.chat_id}`, debited, bill.counts);
    breaches.compare(
      `amounts of chat ${bill.chat_id}`,
      debits.reduce((sum, { amount }) => sum + amount, 0n),
      -totalOf(bill.counts),
    );
    breaches.compare(
      `cost of chat ${bill.chat_id}, ledger against session`,
      debits.reduce((sum, { cost_nano_usd }) => sum + (cost_nano_usd ?? 0n), 0n),
      session.real_time_tracking.tokens.total_cost_nano_usd,
    );
    for (const [model, counts] of bill.byModel)
      breaches.compare(
        `llm_usage of chat ${bill.chat_id}, ${model}`,
        (usageOf.get(bill.chat_id) ?? [])
          .filter((row) => row.model === model)
          .reduce((sum, { total_tokens }) => sum + total_tokens, 0n),
        totalOf(counts),
      );
  }
  auditWallets(history, wallets, lines, breaches);
  return breaches.found;
}

/** Every event has left its trace, once. */
function auditLog(history: FaultHistory, events: readonly ChatEventDocument[], breaches: Breaches): void {
  const logged = new Set(events.map(({ _id }) => _id));
  for (const { chat_id, uuid } of history.events)
    if (!logged.has(eventDocumentId(chat_id, uuid)))
      breaches.add(`event ${uuid} was acknowledged and is not in the log`);
}

function auditSession(session: SessionDocument, bill: ChatBill, breaches: Breaches): void {
  const { tokens, counts } = session.real_time_tracking;
  const chat = bill.chat_id;
  breaches.compareCounts(`session ${chat}`, tokens, bill.counts);
  breaches.compare(`session ${chat}, total_tokens`, tokens.total_tokens, totalOf(bill.counts));
  for (const [agent, expected] of bill.byAgent)
    breaches.compareCounts(
      `session ${chat}, ${agent}`,
      tokens.by_agent.find((each) => each.agent === agent) ?? zeroCounts(),
      expected,
    );
  for (const [model, expected] of bill.byModel)
    breaches.compareCounts(
      `session ${chat}, ${model}`,
      tokens.by_model.find((each) => each.model === model) ?? zeroCounts(),
      expected,
    );
  breaches.compare(`session ${chat}, agent_turns`, BigInt(counts.agent_turns), BigInt(bill.agentTurns));
  breaches.compare(`session ${chat}, tool_calls`, BigInt(counts.tool_calls), BigInt(bill.toolCalls));
}

/** Frames are numbered without gaps, and the last `token_update` shows what the chat has cost. */
function auditFrames(
  session: SessionDocument,
  bill: ChatBill,
  events: readonly ChatEventDocument[],
  breaches: Breaches,
): void {
  const chat = bill.chat_id;
  const frames = events.filter(({ seq }) => seq !== undefined);
  for (const [index, { seq }] of frames.entries())
    if (seq !== index + 1) {
      breaches.add(`chat ${chat} has frame ${seq} at place ${index + 1}`);
      break;
    }
  breaches.compare(`last_sequence of ${chat}`, BigInt(session.last_sequence), BigInt(frames.length));
  let shown = 0;
  let last = 0;
  for (const { frame } of frames) {
    if (frame?.type !== 'token_update') continue;
    shown += frame.data.delta.total_tokens;
    last = frame.data.cumulative.total_tokens;
    if (shown !== last) {
      breaches.add(`chat ${chat} shows ${last} tokens where its updates add up to ${shown}`);
      break;
    }
  }
  breaches.compare(`token_update of ${chat}`, BigInt(last), totalOf(bill.counts));
}

function auditWallets(
  history: FaultHistory,
  wallets: readonly WalletDocument[],
  lines: readonly LedgerDocument[],
  breaches: Breaches,
): void {
  const linesOf = groupBy(lines, ({ wallet_id }) => wallet_id);
  const expected = new Map<string, bigint>();
  const add = (id: string, amount: bigint) => expected.set(id, (expected.get(id) ?? startBalance) + amount);
  for (const { app_id, user_id, counts } of history.bills.values())
    add(walletId(app_id, user_id), -totalOf(counts));
  for (const { app_id, user_id, amount } of history.credits) add(walletId(app_id, user_id), BigInt(amount));
  for (const [id, balance] of expected) {
    const wallet = wallets.find(({ _id }) => _id === id);
    if (wallet === undefined) {
      breaches.add(`wallet ${id} does not exist`);
      continue;
    }
    breaches.compare(`balance of ${id}`, wallet.balance, balance);
    auditChain(wallet, linesOf.get(id) ?? [], breaches);
  }
}

/** Each line follows from the one before, and the wallet stands where its last line says. */
function auditChain(wallet: WalletDocument, lines: readonly LedgerDocument[], breaches: Breaches): void {
  let balance = 0n;
  let previous: string | null = null;
  for (const [index, line] of lines.entries()) {
    balance += line.amount;
    const where = `line ${line.line} of ${wallet._id}`;
    if (line.line !== BigInt(index + 1)) breaches.add(`${where} is at place ${index + 1}`);
    if (line.balance_after !== balance)
      breaches.add(`${where} says ${line.balance_after}, it adds up to ${balance}`);
    if (line.previous_hash !== previous) breaches.add(`${where} does not name the line before`);
    if (hashLine(line) !== line.hash) breaches.add(`${where} was changed`);
    previous = line.hash;
  }
  breaches.compare(`balance of ${wallet._id} against its ledger`, wallet.balance, balance);
  breaches.compare(`line_count of ${wallet._id}`, wallet.line_count, BigInt(lines.length));
  if (wallet.last_hash !== previous) breaches.add(`${wallet._id} does not end with its last line`);
}

function groupBy<Item>(items: readonly Item[], keyOf: (item: Item) => string): Map<string, Item[]> {
  const groups = new Map<string, Item[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}

class Breaches {
  readonly found: string[] = [];

  add(breach: string): void {
    this.found.push(breach);
  }

  compare(what: string, is: bigint, shouldBe: bigint): void {
    if (is !== shouldBe) this.add(`${what}: ${is} instead of ${shouldBe} (${is - shouldBe})`);
  }

  compareCounts(what: string, are: TokenCounts, shouldBe: TokenCounts): void {
    for (const kind of tokenKinds) this.compare(`${what}, ${kind}`, are[kind], shouldBe[kind]);
  }
}
