/**
 * The place where telemetry listens beside the road. Nothing that happens here may block, throw or change a byte of
 * what is stored: every call goes through `observe`, which keeps a failing listener to itself.
 */
export type Telemetry = {
  observe: (listener: () => void) => void;
  stop: () => Promise<void>;
};

/** Telemetry that is off: nobody listens, so nothing is even called. */
export const noTelemetry: Telemetry = { observe: () => undefined, stop: async () => undefined };
