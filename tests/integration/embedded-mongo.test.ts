import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { MongoClient } from 'mongodb';
import { z } from 'zod';
import { type EmbeddedMongo, startEmbeddedMongo } from '../../infra/embedded-mongo/embedded-mongo.ts';
import { startMongodProcess } from '../../infra/embedded-mongo/mongod-process.ts';
import { isAlive, processCommandLine } from '../../infra/embedded-mongo/running-process.ts';
import { findFreePort } from '../../infra/loopback-port.ts';
import { type BuiltProgram, startBuiltProgram } from '../support/built-program.ts';
import { eventually } from '../support/eventually.ts';
import { createRecordingLogger } from '../support/recording-logger.ts';
import { silentLogger } from '../support/silent-logger.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { findTestMongod } from '../support/test-mongod.ts';

const serverSchema = z.object({ uri: z.string(), mongodPid: z.number() });
const isWindows = process.platform === 'win32';
const onUnix = isWindows ? it.skip : it;

describe('the embedded MongoDB', () => {
  let binary: string;
  let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
  let dataDir: string;
  let leftovers: (() => unknown)[];

  beforeAll(async () => {
    binary = await findTestMongod();
  });
  beforeEach(async () => {
    folder = await createTemporaryFolder();
    dataDir = join(folder.path, 'data');
    leftovers = [];
  });
  afterEach(async () => {
    for (const putAway of leftovers.toReversed()) await putAway();
    await folder.remove();
  });

  async function start(options: { port?: number } = {}): Promise<EmbeddedMongo> {
    const mongo = await startEmbeddedMongo({ dataDir, binary, log: silentLogger, ...options });
    leftovers.push(mongo.stop);
    return mongo;
  }
  function startServer(): BuiltProgram {
    const server = startBuiltProgram('tests/support/embedded-mongo-main.js', [dataDir, binary]);
    leftovers.push(() => server.child.kill('SIGKILL'));
    return server;
  }
  async function addNote(uri: string, note: string): Promise<void> {
    await withNotes(uri, (notes) =>
      notes.insertOne({ note }, { writeConcern: { w: 'majority', journal: true } }),
    );
  }
  async function notesIn(uri: string): Promise<string[]> {
    const documents = await withNotes(uri, (notes) => notes.find().sort({ _id: 1 }).toArray());
    return documents.map((document) => document.note);
  }

  it('keeps its data between starts, at the same address', async () => {
    const first = await start();
    await addNote(first.uri, 'kept');
    await first.stop();
    const second = await start();
    expect(second.uri).toBe(first.uri);
    expect(await notesIn(second.uri)).toEqual(['kept']);
  });

  it('runs transactions', async () => {
    const { uri } = await start();
    const client = new MongoClient(uri);
    await client.withSession((session) =>
      session.withTransaction(() =>
        client.db('test').collection('notes').insertOne({ note: 'one' }, { session }),
      ),
    );
    await client.close();
    expect(await notesIn(uri)).toEqual(['one']);
  });

  it('leaves no process behind when it is stopped, and stopping twice is stopping once', async () => {
    const mongo = await start();
    const pid = mongo.pid();
    await Promise.all([mongo.stop(), mongo.stop()]);
    await mongo.stop();
    expect(isAlive(pid)).toBe(false);
  });

  it('refuses a second instance on the same DATA_DIR, which damages nothing', async () => {
    const first = await start();
    await addNote(first.uri, 'before');
    await expect(start()).rejects.toMatchObject({ code: 'data_dir_in_use', facts: { pid: process.pid } });
    await addNote(first.uri, 'after');
    expect(await notesIn(first.uri)).toEqual(['before', 'after']);
  });

  it('starts again after the server and its mongod were killed, with all that was acknowledged', async () => {
    const server = startServer();
    const { uri, mongodPid } = serverSchema.parse(JSON.parse(await server.firstLine));
    await addNote(uri, 'acknowledged');
    server.child.kill('SIGKILL');
    process.kill(mongodPid, 'SIGKILL');
    await server.exited;
    const next = await start();
    expect(await notesIn(next.uri)).toEqual(['acknowledged']);
  });

  onUnix('ends its mongod when the server is killed', async () => {
    const server = startServer();
    const { mongodPid } = serverSchema.parse(JSON.parse(await server.firstLine));
    server.child.kill('SIGKILL');
    await eventually(async () => {
      // Nothing, or of a process that ended but was not yet waited for, an empty one.
      expect((await processCommandLine(mongodPid)) ?? '').toBe('');
    });
  });

  it('ends a mongod that an earlier run left behind, before it starts its own', async () => {
    const dbPath = join(dataDir, 'mongo');
    await mkdir(dbPath, { recursive: true });
    const orphan = await startMongodProcess({
      binary,
      dbPath,
      port: await findFreePort(),
      logFile: join(dataDir, 'old.log'),
    });
    const { log, records } = createRecordingLogger();
    const mongo = await startEmbeddedMongo({ dataDir, binary, log });
    leftovers.push(mongo.stop);
    expect(records).toContainEqual(
      expect.objectContaining({ level: 'warn', facts: expect.objectContaining({ pid: orphan?.pid }) }),
    );
    await orphan?.ended;
    expect(await notesIn(mongo.uri)).toEqual([]);
  });

  onUnix('leaves a process alone that only has the pid of a mongod of old', async () => {
    const stranger = startStranger();
    leftovers.push(() => stranger.kill('SIGKILL'));
    await mkdir(join(dataDir, 'mongo'), { recursive: true });
    await writeFile(join(dataDir, 'mongo', 'mongod.lock'), `${stranger.pid ?? 0}\n`);
    const mongo = await start();
    expect(await notesIn(mongo.uri)).toEqual([]);
    expect(stranger.exitCode ?? stranger.signalCode).toBeNull();
  });

  it('takes over a lock whose process is gone, although another process has its pid by now', async () => {
    await mkdir(dataDir, { recursive: true });
    const old = { pid: process.pid, startedAt: 'long ago', token: 'old' };
    await writeFile(join(dataDir, 'instance.lock'), JSON.stringify(old));
    const mongo = await start();
    expect(await notesIn(mongo.uri)).toEqual([]);
  });

  it('moves to another port when somebody has taken its own, and keeps its data', async () => {
    const first = await start();
    await addNote(first.uri, 'moved');
    await first.stop();
    const port = Number(await readFile(join(dataDir, 'mongod.port'), 'utf8'));
    const squatter = createServer().listen(port, '127.0.0.1');
    await once(squatter, 'listening');
    leftovers.push(() => squatter.close());
    const second = await start();
    expect(second.uri).not.toBe(first.uri);
    expect(await notesIn(second.uri)).toEqual(['moved']);
  });

  it('refuses a port that is in use when it was told to take exactly that one', async () => {
    const port = await findFreePort();
    const squatter = createServer().listen(port, '127.0.0.1');
    await once(squatter, 'listening');
    leftovers.push(() => squatter.close());
    await expect(start({ port })).rejects.toMatchObject({ code: 'mongod_port_in_use', facts: { port } });
  });

  it('starts a mongod that died again, at the same address and with its data', async () => {
    const mongo = await start();
    await addNote(mongo.uri, 'before the crash');
    const pid = mongo.pid();
    process.kill(pid, 'SIGKILL');
    await eventually(() => {
      expect(mongo.pid()).not.toBe(pid);
    });
    expect(await notesIn(mongo.uri)).toEqual(['before the crash']);
  });

  onUnix('outlives a Ctrl-C in the terminal until the server has written its last data', async () => {
    const server = startServer();
    await server.firstLine;
    process.kill(-(server.child.pid ?? Number.NaN), 'SIGINT');
    expect(await server.exited).toBe(0);
    const mongo = await start();
    expect(await notesIn(mongo.uri)).toEqual(['the last one']);
  });

  it('says so when DATA_DIR cannot be written to', async () => {
    await writeFile(dataDir, 'a file where a folder should be');
    await expect(start()).rejects.toMatchObject({ code: 'data_dir_not_writable' });
  });

  it("tells mongod's own reason when the data cannot be opened", async () => {
    const first = await start();
    await first.stop();
    await writeFile(join(dataDir, 'mongo', 'WiredTiger.turtle'), 'damaged');
    await expect(start()).rejects.toMatchObject({
      code: 'mongod_failed',
      message: expect.stringContaining('WiredTiger'),
    });
  });
});

async function withNotes<Result>(
  uri: string,
  work: (notes: ReturnType<typeof notesOf>) => Promise<Result>,
): Promise<Result> {
  const client = new MongoClient(uri);
  try {
    return await work(notesOf(client));
  } finally {
    await client.close();
  }
}

function notesOf(client: MongoClient) {
  return client.db('test').collection<{ note: string }>('notes');
}

function startStranger(): ChildProcess {
  return spawn(process.execPath, ['-e', 'setInterval(() => undefined, 1000)'], { stdio: 'ignore' });
}
