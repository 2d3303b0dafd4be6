import { z } from 'zod';
import { usageShareSchema, usageTotalsSchema } from './usage.ts';

/**
 * Documents as people read them over HTTP: dates are ISO texts, int64 counts are numbers. In MongoDB the same fields
 * are dates and int64 (BigInt in the driver); PERSISTENCE.md describes every collection, field, index and writer.
 */
const date = z.iso.datetime();

export const sessionStatusSchema = z.enum(['in_progress', 'completed', 'failed', 'paused']);
export type SessionStatus = z.infer<typeof sessionStatusSchema>;

/** Usage as documents keep it, with the exact money behind `total_cost`: integer nano-dollars. */
const storedShareSchema = usageShareSchema.extend({
  cache_write_tokens: z.int(),
  total_cost_nano_usd: z.int(),
});

export const realTimeTrackingSchema = z.strictObject({
  last_usage_recorded_at: date.nullable(),
  last_flush_at: date.nullable(),
  trace_id: z.string().nullable(),
  overall: z.strictObject({ runtime_sec: z.number() }),
  counts: z.strictObject({ agent_turns: z.int(), tool_calls: z.int(), errors: z.int() }),
  latency: z.strictObject({
    last_turn_duration_sec: z.number().nullable(),
    avg_turn_duration_sec: z.number().nullable(),
    max_turn_duration_sec: z.number().nullable(),
    turn_count: z.int(),
    latency_by_agent: z.record(z.string(), z.strictObject({ count: z.int(), avg_sec: z.number() })),
  }),
  tokens: storedShareSchema.extend({
    last_model: z.string().nullable(),
    remaining_balance: z.int().nullable(),
    incremental_debits: z.boolean(),
    last_delta: usageTotalsSchema.nullable(),
    by_agent: z.array(storedShareSchema.extend({ agent: z.string() })),
    by_model: z.array(storedShareSchema.extend({ model: z.string() })),
    final: usageTotalsSchema.nullable(),
    /** Models that had no price: their tokens were debited, their cost is unknown. */
    unpriced_models: z.array(z.string()),
    unaccounted_turns: z.int(),
    unverifiable: z.boolean(),
    usage_mismatch: z.boolean(),
  }),
});

export const chatSessionSchema = z.strictObject({
  _id: z.string(),
  chat_id: z.string(),
  app_id: z.string(),
  user_id: z.string(),
  workflow_name: z.string(),
  trace_id: z.string().nullable(),
  status: sessionStatusSchema,
  pause_reason: z.string().nullable(),
  created_at: date,
  last_updated_at: date,
  completed_at: date.nullable(),
  last_sequence: z.int(),
  version: z.int(),
  context_variables: z.record(z.string(), z.unknown()),
  run: z.strictObject({ run_id: z.string(), owner: z.string(), lease_until: date, turn: z.int() }).nullable(),
  real_time_tracking: realTimeTrackingSchema,
});
export type ChatSession = z.infer<typeof chatSessionSchema>;

export const ledgerKindSchema = z.enum([
  'grant',
  'hold',
  'release',
  'debit',
  'refund',
  'adjustment',
  'expiry',
  'debt',
]);

const ledgerTokensSchema = z.strictObject({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  cached_tokens: z.int(),
  cache_write_tokens: z.int(),
  reasoning_tokens: z.int(),
});

/**
 * One line of `WalletLedger`. `amount` is in wallet units: negative takes from the wallet, positive gives to it. The
 * lines of a wallet form a chain: `line` counts from 1, `hash` covers the line and `previous_hash`.
 */
export const ledgerEntrySchema = z.strictObject({
  _id: z.string(),
  wallet_id: z.string(),
  line: z.int(),
  kind: ledgerKindSchema,
  app_id: z.string(),
  user_id: z.string(),
  unit: z.enum(['tokens', 'nano_usd']),
  amount: z.int(),
  balance_after: z.int(),
  /** How much more (or less) is reserved for calls under way, and how much is then. */
  held_change: z.int(),
  held_after: z.int(),
  hold_id: z.string().nullable(),
  chat_id: z.string().nullable(),
  run_id: z.string().nullable(),
  sequence: z.int().nullable(),
  event_uuid: z.string().nullable(),
  agent: z.string().nullable(),
  model: z.string().nullable(),
  tokens: ledgerTokensSchema.extend({ total_tokens: z.int() }).nullable(),
  by_model: z.array(
    ledgerTokensSchema.extend({
      model: z.string(),
      cost_nano_usd: z.int().nullable(),
      price_version: z.string().nullable(),
    }),
  ),
  /** Null when no model of this line has a price. */
  cost_nano_usd: z.int().nullable(),
  reported_cost: z.number().nullable(),
  price_version: z.string().nullable(),
  reason: z.string().nullable(),
  request_hash: z.string().nullable(),
  created_at: date,
  previous_hash: z.string().nullable(),
  hash: z.string(),
});
export type LedgerEntry = z.infer<typeof ledgerEntrySchema>;
