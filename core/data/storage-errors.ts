import { MongoError } from 'mongodb';

/** A document was changed by somebody else since it was read; the batch runs again from the read. */
export class StaleReadError extends Error {
  readonly code = 'stale_read';
  constructor(collection: string) {
    super(`a document of ${collection} was changed since it was read`);
    this.name = 'StaleReadError';
  }
}

/** Whether running the whole batch again can help: conflicts, elections, lost connections, unknown commit results. */
export function isTransient(cause: unknown): boolean {
  if (cause instanceof StaleReadError) return true;
  if (!(cause instanceof MongoError)) return false;
  if (
    cause.hasErrorLabel('TransientTransactionError') ||
    cause.hasErrorLabel('UnknownTransactionCommitResult')
  )
    return true;
  return transientNames.has(cause.name) || (typeof cause.code === 'number' && transientCodes.has(cause.code));
}

const transientNames = new Set([
  'MongoNetworkError',
  'MongoNetworkTimeoutError',
  'MongoServerSelectionError',
  'MongoPoolClearedError',
  'MongoPoolClosedError',
  'MongoNotConnectedError',
  'MongoWriteConcernError',
]);

/**
 * NoSuchTransaction, TransactionTooOld, Interrupted, InterruptedAtShutdown, InterruptedDueToReplStateChange,
 * NotWritablePrimary, PrimarySteppedDown, ShutdownInProgress, MaxTimeMSExpired, WriteConflict, LockTimeout.
 */
const transientCodes = new Set([251, 225, 11601, 11600, 11602, 10107, 189, 91, 50, 112, 24]);

export function isDuplicateKey(cause: unknown): boolean {
  return cause instanceof MongoError && cause.code === 11000;
}
