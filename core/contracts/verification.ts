import { z } from 'zod';

/** What a verification of the stored truth can find. `docs` of each are the `detail` texts of its differences. */
export const differenceKindSchema = z.enum([
  // A wallet's chain, line by line.
  'line_malformed',
  'line_number',
  'line_previous_hash',
  'line_hash',
  'line_balance',
  'line_held',
  'line_owner',
  'line_id',
  'line_amount',
  'line_tokens',
  // A wallet against its chain and its holds.
  'wallet_malformed',
  'wallet_missing',
  'wallet_without_lines',
  'wallet_line_count',
  'wallet_last_hash',
  'wallet_balance',
  'wallet_held',
  'hold_orphaned',
  // A chat against its ledger lines, its marks, its log and its usage rows.
  'session_malformed',
  'session_missing',
  'session_wallet',
  'session_tokens',
  'session_by_agent',
  'session_by_model',
  'session_marks',
  'session_usage_rows',
  'event_sequence',
]);
export type DifferenceKind = z.infer<typeof differenceKindSchema>;

/** `expected` follows from the rest of what is stored, `found` is what stands there; integers are decimal texts. */
export const differenceSchema = z.strictObject({
  kind: differenceKindSchema,
  id: z.string(),
  expected: z.string().nullable(),
  found: z.string().nullable(),
  detail: z.string(),
});
export type Difference = z.infer<typeof differenceSchema>;

export const checkedSchema = z.strictObject({
  wallets: z.int(),
  ledger_lines: z.int(),
  holds: z.int(),
  sessions: z.int(),
  events: z.int(),
  usage_marks: z.int(),
  usage_rows: z.int(),
});
export type Checked = z.infer<typeof checkedSchema>;

export const verificationReportSchema = z.strictObject({
  ok: z.boolean(),
  scope: z.strictObject({
    app_id: z.string().nullable(),
    user_id: z.string().nullable(),
    chat_id: z.string().nullable(),
  }),
  started_at: z.iso.datetime(),
  duration_ms: z.int(),
  checked: checkedSchema,
  difference_count: z.int(),
  /** How many there are of each kind; `differences` holds the first of each. */
  counts: z.partialRecord(differenceKindSchema, z.int()),
  differences: z.array(differenceSchema),
});
export type VerificationReport = z.infer<typeof verificationReportSchema>;
