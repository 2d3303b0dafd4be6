// The other side of the road: the same conversations through the bare `openai` SDK, in memory. Nothing is stored,
// counted, debited or sent on. Asked over its channel; the arguments are the provider's address and a model.
import OpenAI from 'openai';
import { type Conversations, conversationsSchema, userMessage } from './conversation.ts';

const [, , baseURL = '', model = ''] = process.argv;
const openai = new OpenAI({ baseURL, apiKey: 'none' });

// Lives until whoever measures it is gone.
process.channel?.ref();
process.on('message', (message) => {
  const conversations = conversationsSchema.safeParse(message);
  if (conversations.success) void converse(conversations.data);
});

async function converse({ chats, ...conversation }: Conversations): Promise<void> {
  const latencies = await Promise.all(Array.from({ length: chats }, () => chat(conversation)));
  process.send?.({ latenciesMs: latencies.flat() });
}

async function chat({ agents, messagesPerChat }: Omit<Conversations, 'chats'>): Promise<number[]> {
  const history: { speaker: string; content: string }[] = [];
  const latenciesMs: number[] = [];
  for (let number = 1; number <= messagesPerChat; number += 1) {
    const startedAt = performance.now();
    history.push({ speaker: 'user', content: userMessage(number) });
    for (const { name, system_message, temperature, max_tokens } of agents) {
      const stream = await openai.chat.completions.create({
        model,
        stream: true,
        stream_options: { include_usage: true },
        messages: [
          { role: 'system', content: system_message },
          ...history.map(({ speaker, content }) =>
            speaker === name
              ? { role: 'assistant' as const, content }
              : {
                  role: 'user' as const,
                  content: agents.length > 1 && speaker !== 'user' ? `${speaker}: ${content}` : content,
                },
          ),
        ],
        ...(temperature === undefined ? {} : { temperature }),
        ...(max_tokens === undefined ? {} : { max_tokens }),
      });
      let content = '';
      for await (const chunk of stream) content += chunk.choices[0]?.delta.content ?? '';
      history.push({ speaker: name, content });
    }
    latenciesMs.push(performance.now() - startedAt);
  }
  return latenciesMs;
}
