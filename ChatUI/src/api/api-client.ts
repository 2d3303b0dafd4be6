import type { z } from 'zod';
import {
  balanceSchema,
  chatListSchema,
  problemSchema,
  startChatAnswerSchema,
  startChatRequestSchema,
  workflowListSchema,
  type Balance,
  type ChatSummary,
  type StartChatAnswer,
  type WorkflowSummary,
} from '../../../core/contracts/http.ts';
import type { Identity } from '../identity/identity.ts';
import { ApiProblem } from './api-problem.ts';

/** As much of `fetch` as is used here. */
export type Fetch = (
  path: string,
  init: { method: 'GET' | 'POST'; body?: string; headers: Record<string, string> },
) => Promise<{ ok: boolean; status: number; json: () => Promise<unknown> }>;

export type StartRequest = { workflowName: string; clientRequestId: string };

export type ApiClient = {
  listWorkflows: () => Promise<WorkflowSummary[]>;
  listChats: (identity: Identity, workflowName: string) => Promise<ChatSummary[]>;
  startChat: (identity: Identity, request: StartRequest) => Promise<StartChatAnswer>;
  readBalance: (identity: Identity) => Promise<Balance>;
};

const headers = { accept: 'application/json, application/problem+json', 'content-type': 'application/json' };

/** Every answer is parsed with the schema that the server wrote it by. */
export function createApiClient(fetch: Fetch): ApiClient {
  async function ask<Schema extends z.ZodType>(
    schema: Schema,
    path: string,
    init: { method: 'GET' | 'POST'; body?: string } = { method: 'GET' },
  ): Promise<z.infer<Schema>> {
    let response: Awaited<ReturnType<Fetch>>;
    let body: unknown;
    try {
      response = await fetch(path, { ...init, headers });
    } catch (error) {
      throw new ApiProblem('The server cannot be reached. Check the connection and try again.', null, error);
    }
    try {
      body = await response.json();
    } catch (error) {
      throw new ApiProblem(`The server answered ${response.status} and nothing readable.`, null, error);
    }
    if (!response.ok) {
      const { data } = problemSchema.safeParse(body);
      throw new ApiProblem(data?.detail ?? `The server answered ${response.status}.`, data ?? null);
    }
    const parsed = schema.safeParse(body);
    if (!parsed.success) {
      throw new ApiProblem(
        'The server answered in a form this page does not know. Reload the page to get its current version.',
        null,
        parsed.error,
      );
    }
    return parsed.data;
  }

  const part = encodeURIComponent;
  return {
    listWorkflows: async () => (await ask(workflowListSchema, '/api/workflows')).workflows,
    listChats: async ({ app_id, user_id }, workflowName) => {
      const path = `/api/chats/${part(app_id)}/${part(workflowName)}?user_id=${part(user_id)}`;
      return (await ask(chatListSchema, path)).chats;
    },
    startChat: async ({ app_id, user_id }, { workflowName, clientRequestId }) => {
      const body = startChatRequestSchema.parse({
        user_id,
        client_request_id: clientRequestId,
        force_new: true,
      });
      return ask(startChatAnswerSchema, `/api/chats/${part(app_id)}/${part(workflowName)}/start`, {
        method: 'POST',
        body: JSON.stringify(body),
      });
    },
    readBalance: async ({ app_id, user_id }) =>
      ask(balanceSchema, `/api/tokens/${part(user_id)}/balance?app_id=${part(app_id)}`),
  };
}
