import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser } from 'playwright-core';
import { projectRoot } from '../../infra/project-root.ts';
import { testCacheDir } from '../support/cache-dir.ts';
import { eventually } from '../support/eventually.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { chromePath, launchBrowser } from './browser.ts';
import { ChatPage } from './chat-page.ts';
import { type ServerProcess, startServerProcess } from './server-process.ts';

// The test run says so, loudly, when there is no browser or no model on this machine.
const canRun = chromePath !== '' && process.env['TEST_LOCAL_MODEL'] !== 'missing';
const describeFirstStart = canRun ? describe : describe.skip;

describeFirstStart('the first start, without a key, a database or any setting', () => {
  let folder: Awaited<ReturnType<typeof createTemporaryFolder>>;
  let server: ServerProcess | undefined;
  let browser: Browser;

  beforeEach(async () => {
    folder = await createTemporaryFolder();
    browser = await launchBrowser();
  });
  afterEach(async () => {
    await browser.close();
    await server?.stop();
    await folder.remove();
  });

  const start = () =>
    startServerProcess({
      program: join(projectRoot(), 'dist', 'infra', 'main.js'),
      environment: { PORT: '0', DATA_DIR: folder.path, CACHE_DIR: testCacheDir() },
    });

  test('leads to an answer of the local model that is counted and debited, and is there after a restart', async () => {
    server = await start();
    const context = await browser.newContext();
    const tab = new ChatPage(await context.newPage());
    await tab.startChat(`${server.url}/?user_id=me`, 'Assistant', 'Say hello in three words.');
    await tab.saidBy('assistant').waitFor();
    await tab.untilIdle();
    const { prompt, completion, total } = await tab.tokenMeter();
    expect(Math.min(prompt, completion)).toBeGreaterThan(0);
    expect(total).toBe(prompt + completion);
    await tab.untilWalletIs(1_000_000 - total);
    const said = await tab.transcript();
    const address = new URL(tab.page.url());
    await tab.page.goto('about:blank');

    await server.stop();
    server = await start();
    await tab.page.goto(`${server.url}/?user_id=me${address.hash}`);
    await eventually(async () => expect(await tab.transcript()).toEqual(said));
    await tab.untilWalletIs(1_000_000 - total);
    expect((await tab.tokenMeter()).total).toBe(total);
    expect(tab.complaints).toEqual([]);
  });
});
