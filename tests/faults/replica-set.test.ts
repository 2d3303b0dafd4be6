import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { eventually } from '../support/eventually.ts';
import { auditAccounts } from '../support/fault-audit.ts';
import { makeFaultHistory } from '../support/fault-history.ts';
import { type FaultNode, startFaultNode } from '../support/fault-node.ts';
import { startProducer } from '../support/fault-producer.ts';
import { breachesOf, faultEvents, faultSeed } from '../support/fault-scenario.ts';
import { type ReplicaSet, startReplicaSet } from '../support/replica-set.ts';

const longMs = 300_000;
const name = 'faults';

let mongo: ReplicaSet;
let nodes: FaultNode[] = [];

beforeAll(async () => {
  mongo = await startReplicaSet({ members: 3 });
}, longMs);
afterAll(() => mongo.stop());
afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
});

async function startNodes(): Promise<void> {
  nodes = await Promise.all(
    ['a', 'b'].map((id) => startFaultNode({ id, mongoUri: mongo.uri, database: name })),
  );
  await Promise.all(nodes.map((node) => node.ready()));
}

describe('usage is counted exactly once on a replica set of three', () => {
  test(
    'primaries that step down or are killed, and servers that are killed, lose nothing and count nothing twice',
    async () => {
      await startNodes();
      const breaches = await breachesOf({
        name: 'replica set',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.1), name: 'set' }),
        targets: nodes.map(({ url }) => url),
        database: () => mongo.client.db(name),
        client: mongo.client,
        async faults({ random, isRunning, pause, count }) {
          do {
            await pause(500, 2000);
            await mongo.stepDown();
            count('step-down');
            await pause(500, 2000);
            const victim = await mongo.primary();
            await victim.kill();
            count('kill -9 of a primary');
            random.pick(nodes).kill();
            count('kill -9 of a server');
            await mongo.primary();
            await victim.start();
          } while (isRunning());
        },
      });
      expect(breaches).toEqual([]);
    },
    longMs,
  );

  test(
    'a repeat is not acknowledged before the first delivery is safe on a majority',
    async () => {
      await startNodes();
      const [first, second] = nodes;
      if (first === undefined || second === undefined) throw new RangeError('there are two nodes');
      const history = makeFaultHistory({ seed: faultSeed, events: 40, name: 'alone' });
      const chat_id = { $in: [...history.bills.keys()] };
      const primary = await mongo.primary();
      const others = mongo.members.filter((member) => member !== primary);
      await mongo.setElectionTimeout(6000);
      // From here the primary is alone. It takes writes until it notices, and loses them when the others go on.
      await Promise.all(others.map((member) => member.kill()));
      const send = (url: string) =>
        startProducer({ history, targets: [url], seed: faultSeed, writers: 1, copies: () => 1 });
      const producers = [send(first.url)];
      await eventually(async () => {
        const written = await primary.ask((own) =>
          own.db(name).collection('ChatEvents').countDocuments({ chat_id }),
        );
        if (written === 0) throw new Error('nothing is written yet');
      });
      producers.push(send(second.url));
      await mongo.noPrimary();
      const acknowledged = producers.map((producer) => producer.acknowledged());
      await primary.kill();
      await Promise.all(others.map((member) => member.start()));
      await mongo.primary();
      await primary.start();
      // What was acknowledged by then is gone now; what was not is sent again.
      await Promise.all(producers.map(({ finished }) => finished));
      expect(acknowledged).toEqual([0, 0]);
      expect(await auditAccounts(mongo.client.db(name), history)).toEqual([]);
    },
    longMs,
  );
});
