import { z } from 'zod';

/** Users who each write some messages to a team of agents; the runtime and the bare SDK have the same ones. */
export const conversationsSchema = z.object({
  agents: z.array(
    z.object({
      name: z.string(),
      system_message: z.string(),
      temperature: z.number().optional(),
      max_tokens: z.number().optional(),
    }),
  ),
  /** Chats at the same time. */
  chats: z.number(),
  messagesPerChat: z.number(),
});
export type Conversations = z.infer<typeof conversationsSchema>;

export const userMessage = (number: number): string =>
  `Message ${number}: what should a small library do to get more visitors on a rainy day?`;

/** From a message to its last agent's last word, one for each message. */
export const latenciesSchema = z.object({ latenciesMs: z.array(z.number()) });
