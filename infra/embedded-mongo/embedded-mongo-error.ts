type EmbeddedMongoErrorCode =
  'data_dir_in_use' | 'data_dir_not_writable' | 'mongod_port_in_use' | 'mongod_failed';

/** The embedded MongoDB cannot start. The message says what to do next. */
export class EmbeddedMongoError extends Error {
  readonly code: EmbeddedMongoErrorCode;
  readonly facts: Readonly<Record<string, string | number>>;
  constructor(
    code: EmbeddedMongoErrorCode,
    message: string,
    facts: Readonly<Record<string, string | number>>,
    cause?: unknown,
  ) {
    super(message, { cause });
    this.name = 'EmbeddedMongoError';
    this.code = code;
    this.facts = facts;
  }
}
