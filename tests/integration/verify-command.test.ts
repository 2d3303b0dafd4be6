import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { MongoClient } from 'mongodb';
import { z } from 'zod';
import { problemSchema } from '../../core/contracts/http.ts';
import { verificationReportSchema } from '../../core/contracts/verification.ts';
import { openCollections } from '../../core/data/collections.ts';
import { startEmbeddedMongo } from '../../infra/embedded-mongo/embedded-mongo.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { silentLogger } from '../support/silent-logger.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import type { TestDatabase } from '../support/test-database.ts';
import { findTestMongod } from '../support/test-mongod.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** `npm run verify` and `GET /api/admin/verify`: the same report, as a command and over HTTP. */
let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
  await server.post('/api/events', [
    usageEnvelope('chat-1', [{ prompt_tokens: 100 }], { seq: 1 }),
    usageEnvelope('chat-2', [{ prompt_tokens: 100 }], { seq: 1, app_id: 'other' }),
  ]);
});
afterAll(() => server.stop());

type Ended = { exitCode: number; output: string; complaints: string };

/** The compiled program, as `npm run verify` runs it. */
function verify(programArguments: string[], environment: Record<string, string>): Promise<Ended> {
  const program = join(projectRoot(), 'dist', 'infra', 'verify.js');
  if (!existsSync(program)) throw new Error(`${program} does not exist; run "npm run build" first`);
  const neutral = {
    AZURE_KEY_VAULT_NAME: '',
    ENVIRONMENT: '',
    MONGODB_URI: '',
    MONGO_DATABASE: '',
    HOST: '',
  };
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [program, ...programArguments],
      { env: { ...process.env, NODE_OPTIONS: '', ...neutral, ...environment } },
      (error, output, complaints) =>
        resolve({ exitCode: error === null ? 0 : z.int().parse(error.code), output, complaints }),
    );
  });
}

const stored = () => ({ MONGODB_URI: server.database.uri, MONGO_DATABASE: server.database.name });
const wallets = ({ client, name }: TestDatabase = server.database) =>
  openCollections(client.db(name)).wallets;
const tamper = (amount: bigint) => wallets().updateOne({ _id: 'acme|ann' }, { $inc: { balance: amount } });

describe('npm run verify', () => {
  it('ends with 0 when everything agrees, and says what was checked', async () => {
    const { exitCode, output, complaints } = await verify([], stored());
    expect({ exitCode, complaints }).toEqual({
      exitCode: 0,
      complaints: expect.stringMatching(/^Verifying the database /),
    });
    expect(output).toMatch(/^ {2}wallets +2$/m);
    expect(output).toMatch(/^ {2}ledger lines +4$/m);
    expect(output).toMatch(/Everything agrees\.\n$/);
  });

  it('looks only at what it is asked to', async () => {
    const { output } = await verify(['--app', 'acme', '--user', 'ann', '--json'], stored());
    expect(verificationReportSchema.parse(JSON.parse(output))).toMatchObject({
      ok: true,
      scope: { app_id: 'acme', user_id: 'ann', chat_id: null },
      checked: { wallets: 1, sessions: 1 },
    });
    const ofChat = await verify(['--chat', 'chat-2', '--json'], stored());
    expect(verificationReportSchema.parse(JSON.parse(ofChat.output)).checked).toMatchObject({ sessions: 1 });
  });

  describe('when something does not agree,', () => {
    beforeAll(() => tamper(5n));
    afterAll(() => tamper(-5n));

    it('ends with 1 and says what, to people', async () => {
      const { exitCode, output } = await verify([], stored());
      expect(exitCode).toBe(1);
      expect(output).toContain('1 difference:\n\n  wallet_balance (1)\n    acme|ann: ');
      expect(output).toMatch(/expected 999900, found 999905/);
    });

    it('and to programs', async () => {
      const { exitCode, output } = await verify(['--json'], stored());
      expect(exitCode).toBe(1);
      expect(verificationReportSchema.parse(JSON.parse(output))).toMatchObject({
        ok: false,
        difference_count: 1,
        counts: { wallet_balance: 1 },
        differences: [{ kind: 'wallet_balance', id: 'acme|ann', expected: '999900', found: '999905' }],
      });
      expect((await verify(['--app', 'other'], stored())).exitCode).toBe(0);
    });
  });

  describe('ends with 2 when it cannot be checked:', () => {
    let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
    beforeAll(async () => {
      folder = await createTemporaryFolder();
    });
    afterAll(() => folder.remove());

    it('a database that does not answer', async () => {
      const { exitCode, complaints } = await verify([], { MONGODB_URI: 'mongodb://ann:secret@127.0.0.1:1/' });
      expect(exitCode).toBe(2);
      expect(complaints).toContain('MongoDB does not answer at mongodb://ann:***@127.0.0.1:1/');
    });

    it('one that holds nothing, or nothing of that name', async () => {
      const { exitCode, complaints } = await verify([], { ...stored(), MONGO_DATABASE: 'no-such-database' });
      expect({ exitCode, complaints }).toEqual({
        exitCode: 2,
        complaints: expect.stringContaining('There is nothing to verify'),
      });
      expect((await verify(['--chat', 'no-such-chat'], stored())).exitCode).toBe(2);
    });

    it('a folder without a database, which does not get one', async () => {
      const { exitCode, complaints } = await verify([], { DATA_DIR: join(folder.path, 'none') });
      expect({ exitCode, complaints }).toEqual({
        exitCode: 2,
        complaints: expect.stringContaining('There is no database in DATA_DIR'),
      });
      expect(existsSync(join(folder.path, 'none'))).toBe(false);
    });

    it('a question that makes no sense', async () => {
      for (const wrong of [['--user', 'ann'], ['--wallet', 'x'], ['chat-1']])
        expect((await verify(wrong, stored())).exitCode).toBe(2);
    });
  });
});

describe('npm run verify of the embedded database', () => {
  const cleanups: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
  });

  it('checks it while a server uses it, and starts it when none does', async () => {
    const folder = await createTemporaryFolder();
    cleanups.push(folder.remove);
    const binary = await findTestMongod();
    const mongo = await startEmbeddedMongo({ dataDir: folder.path, binary, log: silentLogger });
    cleanups.push(mongo.stop);
    const environment = {
      DATA_DIR: folder.path,
      MONGOD_BINARY: binary,
      MONGO_DATABASE: server.database.name,
    };
    const from = server.database.client.db(server.database.name);
    const copy = await MongoClient.connect(mongo.uri, { useBigInt64: true });
    for (const { name } of await from.listCollections({}, { nameOnly: true }).toArray()) {
      const documents = await from.collection(name).find().toArray();
      if (documents.length > 0) await copy.db(server.database.name).collection(name).insertMany(documents);
    }
    await copy.close();

    const running = await verify([], environment);
    expect(running).toMatchObject({ exitCode: 0, output: expect.stringContaining('Everything agrees.') });
    expect(running.complaints).toContain(mongo.uri);
    await mongo.stop();
    expect(await verify([], environment)).toMatchObject({
      exitCode: 0,
      output: expect.stringContaining('Everything agrees.'),
    });
    // It left the folder to the next one.
    await (await startEmbeddedMongo({ dataDir: folder.path, binary, log: silentLogger })).stop();
  });
});

describe('GET /api/admin/verify', () => {
  const ask = (query = '') => server.get(`/api/admin/verify${query}`);

  it('answers the report, of everything or of what is asked for', async () => {
    const all = await ask();
    expect(all.status).toBe(200);
    expect(verificationReportSchema.parse(all.body)).toMatchObject({ ok: true, checked: { wallets: 2 } });
    const one = await ask('?app_id=acme&user_id=ann');
    expect(verificationReportSchema.parse(one.body)).toMatchObject({ ok: true, checked: { wallets: 1 } });
  });

  it('answers differences with 200: they are what was asked for', async () => {
    await tamper(1n);
    const { status, body } = await ask('?chat_id=chat-1');
    await tamper(-1n);
    expect(status).toBe(200);
    expect(verificationReportSchema.parse(body)).toMatchObject({ ok: false, counts: { wallet_balance: 1 } });
  });

  it('says when there is no such chat, and when a user is named without an app', async () => {
    const missing = await ask('?chat_id=no-such-chat');
    expect(problemSchema.parse(missing.body)).toMatchObject({ status: 404, code: 'nothing_to_verify' });
    expect((await ask('?user_id=ann')).status).toBe(400);
    expect((await ask('?app_id=$ne')).status).toBe(400);
  });

  it('runs once at a time', async () => {
    const answers = await Promise.all([ask(), ask(), ask()]);
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 409, 409]);
    expect((await ask()).status).toBe(200);
  });
});
