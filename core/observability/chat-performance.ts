import type { ChatPerformance } from '../contracts/http.ts';
import type { SessionDocument } from '../data/collections.ts';

/** Read off the session document, so that it cannot say anything else than the document does. */
export function performanceOf(session: SessionDocument, now: Date): ChatPerformance {
  const { counts, latency, tokens } = session.real_time_tracking;
  const endedAt = session.completed_at;
  return {
    chat_id: session.chat_id,
    app_id: session.app_id,
    workflow_name: session.workflow_name,
    user_id: session.user_id,
    started_at: session.created_at.toISOString(),
    ended_at: endedAt?.toISOString() ?? null,
    runtime_sec: ((endedAt ?? now).getTime() - session.created_at.getTime()) / 1000,
    agent_turns: counts.agent_turns,
    tool_calls: counts.tool_calls,
    errors: counts.errors,
    last_turn_duration_sec: latency.last_turn_duration_sec,
    prompt_tokens: Number(tokens.prompt_tokens),
    completion_tokens: Number(tokens.completion_tokens),
    cost: tokens.total_cost,
  };
}
