// Behind `npm run verify`, from dist/: checks what is stored against itself, in the database that MONGODB_URI names or in
// the embedded one, whether a server is running with it or not. It only reads.
//
//   npm run verify -- [--app <app_id>] [--user <user_id>] [--chat <chat_id>] [--json]
//
// Exit code 0: everything agrees; 1: something does not; 2: it could not be checked.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { CoreConfig } from '../core/config/core-config.ts';
import type { Checked, VerificationReport } from '../core/contracts/verification.ts';
import { type VerificationScope, verifyLedger } from '../core/data/ledger-verification.ts';
import { connectMongo, redacted, StorageUnavailableError } from '../core/data/mongo-connection.ts';
import { createLogger } from '../core/observability/logging.ts';
import { EmbeddedMongoError } from './embedded-mongo/embedded-mongo-error.ts';
import { embeddedMongoUri, startEmbeddedMongo } from './embedded-mongo/embedded-mongo.ts';
import { findMongod } from './embedded-mongo/find-mongod.ts';
import { errorMessage } from './error-message.ts';
import { projectRoot } from './project-root.ts';
import { readConfig } from './read-config.ts';

const progressMs = 2000;

/** Progress and complaints; standard output holds the report alone. */
const say = (line: string) => process.stderr.write(`${line}\n`);
const print = (line: string) => process.stdout.write(`${line}\n`);

type Arguments = { scope: VerificationScope; asJson: boolean };

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      app: { type: 'string' },
      user: { type: 'string' },
      chat: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  });
  const { app, user, chat, json } = values;
  return {
    scope: {
      ...(app === undefined ? {} : { app_id: app }),
      ...(user === undefined ? {} : { user_id: user }),
      ...(chat === undefined ? {} : { chat_id: chat }),
    },
    asJson: json,
  };
}

type OpenedMongo = { uri: string; stop: () => Promise<void> };

/** The database as it is: a running one is used, an embedded one that is not running is started for the time. */
async function openMongo(config: CoreConfig, root: string): Promise<OpenedMongo> {
  const stop = () => Promise.resolve();
  if (config.MONGODB_URI !== undefined) return { uri: config.MONGODB_URI, stop };
  const dataDir = resolve(root, config.DATA_DIR);
  if (!existsSync(join(dataDir, 'mongo')))
    throw new StorageUnavailableError(
      `There is no database in DATA_DIR ${dataDir}. Set DATA_DIR or MONGODB_URI to the one to verify.`,
    );
  const { binary } = await findMongod({
    ...(config.MONGOD_BINARY === undefined ? {} : { mongodBinary: config.MONGOD_BINARY }),
    cacheDir: resolve(root, config.CACHE_DIR),
    progress: say,
  });
  const log = createLogger({ level: 'warn', asJson: config.LOGS_AS_JSON });
  try {
    return await startEmbeddedMongo({ dataDir, binary, log, progress: say });
  } catch (cause) {
    const isInUse = cause instanceof EmbeddedMongoError && cause.code === 'data_dir_in_use';
    const uri = isInUse ? await embeddedMongoUri(dataDir) : undefined;
    if (uri === undefined) throw cause;
    return { uri, stop };
  }
}

async function verify({ scope, asJson }: Arguments): Promise<number> {
  const root = projectRoot();
  if (existsSync(join(root, '.env'))) process.loadEnvFile(join(root, '.env'));
  const config = await readConfig();
  const mongo = await openMongo(config, root);
  try {
    const client = await connectMongo(mongo.uri);
    try {
      say(`Verifying the database ${config.MONGO_DATABASE} at ${redacted(mongo.uri)}`);
      const report = await verifyLedger({
        client,
        database: config.MONGO_DATABASE,
        scope,
        onProgress: progressSayer(),
      });
      const { wallets, sessions } = report.checked;
      if (report.ok && wallets === 0 && sessions === 0) {
        say(
          'There is nothing to verify: no wallet and no chat was found. Check the database and the options.',
        );
        return 2;
      }
      print(asJson ? JSON.stringify(report, null, 2) : readable(report));
      return report.ok ? 0 : 1;
    } finally {
      await client.close();
    }
  } finally {
    await mongo.stop();
  }
}

function progressSayer(): (checked: Checked) => void {
  let saidAt = performance.now();
  return ({ wallets, ledger_lines, sessions }) => {
    if (performance.now() - saidAt < progressMs) return;
    saidAt = performance.now();
    say(`  ${grouped(ledger_lines)} ledger lines, ${grouped(wallets)} wallets, ${grouped(sessions)} chats …`);
  };
}

function readable({
  checked,
  counts,
  difference_count,
  differences,
  duration_ms,
}: VerificationReport): string {
  const rows: [string, number][] = [
    ['wallets', checked.wallets],
    ['ledger lines', checked.ledger_lines],
    ['holds', checked.holds],
    ['chats', checked.sessions],
    ['frames', checked.events],
    ['usage rows', checked.usage_rows],
    ['spilled marks', checked.usage_marks],
  ];
  const lines = [`Checked in ${(duration_ms / 1000).toFixed(1)} s:`];
  for (const [name, count] of rows) lines.push(`  ${name.padEnd(14)}${grouped(count).padStart(12)}`);
  if (difference_count === 0) return [...lines, 'Everything agrees.'].join('\n');
  lines.push(difference_count === 1 ? '1 difference:' : `${grouped(difference_count)} differences:`);
  for (const [kind, count] of Object.entries(counts)) {
    lines.push(`\n  ${kind} (${grouped(count)})`);
    const kept = differences.filter((each) => each.kind === kind);
    for (const { id, expected, found, detail } of kept)
      lines.push(
        `    ${id}: ${detail}${expected === null && found === null ? '' : ` (expected ${expected ?? 'nothing'}, found ${found ?? 'nothing'})`}`,
      );
    if (kept.length < count) lines.push(`    … and ${grouped(count - kept.length)} more`);
  }
  return lines.join('\n');
}

const grouped = (count: number): string => count.toLocaleString('en-US');

try {
  process.exitCode = await verify(readArguments());
} catch (cause) {
  say(`It could not be verified: ${errorMessage(cause)}`);
  process.exitCode = 2;
}
