import { z } from 'zod';
import { budgetRequestSchema } from './budgets.ts';
import { ledgerEntrySchema } from './documents.ts';
import { idSchema } from './ids.ts';

/** RFC 9457: every error answer of the API, with the facts of the error as further members. */
export const problemSchema = z.looseObject({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
});
export type Problem = z.infer<typeof problemSchema>;

export const workflowSummarySchema = z.strictObject({
  workflow_name: z.string(),
  display_name: z.string(),
  description: z.string(),
  icon: z.string(),
  suggestions: z.array(z.string()),
  pattern: z.string(),
  agents: z.array(z.strictObject({ name: z.string(), description: z.string() })),
  model: z.string(),
});
export type WorkflowSummary = z.infer<typeof workflowSummarySchema>;
export const workflowListSchema = z.strictObject({ workflows: z.array(workflowSummarySchema) });

export const startChatRequestSchema = z.strictObject({
  user_id: idSchema,
  required_min_tokens: z.int().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
  client_request_id: idSchema.optional(),
  force_new: z.boolean().optional(),
});
export const startChatAnswerSchema = z.strictObject({
  success: z.literal(true),
  chat_id: z.string(),
  workflow_name: z.string(),
  app_id: z.string(),
  user_id: z.string(),
  websocket_url: z.string(),
  remaining_balance: z.int(),
  /** True when an open chat of this user and workflow was taken up again instead of a new one. */
  reused: z.boolean(),
});
export type StartChatAnswer = z.infer<typeof startChatAnswerSchema>;

export const chatSummarySchema = z.strictObject({
  chat_id: z.string(),
  workflow_name: z.string(),
  status: z.string(),
  created_at: z.string(),
  last_updated_at: z.string(),
  last_sequence: z.int(),
  total_tokens: z.int(),
});
export type ChatSummary = z.infer<typeof chatSummarySchema>;
export const chatListSchema = z.strictObject({ chats: z.array(chatSummarySchema) });
export const chatExistsSchema = z.strictObject({ exists: z.boolean() });
export const chatMetaSchema = chatSummarySchema.extend({
  exists: z.literal(true),
  app_id: z.string(),
  user_id: z.string(),
});

export const balanceSchema = z.strictObject({
  balance: z.int(),
  held: z.int(),
  available: z.int(),
  unit: z.enum(['tokens', 'nano_usd']),
});
export type Balance = z.infer<typeof balanceSchema>;

export const walletChangeRequestSchema = z.strictObject({
  app_id: idSchema,
  amount: z.int().min(1).max(1e15),
  reason: z.string().min(1).max(500),
});
/** A grant that ends leaves by itself; of several, the one with the lower priority is spent first. */
export const creditRequestSchema = walletChangeRequestSchema.extend({
  expires_at: z.iso.datetime({ offset: true }).optional(),
  priority: z.int().min(0).max(1000).default(100),
});
export const adjustmentRequestSchema = walletChangeRequestSchema.extend({
  user_id: idSchema,
  amount: z
    .int()
    .min(-1e15)
    .max(1e15)
    .refine((amount) => amount !== 0, 'must not be 0'),
});
export const autoRefillSchema = z.strictObject({
  threshold: z.int().min(1).max(1e15),
  amount: z.int().min(1).max(1e15),
  window: z.enum(['day', 'month']),
  time_zone: budgetRequestSchema.shape.time_zone,
});
export const holdListSchema = z.strictObject({
  holds: z.array(
    z.strictObject({
      hold_id: z.string(),
      chat_id: z.string(),
      run_id: z.string(),
      agent: z.string(),
      model: z.string(),
      units: z.int(),
      created_at: z.string(),
      expires_at: z.string(),
    }),
  ),
});
export const walletChangeSchema = balanceSchema.extend({
  outcome: z.enum(['recorded', 'repeated']),
  ledger_entry_id: z.string(),
});

export const ledgerPageSchema = z.strictObject({
  entries: z.array(ledgerEntrySchema),
  /** Pass as `cursor` to read on; null at the end. */
  next_cursor: z.string().nullable(),
});

/** What became of one posted event. `stop` asks a remote run to end: wallet or hard budget named by `scope` is used up. */
export const eventOutcomeSchema = z.strictObject({
  uuid: z.string().nullable(),
  outcome: z.enum(['recorded', 'repeated', 'refused']),
  code: z.string().optional(),
  reason: z.string().optional(),
  stop: z.literal(true).optional(),
  scope: z.string().optional(),
});
export type EventOutcome = z.infer<typeof eventOutcomeSchema>;
export const eventsAnswerSchema = z.strictObject({
  results: z.array(eventOutcomeSchema),
  recorded: z.int(),
  repeated: z.int(),
  refused: z.int(),
});

const usageByModelSchema = z.record(
  z.string(),
  z.strictObject({ requests: z.int(), tokens: z.int(), cost_usd: z.number() }),
);
export const usageReportSchema = z.strictObject({
  total_requests: z.int(),
  total_tokens: z.int(),
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_cost_usd: z.number(),
  avg_latency_ms: z.number().nullable(),
  success_rate_percent: z.number().nullable(),
  by_model: usageByModelSchema,
});
export type UsageReport = z.infer<typeof usageReportSchema>;
export const taskMetricsReportSchema = z.strictObject({
  total_tasks: z.int(),
  by_status: z.record(z.string(), z.int()),
  success_rate_percent: z.number().nullable(),
  avg_duration_sec: z.number().nullable(),
});

export const healthSchema = z.strictObject({
  status: z.enum(['ok', 'stopping', 'unavailable']),
  checks: z.record(z.string(), z.string()),
});

export const chatPerformanceSchema = z.strictObject({
  chat_id: z.string(),
  app_id: z.string(),
  workflow_name: z.string(),
  user_id: z.string(),
  started_at: z.string(),
  ended_at: z.string().nullable(),
  runtime_sec: z.number(),
  agent_turns: z.int(),
  tool_calls: z.int(),
  errors: z.int(),
  last_turn_duration_sec: z.number().nullable(),
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  cost: z.number(),
});
export type ChatPerformance = z.infer<typeof chatPerformanceSchema>;
export const performanceAggregateSchema = z.strictObject({
  active_chats: z.int(),
  tracked_chats: z.int(),
  total_agent_turns: z.int(),
  total_tool_calls: z.int(),
  total_errors: z.int(),
  total_prompt_tokens: z.int(),
  total_completion_tokens: z.int(),
  total_cost: z.number(),
  chats: z.array(chatPerformanceSchema),
});
export type PerformanceAggregate = z.infer<typeof performanceAggregateSchema>;

export const inputAnswerSchema = z.strictObject({
  request_id: z.string(),
  status: z.enum(['pending', 'answered', 'expired']),
  user_input: z.string().nullable(),
});
export type InputAnswer = z.infer<typeof inputAnswerSchema>;
export const inputRequestAnswerSchema = z.strictObject({ user_input: z.string().max(100_000) });
