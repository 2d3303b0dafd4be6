import { once } from 'node:events';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { startChatAnswerSchema } from '../core/contracts/http.ts';
import { type Conversations, userMessage } from './conversation.ts';

/** As much of a frame as a stopwatch reads: parsing all of it would only slow the machine down. */
const frameSchema = z.object({
  type: z.string(),
  seq: z.number().nullable(),
  data: z.object({
    result: z.string().optional(),
    totals: z.object({ total_tokens: z.number() }).optional(),
  }),
});

export type ChatOutcome = { latenciesMs: number[]; tokens: number; frames: number };

/**
 * One user with one socket: opens a chat, writes its messages one after the other, and waits each time until the
 * run's last frame, which is durable before it is sent, has arrived.
 */
export async function chat(
  serverUrl: string,
  workflowName: string,
  userId: string,
  { messagesPerChat }: Pick<Conversations, 'messagesPerChat'>,
): Promise<ChatOutcome> {
  const response = await fetch(`${serverUrl}/api/chats/bench/${workflowName}/start`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user_id: userId, force_new: true }),
  });
  const { websocket_url } = startChatAnswerSchema.parse(await response.json());
  const socket = new WebSocket(`${serverUrl.replace(/^http/, 'ws')}${websocket_url}`, {
    perMessageDeflate: false,
  });
  await once(socket, 'open');
  const outcome: ChatOutcome = { latenciesMs: [], tokens: 0, frames: 0 };
  let lastSequence = 0;
  try {
    for (let number = 1; number <= messagesPerChat; number += 1) {
      const startedAt = performance.now();
      const ended = new Promise<void>((resolve, reject) => {
        socket.once('close', (code) => reject(new Error(`the socket was closed with ${code}`)));
        socket.on('message', (data: Buffer) => {
          const frame = frameSchema.parse(JSON.parse(data.toString('utf8')));
          outcome.frames += 1;
          if (frame.seq !== null && frame.seq !== lastSequence + 1)
            reject(new Error(`frame ${lastSequence + 1} is missing`));
          lastSequence = frame.seq ?? lastSequence;
          if (frame.type !== 'chat.run_complete') return;
          outcome.tokens += frame.data.totals?.total_tokens ?? 0;
          if (frame.data.result === 'success') resolve();
          else reject(new Error(`the run ended with ${frame.data.result ?? 'nothing'}`));
        });
      });
      socket.send(
        JSON.stringify({
          type: 'user_message',
          content: userMessage(number),
          client_message_id: `${userId}-${number}`,
        }),
      );
      await ended;
      socket.removeAllListeners();
      outcome.latenciesMs.push(performance.now() - startedAt);
    }
  } finally {
    socket.terminate();
  }
  return outcome;
}
