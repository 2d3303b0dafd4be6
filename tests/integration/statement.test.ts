import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { SignJWT } from 'jose';
import { projectRoot } from '../../infra/project-root.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** A statement as its owner downloads it, and checks it on a machine that knows nothing of the server. */
let server: TestServer;
let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
let statement: string;
const reason = '=HYPERLINK("http://example.com","a, b")';

beforeAll(async () => {
  folder = await createTemporaryFolder();
  server = await startTestServer({ environment: { WALLET_START_BALANCE: '1000' } });
  const usage = (prompt_tokens: number) => [{ model: '@cf/some-model', prompt_tokens, completion_tokens: 7 }];
  await server.post('/api/events', [
    usageEnvelope('chat-1', usage(100), { seq: 1, agent: '+planner' }),
    usageEnvelope('chat-1', usage(250), { seq: 2, agent: '+planner' }),
    usageEnvelope('chat-2', usage(900), { seq: 1, agent: "'quoted'" }),
  ]);
  await server.post(
    '/api/tokens/ann/credit',
    { app_id: 'acme', amount: 5_000, reason },
    { 'idempotency-key': 'gift-1' },
  );
  await server.post(
    '/api/tokens/ann/credit',
    { app_id: 'acme', amount: 1, reason: 'two\nlines' },
    { 'idempotency-key': 'gift-2' },
  );
  statement = (await server.get('/api/tokens/ann/ledger.csv?app_id=acme')).text;
});
afterAll(async () => {
  await server.stop();
  await folder.remove();
});

/** What the example program says of a statement. */
async function check(csv: string, ...more: string[]): Promise<{ exitCode: number; output: string }> {
  const file = join(folder.path, 'statement.csv');
  await writeFile(file, csv);
  const program = join(projectRoot(), 'docs', 'examples', 'verify-statement.mjs');
  return new Promise((resolve) => {
    execFile(process.execPath, [program, file, ...more], (error, stdout, stderr) =>
      resolve({ exitCode: error === null ? 0 : 1, output: stdout + stderr }),
    );
  });
}

const rows = () => statement.split(/\r\n/).slice(0, -1);
const headOf = (csv: string) => /,([0-9a-f]{64}),"\{""balance""/.exec(csv)?.[1];

/** The statement with one cell or text replaced, which must be there. */
function altered(from: string | RegExp, to: string): string {
  const changed = statement.replace(from, to);
  expect(changed).not.toBe(statement);
  return changed;
}

describe('a statement', () => {
  it('is CSV with a header, all lines and the head of the chain, which the answer names too', async () => {
    const { status, headers, text } = await server.get('/api/tokens/ann/ledger.csv?app_id=acme');
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('text/csv; charset=utf-8');
    expect(headers.get('content-disposition')).toBe('attachment; filename="ledger-acme-ann.csv"');
    expect(headers.get('x-ledger-lines')).toBe(String(rows().length - 2));
    expect(headers.get('x-ledger-head')).toBe(headOf(text));
    expect(rows()[0]).toMatch(/^line,created_at,kind,amount,/);
    expect(rows()[1]).toMatch(/^1,[^,]+,grant,1000,tokens,1000,/);
    expect(rows().at(-1)).toMatch(/^head,/);
  });

  it('is whole and right, as its reader can see offline', async () => {
    expect(await check(statement)).toEqual({
      exitCode: 0,
      output: expect.stringMatching(/^\d+ lines, balance \d+, head [0-9a-f]{64}: it holds\n$/),
    });
  });

  it('continues an earlier one', async () => {
    const earlier = headOf(statement) ?? '';
    await server.post(
      '/api/tokens/ann/consume',
      { app_id: 'acme', amount: 3, reason: 'a fee' },
      { 'idempotency-key': 'fee' },
    );
    const later = (await server.get('/api/tokens/ann/ledger.csv?app_id=acme')).text;
    expect(await check(later, earlier)).toMatchObject({ exitCode: 0 });
    expect(await check(later, 'f'.repeat(64))).toMatchObject({
      exitCode: 1,
      output: expect.stringContaining('the past was rewritten'),
    });
  });

  it('of a wallet that was never used is its start balance', async () => {
    const { text } = await server.get('/api/tokens/newcomer/ledger.csv?app_id=acme');
    expect(await check(text)).toMatchObject({
      exitCode: 0,
      output: expect.stringMatching(/^1 lines, balance 1000,/),
    });
  });

  it('runs nothing in a spreadsheet: what begins like a formula is kept a text', () => {
    expect(statement).toContain(`,"'=HYPERLINK(""http://example.com"",""a, b"")",`);
    expect(statement).toContain(",'+planner,'@cf/some-model,");
    expect(statement).toContain(",''quoted',");
    const cells = statement.matchAll(/(?:^|,|\r\n)("?)([=+@\t\r-][^,]*)/g);
    for (const [, , cell = ''] of cells) expect(cell).toMatch(/^-\d+$/);
  });
});

describe('with sign-in, a statement', () => {
  const secret = 'a secret of more than 32 characters!';
  const serviceKey = 'a-service-key-of-more-than-32-characters';
  let guarded: TestServer;
  beforeAll(async () => {
    guarded = await startTestServer({
      environment: { AUTH_SECRET: secret, AUTH_SERVICE_KEY: serviceKey },
      database: server.database,
    });
  });
  afterAll(() => guarded.stop());

  const statusFor = async (token?: string) =>
    (
      await guarded.get(
        '/api/tokens/ann/ledger.csv?app_id=acme',
        token === undefined ? {} : { authorization: `Bearer ${token}` },
      )
    ).status;
  const tokenOf = (sub: string, app_id: string) =>
    new SignJWT({ app_id })
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject(sub)
      .setExpirationTime('1h')
      .sign(new TextEncoder().encode(secret));

  it('is for its owner and for services', async () => {
    expect(await statusFor(await tokenOf('ann', 'acme'))).toBe(200);
    expect(await statusFor(serviceKey)).toBe(200);
    expect(await statusFor(await tokenOf('bob', 'acme'))).toBe(404);
    expect(await statusFor(await tokenOf('ann', 'other'))).toBe(404);
    expect(await statusFor()).toBe(401);
  });
});

describe('a tampered statement is found out:', () => {
  it('a changed amount', async () => {
    const { exitCode, output } = await check(altered(/^1,([^,]+),grant,1000,/m, '1,$1,grant,9000,'));
    expect(exitCode).toBe(1);
    expect(output).toContain('row 2: amount is 9000, and should be 1000');
  });

  it('a changed reason, in the column and in what was hashed', async () => {
    expect((await check(altered(/start balance/, 'a present'))).output).toContain('reason is a present');
    expect((await check(altered(/""start balance""/, '""a present""'))).output).toContain('row 2: hash is');
  });

  it('a line changed together with its hash', async () => {
    const [, before = '', canonical = ''] = /,([0-9a-f]{64}),"(\{.*\})"$/.exec(rows()[1] ?? '') ?? [];
    const forged = canonical.replace('start balance', 'a present');
    const hash = createHash('sha256').update(forged.replaceAll('""', '"')).digest('hex');
    const csv = statement.replaceAll('start balance', 'a present').replace(before, hash);
    const { exitCode, output } = await check(csv);
    expect(exitCode).toBe(1);
    expect(output).toContain(`previous_hash is ${before}, and should be ${hash}`);
  });

  it('a removed line, a repeated one and two in the wrong order', async () => {
    const [header = '', first = '', second = '', third = '', ...rest] = rows();
    const csvOf = (lines: string[]) => `${lines.join('\r\n')}\r\n`;
    for (const lines of [
      [header, first, third, ...rest],
      [header, first, second, second, third, ...rest],
      [header, second, first, third, ...rest],
      [header, second, third, ...rest],
    ]) {
      const { exitCode, output } = await check(csvOf(lines));
      expect(exitCode).toBe(1);
      expect(output).toContain('previous_hash is');
    }
  });

  it('one that was cut off, and one whose head says something else', async () => {
    const cut = `${rows().slice(0, 3).join('\r\n')}\r\n`;
    expect((await check(cut)).output).toContain('the statement was cut off');
    const withoutLast = `${rows().toSpliced(-2, 1).join('\r\n')}\r\n`;
    expect((await check(withoutLast)).output).toMatch(/canonical is .* and should be|hash is/);
    const head = headOf(statement) ?? '';
    expect(
      (await check(altered(`,${head},"{""balance""`, `,${'f'.repeat(64)},"{""balance""`))).exitCode,
    ).toBe(1);
    expect((await check(altered(/^head,([^,]*),,,tokens,\d+/m, 'head,$1,,,tokens,77'))).exitCode).toBe(1);
  });
});

it('a long statement is sent while it is read, and half of one is never taken for a whole', async () => {
  const body = Array.from({ length: 900 }, (_, index) =>
    usageEnvelope('long', [{ model: 'gpt-4o', prompt_tokens: index + 1 }], { user_id: 'long', seq: index }),
  );
  expect((await server.post('/api/events', body)).status).toBe(200);
  const { text, headers } = await server.get('/api/tokens/long/ledger.csv?app_id=acme');
  expect(Number(headers.get('x-ledger-lines'))).toBeGreaterThan(900);
  expect(headers.get('content-length')).toBeNull();
  expect(await check(text)).toMatchObject({ exitCode: 0 });
});
