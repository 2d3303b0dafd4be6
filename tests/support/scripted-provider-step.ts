import { z } from 'zod';

/** What a client may ask; fields we do not act on are kept, so that tests can look at them. */
export const completionRequestSchema = z.looseObject({
  model: z.string().optional(),
  messages: z.array(z.looseObject({ role: z.string(), content: z.unknown().optional() })),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: z.int().nullish(),
  max_completion_tokens: z.int().nullish(),
  tools: z.array(z.unknown()).nullish(),
  user: z.string().nullish(),
});
export type CompletionRequest = z.infer<typeof completionRequestSchema>;

const countSchema = z.int().min(0);

/**
 * One completion of the script, as a test writes it or as `POST /script` receives it.
 *
 * Chunks are the pieces of the reply and of tool calls; the opening chunk (role), the closing one (finish reason)
 * and the usage chunk are not counted. Without a stream, any `failAfterChunks` or `stallAfterChunks` comes before
 * the answer, because such an answer has no parts.
 */
export const scriptStepSchema = z.strictObject({
  /** The text; without it, and without `chunks` or `toolCalls`, words are derived from the request. */
  reply: z.string().optional(),
  /** The exact pieces, or into how many pieces the text is cut. Default: a piece per word. */
  chunks: z.union([z.array(z.string()), z.int().min(1)]).optional(),
  toolCalls: z
    .array(
      z.strictObject({
        id: z.string().optional(),
        name: z.string(),
        /** A string is sent as it is (so that broken JSON can be sent); anything else as JSON. */
        arguments: z.unknown().optional(),
      }),
    )
    .optional(),
  finishReason: z.enum(['stop', 'length', 'tool_calls', 'content_filter']).optional(),
  /** What is billed and reported; what is left out is counted. `missing`: billed, but never reported. */
  usage: z
    .union([
      z.literal('missing'),
      z.strictObject({
        prompt_tokens: countSchema.optional(),
        completion_tokens: countSchema.optional(),
        total_tokens: countSchema.optional(),
        prompt_tokens_details: z.looseObject({ cached_tokens: countSchema.optional() }).optional(),
        completion_tokens_details: z.looseObject({ reasoning_tokens: countSchema.optional() }).optional(),
      }),
    ])
    .optional(),
  /** A quirk of some compatible servers: usage rides on the closing chunk, asked for or not. */
  usageInChunkWithChoices: z.boolean().optional(),
  /** Answers with this instead of a completion; nothing is billed. */
  error: z
    .strictObject({
      status: z.int().min(400).max(599),
      code: z.string().optional(),
      message: z.string().optional(),
      retryAfterSeconds: z.number().min(0).optional(),
    })
    .optional(),
  /** Cuts the connection after so many chunks. */
  failAfterChunks: countSchema.optional(),
  /** Falls silent after so many chunks, until released or until the client goes away. */
  stallAfterChunks: countSchema.optional(),
  /** Before the answer begins. */
  delayMs: z.number().min(0).optional(),
  /** Before each chunk. */
  delayPerChunkMs: z.number().min(0).optional(),
});

/** A step in a test's own process may also look at the request: `false` or an exception is a violation. */
export type ScriptStep = z.input<typeof scriptStepSchema> & {
  expect?: (request: CompletionRequest) => boolean | void;
};

export type CompletionUsage = {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number | undefined } | undefined;
  completion_tokens_details?: { reasoning_tokens?: number | undefined } | undefined;
};

type ToolCall = { id: string; type: 'function'; function: { name: string; arguments: string } };

/** Everything a completion will say, decided before the first byte is sent. */
export type CompletionPlan = {
  content: string | null;
  toolCalls: ToolCall[];
  /** The `delta` of each chunk, as JSON text: rendered once, whatever the number of writes. */
  deltasJson: string[];
  finishReason: string;
  usage: CompletionUsage;
};

const vocabulary =
  'amber basin cedar delta ember fjord grove harbor island jasper kernel lagoon meadow nectar orchid prairie quartz river summit timber umber valley willow yonder'.split(
    ' ',
  );
const derivedWords = 24;
const tokensPerMessage = 4;

export function planCompletion(id: string, request: CompletionRequest, step: ScriptStep): CompletionPlan {
  const toolCalls = (step.toolCalls ?? []).map(
    ({ id: given, name, arguments: input = {} }, index): ToolCall => ({
      id: given ?? `call_${id}_${index + 1}`,
      type: 'function',
      function: { name, arguments: typeof input === 'string' ? input : JSON.stringify(input) },
    }),
  );
  const spoken = spokenWords(request, step, toolCalls.length > 0);
  const pieces = cutText(spoken.text, step.chunks);
  const deltas = [...pieces.map((content) => ({ content })), ...toolCalls.flatMap(toolCallDeltas)];
  return {
    content: spoken.text === '' && toolCalls.length > 0 ? null : spoken.text,
    toolCalls,
    deltasJson: deltas.map((delta) => JSON.stringify(delta)),
    finishReason:
      step.finishReason ?? (toolCalls.length > 0 ? 'tool_calls' : spoken.isCapped ? 'length' : 'stop'),
    usage: usageOf(request, step, countWords(spoken.text) + countJson(toolCalls)),
  };
}

/** A reply that was written down is said in full; derived words keep to the caller's cap, as a real model does. */
function spokenWords(request: CompletionRequest, step: ScriptStep, hasToolCalls: boolean) {
  if (step.reply !== undefined) return { text: step.reply, isCapped: false };
  if (Array.isArray(step.chunks)) return { text: step.chunks.join(''), isCapped: false };
  if (hasToolCalls) return { text: '', isCapped: false };
  const wanted = step.chunks ?? derivedWords;
  const cap = request.max_completion_tokens ?? request.max_tokens ?? wanted;
  return { text: deriveWords(request, Math.min(wanted, cap)), isCapped: cap < wanted };
}

/** The same conversation always gets the same words, whichever process answers (FNV-1a, then a linear step). */
function deriveWords(request: CompletionRequest, count: number): string {
  let state = 0x811c9dc5;
  for (const message of request.messages) {
    for (const character of textOf(message.content)) {
      state = Math.imul(state ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
    }
  }
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return vocabulary[(state >>> 8) % vocabulary.length];
  }).join(' ');
}

function cutText(text: string, chunks: ScriptStep['chunks']): string[] {
  if (Array.isArray(chunks)) return chunks;
  if (chunks === undefined) return text.match(/\s*\S+\s*$|\s*\S+/g) ?? (text === '' ? [] : [text]);
  const characters = Array.from(text); // by code point: a chunk never ends inside an emoji
  return Array.from({ length: chunks }, (_, index) =>
    characters
      .slice(
        Math.floor((index * characters.length) / chunks),
        Math.floor(((index + 1) * characters.length) / chunks),
      )
      .join(''),
  );
}

/** As OpenAI streams a tool call: name and id first, then the arguments in pieces. */
function toolCallDeltas(call: ToolCall, index: number) {
  const middle = Math.ceil(call.function.arguments.length / 2);
  const opening = { index, id: call.id, type: call.type, function: { ...call.function, arguments: '' } };
  return [
    opening,
    { index, function: { arguments: call.function.arguments.slice(0, middle) } },
    { index, function: { arguments: call.function.arguments.slice(middle) } },
  ].map((piece) => ({ tool_calls: [piece] }));
}

function usageOf(request: CompletionRequest, step: ScriptStep, countedCompletion: number): CompletionUsage {
  const given = step.usage === 'missing' ? {} : (step.usage ?? {});
  const promptTokens = given.prompt_tokens ?? countPromptTokens(request);
  const completionTokens = given.completion_tokens ?? countedCompletion;
  return {
    ...given,
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: given.total_tokens ?? promptTokens + completionTokens,
  };
}

/** What is billed when only `sentChunks` of the plan left the house: the whole prompt, and its share of the reply. */
export function usageUpTo(plan: CompletionPlan, sentChunks: number): CompletionUsage {
  const share = plan.deltasJson.length === 0 ? 0 : sentChunks / plan.deltasJson.length;
  const reasoningTokens = plan.usage.completion_tokens_details?.reasoning_tokens;
  const completionTokens = Math.ceil(plan.usage.completion_tokens * share);
  return {
    ...plan.usage,
    completion_tokens: completionTokens,
    total_tokens: plan.usage.prompt_tokens + completionTokens,
    ...(reasoningTokens !== undefined && {
      completion_tokens_details: { reasoning_tokens: Math.min(reasoningTokens, completionTokens) },
    }),
  };
}

/** Tokens here are words plus a fixed overhead per message: not a model's count, but everyone's same count. */
export function countPromptTokens(request: CompletionRequest): number {
  const inMessages = request.messages.map(
    (message) => tokensPerMessage + countWords(textOf(message.content)) + countJson(message['tool_calls']),
  );
  return inMessages.reduce((sum, count) => sum + count, 3 + countJson(request.tools));
}

function countWords(text: string): number {
  return text.match(/\S+/g)?.length ?? 0;
}

function countJson(value: unknown): number {
  if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) return 0;
  return Math.ceil(JSON.stringify(value).length / 4);
}

const textPartSchema = z.looseObject({ text: z.string() });

function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return content
    .map((part: unknown) => textPartSchema.safeParse(part))
    .map((part) => (part.success ? part.data.text : ''))
    .join(' ');
}

/**
 * Whose call it was, as far as the request tells: "You are planner, …" in the system message, else the `user`
 * field, else the system message's first words.
 */
export function agentOf(request: CompletionRequest): string | undefined {
  const system = textOf(
    request.messages.find(({ role }) => role === 'system' || role === 'developer')?.content,
  );
  const named = /^\s*You are (?:the |an? )?([\p{L}\p{N}_-]+)/iu.exec(system)?.[1];
  const firstWords = system.trim().split(/\s+/).slice(0, 4).join(' ');
  return named ?? request.user ?? (firstWords === '' ? undefined : firstWords);
}
