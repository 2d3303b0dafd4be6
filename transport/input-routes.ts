import { z } from 'zod';
import { inputAnswerSchema, inputRequestAnswerSchema } from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { PersistenceManager } from '../core/data/persistence-manager.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor } from './sign-in.ts';
import type { UserInput } from './user-input.ts';

const path = z.object({ chat_id: idSchema, request_id: idSchema });

/** Questions of agents to the user, for those without a socket: reading the answer, and giving it. */
export function inputRoutes({
  persistence,
  userInput,
}: {
  persistence: PersistenceManager;
  userInput: UserInput;
}): Route[] {
  const findOwn = async (chatId: string, identity: Identity) => {
    const session = await persistence.findSession(chatId);
    if (session === null || !mayActFor(identity, session))
      throw new ProblemError(404, 'unknown_chat', `There is no chat ${chatId}.`);
    const { chat_id, app_id, user_id, workflow_name } = session;
    return { chat_id, app_id, user_id, workflow_name };
  };
  return [
    route({
      method: 'get',
      path: '/api/sessions/{chat_id}/inputs/{request_id}',
      summary: "The answer to an agent's question; waits for it up to wait_sec",
      tag: 'chats',
      input: z.object({
        params: path,
        query: z.object({ wait_sec: z.coerce.number().min(0).max(30).default(0) }),
      }),
      answer: inputAnswerSchema,
      problems: [404],
      async run({ params: { chat_id, request_id }, query: { wait_sec } }, { identity }) {
        await findOwn(chat_id, identity);
        return userInput.waitFor(chat_id, request_id, wait_sec * 1000);
      },
    }),
    route({
      method: 'post',
      path: '/api/sessions/{chat_id}/inputs/{request_id}',
      summary: "Answer an agent's question",
      tag: 'chats',
      input: z.object({ params: path, body: inputRequestAnswerSchema }),
      answer: inputAnswerSchema,
      problems: [404, 409, 410, 503],
      async run({ params: { chat_id, request_id }, body }, { identity }) {
        await userInput.answer(await findOwn(chat_id, identity), request_id, body.user_input);
        return userInput.read(chat_id, request_id);
      },
    }),
  ];
}
