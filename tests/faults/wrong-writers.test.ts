import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { makeFaultHistory } from '../support/fault-history.ts';
import { type FaultNode, startFaultNode } from '../support/fault-node.ts';
import { breachesOf, faultSeed, type RunningScenario } from '../support/fault-scenario.ts';
import type { WriterWay } from '../support/fault-wrong-writer.ts';
import { type ReplicaSet, startReplicaSet } from '../support/replica-set.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { faultRandom } from '../support/fault-random.ts';

/**
 * The same faults and the same audit as for the server, for writers that are wrong: each must be found out by the
 * fault it is not made for, and a right one that suffers it at the same time must not.
 */
const longMs = 300_000;

let mongo: ReplicaSet;
let proxy: TcpProxy;
let nodes: FaultNode[] = [];

beforeAll(async () => {
  // As much as it may be: half a second of what is not in the journal is lost.
  mongo = await startReplicaSet({ members: 1, programArguments: ['--journalCommitInterval=500'] });
  proxy = await startTcpProxy(mongo.members[0]?.port ?? 0, faultRandom(faultSeed));
});
afterAll(async () => {
  await proxy.stop();
  await mongo.stop();
});
afterEach(async () => {
  proxy.disturb();
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
});

type Trial = {
  way: WriterWay;
  events: number;
  crashAt?: (start: number) => string | undefined;
  faults: (running: RunningScenario) => Promise<void>;
};

/** Two nodes with such a writer suffer the faults. Says what the audit says then. */
async function tryWriter(writer: WriterWay, { way, events, crashAt, faults }: Trial): Promise<string[]> {
  const started = await Promise.all(
    ['a', 'b'].map((id) =>
      startFaultNode({
        id: `${writer}-${id}`,
        mongoUri:
          way === 'blind_retry' ? `mongodb://127.0.0.1:${proxy.port}/?directConnection=true` : mongo.uri,
        database: `${way}-${writer}`,
        program: 'tests/support/fault-writer-main.js',
        environment: { WRITER_WAY: writer },
        ...(crashAt === undefined ? {} : { crashAt }),
      }),
    ),
  );
  nodes.push(...started);
  await Promise.all(started.map((node) => node.ready()));
  return breachesOf({
    name: `${way}, ${writer === 'right' ? 'a right writer' : 'the wrong writer'}`,
    history: { ...makeFaultHistory({ seed: faultSeed, events, chatLength: 30 }), credits: [] },
    targets: started.map(({ url }) => url),
    batchLimit: 10,
    database: () => mongo.client.db(`${way}-${writer}`),
    faults,
  });
}

async function tryBoth(trial: Trial): Promise<{ wrong: string[]; right: string[] }> {
  const [wrong, right] = await Promise.all([tryWriter(trial.way, trial), tryWriter('right', trial)]);
  return { wrong, right };
}

describe('the fault tests find a writer', () => {
  test(
    'that computes what an event adds from its own memory',
    async () => {
      const { wrong, right } = await tryBoth({
        way: 'from_memory',
        events: 100,
        faults: async () => undefined,
      });
      expect(right).toEqual([]);
      expect(wrong).toContainEqual(expect.stringMatching(/^session .* instead of/));
    },
    longMs,
  );

  test(
    'that debits after the transaction that counted',
    async () => {
      const { wrong, right } = await tryBoth({
        way: 'debit_outside',
        events: 100,
        crashAt: (start) => (start === 0 ? 'after_commit:10' : undefined),
        faults: async () => undefined,
      });
      expect(right).toEqual([]);
      expect(wrong).toContainEqual(expect.stringMatching(/^ledger of chat .* \(-\d+\)$/));
    },
    longMs,
  );

  test(
    'that writes what it computed once more when an answer was lost',
    async () => {
      const { wrong, right } = await tryBoth({
        way: 'blind_retry',
        events: 100,
        async faults({ isRunning, pause }) {
          proxy.disturb({
            probability: 0.6,
            kinds: ['cut_before', 'cut_within'],
            when: (request) => request.includes('commitTransaction'),
          });
          while (isRunning()) await pause(50, 100);
        },
      });
      expect(right).toEqual([]);
      expect(wrong).toContainEqual(expect.stringMatching(/^ledger of chat .* \(\d+\)$/));
    },
    longMs,
  );

  test(
    'that acknowledges what only the memory of one server has',
    async () => {
      const trial: Trial = {
        way: 'not_durable',
        events: 120,
        async faults({ isRunning, pause }) {
          for (let death = 0; death < 3 && isRunning(); death += 1) {
            await pause(400, 900);
            for (const member of mongo.members) {
              await member.kill();
              await member.start();
            }
          }
        },
      };
      // One after the other: a writer that waits for the journal has the others' writes put there, too.
      const wrong = await tryWriter('not_durable', trial);
      const right = await tryWriter('right', trial);
      expect(right).toEqual([]);
      expect(wrong).toContainEqual(expect.stringMatching(/was acknowledged and is not in the log$/));
    },
    longMs,
  );
});
