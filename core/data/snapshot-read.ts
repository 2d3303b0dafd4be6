import { setTimeout as delay } from 'node:timers/promises';
import { type ClientSession, type MongoClient, MongoError } from 'mongodb';
import { isTransient } from './storage-errors.ts';

/** SnapshotTooOld; and SnapshotUnavailable: a collection or an index has just come into being. */
const goneCodes = new Set([239, 246]);
const attempts = 12;

/**
 * Runs `read` against one moment of the database: all it reads through the session belongs together, whatever others
 * write meanwhile. The server keeps such a moment for some minutes at most, so `read` is one short step of a long
 * walk, and is run again from its beginning when its moment is gone.
 */
export async function readSnapshot<Result>(
  client: MongoClient,
  read: (session: ClientSession) => Promise<Result>,
  signal?: AbortSignal,
): Promise<Result> {
  for (let attempt = 1; ; attempt += 1) {
    signal?.throwIfAborted();
    const session = client.startSession({ snapshot: true });
    try {
      return await read(session);
    } catch (cause) {
      if (attempt === attempts || !(isGone(cause) || isTransient(cause))) throw cause;
      await delay(50 * attempt);
    } finally {
      await session.endSession();
    }
  }
}

const isGone = (cause: unknown): boolean =>
  cause instanceof MongoError && typeof cause.code === 'number' && goneCodes.has(cause.code);
