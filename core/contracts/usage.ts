import { z } from 'zod';
import { modelNameSchema } from './ids.ts';

/** A count of tokens: an integer from 0 to 2^53 - 1. Anything else is `invalid_usage` and changes nothing. */
export const tokenCountSchema = z.int().min(0).max(Number.MAX_SAFE_INTEGER);

/**
 * Cumulative counters of one client for one model, as AG2 0.14 reports them. `cost` is the producer's own float: it
 * is stored as `reported_cost` and never billed. The last three kinds are ours: AG2 has no such fields.
 */
export const modelUsageSchema = z.object({
  model: modelNameSchema,
  prompt_tokens: tokenCountSchema,
  completion_tokens: tokenCountSchema,
  total_tokens: tokenCountSchema.optional(),
  cached_tokens: tokenCountSchema.optional(),
  cache_write_tokens: tokenCountSchema.optional(),
  reasoning_tokens: tokenCountSchema.optional(),
  cost: z.number().nullish(),
});
export type ModelUsage = z.infer<typeof modelUsageSchema>;

/** `usages: null` means that no call was made yet. It is never a reset. */
export const usageSideSchema = z.object({
  usages: z.array(modelUsageSchema).max(64).nullable(),
  total_cost: z.number().nullish(),
});

/**
 * The content of AG2's `usage_summary`: `actual` leaves cached completions out and is what is billed; `total`
 * includes them. `mode` is a display switch; `total` marks an observation of totals (see docs/EVENT_ARCHITECTURE.md).
 */
export const usageSummaryContentSchema = z.object({
  uuid: z.string().min(1).max(200),
  actual: usageSideSchema,
  total: usageSideSchema,
  mode: z.enum(['both', 'total', 'actual']).default('both'),
});
export type UsageSummaryContent = z.infer<typeof usageSummaryContentSchema>;

/**
 * What one call spent, for producers that count by the call and not by the counter (AG2 1.x). Each `uuid` is counted
 * once; a run is counted one way or the other, never both.
 */
export const callUsageContentSchema = z.object({
  uuid: z.string().min(1).max(200),
  model: modelNameSchema,
  prompt_tokens: tokenCountSchema,
  completion_tokens: tokenCountSchema,
  cached_tokens: tokenCountSchema.default(0),
  cache_write_tokens: tokenCountSchema.default(0),
  reasoning_tokens: tokenCountSchema.default(0),
});
export type CallUsageContent = z.infer<typeof callUsageContentSchema>;

/** Totals as people see them. `total_cost` is US dollars for display; money is kept in integer nano-dollars. */
export const usageTotalsSchema = z.strictObject({
  total_tokens: z.int(),
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_cost: z.number(),
});
export type UsageTotals = z.infer<typeof usageTotalsSchema>;

/** Usage of one agent or one model inside a chat or a run. */
export const usageShareSchema = usageTotalsSchema.extend({
  cached_tokens: z.int(),
  reasoning_tokens: z.int(),
});
