import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MongoClient } from 'mongodb';
import { z } from 'zod';
import { findFreePort } from '../../infra/loopback-port.ts';
import { eventually } from './eventually.ts';
import { type FaultChild, spawnFaultChild } from './fault-child.ts';
import { createTemporaryFolder } from './temporary-folder.ts';
import { findTestMongod } from './test-mongod.ts';

/** A replica set of real mongods of the test's own, to be killed, stopped and demoted. */
export type ReplicaSet = {
  readonly uri: string;
  readonly client: MongoClient;
  readonly members: readonly ReplicaSetMember[];
  /** The member that takes writes, by its own word. */
  primary: () => Promise<ReplicaSetMember>;
  /** How long a primary that has lost the others goes on as if it had not; 2 s in the beginning. */
  setElectionTimeout: (timeoutMs: number) => Promise<void>;
  /** Resolves when no member takes writes. */
  noPrimary: () => Promise<void>;
  /** Makes the primary one that is none for a while; the others elect another. */
  stepDown: () => Promise<void>;
  stop: () => Promise<void>;
};

export type ReplicaSetMember = {
  readonly port: number;
  /** `kill -9`: what was not in the journal is gone. */
  kill: () => Promise<void>;
  /** On the same data; resolves when it answers. */
  start: () => Promise<void>;
  /** Asks this member and no other, for what it has itself. */
  ask: <Answer>(question: (client: MongoClient) => Promise<Answer>) => Promise<Answer>;
};

export type ReplicaSetOptions = {
  readonly members: 1 | 3;
  readonly parameters?: Readonly<Record<string, string | number>>;
  readonly programArguments?: readonly string[];
};

const name = 'faults';

export async function startReplicaSet({
  members: size,
  parameters = {},
  programArguments = [],
}: ReplicaSetOptions): Promise<ReplicaSet> {
  const binary = await findTestMongod();
  const folder = await createTemporaryFolder();
  const members = await Promise.all(
    Array.from({ length: size }, (_, index) =>
      startMember(binary, join(folder.path, String(index)), parameters, programArguments),
    ),
  );
  const first = members[0];
  if (first === undefined) throw new RangeError('a replica set has members');
  const hosts = members.map(({ port }) => `127.0.0.1:${port}`);
  await first.ask((client) =>
    client.db('admin').command({
      replSetInitiate: {
        _id: name,
        members: hosts.map((host, _id) => ({ _id, host })),
        settings: {
          electionTimeoutMillis: 2000,
          heartbeatIntervalMillis: 500,
          catchUpTimeoutMillis: 2000,
        },
      },
    }),
  );
  const uri = `mongodb://${hosts.join(',')}/?replicaSet=${name}`;
  const client = new MongoClient(uri, { useBigInt64: true });
  const findPrimary = async () => {
    for (const member of members) {
      if (!member.child().isRunning()) continue;
      const hello = await member.ask((own) => own.db('admin').command({ hello: 1 })).catch(() => undefined);
      if (hello?.['isWritablePrimary'] === true) return member;
    }
    return undefined;
  };
  const primary = () =>
    eventually(
      async () => {
        const found = await findPrimary();
        if (found === undefined) throw new Error('the replica set has no primary');
        return found;
      },
      { timeoutMs: 60_000 },
    );
  await primary();
  await client.connect();
  return {
    uri,
    client,
    members,
    primary,
    async setElectionTimeout(timeoutMs) {
      const member = await primary();
      await member.ask(async (own) => {
        const { config } = configSchema.parse(await own.db('admin').command({ replSetGetConfig: 1 }));
        await own.db('admin').command({
          replSetReconfig: {
            ...config,
            version: config.version + 1,
            settings: { ...config.settings, electionTimeoutMillis: timeoutMs },
          },
        });
      });
    },
    noPrimary: () =>
      eventually(
        async () => {
          if ((await findPrimary()) !== undefined) throw new Error('the replica set has a primary');
        },
        { timeoutMs: 60_000 },
      ),
    async stepDown() {
      const member = await primary();
      // It may refuse when nobody has caught up, and it closes the connection when it obeys: both are fine.
      await member
        .ask((own) => own.db('admin').command({ replSetStepDown: 5, secondaryCatchUpPeriodSecs: 2 }))
        .catch(() => undefined);
    },
    async stop() {
      await client.close();
      for (const member of members) {
        member.child().kill('SIGKILL');
      }
      await Promise.all(members.map((member) => member.child().exited));
      await folder.remove();
    },
  };
}

const configSchema = z.object({
  config: z.looseObject({ version: z.number(), settings: z.looseObject({}) }),
});

type Member = ReplicaSetMember & { child: () => FaultChild };

async function startMember(
  binary: string,
  dbPath: string,
  parameters: Readonly<Record<string, string | number>>,
  programArguments: readonly string[],
): Promise<Member> {
  await mkdir(dbPath, { recursive: true });
  const port = await findFreePort();
  const spawnOne = () =>
    spawnFaultChild(binary, [
      '--dbpath',
      dbPath,
      '--port',
      String(port),
      '--bind_ip',
      '127.0.0.1',
      '--replSet',
      name,
      '--oplogSize=256',
      '--wiredTigerCacheSizeGB=0.25',
      '--quiet',
      '--nounixsocket',
      ...programArguments,
      ...Object.entries({ diagnosticDataCollectionEnabled: 'false', ...parameters }).flatMap(
        ([key, value]) => ['--setParameter', `${key}=${value}`],
      ),
    ]);
  let child = spawnOne();
  const answers = () =>
    eventually(
      () => {
        if (!child.isRunning()) throw new Error(`mongod ended: ${child.output().slice(-2000)}`);
        return ping(port);
      },
      { timeoutMs: 60_000 },
    );
  await answers();
  return {
    port,
    child: () => child,
    async kill() {
      child.kill('SIGKILL');
      await child.exited;
    },
    async start() {
      if (child.isRunning()) return;
      child = spawnOne();
      await answers();
    },
    ask: (question) => askMember(port, question),
  };
}

function ping(port: number): Promise<unknown> {
  return askMember(port, (client) => client.db('admin').command({ ping: 1 }));
}

async function askMember<Answer>(
  port: number,
  question: (client: MongoClient) => Promise<Answer>,
): Promise<Answer> {
  const client = new MongoClient(`mongodb://127.0.0.1:${port}/?directConnection=true`, {
    serverSelectionTimeoutMS: 2000,
    connectTimeoutMS: 2000,
  });
  try {
    return await question(client);
  } finally {
    await client.close();
  }
}
