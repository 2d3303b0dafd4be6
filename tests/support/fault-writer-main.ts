// A node in miniature for the fault tests: it takes events as the server does and counts them with a writer that is
// wrong in the way `WRITER_WAY` says.
import { createServer } from 'node:http';
import { z } from 'zod';
import { openCollections, prepareCollections } from '../../core/data/collections.ts';
import { connectMongo } from '../../core/data/mongo-connection.ts';
import { openNodeSession } from '../../core/data/node-session.ts';
import { type EventRecord, PersistenceManager } from '../../core/data/persistence-manager.ts';
import { UnifiedEventDispatcher } from '../../core/events/unified-event-dispatcher.ts';
import { writerWays, WrongWriter } from './fault-wrong-writer.ts';
import { silentLogger } from './silent-logger.ts';

const environment = z
  .object({
    WRITER_WAY: z.enum(writerWays),
    MONGODB_URI: z.string(),
    MONGO_DATABASE: z.string(),
    NODE_ID: z.string(),
    PORT: z.coerce.number(),
  })
  .parse(process.env);

const client = await connectMongo(environment.MONGODB_URI);
const database = client.db(environment.MONGO_DATABASE);
const collections = openCollections(database);
await prepareCollections(database, collections);
const node = await openNodeSession(
  client,
  collections.nodes,
  environment.NODE_ID,
  silentLogger,
  () => undefined,
);
const writer = new WrongWriter(
  {
    collections,
    node,
    context: () => ({
      walletUnit: 'tokens',
      walletStartBalance: 1_000_000n,
      freeTrial: false,
      budgets: [],
      finalUsagePolicy: 'surface',
      price: () => undefined,
      node_id: environment.NODE_ID,
      now: new Date(),
    }),
    publish: () => undefined,
    log: silentLogger,
  },
  client,
  environment.WRITER_WAY,
);
const persistence = new PersistenceManager(collections, writer);
const dispatcher = new UnifiedEventDispatcher<EventRecord>({
  usage: (event, isFresh) => persistence.saveUsageSummary(event, isFresh),
  other: (event, isFresh) => persistence.appendEvent(event, isFresh),
});

async function answerEvents(body: string): Promise<string> {
  const envelopes = body.split('\n').map((line): unknown => JSON.parse(line));
  const published = await dispatcher.publish(envelopes);
  const results = published.map((each) =>
    each.refused === undefined
      ? { uuid: each.uuid, outcome: each.recorded.outcome }
      : { uuid: each.refused.uuid, outcome: 'refused', code: each.refused.code, reason: each.refused.reason },
  );
  return JSON.stringify({ results, recorded: 0, repeated: 0, refused: 0 });
}

createServer((request, response) => {
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (text: string) => {
    body += text;
  });
  request.once('end', () => {
    if (request.url !== '/api/events') {
      response.end('{}');
      return;
    }
    answerEvents(body).then(
      (answer) => response.end(answer),
      (cause: unknown) => response.writeHead(500).end(JSON.stringify({ code: String(cause) })),
    );
  });
}).listen(environment.PORT, '127.0.0.1');
