import type { Collection, Db, IndexDescription, ServerSessionId } from 'mongodb';
import type { Meter, RunResult } from '../contracts/agent-events.ts';
import type { Price } from '../contracts/prices.ts';
import type { SessionStatus } from '../contracts/documents.ts';
import type { DurableFrameBody } from '../contracts/frames.ts';
import type { BudgetDocument } from '../usage/budget.ts';
import type { TokenCounts } from '../usage/token-counts.ts';
import type { AgentTurns } from '../usage/turn-accounts.ts';
import type { UnmeteredClient, UsageMark, UsageState } from '../usage/usage-delta.ts';

/**
 * The documents as MongoDB holds them. Tokens and money are int64 (BigInt); PERSISTENCE.md says who writes what and
 * why a crash between any two steps loses nothing.
 */
export type WalletUnit = 'tokens' | 'nano_usd';

export type UsageShare = TokenCounts & {
  total_tokens: bigint;
  total_cost_nano_usd: bigint;
  total_cost: number;
};

export type TotalsDocument = {
  total_tokens: bigint;
  prompt_tokens: bigint;
  completion_tokens: bigint;
  total_cost: number;
};

/** What one run of a chat is known to have done; kept for the last few runs, so that late events still count. */
export type RunAccount = {
  run_id: string;
  started_at: Date;
  result: RunResult | null;
  /** How its usage is counted: by counters or by calls. Never both, or it would be counted twice. */
  accounting: 'usage_summary' | 'call_usage' | null;
  /** Its user asked it to end; whoever runs it is told. */
  is_cancelled: boolean;
  turns: number;
  shares: (UsageShare & { agent: string; model: string })[];
  agents: AgentTurns[];
  unaccounted_turns: number;
  speaker: { agent: string; seq: number; at: Date } | null;
};

export type SessionDocument = {
  _id: string;
  chat_id: string;
  app_id: string;
  user_id: string;
  workflow_name: string;
  trace_id: string | null;
  status: SessionStatus;
  pause_reason: string | null;
  created_at: Date;
  last_updated_at: Date;
  completed_at: Date | null;
  last_sequence: number;
  /** Grows by one with each commit that changes this document; a write names the version it read. */
  version: number;
  context_variables: Record<string, unknown>;
  /** Where a run stood that stopped for want of funds: a credit takes it up from here. */
  paused_run: { run_id: string; spoken: string[] } | null;
  run: { run_id: string; owner: string; lease_until: Date; turn: number } | null;
  real_time_tracking: {
    last_usage_recorded_at: Date | null;
    last_flush_at: Date | null;
    trace_id: string | null;
    overall: { runtime_sec: number };
    counts: { agent_turns: number; tool_calls: number; errors: number };
    latency: {
      last_turn_duration_sec: number | null;
      avg_turn_duration_sec: number | null;
      max_turn_duration_sec: number | null;
      turn_count: number;
      latency_by_agent: Record<string, { count: number; avg_sec: number }>;
    };
    tokens: UsageShare & {
      last_model: string | null;
      remaining_balance: bigint | null;
      incremental_debits: boolean;
      last_delta: TotalsDocument | null;
      by_agent: (UsageShare & { agent: string })[];
      by_model: (UsageShare & { model: string })[];
      final: TotalsDocument | null;
      unpriced_models: string[];
      unaccounted_turns: number;
      unverifiable: boolean;
      usage_mismatch: boolean;
    };
  };
  /** The counting rules' memory; not part of the document's public shape. */
  usage_state: UsageState & {
    /** Marks that moved to `UsageMarks` because this document would grow without bound. */
    spilled: boolean;
    /** How far final marks stand above billing marks. */
    final_excess: TokenCounts;
    /** What was counted by the call; the marks hold the rest. */
    call_counts: { model: string; counts: TokenCounts }[];
    runs: RunAccount[];
  };
};

/** One durable frame, or one event that shows nothing (`seq` and `frame` absent). `_id` is derived from the event. */
export type ChatEventDocument = {
  _id: string;
  chat_id: string;
  seq?: number;
  frame?: DurableFrameBody;
  timestamp: Date;
  /** Which commit wrote it: tells a lost answer from a failure. */
  commit_id: string;
  event: {
    uuid: string;
    type: string;
    dialect: string;
    run_id: string;
    seq: number;
    ts: Date;
    agent: string | null;
    meter: Meter | null;
    /** The raw content, where no frame already holds it. */
    content?: Record<string, unknown>;
  };
};

/** Marks that left the session document, one document for each client and model. `_id` holds the whole key. */
export type UsageMarkDocument = {
  _id: string;
  chat_id: string;
  run_id: string;
  client: string;
  mark: UsageMark | null;
  unmetered: UnmeteredClient | null;
};

export type GrantLot = { line_id: string; remaining: bigint; expires_at: Date; priority: number };

/** Tops the wallet up when it falls below `threshold`, at most once in each window. */
export type AutoRefill = {
  threshold: bigint;
  amount: bigint;
  window: 'day' | 'month';
  time_zone: string;
  last_window: string | null;
};

export type WalletDocument = {
  _id: string;
  app_id: string;
  user_id: string;
  unit: WalletUnit;
  balance: bigint;
  held: bigint;
  version: bigint;
  /** Grants that end: what is left of each. Spending takes from them first, by priority, then by the nearer end. */
  lots: GrantLot[];
  auto_refill: AutoRefill | null;
  /** What the balance was after the last grant, and the highest share of it (in percent) whose use was announced. */
  alert_base: bigint;
  alerted: number;
  /** Lines in this wallet's chain, and the hash of the last one. */
  line_count: bigint;
  last_hash: string | null;
  created_at: Date;
  updated_at: Date;
};

export type LedgerKind = 'grant' | 'hold' | 'release' | 'debit' | 'refund' | 'adjustment' | 'expiry' | 'debt';

export type LedgerDocument = {
  _id: string;
  wallet_id: string;
  /** Place in the wallet's chain, from 1. */
  line: bigint;
  kind: LedgerKind;
  app_id: string;
  user_id: string;
  unit: WalletUnit;
  amount: bigint;
  balance_after: bigint;
  /** How much more (or less) is reserved for calls under way, and how much is then. */
  held_change: bigint;
  held_after: bigint;
  hold_id: string | null;
  chat_id: string | null;
  run_id: string | null;
  sequence: number | null;
  event_uuid: string | null;
  agent: string | null;
  model: string | null;
  tokens: (TokenCounts & { total_tokens: bigint }) | null;
  by_model: (TokenCounts & { model: string; cost_nano_usd: bigint | null; price_version: string | null })[];
  cost_nano_usd: bigint | null;
  reported_cost: number | null;
  price_version: string | null;
  reason: string | null;
  /** SHA-256 of the request that asked for it, so that its idempotency key cannot be used for another one. */
  request_hash: string | null;
  created_at: Date;
  previous_hash: string | null;
  hash: string;
};

/** What is reserved for one model call under way, over the wallet and every budget it concerns. */
export type HoldDocument = {
  _id: string;
  wallet_id: string;
  app_id: string;
  user_id: string;
  chat_id: string;
  run_id: string;
  agent: string;
  model: string;
  /** In wallet units. */
  units: bigint;
  windows: { window_id: string; amount: bigint }[];
  node_id: string;
  created_at: Date;
  expires_at: Date;
};

/** One budget's use by one subject in one window of time. */
export type BudgetWindowDocument = {
  _id: string;
  budget_id: string;
  app_id: string;
  subject: string;
  window_key: string;
  ends_at: Date | null;
  used: bigint;
  held: bigint;
  /** The highest threshold (in percent) that was announced. */
  alerted: number;
  version: bigint;
};

/** The seeds' `llm_usage`: one row for each priced change of a counter, and one for each failed call. */
export type LlmUsageDocument = {
  _id: string;
  task_id: string;
  app_id: string;
  user_id: string;
  workflow_name: string;
  agent: string | null;
  model: string;
  prompt_tokens: bigint;
  completion_tokens: bigint;
  total_tokens: bigint;
  cost_nano_usd: bigint | null;
  cost_usd: number | null;
  latency_ms: number | null;
  status: 'success' | 'error';
  error_message: string | null;
  timestamp: Date;
};

export type TaskMetricDocument = {
  _id: string;
  task_id: string;
  app_id: string;
  user_id: string;
  metric_name: 'task_duration_seconds' | 'task_success';
  metric_value: number;
  status: RunResult;
  timestamp: Date;
};

/** One server process. `lsid` is its fixed database session; it is killed when the lease ends. */
export type NodeDocument = { _id: string; lsid: ServerSessionId; lease_until: Date; started_at: Date };

export type Collections = {
  sessions: Collection<SessionDocument>;
  events: Collection<ChatEventDocument>;
  usageMarks: Collection<UsageMarkDocument>;
  ledger: Collection<LedgerDocument>;
  wallets: Collection<WalletDocument>;
  holds: Collection<HoldDocument>;
  budgets: Collection<BudgetDocument>;
  prices: Collection<Price>;
  budgetWindows: Collection<BudgetWindowDocument>;
  llmUsage: Collection<LlmUsageDocument>;
  taskMetrics: Collection<TaskMetricDocument>;
  nodes: Collection<NodeDocument>;
};

export function openCollections(database: Db): Collections {
  return {
    sessions: database.collection('ChatSessions'),
    events: database.collection('ChatEvents'),
    usageMarks: database.collection('UsageMarks'),
    ledger: database.collection('WalletLedger'),
    wallets: database.collection('Wallets'),
    holds: database.collection('Holds'),
    budgets: database.collection('Budgets'),
    prices: database.collection('Prices'),
    budgetWindows: database.collection('BudgetWindows'),
    llmUsage: database.collection('llm_usage'),
    taskMetrics: database.collection('task_metrics'),
    nodes: database.collection('Nodes'),
  };
}

const indexes: { [Name in keyof Collections]: IndexDescription[] } = {
  sessions: [
    // Without `last_updated_at`: every write would move an index entry, and a user's chats are few enough to sort.
    { key: { app_id: 1, user_id: 1, workflow_name: 1 } },
    { key: { app_id: 1, user_id: 1 }, partialFilterExpression: { status: 'paused' } },
    { key: { 'run.lease_until': 1 }, partialFilterExpression: { run: { $type: 'object' } } },
  ],
  events: [
    { key: { chat_id: 1, seq: 1 }, unique: true, partialFilterExpression: { seq: { $exists: true } } },
  ],
  usageMarks: [{ key: { chat_id: 1, run_id: 1, client: 1 } }],
  ledger: [
    { key: { wallet_id: 1, line: 1 }, unique: true },
    { key: { chat_id: 1, line: 1 }, partialFilterExpression: { chat_id: { $type: 'string' } } },
  ],
  wallets: [
    { key: { app_id: 1, user_id: 1 }, unique: true },
    { key: { 'lots.expires_at': 1 }, partialFilterExpression: { 'lots.expires_at': { $exists: true } } },
  ],
  holds: [{ key: { expires_at: 1 } }, { key: { wallet_id: 1 } }],
  budgets: [{ key: { app_id: 1 } }],
  prices: [{ key: { model: 1, app_id: 1, effective_from: 1 }, unique: true }],
  budgetWindows: [{ key: { budget_id: 1, window_key: 1 } }],
  llmUsage: [{ key: { task_id: 1 } }, { key: { user_id: 1, timestamp: 1 } }, { key: { timestamp: 1 } }],
  taskMetrics: [{ key: { timestamp: 1 } }],
  nodes: [],
};

/** Creates what is missing; transactions cannot create collections on every server, so they must exist before. */
export async function prepareCollections(database: Db, collections: Collections): Promise<void> {
  const existing = new Set(
    (await database.listCollections({}, { nameOnly: true }).toArray()).map(({ name }) => name),
  );
  for (const [name, collection] of Object.entries(collections)) {
    if (!existing.has(collection.collectionName))
      await database.createCollection(collection.collectionName).catch(ignoreNamespaceExists);
    const wanted = indexesOf(name);
    if (wanted.length > 0) await collection.createIndexes(wanted);
  }
}

function indexesOf(name: string): IndexDescription[] {
  return Object.entries(indexes).find(([each]) => each === name)?.[1] ?? [];
}

/** Another node may create the same collection at the same moment. */
function ignoreNamespaceExists(error: unknown): void {
  if (!(
    typeof error === 'object' &&
    error !== null &&
    'codeName' in error &&
    error.codeName === 'NamespaceExists'
  ))
    throw error;
}
