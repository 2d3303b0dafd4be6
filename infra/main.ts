// Behind `npm start`, from dist/: reads the configuration, starts what the server needs, and the server; ends all of it
// on SIGINT and SIGTERM, in the order that loses nothing.
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import type { CoreConfig } from '../core/config/core-config.ts';
import { makeLlmConfig } from '../core/config/llm-config.ts';
import { connectMongo, redacted } from '../core/data/mongo-connection.ts';
import { createLogger, type Logger } from '../core/observability/logging.ts';
import { createLlmClient, type LlmClient, missingLlmClient } from '../core/orchestration/llm-client.ts';
import { readWorkflows } from '../core/orchestration/workflow-catalog.ts';
import { startApp } from './app.ts';
import { startEmbeddedMongo } from './embedded-mongo/embedded-mongo.ts';
import { findMongod } from './embedded-mongo/find-mongod.ts';
import { errorMessage } from './error-message.ts';
import { startLocalModel } from './local-model/local-model.ts';
import { projectRoot } from './project-root.ts';
import { readConfig } from './read-config.ts';

/** What runs get to finish when the server is asked to stop. */
const graceMs = 30_000;

/** Things started so far, to be stopped in reverse. */
const started: { name: string; stop: () => Promise<void> }[] = [];
let isStopping: Promise<void> | undefined;

const print = (line: string) => process.stdout.write(`${line}\n`);

async function start(): Promise<void> {
  const startedAt = performance.now();
  const root = projectRoot();
  if (existsSync(join(root, '.env'))) process.loadEnvFile(join(root, '.env'));
  const config = await readConfig();
  const log = createLogger({ level: config.LOG_LEVEL, asJson: config.LOGS_AS_JSON });
  const workflows = await readWorkflows(join(root, 'workflows'));
  const version = z
    .object({ version: z.string() })
    .parse(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))).version;

  const [mongo, model] = await settleBoth(openMongo(config, log, root), openModel(config, log, root));
  const client = await connectMongo(mongo.uri);
  started.push({ name: 'database connection', stop: () => client.close() });
  const app = await startApp({
    config,
    client,
    llm: model.llm,
    workflows,
    uiFolder: join(root, 'ChatUI', 'dist'),
    version,
    log,
  });
  started.push({ name: 'server', stop: () => app.stop(model.isLocal ? 2_000 : graceMs) });
  if (isStopping !== undefined) return;
  print(`
  Mozaiks Runtime ${version} is ready (${((performance.now() - startedAt) / 1000).toFixed(1)} s)

    Chat      ${app.url}
    API       ${app.url}/docs
    Database  ${mongo.description}
    Model     ${model.description}

  Stop with Ctrl-C. The data stays.
`);
}

/** Waits for both even if one fails, so that what the other started is known and can be stopped. */
async function settleBoth<Left, Right>(left: Promise<Left>, right: Promise<Right>): Promise<[Left, Right]> {
  await Promise.allSettled([left, right]);
  return Promise.all([left, right]);
}

async function openMongo(
  config: CoreConfig,
  log: Logger,
  root: string,
): Promise<{ uri: string; description: string }> {
  if (config.MONGODB_URI !== undefined)
    return {
      uri: config.MONGODB_URI,
      description: `${redacted(config.MONGODB_URI)}, database ${config.MONGO_DATABASE}`,
    };
  const dataDir = resolve(root, config.DATA_DIR);
  const { binary } = await findMongod({
    ...(config.MONGOD_BINARY === undefined ? {} : { mongodBinary: config.MONGOD_BINARY }),
    cacheDir: resolve(root, config.CACHE_DIR),
    progress: print,
  });
  const mongo = await startEmbeddedMongo({ dataDir, binary, log, progress: print });
  started.push({ name: 'MongoDB', stop: mongo.stop });
  return { uri: mongo.uri, description: `embedded MongoDB, data in ${config.DATA_DIR} (${mongo.uri})` };
}

async function openModel(
  config: CoreConfig,
  log: Logger,
  root: string,
): Promise<{ llm: LlmClient; description: string; isLocal: boolean }> {
  const named = makeLlmConfig(config);
  if (named !== undefined)
    return {
      llm: createLlmClient(named),
      description: `${named.defaultModel} at ${named.baseUrl}`,
      isLocal: false,
    };
  try {
    const local = await startLocalModel({ cacheDir: resolve(root, config.CACHE_DIR), log, progress: print });
    started.push({ name: 'local model', stop: local.stop });
    const llm = createLlmClient({
      kind: 'local',
      baseUrl: local.baseUrl,
      apiKey: local.apiKey,
      defaultModel: local.model,
      timeoutMs: config.LLM_TIMEOUT_SEC * 1000,
      maxRetries: config.LLM_MAX_RETRIES,
    });
    return {
      llm,
      description: `${local.model}, on this machine (set OPENAI_API_KEY for a large one)`,
      isLocal: true,
    };
  } catch (cause) {
    const reason = errorMessage(cause);
    log.warn({ reason }, 'there is no model; chats will say so');
    return { llm: missingLlmClient(reason), description: 'none (see the warning above)', isLocal: false };
  }
}

function stop(): Promise<void> {
  return (isStopping ??= (async () => {
    for (const { name, stop: stopOne } of started.toReversed())
      await stopOne().catch((cause: unknown) => {
        process.stderr.write(`${name} did not stop cleanly: ${errorMessage(cause)}\n`);
        process.exitCode = 1;
      });
  })());
}

/** What a person can put right is said in a sentence; anything else shows where it came from. */
function explain(cause: unknown): string {
  const isKnown =
    typeof cause === 'object' && cause !== null && 'code' in cause && typeof cause.code === 'string';
  return isKnown || !(cause instanceof Error) ? errorMessage(cause) : (cause.stack ?? cause.message);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    if (isStopping === undefined) print('\nStopping …');
    void stop().then(() => process.exit());
  });

try {
  await start();
} catch (cause) {
  process.stderr.write(`\n${explain(cause)}\n`);
  process.exitCode = 1;
  await stop();
  process.exit();
}
