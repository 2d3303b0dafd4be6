import type { ModelUsage, UsageSummaryContent } from '../contracts/usage.ts';

/** What a provider reported for one call. */
export type CallUsage = {
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  reasoning_tokens: number;
};

/** Cumulative counters of one LLM client, by model, as AG2's `OpenAIWrapper` keeps them. */
export class UsageMeter {
  readonly client: string;
  readonly #byModel = new Map<string, ModelUsage>();

  constructor(client: string) {
    this.client = client;
  }

  add(model: string, usage: CallUsage): void {
    const sum = this.#byModel.get(model);
    this.#byModel.set(model, {
      model,
      prompt_tokens: (sum?.prompt_tokens ?? 0) + usage.prompt_tokens,
      completion_tokens: (sum?.completion_tokens ?? 0) + usage.completion_tokens,
      total_tokens: (sum?.total_tokens ?? 0) + usage.prompt_tokens + usage.completion_tokens,
      cached_tokens: (sum?.cached_tokens ?? 0) + usage.cached_tokens,
      reasoning_tokens: (sum?.reasoning_tokens ?? 0) + usage.reasoning_tokens,
    });
  }

  /** The summary of everything added so far. This engine keeps no cache of completions: both sides are the same. */
  summarize(uuid: string): UsageSummaryContent {
    const side = { usages: this.#byModel.size === 0 ? null : [...this.#byModel.values()], total_cost: null };
    return { uuid, actual: side, total: side, mode: 'both' };
  }
}
