import { randomUUID } from 'node:crypto';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import type { ModelUsage } from '../../core/contracts/usage.ts';

export type UsageFacts = {
  app_id?: string;
  user_id?: string;
  workflow_name?: string;
  run_id?: string;
  agent?: string;
  client?: string;
  epoch?: number;
  seq?: number;
  ts?: string;
  uuid?: string;
  mode?: 'both' | 'total' | 'actual';
};

/** A usage summary of a foreign producer: the counters of one client, all of them so far. */
export function usageEnvelope(
  chat_id: string,
  usages: Partial<ModelUsage>[] | null,
  { app_id = 'acme', user_id = 'ann', workflow_name = 'ag2', run_id = 'run-1', ...facts }: UsageFacts = {},
): Envelope {
  const {
    agent = 'planner',
    client = 'client-1',
    epoch = 1,
    seq = 1,
    uuid = randomUUID(),
    mode = 'both',
  } = facts;
  const side = {
    usages:
      usages?.map((usage) => ({ model: 'gpt-4o-mini', prompt_tokens: 0, completion_tokens: 0, ...usage })) ??
      null,
    total_cost: null,
  };
  return {
    v: 1,
    dialect: 'ag2-classic/0.14.1',
    app_id,
    user_id,
    workflow_name,
    chat_id,
    run_id,
    seq,
    ts: facts.ts ?? new Date().toISOString(),
    agent,
    meter: { agent, client, epoch, reason: 'llm_call' },
    event: { type: 'usage_summary', content: { uuid, actual: side, total: side, mode } },
  };
}
