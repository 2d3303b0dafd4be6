import { setTimeout as delay } from 'node:timers/promises';
import { type Db, MongoClient } from 'mongodb';
import { z } from 'zod';
import { errorCode } from '../error-code.ts';
import { EmbeddedMongoError } from './embedded-mongo-error.ts';
import { replicaSetName } from './mongod-process.ts';

const notYetInitialized = 94;
const electionTimeoutMs = 30_000;
const helloSchema = z.looseObject({ isWritablePrimary: z.boolean() });

/** Makes the mongod at this port the primary of a replica set of one: transactions and change streams need one. */
export async function formReplicaSet(port: number): Promise<void> {
  const client = new MongoClient(`mongodb://127.0.0.1:${port}/?directConnection=true`, {
    serverSelectionTimeoutMS: electionTimeoutMs,
  });
  const deadline = Date.now() + electionTimeoutMs;
  try {
    for (;;) {
      try {
        if (await becomesPrimary(client.db('admin'), `127.0.0.1:${port}`)) return;
      } catch (error) {
        // A member that changes its state closes its connections, ours too.
        if (!isNetworkError(error)) throw error;
      }
      if (Date.now() > deadline)
        throw new EmbeddedMongoError('mongod_failed', 'mongod did not become primary within 30 s.', { port });
      await delay(15);
    }
  } finally {
    await client.close();
  }
}

/**
 * Tells the replica set its new address. The mongod at this port must run standalone: as a member it would first look
 * for itself at the old address, where by now somebody may be listening who never answers.
 */
export async function changeReplicaSetAddress(port: number): Promise<void> {
  const client = new MongoClient(`mongodb://127.0.0.1:${port}/?directConnection=true`);
  try {
    await client
      .db('local')
      .collection('system.replset')
      .updateMany({ 'members._id': 0 }, { $set: { 'members.$.host': `127.0.0.1:${port}` } });
  } finally {
    await client.close();
  }
}

async function becomesPrimary(admin: Db, host: string): Promise<boolean> {
  if (helloSchema.parse(await admin.command({ hello: 1 })).isWritablePrimary) return true;
  try {
    await admin.command({ replSetGetStatus: 1 });
  } catch (error) {
    if (errorCode(error) !== notYetInitialized) throw error;
    await admin.command({ replSetInitiate: { _id: replicaSetName, members: [{ _id: 0, host }] } });
  }
  return false;
}

function isNetworkError(error: unknown): boolean {
  return (
    typeof error === 'object' && error !== null && 'name' in error && networkErrors.has(String(error.name))
  );
}
const networkErrors = new Set(['MongoNetworkError', 'MongoNetworkTimeoutError', 'MongoPoolClearedError']);
