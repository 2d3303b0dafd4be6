/**
 * Whether each LLM reply of a run has its usage (docs/EVENT_ARCHITECTURE.md, "Unaccounted turns"), pure. A reply
 * without usage is neither free nor estimated: it is counted as unaccounted and shown to people.
 *
 * Everything is placed by the producer's sequence numbers, so the order of delivery changes nothing.
 */
export type AgentTurns = {
  agent: string;
  /** Sequence numbers of the agent's LLM replies (texts and tool calls). */
  replies: number[];
  /** Summaries of the agent's clients; `tokens` includes cached completions, which are accounted for at no cost. */
  summaries: { seq: number; client: string; tokens: number }[];
  /** Up to which sequence number a long run's older half was settled, and how many replies of it are unaccounted. */
  settled: { until: number; unaccounted: number };
};

export const newTurns = (agent: string): AgentTurns => ({
  agent,
  replies: [],
  summaries: [],
  settled: { until: -1, unaccounted: 0 },
});

const mostSummaries = 96;

/**
 * Settles the older half of long lists (changed in place), but for each client's last reading there, which the next
 * one is compared with. What arrives later for that half is too late to be placed.
 */
export function compactTurns(turns: AgentTurns): void {
  if (turns.summaries.length <= mostSummaries) return;
  const unaccounted = countUnaccounted(turns);
  const replies = turns.replies.toSorted((a, b) => a - b);
  const summaries = turns.summaries.toSorted((a, b) => a.seq - b.seq);
  const middle =
    replies[Math.floor(replies.length / 2) - 1] ?? summaries[Math.floor(summaries.length / 2)]?.seq ?? 0;
  const until = Math.max(middle, turns.settled.until);
  turns.replies = replies.filter((reply) => reply > until);
  const lastOf = new Map(
    summaries.filter(({ seq }) => seq <= until).map((summary) => [summary.client, summary]),
  );
  turns.summaries = [...lastOf.values(), ...summaries.filter(({ seq }) => seq > until)];
  turns.settled = { until, unaccounted: 0 };
  turns.settled = { until, unaccounted: unaccounted - countUnaccounted(turns) };
}

/** Replies of `turns` that no summary accounts for. */
export function countUnaccounted(turns: AgentTurns): number {
  const replies = turns.replies.toSorted((a, b) => a - b);
  const summaries = withGrowth(turns.summaries);
  let unaccounted = turns.settled.unaccounted;
  for (const [index, reply] of replies.entries()) {
    const from = replies[index - 1] ?? turns.settled.until;
    const until = replies[index + 1] ?? Infinity;
    // Readings come right before the reply they count, or else right after it.
    const before = summaries.filter(({ seq }) => seq > from && seq < reply);
    const own = before.length > 0 ? before : summaries.filter(({ seq }) => seq > reply && seq < until);
    if (own.some(({ grew }) => grew)) continue;
    // Counters that were read around this reply and had not moved: the provider reported nothing for it.
    if (own.length > 0) unaccounted += 1;
    // Nobody read the counters then. A later reading of the same client includes this reply; another client's cannot.
    else if (!summaries.some(({ seq, grew, aliveSince }) => grew && seq > reply && aliveSince < reply))
      unaccounted += 1;
  }
  return unaccounted;
}

type Reading = { seq: number; grew: boolean; aliveSince: number };

function withGrowth(summaries: AgentTurns['summaries']): Reading[] {
  const highest = new Map<string, number>();
  const firstSeen = new Map<string, number>();
  const onlyClient = new Set(summaries.map(({ client }) => client)).size === 1;
  return summaries
    .toSorted((a, b) => a.seq - b.seq)
    .map(({ seq, client, tokens }) => {
      const grew = tokens > (highest.get(client) ?? 0);
      highest.set(client, Math.max(tokens, highest.get(client) ?? 0));
      if (!firstSeen.has(client)) firstSeen.set(client, seq);
      // An agent's only client may be read for the first time at the end; it is then taken to be as old as the run.
      return { seq, grew, aliveSince: onlyClient ? -1 : (firstSeen.get(client) ?? seq) };
    });
}

const exempt = new Set([
  'user',
  '_User',
  '_Group_Tool_Executor',
  'chat_manager',
  '_Group_Tool_Executor_agent',
]);

/** Speakers that make no LLM call: people, the tool executor, the manager's echo, wrapped nested chats. */
export function isLlmSpeaker(agent: string): boolean {
  return !exempt.has(agent) && !agent.startsWith('wrapped_');
}
