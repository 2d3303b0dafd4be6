import type { SessionDocument, UsageShare } from './collections.ts';
import { zeroCounts } from '../usage/token-counts.ts';

export type ChatIdentity = { chat_id: string; app_id: string; user_id: string; workflow_name: string };

export function newSession(identity: ChatIdentity, now: Date, incrementalDebits: boolean): SessionDocument {
  return {
    _id: identity.chat_id,
    ...identity,
    trace_id: null,
    status: 'in_progress',
    pause_reason: null,
    created_at: now,
    last_updated_at: now,
    completed_at: null,
    last_sequence: 0,
    version: 0,
    context_variables: {},
    paused_run: null,
    run: null,
    real_time_tracking: {
      last_usage_recorded_at: null,
      last_flush_at: null,
      trace_id: null,
      overall: { runtime_sec: 0 },
      counts: { agent_turns: 0, tool_calls: 0, errors: 0 },
      latency: {
        last_turn_duration_sec: null,
        avg_turn_duration_sec: null,
        max_turn_duration_sec: null,
        turn_count: 0,
        latency_by_agent: {},
      },
      tokens: {
        ...newShare(),
        last_model: null,
        remaining_balance: null,
        incremental_debits: incrementalDebits,
        last_delta: null,
        by_agent: [],
        by_model: [],
        final: null,
        unpriced_models: [],
        unaccounted_turns: 0,
        unverifiable: false,
        usage_mismatch: false,
      },
    },
    usage_state: {
      marks: [],
      unmetered: [],
      spilled: false,
      final_excess: zeroCounts(),
      call_counts: [],
      runs: [],
    },
  };
}

export function newShare(): UsageShare {
  return { ...zeroCounts(), total_tokens: 0n, total_cost_nano_usd: 0n, total_cost: 0 };
}
