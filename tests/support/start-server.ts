import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { type EnvironmentVariable, loadCoreConfig } from '../../core/config/core-config.ts';
import type { LlmConfig } from '../../core/config/llm-config.ts';
import { type StartChatAnswer, startChatAnswerSchema } from '../../core/contracts/http.ts';
import { connectMongo } from '../../core/data/mongo-connection.ts';
import type { Logger } from '../../core/observability/logging.ts';
import { createLlmClient, missingLlmClient } from '../../core/orchestration/llm-client.ts';
import { readWorkflows } from '../../core/orchestration/workflow-catalog.ts';
import { type AppOptions, startApp } from '../../infra/app.ts';
import { projectRoot } from '../../infra/project-root.ts';
import type { ScriptedProvider } from './scripted-provider.ts';
import { silentLogger } from './silent-logger.ts';
import { SocketClient } from './socket-client.ts';
import { freshDatabase, type TestDatabase } from './test-database.ts';

export type TestServerOptions = {
  provider?: ScriptedProvider;
  llm?: Partial<LlmConfig>;
  environment?: Partial<Record<EnvironmentVariable, string>>;
  now?: () => Date;
  socketLimits?: AppOptions['socketLimits'];
  /** One that outlives the server, for restarts; the caller closes it. */
  database?: TestDatabase;
  uiFolder?: string;
  log?: Logger;
};

export type Answer = { status: number; headers: Headers; text: string; body: unknown };

export type TestServer = {
  readonly url: string;
  readonly database: TestDatabase;
  wsUrl: (path: string) => string;
  get: (path: string, headers?: Record<string, string>) => Promise<Answer>;
  /** A string is sent as it is, anything else as JSON. */
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Answer>;
  /** Starts a new chat of the user `ann` of the app `acme`, unless told otherwise. */
  startChat: (
    workflow: string,
    owner?: { app_id?: string; user_id?: string },
    headers?: Record<string, string>,
  ) => Promise<StartChatAnswer>;
  /** A socket to a chat; it is closed with the server. */
  connect: (
    chat: Pick<StartChatAnswer, 'websocket_url'>,
    query?: string,
    headers?: Record<string, string>,
  ) => Promise<SocketClient>;
  stop: (graceMs?: number) => Promise<void>;
};

/** The whole server, as `infra/app.ts` composes it, on a port of its own and, unless given, a database of its own. */
export async function startTestServer(options: TestServerOptions = {}): Promise<TestServer> {
  const {
    provider,
    environment = {},
    now,
    socketLimits,
    uiFolder = '/nowhere',
    log = silentLogger,
  } = options;
  const config = await loadCoreConfig({ PORT: '0', NODE_ID: `test-${randomUUID()}`, ...environment });
  const database = options.database ?? (await freshDatabase());
  const client = await connectMongo(database.uri);
  const llm =
    provider === undefined
      ? missingLlmClient('this test has no model')
      : createLlmClient({
          kind: 'compatible',
          baseUrl: provider.baseUrl,
          apiKey: 'test',
          defaultModel: 'gpt-4o-mini',
          timeoutMs: 30_000,
          maxRetries: 0,
          ...options.llm,
        });
  const workflows = await readWorkflows(join(projectRoot(), 'workflows'));
  const app = await startApp({
    config: { ...config, MONGO_DATABASE: database.name },
    client,
    llm,
    workflows,
    uiFolder,
    version: '0.0.0-test',
    log,
    ...(now === undefined ? {} : { now }),
    ...(socketLimits === undefined ? {} : { socketLimits }),
  });
  const sockets: SocketClient[] = [];
  const wsUrl = (path: string) => `${app.url.replace('http', 'ws')}${path}`;
  const post: TestServer['post'] = async (path, body, headers = {}) =>
    answerOf(
      await fetch(`${app.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    );
  let stopped: Promise<void> | undefined;
  return {
    url: app.url,
    database,
    wsUrl,
    get: async (path, headers = {}) => answerOf(await fetch(`${app.url}${path}`, { headers })),
    post,
    async startChat(workflow, { app_id = 'acme', user_id = 'ann' } = {}, headers = {}) {
      const { body } = await post(
        `/api/chats/${app_id}/${workflow}/start`,
        { user_id, force_new: true },
        headers,
      );
      return startChatAnswerSchema.parse(body);
    },
    async connect({ websocket_url }, query = '', headers = {}) {
      const socket = await SocketClient.connect(wsUrl(`${websocket_url}${query}`), { headers });
      sockets.push(socket);
      return socket;
    },
    stop: (graceMs = 0) =>
      (stopped ??= (async () => {
        await app.stop(graceMs);
        for (const socket of sockets) await socket.close();
        await client.close();
        if (options.database === undefined) await database.close();
      })()),
  };
}

async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
  const body: unknown = isJson && text !== '' ? JSON.parse(text) : undefined;
  return { status: response.status, headers: response.headers, text, body };
}
