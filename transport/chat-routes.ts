import { createHash, randomUUID } from 'node:crypto';
import { z } from 'zod';
import { chatSessionSchema } from '../core/contracts/documents.ts';
import { serverFrames } from '../core/contracts/frames.ts';
import {
  chatExistsSchema,
  chatListSchema,
  chatMetaSchema,
  ledgerPageSchema,
  startChatAnswerSchema,
  startChatRequestSchema,
  workflowListSchema,
  type WorkflowSummary,
} from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import { type PersistenceManager, sessionView, summaryOf } from '../core/data/persistence-manager.ts';
import type { WalletManager } from '../core/data/wallet-manager.ts';
import type { SessionDocument } from '../core/data/collections.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor } from './sign-in.ts';

export type ChatRoutesOptions = {
  persistence: PersistenceManager;
  wallets: WalletManager;
  listWorkflows: () => readonly WorkflowSummary[];
  /** With a free trial nothing is debited, so an empty wallet stops nobody. */
  freeTrial: boolean;
};

const chatPath = z.object({ app_id: idSchema, workflow_name: idSchema, chat_id: idSchema });
const pageSize = z.coerce.number().int().min(1).max(1000).default(200);
const afterNumber = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0);

/** Chats: beginning one, finding them again, reading their document, frames and ledger lines. */
export function chatRoutes({ persistence, wallets, listWorkflows, freeTrial }: ChatRoutesOptions): Route[] {
  const findOwn = async (chatId: string, identity: Identity): Promise<SessionDocument> => {
    const session = await persistence.findSession(chatId);
    if (session === null || !mayActFor(identity, session))
      throw new ProblemError(404, 'unknown_chat', `There is no chat ${chatId}.`);
    return session;
  };
  const findInPath = async (
    { app_id, workflow_name, chat_id }: z.infer<typeof chatPath>,
    identity: Identity,
  ) => {
    const session = await persistence.findSession(chat_id);
    const isHere = session?.app_id === app_id && session.workflow_name === workflow_name;
    return isHere && mayActFor(identity, session) ? session : undefined;
  };

  return [
    route({
      method: 'get',
      path: '/api/workflows',
      summary: 'The workflows that chats can be started with',
      tag: 'chats',
      input: z.object({}),
      answer: workflowListSchema,
      run: async () => ({ workflows: [...listWorkflows()] }),
    }),

    route({
      method: 'post',
      path: '/api/chats/{app_id}/{workflow_name}/start',
      summary: 'Start a chat, or take up the open one',
      tag: 'chats',
      input: z.object({
        params: z.object({ app_id: idSchema, workflow_name: idSchema }),
        body: startChatRequestSchema,
      }),
      answer: startChatAnswerSchema,
      problems: [402, 404, 413, 503],
      async run({ params: { app_id, workflow_name }, body }, { identity }) {
        const { user_id, client_request_id, force_new = false, required_min_tokens = 1 } = body;
        const workflows = listWorkflows().map((workflow) => workflow.workflow_name);
        if (!workflows.includes(workflow_name))
          throw new ProblemError(
            404,
            'unknown_workflow',
            `There is no workflow named ${workflow_name}. There are: ${workflows.join(', ')}.`,
            { workflows },
          );
        if (!mayActFor(identity, { app_id, user_id }))
          throw new ProblemError(404, 'unknown_user', `There is no user ${user_id} in this app.`);
        const { available } = await wallets.readBalance({ app_id, user_id });
        if (!freeTrial && available < Math.max(1, required_min_tokens))
          throw new ProblemError(
            402,
            'insufficient_tokens',
            `The wallet holds ${available}; this chat needs at least ${Math.max(1, required_min_tokens)}. Top it up and start again.`,
            {
              scope: 'wallet',
              remaining_balance: available,
              required_min_tokens,
            },
          );
        const identityOf = (chat_id: string) => ({ chat_id, app_id, user_id, workflow_name });
        const answer = (chat_id: string, reused: boolean) => ({
          success: true as const,
          ...identityOf(chat_id),
          websocket_url: `/ws/${workflow_name}/${app_id}/${chat_id}/${user_id}`,
          remaining_balance: available,
          reused,
        });
        if (client_request_id !== undefined) {
          // The request's own id names the chat, so a start sent twice starts one.
          const digest = createHash('sha256')
            .update([app_id, user_id, workflow_name, client_request_id].join('|'))
            .digest('hex');
          const chatId = `chat-${digest.slice(0, 32)}`;
          return answer(chatId, !(await persistence.openChat(identityOf(chatId))));
        }
        const open = force_new ? null : await persistence.findOpenChat({ app_id, user_id, workflow_name });
        if (open !== null) return answer(open.chat_id, true);
        const chatId = `chat-${randomUUID()}`;
        await persistence.openChat(identityOf(chatId));
        return answer(chatId, false);
      },
    }),

    route({
      method: 'get',
      path: '/api/chats/{app_id}/{workflow_name}',
      summary: "A user's chats with a workflow, the latest first",
      tag: 'chats',
      input: z.object({
        params: z.object({ app_id: idSchema, workflow_name: idSchema }),
        query: z.object({ user_id: idSchema, limit: pageSize }),
      }),
      answer: chatListSchema,
      problems: [404],
      async run({ params: { app_id, workflow_name }, query: { user_id, limit } }, { identity }) {
        if (!mayActFor(identity, { app_id, user_id }))
          throw new ProblemError(404, 'unknown_user', `There is no user ${user_id} in this app.`);
        return { chats: await persistence.listChats({ app_id, user_id, workflow_name }, limit) };
      },
    }),

    route({
      method: 'get',
      path: '/api/chats/exists/{app_id}/{workflow_name}/{chat_id}',
      summary: 'Whether a chat exists',
      tag: 'chats',
      input: z.object({ params: chatPath }),
      answer: chatExistsSchema,
      run: async ({ params }, { identity }) => ({
        exists: (await findInPath(params, identity)) !== undefined,
      }),
    }),

    route({
      method: 'get',
      path: '/api/chats/meta/{app_id}/{workflow_name}/{chat_id}',
      summary: 'A chat in short',
      tag: 'chats',
      input: z.object({ params: chatPath }),
      answer: chatMetaSchema,
      problems: [404],
      async run({ params }, { identity }) {
        const session = await findInPath(params, identity);
        if (session === undefined)
          throw new ProblemError(404, 'unknown_chat', `There is no chat ${params.chat_id}.`);
        return {
          exists: true as const,
          ...summaryOf(session),
          app_id: session.app_id,
          user_id: session.user_id,
        };
      },
    }),

    route({
      method: 'get',
      path: '/api/sessions/{chat_id}',
      summary: 'The session document, with its live token counts',
      tag: 'chats',
      input: z.object({ params: z.object({ chat_id: idSchema }) }),
      answer: chatSessionSchema,
      problems: [404],
      run: async ({ params: { chat_id } }, { identity }) => sessionView(await findOwn(chat_id, identity)),
    }),

    route({
      method: 'get',
      path: '/api/sessions/{chat_id}/events',
      summary: 'The durable frames of a chat, in order: its transcript',
      tag: 'chats',
      input: z.object({
        params: z.object({ chat_id: idSchema }),
        query: z.object({ after: afterNumber, limit: pageSize }),
      }),
      answer: z.strictObject({
        events: z.array(z.union(Object.values(serverFrames))),
        last_sequence: z.int(),
      }),
      problems: [404],
      async run({ params: { chat_id }, query: { after, limit } }, { identity }) {
        const session = await findOwn(chat_id, identity);
        return {
          events: await persistence.readFrames(chat_id, after, limit),
          last_sequence: session.last_sequence,
        };
      },
    }),

    route({
      method: 'get',
      path: '/api/sessions/{chat_id}/ledger',
      summary: 'What a chat was debited, line by line',
      tag: 'chats',
      input: z.object({
        params: z.object({ chat_id: idSchema }),
        query: z.object({ cursor: afterNumber, limit: pageSize }),
      }),
      answer: ledgerPageSchema,
      problems: [404],
      async run({ params: { chat_id }, query: { cursor, limit } }, { identity }) {
        await findOwn(chat_id, identity);
        const entries = await persistence.readLedger({ chat_id }, cursor, limit);
        const last = entries.at(-1)?.line;
        return { entries, next_cursor: entries.length < limit || last === undefined ? null : String(last) };
      },
    }),
  ];
}
