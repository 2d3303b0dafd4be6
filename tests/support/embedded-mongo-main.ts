// A server in miniature, for tests that kill one: starts the embedded MongoDB in the folder it is given, says where it
// is, and on SIGINT writes one last document before it stops, as the real one does.
import { MongoClient } from 'mongodb';
import { startEmbeddedMongo } from '../../infra/embedded-mongo/embedded-mongo.ts';
import { silentLogger } from './silent-logger.ts';

const [, , dataDir = '', binary = ''] = process.argv;
const mongo = await startEmbeddedMongo({ dataDir, binary, log: silentLogger });
const client = new MongoClient(mongo.uri);
process.once('SIGINT', () => {
  void finish();
});
process.stdout.write(`${JSON.stringify({ uri: mongo.uri, mongodPid: mongo.pid() })}\n`);

async function finish(): Promise<void> {
  await client.db('test').collection('notes').insertOne({ note: 'the last one' });
  await client.close();
  await mongo.stop();
}
