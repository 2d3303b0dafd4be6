import { ApiError } from './api-error.mjs';

/** One after the other, because two generations at once on one core are each half as fast. */
export function createTurnQueue(waitingLimit) {
  let busy = false;
  const waiting = [];

  const release = () => {
    const next = waiting.shift();
    if (next === undefined) busy = false;
    else next.begin();
  };

  return {
    /** Waits for its turn, runs the work, and lets the next one begin. An aborted one leaves the queue. */
    async run(signal, work) {
      if (busy) {
        if (waiting.length >= waitingLimit)
          throw new ApiError(
            429,
            'queue_full',
            `${waitingLimit} requests are waiting already; try again later`,
          );
        await new Promise((resolve, reject) => {
          const leave = () => {
            waiting.splice(waiting.indexOf(entry), 1);
            reject(signal.reason);
          };
          const entry = {
            begin: () => {
              signal.removeEventListener('abort', leave);
              resolve();
            },
          };
          waiting.push(entry);
          signal.addEventListener('abort', leave, { once: true });
        });
      } else busy = true;
      try {
        return await work();
      } finally {
        release();
      }
    },
  };
}
