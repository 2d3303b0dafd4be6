import type { UsageTotals } from '../../../core/contracts/usage.ts';

export type AgentUsage = { readonly agent: string; readonly totals: UsageTotals };

export const noUsage: UsageTotals = {
  total_tokens: 0,
  prompt_tokens: 0,
  completion_tokens: 0,
  total_cost: 0,
};

/** Adds shares to what each agent had; agents stay in the order in which they first cost something. */
export function addAgentUsage(
  before: readonly AgentUsage[],
  shares: readonly AgentUsage[],
): readonly AgentUsage[] {
  const byAgent = new Map(before.map((share) => [share.agent, share]));
  for (const { agent, totals } of shares) {
    byAgent.set(agent, { agent, totals: addTotals(byAgent.get(agent)?.totals ?? noUsage, totals) });
  }
  return [...byAgent.values()];
}

function addTotals(left: UsageTotals, right: UsageTotals): UsageTotals {
  return {
    total_tokens: left.total_tokens + right.total_tokens,
    prompt_tokens: left.prompt_tokens + right.prompt_tokens,
    completion_tokens: left.completion_tokens + right.completion_tokens,
    total_cost: left.total_cost + right.total_cost,
  };
}
