import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { crashPointNames } from '../../core/data/crash-point.ts';
import { makeFaultHistory } from '../support/fault-history.ts';
import { type FaultNode, type FaultNodeOptions, startFaultNode } from '../support/fault-node.ts';
import { startProducer } from '../support/fault-producer.ts';
import { faultRandom } from '../support/fault-random.ts';
import { breachesOf, faultEvents, faultSeed } from '../support/fault-scenario.ts';
import { type ReplicaSet, startReplicaSet } from '../support/replica-set.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';

const longMs = 300_000;
const name = 'faults';

let mongo: ReplicaSet;
/** Two nodes for all tests, and those that a test has for itself. */
let nodes: FaultNode[] = [];
let ownNodes: FaultNode[] = [];

beforeAll(async () => {
  // Whoever waits for a dead transaction to end by itself waits ten minutes, and the tests end before.
  mongo = await startReplicaSet({ members: 1, parameters: { transactionLifetimeLimitSeconds: 600 } });
  nodes = await Promise.all(['a', 'b'].map((id) => startNode({ id })));
  await Promise.all(nodes.map((node) => node.ready()));
}, longMs);
afterEach(async () => {
  await Promise.all(ownNodes.map((node) => node.stop()));
  ownNodes = [];
});
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  await mongo.stop();
});

const database = () => mongo.client.db(name);
const urlsOf = (of: readonly FaultNode[]) => of.map(({ url }) => url);

function startNode(options: Pick<FaultNodeOptions, 'id'> & Partial<FaultNodeOptions>): Promise<FaultNode> {
  return startFaultNode({ mongoUri: mongo.uri, database: name, ...options });
}

async function startOwnNodes(...options: Parameters<typeof startNode>[0][]): Promise<FaultNode[]> {
  const started = await Promise.all(options.map(startNode));
  ownNodes.push(...started);
  return started;
}

describe('usage is counted exactly once', () => {
  test(
    'an event that is delivered five times, in any order, to any node is counted once',
    async () => {
      const breaches = await breachesOf({
        name: 'five deliveries',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.05), name: 'five' }),
        targets: urlsOf(nodes),
        copies: () => 5,
        disorder: 1000,
        database,
        client: mongo.client,
      });
      expect(breaches).toEqual([]);
    },
    longMs,
  );

  test(
    'servers that are killed again and again lose nothing and count nothing twice',
    async () => {
      const breaches = await breachesOf({
        name: 'killed servers',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.25), name: 'kill' }),
        targets: urlsOf(nodes),
        database,
        client: mongo.client,
        async faults({ random, isRunning, pause, count }) {
          while (isRunning()) {
            await pause(100, 1000);
            const victim = random.pick(nodes);
            victim.kill();
            count('kill -9 of a server');
            await victim.ready();
          }
        },
      });
      expect(breaches).toEqual([]);
    },
    longMs,
  );

  test(
    'a server that dies at any step of a commit loses nothing and counts nothing twice',
    async () => {
      const random = faultRandom(faultSeed);
      const [dying] = await startOwnNodes({
        id: 'dying',
        crashAt: (start) => {
          const point = crashPointNames[start];
          return point === undefined ? undefined : `${point}:${random.between(1, 2)}`;
        },
      });
      if (dying === undefined) throw new RangeError('there is a node');
      const history = makeFaultHistory({ seed: faultSeed, events: faultEvents(0.1), name: 'step' });
      // The same events at the same time to nodes that live: they meet what the other left behind.
      const rival = startProducer({ history, targets: urlsOf(nodes), seed: faultSeed, writers: 2 });
      const breaches = await breachesOf({
        name: 'death at every step',
        history,
        targets: [dying.url],
        batchLimit: 20,
        database,
        client: mongo.client,
        async faults({ isRunning, pause, count }) {
          await rival.finished;
          while (isRunning()) await pause(10, 50);
          for (let death = 0; death < dying.deaths(); death += 1) count('death at a step');
        },
      });
      expect([...breaches, ...rival.report.breaches]).toEqual([]);
      expect(dying.deaths()).toBe(crashPointNames.length);
    },
    longMs,
  );

  test(
    'a server that is asked to stop under load acknowledges nothing that it loses',
    async () => {
      const exits: (number | null)[] = [];
      const breaches = await breachesOf({
        name: 'stopped servers',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.15), name: 'stop' }),
        targets: urlsOf(nodes),
        database,
        client: mongo.client,
        async faults({ random, isRunning, pause, count }) {
          do {
            await pause(200, 800);
            const victim = random.pick(nodes);
            const { code } = await victim.terminate();
            exits.push(code);
            count('SIGTERM');
            await victim.ready();
          } while (isRunning());
        },
      });
      expect(breaches).toEqual([]);
      expect(exits.filter((code) => code !== 0)).toEqual([]);
    },
    longMs,
  );

  test(
    'replies that are lost between producer, server and database are asked for again, and change nothing',
    async () => {
      const random = faultRandom(faultSeed);
      const toMongo = await startTcpProxy(mongo.members[0]?.port ?? 0, random);
      const mongoUri = `mongodb://127.0.0.1:${toMongo.port}/?directConnection=true`;
      const behindProxy = await startOwnNodes({ id: 'c', mongoUri }, { id: 'd', mongoUri });
      await Promise.all(behindProxy.map((node) => node.ready()));
      const toNodes = await Promise.all(behindProxy.map(({ port }) => startTcpProxy(port, random)));
      const breaches = await breachesOf({
        name: 'lost replies',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.2), name: 'cut' }),
        targets: toNodes.map(({ port }) => `http://127.0.0.1:${port}`),
        database,
        client: mongo.client,
        async faults({ isRunning, pause, count }) {
          for (const proxy of toNodes)
            proxy.disturb({ probability: 0.1, kinds: ['cut_before', 'cut_within'] });
          while (isRunning()) {
            toMongo.disturb({
              // The driver asks once more by itself; only when that answer is lost too, it is for us.
              probability: 0.6,
              kinds: ['cut_before', 'cut_within'],
              when: (request) => request.includes('commitTransaction'),
            });
            await pause(500, 1500);
            toMongo.disturb({ probability: 0.02, kinds: ['cut_before', 'cut_within'] });
            await pause(200, 500);
          }
          toMongo.disturb();
          const lost = [toMongo, ...toNodes].reduce((sum, proxy) => sum + proxy.lostReplies(), 0);
          for (let each = 0; each < lost; each += 1) count('reply lost by the network');
        },
      });
      await Promise.all([toMongo, ...toNodes].map((proxy) => proxy.stop()));
      expect(breaches).toEqual([]);
    },
    longMs,
  );

  test(
    'a server gone in mid-transaction and a reply that never comes hold others up for a while, not for ever',
    async () => {
      // Both take their time, so they take it together.
      const breaches = await Promise.all([outliveServer(), outliveReply()]);
      expect(breaches.flat()).toEqual([]);
    },
    longMs,
  );

  test(
    'a database that is killed keeps every event that was acknowledged',
    async () => {
      const breaches = await breachesOf({
        name: 'killed database',
        history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.1), name: 'mongod' }),
        targets: urlsOf(nodes),
        database,
        client: mongo.client,
        async faults({ isRunning, pause, count }) {
          do {
            await pause(500, 2500);
            for (const member of mongo.members) {
              await member.kill();
              count('kill -9 of mongod');
              await member.start();
            }
          } while (isRunning());
        },
      });
      expect(breaches).toEqual([]);
    },
    longMs,
  );
});

/** A node dies with a transaction open and stays away; the others get the same events. */
async function outliveServer(): Promise<string[]> {
  const [dying] = await startOwnNodes({ id: 'gone', crashAt: () => 'before_commit' });
  if (dying === undefined) throw new RangeError('there is a node');
  await dying.ready();
  dying.keepDown(true);
  const history = makeFaultHistory({ seed: faultSeed, events: 50, name: 'lease' });
  const doomed = startProducer({ history, targets: [dying.url], seed: faultSeed, writers: 1 });
  await dying.ended();
  doomed.stop();
  const breaches = await breachesOf({
    name: 'a server gone for good',
    history,
    targets: urlsOf(nodes),
    database,
    client: mongo.client,
  });
  return [...breaches, ...doomed.report.breaches];
}

/** The database has committed; the connection says nothing of it, and stays open. */
async function outliveReply(): Promise<string[]> {
  const toMongo = await startTcpProxy(mongo.members[0]?.port ?? 0, faultRandom(faultSeed));
  const behindProxy = await startOwnNodes({
    id: 'deaf',
    mongoUri: `mongodb://127.0.0.1:${toMongo.port}/?directConnection=true`,
    database: 'deaf',
  });
  await Promise.all(behindProxy.map((node) => node.ready()));
  const breaches = await breachesOf({
    name: 'a reply that never comes',
    history: makeFaultHistory({ seed: faultSeed, events: faultEvents(0.05), name: 'deaf' }),
    targets: urlsOf(behindProxy),
    database: () => mongo.client.db('deaf'),
    client: mongo.client,
    async faults({ isRunning, pause, count }) {
      toMongo.disturb({
        probability: 1,
        kinds: ['swallowed'],
        when: (request) => request.includes('commitTransaction'),
      });
      while (isRunning() && toMongo.lostReplies() === 0) await pause(1, 5);
      toMongo.disturb();
      count('reply swallowed by the network');
    },
  });
  await toMongo.stop();
  return breaches;
}
