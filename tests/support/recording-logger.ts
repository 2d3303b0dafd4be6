import type { Logger } from '../../core/observability/logging.ts';

type LogRecord = {
  readonly level: string;
  readonly message: string;
  readonly facts: Readonly<Record<string, unknown>>;
};

/** Keeps what was logged, for tests in which a log line is the behaviour. */
export function createRecordingLogger(): { readonly log: Logger; readonly records: readonly LogRecord[] } {
  const records: LogRecord[] = [];
  const loggerWith = (bindings: Readonly<Record<string, unknown>>): Logger => {
    const method = (level: string) => (facts: Record<string, unknown>, message: string) => {
      records.push({ level, message, facts: { ...bindings, ...facts } });
    };
    return {
      trace: method('trace'),
      debug: method('debug'),
      info: method('info'),
      warn: method('warn'),
      error: method('error'),
      child: (more) => loggerWith({ ...bindings, ...more }),
    };
  };
  return { log: loggerWith({}), records };
}
