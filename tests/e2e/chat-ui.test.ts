import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser, BrowserContext } from 'playwright-core';
import { z } from 'zod';
import { findFreePort } from '../../infra/loopback-port.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { eventually } from '../support/eventually.ts';
import { type ScriptedProvider, startScriptedProvider } from '../support/scripted-provider.ts';
import { freshDatabase, type TestDatabase } from '../support/test-database.ts';
import { chromePath, launchBrowser } from './browser.ts';
import { ChatPage } from './chat-page.ts';
import { type ServerProcess, startServerProcess } from './server-process.ts';

const startBalance = 1_000_000;
const describeInBrowser = chromePath === '' ? describe.skip : describe;
if (chromePath === '')
  process.stderr.write('\nTHE BROWSER TESTS ARE SKIPPED: CHROME_PATH is empty, so there is no browser.\n\n');

describeInBrowser('the chat in a real browser, on the real server', () => {
  let database: TestDatabase;
  let provider: ScriptedProvider;
  let port: number;
  let server: ServerProcess;
  let browser: Browser;
  let context: BrowserContext;
  let pages: ChatPage[];
  let user: string;
  let billedBefore: number;
  /** What a test expects the browser to complain about. */
  let expectedComplaint: RegExp | undefined;

  beforeAll(async () => {
    [database, provider, port, browser] = await Promise.all([
      freshDatabase(),
      startScriptedProvider(),
      findFreePort(),
      launchBrowser(),
    ]);
    server = await startServer();
  });
  afterAll(async () => {
    await browser.close();
    await server.stop();
    await provider.stop();
    await database.close();
  });
  beforeEach(async () => {
    context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB' });
    pages = [];
    user = `user-${randomUUID()}`;
    billedBefore = provider.bill.length;
    expectedComplaint = undefined;
  });
  afterEach(async () => {
    const complaints = pages.flatMap((page) => page.complaints);
    await context.close();
    expect(complaints.filter((complaint) => expectedComplaint?.test(complaint) !== true)).toEqual([]);
    provider.expectAllStepsRead();
  });

  function startServer(): Promise<ServerProcess> {
    return startServerProcess({
      program: join(projectRoot(), 'dist', 'infra', 'main.js'),
      environment: {
        PORT: String(port),
        MONGODB_URI: database.uri,
        MONGO_DATABASE: database.name,
        OPENAI_BASE_URL: provider.baseUrl,
        LLM_MAX_RETRIES: '0',
        NODE_ID: 'e2e',
      },
    });
  }
  async function openTab(): Promise<ChatPage> {
    const page = new ChatPage(await context.newPage());
    pages.push(page);
    return page;
  }
  const home = () => `${server.url}/?app_id=e2e&user_id=${user}`;
  /** What the provider charged for in this test. */
  const billed = () => provider.bill.slice(billedBefore);
  const billedTokens = () => billed().reduce((sum, line) => sum + line.total_tokens, 0);
  async function storedBalance(): Promise<number> {
    const wallet = await database.client
      .db(database.name)
      .collection('Wallets')
      .findOne({ app_id: 'e2e', user_id: user });
    return Number(z.object({ balance: z.bigint() }).parse(wallet).balance);
  }

  test('a first chat: the words stream, the answer stands, and the wallet pays exactly what was billed', async () => {
    provider.setScript([
      { chunks: ['A prepaid ', 'wallet ', 'holds **tokens**', ' in advance.'], stallAfterChunks: 2 },
    ]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'What is a prepaid wallet?');
    const streaming = await provider.stalled();
    await tab.untilSpokenBy('assistant', 'A prepaid wallet');
    expect(await tab.saidBy('assistant').getAttribute('aria-busy')).toBe('true');
    expect(await tab.saidBy('assistant').innerText()).not.toContain('holds');
    await tab.stop.waitFor();
    expect(await tab.walletBalance()).toBe(startBalance);

    streaming.release();
    await tab.untilIdle();
    await tab.untilSpokenBy('assistant', 'A prepaid wallet holds tokens in advance.');
    expect(await tab.saidBy('You').innerText()).toBe('What is a prepaid wallet?');
    const [line] = billed();
    await tab.untilWalletIs(startBalance - billedTokens());
    expect(await tab.tokenMeter()).toEqual({
      prompt: line?.prompt_tokens,
      completion: line?.completion_tokens,
      total: line?.total_tokens,
      cost: expect.any(Number),
    });
    expect((await tab.tokenMeter()).cost).toBeGreaterThan(0);
    expect(await storedBalance()).toBe(startBalance - billedTokens());
  });

  test('several agents speak in turn under their own names, and each call is debited once', async () => {
    provider.setScript([
      { reply: 'Lend out people who know things.' },
      { reply: 'Nobody has the time.' },
      { reply: 'One evening a month, an hour each.' },
    ]);
    const tab = await openTab();
    await tab.startChat(home(), 'Brainstorm', 'How could a small library get more visitors?');
    await tab.untilSpokenBy('editor', 'One evening a month, an hour each.');
    await tab.untilIdle();
    expect((await tab.transcript()).map(({ speaker }) => speaker)).toEqual([
      'You',
      'dreamer',
      'critic',
      'editor',
    ]);
    expect(billed()).toHaveLength(3);
    await tab.untilWalletIs(startBalance - billedTokens());
    expect(await storedBalance()).toBe(startBalance - billedTokens());
  });

  test('a reload in the middle of an answer loses nothing and doubles nothing', async () => {
    const said = 'one two three four five six';
    provider.setScript([{ reply: said, stallAfterChunks: 3 }]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Count to six.');
    const streaming = await provider.stalled();
    await tab.untilSpokenBy('assistant', 'one two three');
    await tab.page.reload();
    await tab.untilSpokenBy('assistant', 'one two three');
    await tab.stop.waitFor();

    streaming.release();
    await tab.untilIdle();
    await tab.untilSpokenBy('assistant', said);
    const live = await tab.transcript();
    expect(live.map(({ speaker }) => speaker)).toEqual(['You', 'assistant']);
    expect(live[1]?.words.match(/one|two|three|four|five|six/g)).toEqual(said.split(' '));

    await tab.page.reload();
    await tab.untilSpokenBy('assistant', said);
    expect(await tab.transcript()).toEqual(live);
    await tab.untilWalletIs(startBalance - billedTokens());
    expect((await tab.tokenMeter()).total).toBe(billedTokens());
  });

  test('two tabs of a chat see the same, whichever of them writes', async () => {
    provider.setScript([
      { reply: 'The first answer.', stallAfterChunks: 2 },
      { reply: 'The second answer.' },
    ]);
    const left = await openTab();
    await left.startChat(home(), 'Assistant', 'First?');
    const streaming = await provider.stalled();
    const right = await openTab();
    await right.page.goto(left.page.url());
    await right.untilSpokenBy('assistant', 'The first');
    streaming.release();
    for (const tab of [left, right]) await tab.untilSpokenBy('assistant', 'The first answer.');
    await right.untilIdle();
    await right.say('Second?');
    for (const tab of [left, right]) {
      await tab.untilSpokenBy('assistant', 'The second answer.');
      await tab.untilIdle();
      await tab.untilWalletIs(startBalance - billedTokens());
    }
    expect(await left.transcript()).toEqual(await right.transcript());
    expect(await left.tokenMeter()).toEqual(await right.tokenMeter());
    expect((await left.tokenMeter()).total).toBe(billedTokens());
  });

  test("Stop ends the run down to the provider's connection, and keeps what was said", async () => {
    provider.setScript([{ reply: 'one two three four five six', stallAfterChunks: 3 }, { reply: 'Gladly.' }]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Count to six.');
    await provider.stalled();
    await tab.untilSpokenBy('assistant', 'one two three');
    await tab.stop.click();
    await eventually(() => expect(billed()).toMatchObject([{ aborted: true }]));
    await tab.untilIdle();
    await tab.untilSpokenBy('assistant', 'Cut short');
    expect(await tab.conversation.innerText()).toContain('Stopped');
    expect(await tab.saidBy('assistant').innerText()).not.toContain('four');

    await tab.say('Say something else.');
    await tab.untilSpokenBy('assistant', 'Gladly.');
  });

  test('the inspector lists the frames, and their numbers have no gap', async () => {
    provider.setScript([{ reply: 'Once.' }, { reply: 'Twice.' }]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Once?');
    await tab.untilSpokenBy('assistant', 'Once.');
    await tab.untilIdle();
    await tab.openInspector();
    await tab.say('Twice?');
    await tab.untilSpokenBy('assistant', 'Twice.');
    await tab.untilIdle();
    const rows = await tab.inspector.locator('summary').allInnerTexts();
    const frames = rows.toReversed().map((row) => row.split('\n'));
    const numbers = frames.map(([number]) => number).filter((number) => number !== '·');
    expect(numbers).toEqual(Array.from(numbers, (_, index) => String(index + 1)));
    const types = frames.map(([, type]) => type);
    for (const type of ['chat.run_start', 'chat.stream', 'chat.text', 'token_update', 'chat.run_complete'])
      expect(types).toContain(type);

    await tab.inspector.getByRole('searchbox', { name: 'Filter by type' }).fill('token_update');
    expect(await tab.inspector.locator('summary').count()).toBe(2);
    await tab.inspector.locator('summary').first().click();
    await eventually(async () =>
      expect(await tab.inspector.innerText()).toContain(
        `"remaining_balance": ${startBalance - billedTokens()}`,
      ),
    );
  });

  test('a chat finds its way back by itself after the server was restarted', async () => {
    expectedComplaint = /WebSocket connection|ERR_CONNECTION_REFUSED/;
    provider.setScript([{ reply: 'Before.' }, { reply: 'After.' }]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Are you there?');
    await tab.untilSpokenBy('assistant', 'Before.');
    await tab.untilIdle();
    await server.stop();
    await tab.connectionBanner.waitFor();
    server = await startServer();
    await tab.connectionBanner.waitFor({ state: 'detached' });
    await tab.say('And now?');
    await tab.untilSpokenBy('assistant', 'After.');
    await tab.untilIdle();
    expect((await tab.transcript()).map(({ speaker }) => speaker)).toEqual([
      'You',
      'assistant',
      'You',
      'assistant',
    ]);
    await tab.untilWalletIs(startBalance - billedTokens());
  });

  test('a message written while the server was away is sent, once, when it is back', async () => {
    expectedComplaint = /WebSocket connection|ERR_CONNECTION_REFUSED/;
    provider.setScript([{ reply: 'Before.' }, { reply: 'After.' }]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Are you there?');
    await tab.untilSpokenBy('assistant', 'Before.');
    await tab.untilIdle();
    await server.stop();
    await tab.connectionBanner.waitFor();
    await tab.say('Please answer when you can.');
    await tab.untilSpokenBy('You', 'Waits for the connection');
    server = await startServer();
    await tab.untilSpokenBy('assistant', 'After.');
    expect((await tab.transcript()).map(({ speaker }) => speaker)).toEqual([
      'You',
      'assistant',
      'You',
      'assistant',
    ]);
  });

  test("a provider's error says what to do, costs nothing, and the chat goes on", async () => {
    provider.setScript([
      { error: { status: 401, message: 'Incorrect API key provided' } },
      { reply: 'Here I am again.' },
    ]);
    const tab = await openTab();
    await tab.startChat(home(), 'Assistant', 'Hello?');
    await tab.alert.waitFor();
    expect(await tab.alert.innerText()).toContain('Set a valid OPENAI_API_KEY');
    await tab.untilIdle();
    expect(await tab.walletBalance()).toBe(startBalance);
    await tab.say('And now?');
    await tab.untilSpokenBy('assistant', 'Here I am again.');
  });

  test('on a phone nothing has to be scrolled sideways', async () => {
    const wide = `| ${'a wide column | '.repeat(12)}\n|${' --- |'.repeat(12)}\n| ${'cell | '.repeat(12)}`;
    const reply = `${'Donaudampfschifffahrtsgesellschaft'.repeat(4)}\n\n${wide}\n\n    ${'code '.repeat(60)}`;
    provider.setScript([{ reply }]);
    const tab = await openTab();
    await tab.page.setViewportSize({ width: 360, height: 740 });
    await tab.page.goto(home());
    await tab.page.getByRole('link', { name: 'Assistant', exact: true }).waitFor();
    expect(await tab.sidewaysScroll()).toBe(0);
    await tab.startChat(home(), 'Assistant', 'x'.repeat(300));
    await tab.untilIdle();
    await tab.saidBy('assistant').getByRole('table').waitFor();
    expect(await tab.sidewaysScroll()).toBe(0);
    await tab.openInspector();
    expect(await tab.sidewaysScroll()).toBe(0);
    await tab.page.getByRole('button', { name: 'Close inspector' }).click();
    await tab.page.getByRole('button', { name: 'Settings' }).click();
    await tab.page.getByRole('dialog').waitFor();
    expect(await tab.sidewaysScroll()).toBe(0);
  });
});
