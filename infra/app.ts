import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { MongoClient } from 'mongodb';
import type { CoreConfig } from '../core/config/core-config.ts';
import {
  type EventRecord,
  interruptedRun,
  openRunOf,
  type PersistenceManager,
} from '../core/data/persistence-manager.ts';
import { verifyLedger } from '../core/data/ledger-verification.ts';
import { PriceStore } from '../core/data/price-store.ts';
import { openStorage } from '../core/data/storage.ts';
import { UnifiedEventDispatcher } from '../core/events/unified-event-dispatcher.ts';
import type { Logger } from '../core/observability/logging.ts';
import { openMetrics } from '../core/observability/metrics.ts';
import { PerformanceManager } from '../core/observability/performance-manager.ts';
import { noTelemetry, type Telemetry } from '../core/observability/telemetry.ts';
import type { LlmClient } from '../core/orchestration/llm-client.ts';
import { OrchestrationEngine } from '../core/orchestration/orchestration-engine.ts';
import { createTokenCounter } from '../core/orchestration/token-counter.ts';
import { summarize, type WorkflowCatalog } from '../core/orchestration/workflow-catalog.ts';
import { seedPrices } from '../core/usage/price-seeds.ts';
import { adminRoutes } from '../transport/admin-routes.ts';
import { budgetRoutes } from '../transport/budget-routes.ts';
import { chatRoutes } from '../transport/chat-routes.ts';
import { eventRoutes } from '../transport/event-routes.ts';
import { createHttpServer } from '../transport/http-server.ts';
import { inputRoutes } from '../transport/input-routes.ts';
import { operationsRoutes } from '../transport/operations-routes.ts';
import { priceRoutes } from '../transport/price-routes.ts';
import { createSignIn } from '../transport/sign-in.ts';
import { SimpleTransport } from '../transport/simple-transport.ts';
import { type SocketLimits, startSocketServer } from '../transport/socket-server.ts';
import { statementRoutes } from '../transport/statement-routes.ts';
import { usageRoutes } from '../transport/usage-routes.ts';
import { UserInput } from '../transport/user-input.ts';
import { walletRoutes } from '../transport/wallet-routes.ts';

/** Everything the runtime is made of, handed in from outside: nothing below reads the environment. */
export type AppOptions = {
  config: CoreConfig;
  client: MongoClient;
  llm: LlmClient;
  workflows: WorkflowCatalog;
  uiFolder: string;
  version: string;
  log: Logger;
  now?: () => Date;
  telemetry?: Telemetry;
  socketLimits?: Partial<SocketLimits>;
};

export type App = {
  /** The address it answers at. */
  readonly url: string;
  /** Ends it so that nothing accepted is lost; safe to call twice. `graceMs` is what runs get to finish. */
  stop: (graceMs?: number) => Promise<void>;
};

const viteOrigins = ['http://localhost:5173', 'http://127.0.0.1:5173'];

/** The composition root: introduces the parts to one another, and starts them. */
export async function startApp(options: AppOptions): Promise<App> {
  const { config, client, llm, workflows, log, now = () => new Date(), telemetry = noTelemetry } = options;
  const transport = new SimpleTransport();
  const nodeId = config.NODE_ID ?? `${process.env['HOSTNAME'] ?? 'node'}:${config.PORT}`;
  let isStopping = false;

  const storage = await openStorage({
    client,
    database: config.MONGO_DATABASE,
    nodeId,
    settings: {
      walletUnit: config.WALLET_UNIT,
      walletStartBalance: BigInt(config.walletStartBalance),
      freeTrial: config.FREE_TRIAL_ENABLED,
      finalUsagePolicy: config.FINAL_USAGE_POLICY,
      price: (use) => prices.priceBook()(use),
    },
    publish: ({ frames, sessions, credited }) => {
      performance.observe(sessions);
      transport.publish(frames);
      userInput.observe(frames);
      telemetry.observe(() => undefined);
      if (credited.length > 0) resumePaused(credited);
    },
    onNodeGone: (gone) => {
      endOrphanedRuns(gone).catch((cause: unknown) =>
        log.error({ err: cause, node: gone }, 'runs of a node that is gone were not ended'),
      );
    },
    log,
    now,
  });
  const { persistence, wallets, budgets, collections, writer } = storage;
  const prices = new PriceStore({ prices: collections.prices, seeds: seedPrices(), log });
  await prices.start();
  const performance = new PerformanceManager(persistence, now);
  const dispatcher = new UnifiedEventDispatcher<EventRecord>({
    usage: (event, isFresh) => performance.recordTokenUsage(event, isFresh),
    other: (event, isFresh) => persistence.appendEvent(event, isFresh),
  });

  const userInput = new UserInput(persistence, dispatcher, now);
  const engine = new OrchestrationEngine({
    workflows,
    llm,
    live: transport.live,
    publish: async (envelopes, isFresh) => {
      const published = await dispatcher.publish(envelopes, { isFresh, now: now() });
      return published.map(({ recorded, refused }) =>
        refused === undefined ? recorded : { outcome: 'refused', ...refused },
      );
    },
    holds: {
      place: (call) => wallets.placeHold(call),
      release: (holdId, reason) => wallets.releaseHold(holdId, reason),
      renew: (holdIds) => wallets.renewHolds(holdIds, now()),
    },
    countTokens: createTokenCounter(),
    readTexts: (chatId, limit) => persistence.readTexts(chatId, limit),
    newId: randomUUID,
    now,
    log,
  });
  /** Ends the runs that a node had under way when it was killed. */
  const endOrphanedRuns = async (ofNode: string): Promise<void> => {
    for (const session of await persistence.findOrphanedRuns(ofNode)) {
      const { chat_id, app_id, user_id, workflow_name } = session;
      const interrupted = interruptedRun(session);
      if (interrupted !== null)
        await engine.endOrphanedRun({ chat_id, app_id, user_id, workflow_name }, interrupted);
    }
  };
  /** A credit lets the chats go on that stopped for want of funds, from where they stood. */
  const resumePaused = (owners: readonly { app_id: string; user_id?: string }[]): void => {
    for (const { app_id, user_id } of owners)
      resumeChats(
        { persistence, engine, workflows },
        user_id === undefined ? { app_id } : { app_id, user_id },
      ).catch((cause: unknown) =>
        log.error({ err: cause, app_id, user_id }, 'paused chats were not resumed'),
      );
  };
  await endOrphanedRuns(nodeId);

  const metrics = openMetrics([
    {
      name: 'mozaiks_active_chats',
      description: 'Chats that have not ended',
      read: () => performance.aggregate().active_chats,
    },
    {
      name: 'mozaiks_active_runs',
      description: 'Runs under way on this node',
      read: () => engine.activeRunCount,
    },
    {
      name: 'mozaiks_websocket_connections',
      description: 'Open sockets',
      read: () => transport.connectionCount,
    },
    {
      name: 'mozaiks_commit_queue_length',
      description: 'Writes waiting for the next commit',
      read: () => writer.queueLength,
    },
  ]);
  const signIn = createSignIn({
    secret: config.AUTH_SECRET,
    jwksUrl: config.AUTH_JWKS_URL,
    issuer: config.AUTH_ISSUER,
    audience: config.AUTH_AUDIENCE,
    serviceKey: config.AUTH_SERVICE_KEY,
    allowedOrigins: [
      ...(config.PUBLIC_ORIGIN === undefined ? [] : [config.PUBLIC_ORIGIN]),
      ...(config.ENVIRONMENT === 'development' ? viteOrigins : []),
    ],
  });
  const server = createHttpServer({
    routes: [
      ...operationsRoutes({
        performance,
        readiness: {
          isStopping: () => isStopping,
          checkStorage: async () => {
            await client.db('admin').command({ ping: 1 }, { timeoutMS: 2000 });
          },
        },
      }),
      ...chatRoutes({
        persistence,
        wallets,
        freeTrial: config.FREE_TRIAL_ENABLED,
        listWorkflows: () => [...workflows.values()].map((workflow) => summarize(workflow, llm.defaultModel)),
      }),
      ...inputRoutes({ persistence, userInput }),
      ...eventRoutes({ dispatcher }),
      ...walletRoutes({ wallets, persistence }),
      ...budgetRoutes({ budgets, onRaised: (app_id) => resumePaused([{ app_id }]), now }),
      ...statementRoutes({ collections, wallets, now }),
      ...priceRoutes({ prices, now }),
      ...usageRoutes({ collections, persistence, now }),
      ...adminRoutes({
        verify: (scope, signal) =>
          verifyLedger({ client, database: config.MONGO_DATABASE, scope, now, signal }),
      }),
    ],
    signIn,
    answerMetrics: metrics.answer,
    uiFolder: options.uiFolder,
    version: options.version,
    log,
  });
  const sockets = startSocketServer(server, {
    transport,
    engine,
    userInput,
    cancelRemote: async ({ chat_id }) => {
      const session = await persistence.findSession(chat_id);
      const run_id = session === null ? undefined : openRunOf(session);
      if (run_id !== undefined) await dispatcher.publish([cancelRequest(chat_id, run_id, now())]);
    },
    findSession: (chatId) => persistence.findSession(chatId),
    readFrames: (chatId, after, limit) => persistence.readFrames(chatId, after, limit),
    signIn,
    log,
    now,
    ...(options.socketLimits === undefined ? {} : { limits: options.socketLimits }),
  });
  server.listen(config.PORT, config.HOST);
  try {
    await once(server, 'listening');
  } catch (cause) {
    await storage.stop();
    prices.stop();
    throw portProblem(cause, config);
  }

  let stopped: Promise<void> | undefined;
  return {
    url: addressOf(server.address(), config.HOST),
    stop: (graceMs = 0) =>
      (stopped ??= (async () => {
        isStopping = true;
        server.close();
        await engine.stop(graceMs);
        await sockets.stop();
        server.closeAllConnections();
        await storage.stop();
        prices.stop();
        await metrics.stop();
        await telemetry.stop();
      })()),
  };
}

async function resumeChats(
  {
    persistence,
    engine,
    workflows,
  }: { persistence: PersistenceManager; engine: OrchestrationEngine; workflows: WorkflowCatalog },
  owner: { app_id: string; user_id?: string },
): Promise<void> {
  for (const { chat_id, app_id, user_id, workflow_name, paused_run } of await persistence.findPausedChats(
    owner,
  ))
    if (paused_run !== null && workflows.has(workflow_name))
      await engine.resume({ chat_id, app_id, user_id, workflow_name }, paused_run);
}

/** Under an id that follows from the run, so that asking twice is asking once. */
function cancelRequest(chat_id: string, run_id: string, now: Date) {
  return {
    v: 1,
    dialect: 'mozaiks',
    chat_id,
    run_id,
    seq: 0,
    ts: now.toISOString(),
    agent: null,
    event: { type: 'cancel_request', content: { uuid: `cancel:${run_id}` } },
  };
}

export class PortInUseError extends Error {
  readonly code = 'port_in_use';
}

function portProblem(cause: unknown, { PORT, HOST }: CoreConfig): unknown {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? cause.code : undefined;
  if (code === 'EADDRINUSE')
    return new PortInUseError(
      `Port ${PORT} on ${HOST} is in use by another program. Stop it, or set PORT to another one (PORT=8001 npm start).`,
    );
  if (code === 'EACCES')
    return new PortInUseError(`This user may not listen on port ${PORT}. Set PORT to one above 1023.`);
  return cause;
}

function addressOf(address: AddressInfo | string | null, host: string): string {
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
