import { setTimeout as delay } from 'node:timers/promises';
import type { Db, MongoClient } from 'mongodb';
import { verifyLedger } from '../../core/data/ledger-verification.ts';
import { auditAccounts } from './fault-audit.ts';
import type { FaultHistory } from './fault-history.ts';
import { type FaultProducerOptions, startProducer } from './fault-producer.ts';
import { type FaultRandom, faultRandom } from './fault-random.ts';

/** Events that all scenarios send together: 20,000, or what FAULT_EVENTS says. */
export function faultEvents(share: number): number {
  return Math.max(50, Math.round(Number(process.env['FAULT_EVENTS'] ?? 20_000) * share));
}

/** The same faults again: FAULT_SEED=<the one that was printed>. */
export const faultSeed = Number(process.env['FAULT_SEED'] ?? Date.now() % 1_000_000);

/** Whoever has not acknowledged everything by then stands still. */
const longestMs = 240_000;

export type FaultScenario = Omit<FaultProducerOptions, 'history' | 'seed'> & {
  readonly name: string;
  readonly history: FaultHistory;
  /** Read once everything is acknowledged. */
  readonly database: () => Db;
  /** For the program's own verification, which must find nothing either. */
  readonly client?: MongoClient;
  /** What goes wrong while the events are sent. */
  readonly faults?: (running: RunningScenario) => Promise<void>;
};

export type RunningScenario = {
  readonly random: FaultRandom;
  /** False once everything is acknowledged: then it is time to return. */
  isRunning: () => boolean;
  /** Waits some random time between faults, less when everything is acknowledged. */
  pause: (leastMs: number, mostMs: number) => Promise<void>;
  /** Counts a fault for the report. */
  count: (fault: string) => void;
};

/**
 * Sends a history, lets things go wrong meanwhile, and audits what is stored.
 * @returns everything that must not be; nothing when all is exact.
 */
export async function breachesOf({
  name,
  history,
  database,
  client,
  faults = async () => undefined,
  ...producerOptions
}: FaultScenario): Promise<string[]> {
  const random = faultRandom(faultSeed + name.length);
  const counted = new Map<string, number>();
  const startedAt = performance.now();
  const producer = startProducer({ ...producerOptions, history, seed: faultSeed });
  let isRunning = true;
  const finished = producer.finished.finally(() => {
    isRunning = false;
  });
  const deadline = setTimeout(() => producer.stop(), longestMs);
  try {
    await Promise.all([
      finished,
      faults({
        random,
        isRunning: () => isRunning,
        pause: async (leastMs, mostMs) => {
          await Promise.race([finished, delay(random.between(leastMs, mostMs))]);
        },
        count: (fault) => counted.set(fault, (counted.get(fault) ?? 0) + 1),
      }),
    ]);
  } finally {
    clearTimeout(deadline);
    producer.stop();
    await finished;
  }
  const missing = history.events.length - producer.acknowledged();
  const breaches = [
    ...(missing === 0 ? [] : [`${missing} events are not acknowledged after ${longestMs / 1000} s`]),
    ...(await auditAccounts(database(), history)),
    ...(client === undefined ? [] : await verificationOf(client, database().databaseName)),
  ];
  const { deliveries, lostReplies, refusals, breaches: answers } = producer.report;
  const seconds = (performance.now() - startedAt) / 1000;
  const figures = [
    `${history.events.length} events, ${deliveries} deliveries in ${seconds.toFixed(1)} s`,
    ...[...counted].map(([fault, times]) => `${times} × ${fault}`),
    `${lostReplies} lost replies`,
    ...[...refusals].map(([refusal, times]) => `${times} × ${refusal}`),
    `longest stall ${Math.round(producer.longestStallMs())} ms`,
    `seed ${faultSeed}`,
  ];
  process.stderr.write(`  faults, ${name}: ${figures.join(', ')}\n`);
  return [...answers, ...breaches];
}

async function verificationOf(client: MongoClient, database: string): Promise<string[]> {
  const { differences } = await verifyLedger({ client, database });
  return differences.map(({ kind, id, detail }) => `the verification found ${kind} at ${id}: ${detail}`);
}
