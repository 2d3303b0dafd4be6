/** What one chat did since this process first heard of it, for `/metrics/perf`. Display data: money is in the ledger. */
export type ChatPerformance = {
  chat_id: string;
  app_id: string;
  workflow_name: string;
  user_id: string;
  started_at: Date;
  ended_at: Date | null;
  agent_turns: number;
  tool_calls: number;
  errors: number;
  last_turn_duration_sec: number | null;
  prompt_tokens: number;
  completion_tokens: number;
  cost: number;
};

export type ChatPerformanceSnapshot = Omit<ChatPerformance, 'started_at' | 'ended_at'> & {
  started_at: string;
  ended_at: string | null;
  runtime_sec: number;
};

export function snapshotOf(chat: ChatPerformance, now: Date): ChatPerformanceSnapshot {
  return {
    ...chat,
    started_at: chat.started_at.toISOString(),
    ended_at: chat.ended_at?.toISOString() ?? null,
    runtime_sec: ((chat.ended_at ?? now).getTime() - chat.started_at.getTime()) / 1000,
  };
}
