import {
  parseServerFrame,
  type ServerFrame,
  type ServerFrameData,
  type ServerFrameType,
} from '../../core/contracts/frames.ts';

/** A frame as the server sends it. One without a `seq` is ephemeral. */
export function serverFrame<Type extends ServerFrameType>(
  type: Type,
  data: ServerFrameData<Type>,
  seq: number | null = null,
): ServerFrame {
  const timestamp = '2026-01-05T10:00:00.000Z';
  const frame = parseServerFrame({ type, data, timestamp, chat_id: 'chat-1', seq });
  if (frame === undefined) throw new Error(`${type} is no frame`);
  return frame;
}

export function tokenUpdate(
  seq: number,
  { agent = 'planner', total = 100, delta = 100, balance = 900, cost = 0.0001 } = {},
): ServerFrame {
  const completion_tokens = 20;
  return serverFrame(
    'token_update',
    {
      chat_id: 'chat-1',
      agent,
      model: 'gpt-4o-mini',
      cumulative: {
        total_tokens: total,
        prompt_tokens: total - completion_tokens,
        completion_tokens,
        total_cost: cost,
        last_model: 'gpt-4o-mini',
      },
      delta: {
        total_tokens: delta,
        prompt_tokens: delta - completion_tokens,
        completion_tokens,
        total_cost: cost,
      },
      remaining_balance: balance,
      ledger_entry_id: `entry-${seq}`,
      incremental_debits: true,
    },
    seq,
  );
}

export function runComplete(
  seq: number,
  result: ServerFrameData<'chat.run_complete'>['result'] = 'success',
): ServerFrame {
  const totals = { total_tokens: 100, prompt_tokens: 80, completion_tokens: 20, total_cost: 0.0001 };
  return serverFrame(
    'chat.run_complete',
    { run_id: 'run-1', workflow_name: 'support_desk', result, total_turns: 2, totals, reason: '' },
    seq,
  );
}

export function resumeBoundary(): ServerFrame {
  return serverFrame('chat.resume_boundary', { replayed_count: 0, client_had: 0, persisted_had: 0 });
}
