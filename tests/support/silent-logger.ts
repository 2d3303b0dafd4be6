import type { Logger } from '../../core/observability/logging.ts';

/** For parts that must be given a logger where the test does not care what they say. */
export const silentLogger: Logger = {
  trace: () => undefined,
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};
