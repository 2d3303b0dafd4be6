import type { Envelope, KnownAgentEvent } from '../contracts/agent-events.ts';
import type { DurableFrameBody } from '../contracts/frames.ts';

/** A person is asked at most this long ago; a pending question survives restarts for as long. */
const inputRequestLifetimeMs = 7 * 24 * 60 * 60 * 1000;

/** The people among AG2's speakers. */
export const isUserSpeaker = (agent: string): boolean => agent === 'user' || agent === '_User';

const isPlumbing = (speaker: string): boolean => speaker === '_Group_Tool_Executor' || isUserSpeaker(speaker);

/** AG2 hands off through tools of this name; people see the handoff, not the tool. */
const isHandoffTool = (name: string | null): boolean => name !== null && name.startsWith('transfer_to_');

/**
 * What people see of an event, before it has a place in the log. Frames that need the session's totals
 * (`token_update`, `chat.usage_summary`, `chat.run_complete`) are made where those totals are.
 */
export function framesOfEvent(event: KnownAgentEvent, envelope: Envelope, now: Date): DurableFrameBody[] {
  switch (event.type) {
    case 'text': {
      const { content } = event;
      const isUser = content.role === 'user' || isUserSpeaker(content.sender);
      return [
        {
          type: 'chat.text',
          data: {
            message_id: content.message_id ?? content.uuid,
            agent: isUser ? 'user' : content.sender,
            content: textOf(content.content),
            role: isUser ? 'user' : 'assistant',
            ...(content.client_message_id === undefined
              ? {}
              : { client_message_id: content.client_message_id }),
            ...(content.partial === true ? { partial: true as const } : {}),
          },
        },
      ];
    }
    case 'tool_call':
      return event.content.tool_calls
        .filter((call) => !isHandoffTool(call.function.name))
        .map((call) => ({
          type: 'chat.tool_call',
          data: {
            tool_call_id: call.id ?? event.content.uuid,
            tool_name: call.function.name ?? '',
            agent: event.content.sender,
            arguments: parsedArguments(call.function.arguments),
          },
        }));
    case 'executed_function':
      if (isHandoffTool(event.content.func_name)) return [];
      return [
        {
          type: 'chat.tool_response',
          data: {
            tool_call_id: event.content.call_id ?? event.content.uuid,
            tool_name: event.content.func_name,
            agent: event.content.recipient ?? envelope.agent ?? '_Group_Tool_Executor',
            success: event.content.is_exec_success,
            content: anyText(event.content.content),
          },
        },
      ];
    case 'group_chat_run_chat':
      return isPlumbing(event.content.speaker)
        ? []
        : [{ type: 'chat.select_speaker', data: { agent: event.content.speaker } }];
    case 'after_works_transition':
      return handoff(event.content, 'after_work');
    case 'on_context_condition_transition':
      return handoff(event.content, 'context_condition');
    case 'on_condition_l_l_m_transition':
      return handoff(event.content, 'llm_condition');
    case 'reply_result_transition':
      return handoff(event.content, 'tool_result');
    case 'input_request':
      return [
        {
          type: 'chat.input_request',
          data: {
            request_id: event.content.uuid,
            prompt: event.content.prompt,
            agent: envelope.agent,
            password: event.content.password,
            expires_at: new Date(now.getTime() + inputRequestLifetimeMs).toISOString(),
          },
        },
      ];
    case 'input_response':
      return event.content.request_id === undefined
        ? []
        : [{ type: 'chat.input_ack', data: { request_id: event.content.request_id } }];
    case 'error':
      return [
        ...exhaustion(event.content),
        {
          type: 'chat.error',
          data: {
            error_type: event.content.error_type ?? 'agent_error',
            message: anyText(event.content.error),
            details: event.content.details ?? {},
            retryable: event.content.retryable ?? false,
          },
        },
      ];
    // The result of a tool is shown from `executed_function`, which AG2 sends for each and which knows its name.
    case 'tool_response':
    case 'termination':
    case 'usage_summary':
    case 'call_usage':
    case 'call_interrupted':
    case 'cancel_request':
    case 'run_completion':
      return [];
  }
}

const exhaustionTypes: ReadonlySet<string | undefined> = new Set(['insufficient_tokens', 'budget_exceeded']);

/** An empty wallet is said twice: as an error with what to do, and as a state that programs can act on. */
function exhaustion({
  error_type,
  details,
}: {
  error_type?: string | undefined;
  details?: Record<string, unknown> | undefined;
}): DurableFrameBody[] {
  const { remaining_balance, scope, blocked_until } = details ?? {};
  if (!exhaustionTypes.has(error_type) || typeof remaining_balance !== 'number' || typeof scope !== 'string')
    return [];
  return [
    {
      type: 'token_exhausted',
      data: {
        remaining_balance,
        scope,
        blocked_until: typeof blocked_until === 'string' ? blocked_until : null,
      },
    },
  ];
}

type Transition = {
  source_agent: string;
  transition_target: { type: string; name?: string | null | undefined };
};

function handoff({ source_agent, transition_target }: Transition, reason: string): DurableFrameBody[] {
  const to = transition_target.name;
  if (to === undefined || to === null || to === '' || to === source_agent) return [];
  return [{ type: 'chat.handoff', data: { from_agent: source_agent, to_agent: to, reason } }];
}

function textOf(content: unknown): string {
  if (!Array.isArray(content)) return anyText(content);
  return content
    .map((part: unknown) =>
      typeof part === 'object' && part !== null && 'text' in part ? anyText(part.text) : '',
    )
    .join('');
}

function anyText(value: unknown): string {
  if (typeof value === 'string') return value;
  return value === null || value === undefined ? '' : (JSON.stringify(value) ?? '');
}

function parsedArguments(json: string | null): unknown {
  if (json === null || json === '') return {};
  try {
    return JSON.parse(json);
  } catch {
    // The model wrote something that is no JSON: people see it as it is.
    return json;
  }
}
