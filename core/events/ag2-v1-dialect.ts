import { z } from 'zod';
import { type Envelope, type KnownAgentEvent, knownAgentEventSchema } from '../contracts/agent-events.ts';
import { tokenCountSchema } from '../contracts/usage.ts';

/**
 * Reads the events of AG2 1.x (dialect `ag2/<version>`), pure. Its accounting is another one than classic AG2's:
 * `UsageEvent` says what *one* piece of work spent, and the sum of these is the bill. What repeats it elsewhere is
 * never counted: `ModelResponse.usage`, `TaskCompleted.usage` and the `parts` of a sub-agent's sum.
 *
 * Events arrive as AG2 writes them: the class's qualified name as type, objects tagged with their class.
 */
export type Ag2V1Usage = {
  /** The producer's id of the spending; a repeat of it is counted once. */
  uuid: string;
  model: string;
  prompt_tokens: number;
  completion_tokens: number;
  /** Parts of the prompt. */
  cached_tokens: number;
  cache_write_tokens: number;
  /** A part of the completion. */
  reasoning_tokens: number;
};

export type Ag2V1Refusal = { code: 'invalid_usage' | 'invalid_event'; reason: string };

/** Null for events that are stored and counted, and shown as nothing. */
export type Ag2V1Reading =
  { usage: Ag2V1Usage } | { known: KnownAgentEvent } | { refused: Ag2V1Refusal } | null;

export function readAg2V1Event(envelope: Envelope): Ag2V1Reading {
  const { event } = envelope;
  const uuid = event.content.uuid ?? `${envelope.run_id}:${envelope.seq}`;
  const sender = envelope.agent ?? 'agent';
  // `ag2.events.types.UsageEvent` and `autogen.beta.events.types.UsageEvent` are the same class.
  const className = event.type.split('.').at(-1) ?? '';
  switch (className) {
    case 'UsageEvent':
      return readUsage(uuid, event.content);
    case 'ModelResponse':
      return readResponse(uuid, sender, event.content);
    case 'ToolCallEvent':
    case 'BuiltinToolCallEvent':
      return readToolCall(uuid, sender, event.content);
    case 'ToolResultEvent':
    case 'BuiltinToolResultEvent':
      return readToolResult(uuid, sender, event.content, true);
    case 'ToolErrorEvent':
    case 'ToolNotFoundEvent':
      return readToolResult(uuid, sender, event.content, false);
    case 'usage_summary':
      return {
        refused: {
          code: 'invalid_usage',
          reason:
            'a run of the dialect ag2/ is counted by its UsageEvents; a usage_summary beside them counts twice',
        },
      };
    default:
      return readBridgeEvent(event);
  }
}

/** Some objects are written as `{"__dataclass__": "…", "data": {…}}`; what is in them is what we want. */
const untag = (value: unknown): unknown =>
  typeof value === 'object' &&
  value !== null &&
  'data' in value &&
  ('__dataclass__' in value || '__pydantic__' in value)
    ? value.data
    : value;
const tagged = <Shape extends z.ZodType>(shape: Shape) => z.preprocess(untag, shape);

const count = tokenCountSchema.nullish();
const usageSchema = tagged(
  z.object({
    prompt_tokens: count,
    completion_tokens: count,
    cache_read_input_tokens: count,
    cache_creation_input_tokens: count,
    thinking_tokens: count,
  }),
);
type ProviderUsage = z.infer<typeof usageSchema>;

const modelSchema = z.string().min(1).max(256).nullish();
const partSchema = z.object({ usage: usageSchema, model: modelSchema, provider: z.string().nullish() });
const usageEventSchema = partSchema.extend({
  // A kind we do not know might repeat what another one said.
  kind: z.enum(['model_call', 'subtask', 'compaction', 'aggregation']).default('model_call'),
  parts: z.array(z.unknown()).nullish(),
});

function readUsage(uuid: string, content: unknown): Ag2V1Reading {
  const parsed = usageEventSchema.safeParse(content);
  if (!parsed.success) return { refused: { code: 'invalid_usage', reason: describeIssues(parsed.error) } };
  const { usage, model, provider, parts } = parsed.data;
  const spent = spentIn(usage, provider, parts ?? []);
  if (spent.prompt_tokens > Number.MAX_SAFE_INTEGER || spent.completion_tokens > Number.MAX_SAFE_INTEGER)
    return { refused: { code: 'invalid_usage', reason: 'the tokens are more than can be counted exactly' } };
  return { usage: { uuid, model: model ?? 'unknown', ...spent } };
}

type Spent = Omit<Ag2V1Usage, 'uuid' | 'model'>;

/** AG2 leaves counts as each provider reports them. Here cache is part of the prompt, reasoning of the completion. */
const cacheIsBesidePrompt = new Set(['anthropic', 'bedrock']);
const reasoningIsBesideCompletion = new Set(['google']);

/**
 * What one event spent. A sum over several providers names none, and only its parts say how each one counts; they
 * stand for the sum if they add up to it, and are never added to it.
 */
function spentIn(usage: ProviderUsage, provider: string | null | undefined, parts: unknown[]): Spent {
  const whole = spentWith(usage, provider);
  if (provider !== null && provider !== undefined) return whole;
  const read = z.array(partSchema).safeParse(parts);
  if (!read.success || read.data.length === 0) return whole;
  const asReported = read.data.map((part) => spentWith(part.usage, null)).reduce(addSpent);
  if (spentFields.some((field) => asReported[field] !== whole[field])) return whole;
  return read.data.map((part) => spentWith(part.usage, part.provider)).reduce(addSpent);
}

function spentWith(usage: ProviderUsage, provider: string | null | undefined): Spent {
  const cached = usage.cache_read_input_tokens ?? 0;
  const written = usage.cache_creation_input_tokens ?? 0;
  const reasoning = usage.thinking_tokens ?? 0;
  const isCacheBeside = cacheIsBesidePrompt.has(provider ?? '');
  const isReasoningBeside = reasoningIsBesideCompletion.has(provider ?? '');
  return {
    prompt_tokens: (usage.prompt_tokens ?? 0) + (isCacheBeside ? cached + written : 0),
    completion_tokens: (usage.completion_tokens ?? 0) + (isReasoningBeside ? reasoning : 0),
    cached_tokens: cached,
    cache_write_tokens: written,
    reasoning_tokens: reasoning,
  };
}

const spentFields = [
  'prompt_tokens',
  'completion_tokens',
  'cached_tokens',
  'cache_write_tokens',
  'reasoning_tokens',
] as const;

function addSpent(left: Spent, right: Spent): Spent {
  return {
    prompt_tokens: left.prompt_tokens + right.prompt_tokens,
    completion_tokens: left.completion_tokens + right.completion_tokens,
    cached_tokens: left.cached_tokens + right.cached_tokens,
    cache_write_tokens: left.cache_write_tokens + right.cache_write_tokens,
    reasoning_tokens: left.reasoning_tokens + right.reasoning_tokens,
  };
}

const responseSchema = z.object({ message: tagged(z.object({ content: z.string() })).nullish() });

/** `ModelMessage` and its chunks say the same text before; the response is the one that is kept. */
function readResponse(uuid: string, sender: string, content: unknown): Ag2V1Reading {
  const parsed = responseSchema.safeParse(content);
  const said = parsed.data?.message?.content;
  if (said === undefined || said === '') return null;
  return known({
    type: 'text',
    content: { uuid, content: said, sender, recipient: null, role: 'assistant' },
  });
}

const toolCallSchema = z.object({ id: z.string(), name: z.string(), arguments: z.string().nullish() });

function readToolCall(uuid: string, sender: string, content: unknown): Ag2V1Reading {
  const parsed = toolCallSchema.safeParse(content);
  if (!parsed.success) return { refused: { code: 'invalid_event', reason: describeIssues(parsed.error) } };
  const call = parsed.data;
  return known({
    type: 'tool_call',
    content: {
      uuid,
      sender,
      tool_calls: [
        { id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments ?? '{}' } },
      ],
    },
  });
}

const toolResultSchema = z.object({
  parent_id: z.string(),
  name: z.string().nullish(),
  result: tagged(z.object({ parts: z.array(z.looseObject({ content: z.unknown().optional() })) })),
});

function readToolResult(uuid: string, recipient: string, content: unknown, isSuccess: boolean): Ag2V1Reading {
  const parsed = toolResultSchema.safeParse(content);
  if (!parsed.success) return { refused: { code: 'invalid_event', reason: describeIssues(parsed.error) } };
  const { parent_id, name, result } = parsed.data;
  const said = result.parts.map((part) => (typeof part.content === 'string' ? part.content : ''));
  return known({
    type: 'executed_function',
    content: {
      uuid,
      func_name: name ?? '',
      call_id: parent_id,
      recipient,
      content: said.join('\n'),
      is_exec_success: isSuccess,
    },
  });
}

/** AG2 1.x has no event for the end of a run, or its failure; the bridge adds them in the classic shapes. */
function readBridgeEvent(event: Envelope['event']): Ag2V1Reading {
  if (event.type !== 'run_completion' && event.type !== 'error') return null;
  return known(event);
}

function known(event: unknown): Ag2V1Reading {
  const parsed = knownAgentEventSchema.safeParse(event);
  return parsed.success
    ? { known: parsed.data }
    : { refused: { code: 'invalid_event', reason: describeIssues(parsed.error) } };
}

function describeIssues(error: z.ZodError): string {
  return error.issues
    .slice(0, 5)
    .map((issue) => `${issue.path.map(String).join('.') || 'event'}: ${issue.message}`)
    .join('; ');
}
