import { z } from 'zod';
import { runResultSchema } from './agent-events.ts';
import { agentNameSchema, idSchema, timestampSchema } from './ids.ts';
import { usageShareSchema, usageTotalsSchema } from './usage.ts';

const agent = agentNameSchema;
const messageId = z.string().min(1).max(128);

/** One frame on the wire. `from_seq` is there when a slow reader got several `token_update`s as the last of them. */
const frame = <Type extends string, Shape extends z.ZodRawShape>(type: Type, data: Shape) =>
  z.strictObject({
    type: z.literal(type),
    data: z.strictObject(data),
    timestamp: timestampSchema,
    chat_id: z.string(),
    seq: z.int().min(1).nullable(),
    from_seq: z.int().min(1).optional(),
  });

/** Every frame the server sends, by type. docs/PROTOCOL.md describes each under a heading of its name. */
export const serverFrames = {
  'chat.run_start': frame('chat.run_start', { run_id: z.string(), workflow_name: z.string() }),
  'chat.run_complete': frame('chat.run_complete', {
    run_id: z.string(),
    workflow_name: z.string(),
    result: runResultSchema,
    total_turns: z.int(),
    totals: usageTotalsSchema,
    reason: z.string(),
  }),
  'chat.select_speaker': frame('chat.select_speaker', { agent }),
  'chat.stream': frame('chat.stream', {
    message_id: messageId,
    agent,
    offset: z.int().min(0),
    delta: z.string(),
  }),
  'chat.text': frame('chat.text', {
    message_id: messageId,
    agent,
    content: z.string(),
    role: z.enum(['user', 'assistant']),
    client_message_id: z.string().optional(),
    partial: z.literal(true).optional(),
  }),
  'chat.tool_call': frame('chat.tool_call', {
    tool_call_id: z.string(),
    tool_name: z.string(),
    agent,
    arguments: z.unknown(),
  }),
  'chat.tool_progress': frame('chat.tool_progress', {
    tool_call_id: z.string(),
    tool_name: z.string(),
    progress_percent: z.number(),
    status_message: z.string(),
  }),
  'chat.tool_response': frame('chat.tool_response', {
    tool_call_id: z.string(),
    tool_name: z.string(),
    agent,
    success: z.boolean(),
    content: z.string(),
  }),
  'chat.handoff': frame('chat.handoff', { from_agent: agent, to_agent: agent, reason: z.string() }),
  'chat.input_request': frame('chat.input_request', {
    request_id: z.string(),
    prompt: z.string(),
    agent: agent.nullable(),
    password: z.boolean(),
    expires_at: timestampSchema,
  }),
  'chat.input_ack': frame('chat.input_ack', { request_id: z.string() }),
  'chat.input_timeout': frame('chat.input_timeout', { request_id: z.string() }),
  'chat.structured_output_ready': frame('chat.structured_output_ready', {
    agent,
    schema_name: z.string(),
    structured_data: z.unknown(),
  }),
  'chat.usage_summary': frame('chat.usage_summary', {
    run_id: z.string(),
    totals: usageTotalsSchema,
    by_agent: z.array(usageShareSchema.extend({ agent })),
    by_model: z.array(usageShareSchema.extend({ model: z.string() })),
    unaccounted_turns: z.int(),
  }),
  token_update: frame('token_update', {
    chat_id: idSchema,
    agent: agent.nullable(),
    model: z.string().nullable(),
    cumulative: usageTotalsSchema.extend({ last_model: z.string().nullable() }),
    delta: usageTotalsSchema,
    remaining_balance: z.int(),
    ledger_entry_id: z.string(),
    incremental_debits: z.boolean(),
  }),
  token_warning: frame('token_warning', {
    remaining_balance: z.int(),
    threshold: z.int(),
    scope: z.string(),
  }),
  token_exhausted: frame('token_exhausted', {
    remaining_balance: z.int(),
    scope: z.string(),
    blocked_until: timestampSchema.nullable(),
  }),
  'chat.error': frame('chat.error', {
    error_type: z.string(),
    message: z.string(),
    details: z.record(z.string(), z.unknown()),
    retryable: z.boolean(),
  }),
  'chat.resume_boundary': frame('chat.resume_boundary', {
    replayed_count: z.int(),
    client_had: z.int(),
    persisted_had: z.int(),
  }),
  pong: frame('pong', {}),
};

export type ServerFrameType = keyof typeof serverFrames;
export type ServerFrame = z.infer<(typeof serverFrames)[ServerFrameType]>;
export type ServerFrameData<Type extends ServerFrameType> = z.infer<(typeof serverFrames)[Type]>['data'];

/** Frames without a place in the log: they carry `seq: null` and are gone when nobody listens. */
export const ephemeralFrameTypes = [
  'chat.stream',
  'chat.tool_progress',
  'chat.resume_boundary',
  'pong',
] as const satisfies readonly ServerFrameType[];
export type EphemeralFrameType = (typeof ephemeralFrameTypes)[number];
export type DurableFrameType = Exclude<ServerFrameType, EphemeralFrameType>;

/** What a frame says, before the commit gave it its `seq`. */
export type FrameBody<Type extends ServerFrameType = ServerFrameType> = {
  [Each in Type]: { type: Each; data: ServerFrameData<Each> };
}[Type];
export type DurableFrameBody = FrameBody<DurableFrameType>;

/** A frame that is in the log: it has its place, and every listener gets it exactly once. */
export type DurableFrame = DurableFrameBody & {
  timestamp: string;
  chat_id: string;
  seq: number;
  from_seq?: number;
};

/** Parses a frame as a client does. A type this version does not know is passed over (`undefined`), never an error. */
export function parseServerFrame(input: unknown): ServerFrame | undefined {
  const { type } = z.object({ type: z.string() }).parse(input);
  return isServerFrameType(type) ? serverFrames[type].parse(input) : undefined;
}

function isServerFrameType(type: string): type is ServerFrameType {
  return Object.hasOwn(serverFrames, type);
}

export const clientFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('auth'), token: z.string().min(1).max(8192) }),
  z.strictObject({
    type: z.literal('user_message'),
    content: z.string().trim().min(1).max(100_000),
    client_message_id: idSchema,
  }),
  z.strictObject({
    type: z.literal('user_input_response'),
    input_request_id: idSchema,
    user_input: z.string().max(100_000),
  }),
  z.strictObject({ type: z.literal('cancel') }),
  z.strictObject({ type: z.literal('resume'), last_sequence: z.int().min(0) }),
  z.strictObject({ type: z.literal('ping') }),
]);
export type ClientFrame = z.infer<typeof clientFrameSchema>;

/** Why the server closed a socket. 1012 asks the client to reconnect; the others say what it did wrong. */
export const closeCodes = {
  restarting: 1012,
  bad_frame: 4400,
  not_signed_in: 4401,
  not_yours: 4403,
  no_such_chat: 4404,
  sign_in_timeout: 4408,
  superseded: 4409,
  too_large: 4413,
  too_fast: 4429,
} as const;
