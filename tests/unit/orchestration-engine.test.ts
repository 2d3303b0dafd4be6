import { expect, test } from '@jest/globals';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import type { HoldDocument } from '../../core/data/collections.ts';
import type { Completion } from '../../core/orchestration/llm-client.ts';
import { OrchestrationEngine } from '../../core/orchestration/orchestration-engine.ts';
import { workflowFileSchema } from '../../core/orchestration/workflow-definition.ts';
import { silentLogger } from '../support/silent-logger.ts';

const chat = { chat_id: 'c', app_id: 'a', user_id: 'u', workflow_name: 'w' };
const now = new Date('2026-01-05T10:00:00.000Z');
const turn = () => new Promise(setImmediate);

/** An engine whose log and model answer when the test says so. */
function startEngine() {
  const calls: { answer: (completion: Completion) => void }[] = [];
  const texts: { agent: string; content: string }[] = [];
  const published: Envelope[] = [];
  let [ids, heldBack]: [number, { content: string; release: () => void } | null] = [0, null];
  const hold: HoldDocument = {
    _id: 'h',
    wallet_id: 'a|u',
    app_id: 'a',
    user_id: 'u',
    chat_id: 'c',
    run_id: 'r',
    agent: 'helper',
    model: 'm',
    units: 1n,
    windows: [],
    node_id: 'n',
    created_at: now,
    expires_at: now,
  };
  const engine = new OrchestrationEngine({
    workflows: new Map([
      [
        'w',
        {
          workflow_name: 'w',
          ...workflowFileSchema.parse({
            ui: { display_name: 'W' },
            agents: [{ name: 'helper', system_message: 'Help.' }],
          }),
        },
      ],
    ]),
    llm: {
      defaultModel: 'm',
      streamChat: () => new Promise((answer) => calls.push({ answer })),
    },
    live: { append: () => undefined, drop: () => undefined },
    publish: async (envelopes) => {
      for (const { event } of envelopes) {
        if (event.type !== 'text') continue;
        const { sender, content } = event.content;
        texts.push({ agent: String(sender), content: String(content) });
        if (heldBack?.content === content)
          await new Promise<void>((resolve) => (heldBack = { content: String(content), release: resolve }));
      }
      published.push(...envelopes);
      return envelopes.map(() => ({ outcome: 'recorded' }));
    },
    holds: {
      place: async () => ({ outcome: 'held', hold }),
      release: async () => undefined,
      renew: async () => undefined,
    },
    countTokens: () => 1,
    readTexts: async () => [...texts],
    newId: () => `id-${(ids += 1)}`,
    now: () => now,
    log: silentLogger,
  });
  return {
    engine,
    calls,
    published,
    say: (content: string) => engine.submit(chat, { content, client_message_id: content }),
    holdBack: (content: string) => {
      heldBack = { content, release: () => undefined };
      return () => heldBack?.release();
    },
    /** Lets the model answer its call of this number, and what follows from it happen. */
    answer: async (call: number) => {
      calls[call]?.answer({ text: `answer ${call}`, model: 'm', usage: null, latencyMs: 1 });
      await turn();
    },
  };
}

test('messages that come while a run begins, speaks or ends are answered one run after the other', async () => {
  const { engine, calls, published, say, holdBack, answer } = startEngine();
  await say('first');
  await say('second');
  // The third is being recorded while the first run ends, and the second waits for its own.
  const release = holdBack('third');
  const third = say('third');
  await turn();
  await answer(0);
  release();
  await third;
  await turn();
  expect(calls).toHaveLength(2);
  await answer(1);
  await answer(2);
  const bounds = published.flatMap(({ run_id, event }) =>
    event.type === 'group_chat_run_chat' || event.type === 'run_completion' ? [[event.type, run_id]] : [],
  );
  for (let index = 0; index < bounds.length; index += 2)
    expect(bounds.slice(index, index + 2)).toEqual([
      ['group_chat_run_chat', bounds[index]?.[1]],
      ['run_completion', bounds[index]?.[1]],
    ]);
  expect(engine.activeRunCount).toBe(0);
  await engine.stop();
});

test('a run ends with exactly one run_completion, also when it is cancelled twice and then stopped', async () => {
  const { engine, published, say, answer } = startEngine();
  await say('first');
  engine.cancel('c');
  engine.cancel('c');
  await answer(0);
  await engine.stop();
  expect(published.filter(({ event }) => event.type === 'run_completion')).toHaveLength(1);
  await expect(say('late')).rejects.toMatchObject({ code: 'shutting_down' });
});
