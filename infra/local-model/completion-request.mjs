import { z } from 'zod';

const textPart = z.object({ type: z.literal('text'), text: z.string() });
const content = z.union([
  z.string(),
  z.array(textPart).transform((parts) => parts.map((part) => part.text).join('')),
]);
const message = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  // An assistant's message that only called tools has none.
  content: content.nullish().transform((text) => text ?? ''),
});

/** What a client may ask for. Fields that this model knows nothing of (tools, logprobs, user, …) are passed over. */
export const completionRequestSchema = z
  .object({
    model: z.string(),
    messages: z.array(message).min(1),
    max_tokens: z.int().min(1).nullish(),
    max_completion_tokens: z.int().min(1).nullish(),
    temperature: z.number().min(0).max(2).nullish(),
    top_p: z.number().gt(0).max(1).nullish(),
    seed: z.int().nullish(),
    stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(4)]).nullish(),
    stream: z.boolean().nullish(),
    stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
    n: z.literal(1, 'this model makes one choice per request').nullish(),
    response_format: z
      .discriminatedUnion('type', [
        z.object({ type: z.literal('text') }),
        z.object({ type: z.literal('json_object') }),
        z.object({ type: z.literal('json_schema'), json_schema: z.object({ schema: z.looseObject({}) }) }),
      ])
      .nullish(),
  })
  .transform((request) => ({
    ...request,
    stop: typeof request.stop === 'string' ? [request.stop] : (request.stop ?? []),
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
  }));
