import { pino } from 'pino';
import pretty from 'pino-pretty';

/** What the runtime asks of a logger: facts first, then one short sentence. pino's loggers satisfy it. */
export type Logger = {
  trace: LogMethod;
  debug: LogMethod;
  info: LogMethod;
  warn: LogMethod;
  error: LogMethod;
  child: (bindings: Record<string, unknown>) => Logger;
};
type LogMethod = (facts: Record<string, unknown>, message: string) => void;

export type LoggingOptions = { level: string; asJson: boolean };

/** A logger on standard error: readable lines for people, JSON lines when `asJson`. */
export function createLogger({ level, asJson }: LoggingOptions): Logger {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: pino.stdSerializers,
  };
  if (asJson) return pino(options, pino.destination({ dest: 2, sync: false }));
  return pino(
    options,
    pretty({
      destination: 2,
      sync: true,
      translateTime: 'HH:MM:ss',
      colorize: process.stderr.isTTY,
      ignore: 'name',
    }),
  );
}
