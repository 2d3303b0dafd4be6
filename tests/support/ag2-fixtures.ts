import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { type Envelope, envelopeSchema } from '../../core/contracts/agent-events.ts';

export const fixtureNames = ['events', 'handoff', 'human', 'reset', 'stream'] as const;

const countsSchema = z.object({
  prompt_tokens: z.number(),
  completion_tokens: z.number(),
  total_tokens: z.number(),
});
const billedSchema = z.object({
  calls: z.number(),
  by_agent: z.record(z.string(), countsSchema),
  totals: countsSchema,
});

/** Events captured from a real AG2 run, as if they happened now in the given chat, and what the provider billed. */
export function readFixture(
  name: (typeof fixtureNames)[number],
  identity: { chat_id: string; app_id: string; user_id: string },
): { envelopes: Envelope[]; billed: z.infer<typeof billedSchema> } {
  const read = (file: string) => readFileSync(new URL(`../fixtures/ag2/${file}`, import.meta.url), 'utf8');
  const captured = read(`${name}.jsonl`)
    .trim()
    .split('\n')
    .map((line) => envelopeSchema.parse(JSON.parse(line)));
  const shiftMs = Date.now() - Math.max(...captured.map(({ ts }) => Date.parse(ts)));
  return {
    envelopes: captured.map((envelope) => ({
      ...envelope,
      ...identity,
      workflow_name: 'ag2',
      ts: new Date(Date.parse(envelope.ts) + shiftMs).toISOString(),
    })),
    billed: billedSchema.parse(JSON.parse(read(`${name}.billed.json`))),
  };
}
