import { z } from 'zod';
import { agentNameSchema, idSchema, timestampSchema } from './ids.ts';
import { callUsageContentSchema, usageSummaryContentSchema } from './usage.ts';

const uuid = z.string().min(1).max(200);
const text = z.union([z.string(), z.number(), z.boolean()]).nullable();
const event = <Type extends string, Shape extends z.ZodRawShape>(type: Type, shape: Shape) =>
  z.object({ type: z.literal(type), content: z.object({ uuid, ...shape }) });

/** Multi-part content of AG2's `text` (`[{type: 'text', text}, {type: 'image_url', …}]`). */
const contentPart = z.looseObject({ type: z.string(), text: z.string().optional() });

export const textEventSchema = event('text', {
  content: z.union([text, z.array(contentPart)]),
  sender: agentNameSchema,
  recipient: z.string().nullish(),
  /** Ours: the message that `chat.stream` frames built up; AG2 has no token streaming and no such id. */
  message_id: z.string().max(128).optional(),
  /** Ours: the id the user's client gave its message. */
  client_message_id: z.string().max(128).optional(),
  role: z.enum(['user', 'assistant']).optional(),
  /** Ours: the reply was cut short (cancelled, or the provider failed in mid-stream). */
  partial: z.boolean().optional(),
  /** Ours: `false` for a reply that no model was asked for (a fixed answer, a guardrail's, a nested chat's). */
  llm: z.boolean().optional(),
});

export const toolCallEventSchema = event('tool_call', {
  content: text.optional(),
  sender: agentNameSchema,
  recipient: z.string().nullish(),
  tool_calls: z.array(
    z.object({
      id: z.string().nullable(),
      type: z.string().default('function'),
      function: z.object({ name: z.string().nullable(), arguments: z.string().nullable() }),
    }),
  ),
});

export const toolResponseEventSchema = event('tool_response', {
  content: text.optional(),
  sender: agentNameSchema,
  tool_responses: z.array(
    z.object({ tool_call_id: z.string().nullable(), role: z.string().optional(), content: text }),
  ),
});

export const executedFunctionEventSchema = event('executed_function', {
  func_name: z.string(),
  call_id: z.string().nullish(),
  recipient: z.string().nullish(),
  content: z.unknown().optional(),
  is_exec_success: z.boolean(),
});

export const groupChatRunChatEventSchema = event('group_chat_run_chat', {
  speaker: agentNameSchema,
  silent: z.boolean().nullish(),
});

const usageSummaryEvent = z.object({ type: z.literal('usage_summary'), content: usageSummaryContentSchema });
const callUsageEvent = z.object({ type: z.literal('call_usage'), content: callUsageContentSchema });

export const inputRequestEventSchema = event('input_request', {
  prompt: z.string(),
  password: z.boolean().default(false),
});

/** `request_id` is ours: which question it answers. AG2's own has the value only. */
export const inputResponseEventSchema = event('input_response', {
  value: z.string().max(100_000),
  request_id: z.string().max(128).optional(),
});

export const terminationEventSchema = event('termination', {
  termination_reason: z.string(),
  sender: z.string().nullish(),
  recipient: z.string().nullish(),
});

/** `source_agent` is a name here: AG2's own objects cannot be serialised, so every bridge sends this projection. */
const transition = {
  source_agent: z.string(),
  transition_target: z.looseObject({ type: z.string(), name: z.string().nullish() }),
};
export const afterWorksTransitionEventSchema = event('after_works_transition', transition);
export const onContextConditionTransitionEventSchema = event('on_context_condition_transition', transition);
export const onConditionLlmTransitionEventSchema = event('on_condition_l_l_m_transition', transition);
export const replyResultTransitionEventSchema = event('reply_result_transition', transition);

export const runResultSchema = z.enum(['success', 'stopped', 'error', 'out_of_funds']);
export type RunResult = z.infer<typeof runResultSchema>;

/** `cost` is display data of the producer; it is stored and never billed. `result` and `reason` are ours. */
export const runCompletionEventSchema = event('run_completion', {
  summary: text.optional(),
  last_speaker: z.string().nullish(),
  cost: z.unknown().optional(),
  context_variables: z.unknown().optional(),
  result: runResultSchema.optional(),
  reason: z.string().max(1000).optional(),
  /** With `out_of_funds`: who had spoken by then, so that the run can be taken up again. */
  spoken: z.array(agentNameSchema).optional(),
});

/** Ours: the user wants a run to end that goes on in another process; its producer is told with its next events. */
export const cancelRequestEventSchema = event('cancel_request', {});

/** Ours: a model was asked, and nothing is known of what it used: the call was cut off before it said a word. */
export const callInterruptedEventSchema = event('call_interrupted', {
  agent: agentNameSchema,
  reason: z.string(),
});

/** `error` is a text here: AG2's exception object cannot be serialised. The last three fields are ours. */
export const errorEventSchema = event('error', {
  error: z.unknown(),
  error_type: z.string().max(128).optional(),
  details: z.record(z.string(), z.unknown()).optional(),
  retryable: z.boolean().optional(),
  /** Ours: the model call that failed, so that it is counted among the requests. */
  llm_call: z.object({ model: z.string(), latency_ms: z.number().min(0) }).optional(),
});

/** The event types this runtime acts on. Every other type is stored in the event log and counted, shown as nothing. */
export const knownAgentEventSchema = z.discriminatedUnion('type', [
  textEventSchema,
  toolCallEventSchema,
  toolResponseEventSchema,
  executedFunctionEventSchema,
  groupChatRunChatEventSchema,
  usageSummaryEvent,
  callUsageEvent,
  inputRequestEventSchema,
  inputResponseEventSchema,
  terminationEventSchema,
  afterWorksTransitionEventSchema,
  onContextConditionTransitionEventSchema,
  onConditionLlmTransitionEventSchema,
  replyResultTransitionEventSchema,
  runCompletionEventSchema,
  callInterruptedEventSchema,
  cancelRequestEventSchema,
  errorEventSchema,
]);
export type KnownAgentEvent = z.infer<typeof knownAgentEventSchema>;

/**
 * Which counter a summary belongs to. `client` is one LLM client instance (AG2's `OpenAIWrapper`), `epoch` grows
 * whenever its counters restart. Without a meter the agent's name stands for the client and the chat's numbers are
 * `unverifiable`. `latency_ms` is ours: how long the call took that moved the counters.
 */
export const meterSchema = z.object({
  agent: agentNameSchema,
  client: z.string().min(1).max(128),
  epoch: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
  reason: z.string().max(128).optional(),
  latency_ms: z.number().min(0).optional(),
  /** Ours: the reservation that was made for the call, to be settled with it. */
  hold_id: z.string().min(1).max(300).optional(),
});
export type Meter = z.infer<typeof meterSchema>;

export const dialectSchema = z
  .string()
  .regex(
    /^(mozaiks|ag2-classic\/[\w.]+|ag2\/[\w.]+)$/,
    'must be mozaiks, ag2-classic/<version> or ag2/<version>',
  );

/** The envelope that every agent event travels in: from the engine, and from an AG2 process over `POST /api/events`. */
export const envelopeSchema = z.object({
  v: z.literal(1),
  dialect: dialectSchema,
  app_id: idSchema.optional(),
  user_id: idSchema.optional(),
  workflow_name: idSchema.optional(),
  chat_id: idSchema,
  run_id: idSchema,
  seq: z.int().min(0),
  ts: timestampSchema,
  agent: agentNameSchema.nullable(),
  meter: meterSchema.nullish(),
  event: z.looseObject({
    type: z.string().min(1).max(128),
    content: z.looseObject({ uuid: uuid.optional() }),
  }),
});
export type Envelope = z.infer<typeof envelopeSchema>;
