import { z } from 'zod';
import { idSchema, modelNameSchema } from './ids.ts';

export const budgetScopeSchema = z.enum(['app', 'user', 'chat', 'model', 'workflow']);
export const budgetWindowSchema = z.enum(['day', 'month', 'total']);

const timeZoneSchema = z
  .string()
  .refine(isTimeZone, 'must be an IANA time zone, such as UTC or Europe/Berlin');

/** What may be spent by whom, in which time. `subject: "*"` gives every user (chat, model, …) a limit of its own. */
export const budgetRequestSchema = z.strictObject({
  app_id: idSchema,
  scope: budgetScopeSchema,
  subject: z.union([z.literal('*'), idSchema, modelNameSchema]).default('*'),
  unit: z.enum(['tokens', 'nano_usd']).default('tokens'),
  limit: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
  /** `hard` stops calls before they are made; `soft` only warns. */
  enforcement: z.enum(['hard', 'soft']).default('hard'),
  window: budgetWindowSchema.default('month'),
  time_zone: timeZoneSchema.default('UTC'),
});
export type BudgetRequest = z.infer<typeof budgetRequestSchema>;

export const budgetSchema = budgetRequestSchema.extend({
  budget_id: z.string(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
});
export const budgetListSchema = z.strictObject({ budgets: z.array(budgetSchema) });

/** How far a budget is used in its current window; `frees_at` is null when it never frees by itself. */
export const budgetStateSchema = budgetSchema.extend({
  windows: z.array(
    z.strictObject({
      subject: z.string(),
      window_key: z.string(),
      used: z.int(),
      held: z.int(),
      frees_at: z.string().nullable(),
    }),
  ),
});

function isTimeZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat('en-US', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}
