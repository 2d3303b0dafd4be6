// Takes the pictures of the README: the real server and the real page, with a scripted provider and a fresh database.
//
//     npm run build && node dist/tests/e2e/take-screenshots.js
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { projectRoot } from '../../infra/project-root.ts';
import { testCacheDir } from '../support/cache-dir.ts';
import { type ScriptedProvider, startScriptedProvider } from '../support/scripted-provider.ts';
import type { ScriptStep } from '../support/scripted-provider-step.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';
import { launchBrowser } from './browser.ts';
import { ChatPage } from './chat-page.ts';
import { startServerProcess } from './server-process.ts';

const desktop = { width: 1280, height: 800 };
const phone = { width: 390, height: 844 };

const library = 'How could a small library get more visitors?';
const dreamer: ScriptStep = {
  reply:
    'Lend people instead of books: every Thursday evening a carpenter, a coder and a beekeeper each sit at a table, and anyone may borrow them for **twenty minutes**.',
};
const critic: ScriptStep = {
  reply:
    'It lives on volunteers. Once the first three have told their story the shelf is empty, and nobody comes back to an empty shelf.',
};
const editor: ScriptStep = {
  reply:
    'Make it small, and let it renew itself:\n\n1. One evening a month, four people, twenty minutes each.\n2. Every guest **names the next one** before going home.\n3. The waiting list hangs on the door, so that everyone sees the demand.',
};
const earlier = ['Ideas for a rainy Sunday with children.', 'A slogan for a bakery that never sleeps.'];

const wallets: ScriptStep = {
  reply: `A **prepaid wallet** holds tokens that were paid for in advance.

| Step | Wallet |
| --- | --: |
| Top-up | 10,000 |
| Question | − 312 |
| Answer | − 188 |
| **Left** | **9,500** |

Each call is reserved before it is made and debited by what the provider reports, so it can never be overdrawn.`,
};

const folder = await createTemporaryFolder();
const provider = await startScriptedProvider();
const server = await startServerProcess({
  program: join(projectRoot(), 'dist', 'infra', 'main.js'),
  environment: {
    PORT: '0',
    DATA_DIR: folder.path,
    CACHE_DIR: testCacheDir(),
    OPENAI_BASE_URL: provider.baseUrl,
    DEFAULT_LLM_MODEL: 'gpt-4o',
  },
});
const browser = await launchBrowser();
try {
  await takeAll(browser, provider, `${server.url}/?app_id=demo&user_id=ada`);
} finally {
  await browser.close();
  await server.stop();
  await provider.stop();
  await folder.remove();
}

async function takeAll(browser: Browser, provider: ScriptedProvider, home: string): Promise<void> {
  const light = await openPage(browser, { colorScheme: 'light', viewport: desktop });
  for (const words of earlier) {
    provider.setScript([{}, {}, {}]);
    await light.startChat(home, 'Brainstorm', words);
    await untilSpoken(light, 3);
  }
  provider.setScript([dreamer, critic, editor]);
  await light.startChat(home, 'Brainstorm', library);
  await untilSpoken(light, 3);
  await light.openInspector();
  await take(light, 'chat');

  provider.setScript([dreamer, critic, { ...editor, stallAfterChunks: 26 }]);
  const dark = await openPage(browser, { colorScheme: 'dark', viewport: desktop });
  await dark.startChat(home, 'Brainstorm', library);
  const streaming = await provider.stalled();
  await dark.untilSpokenBy('editor', 'before');
  await take(dark, 'chat-dark');
  streaming.release();
  await untilSpoken(dark, 3);

  provider.setScript([wallets]);
  const small = await openPage(browser, { colorScheme: 'light', viewport: phone, isMobile: true });
  await small.startChat(home, 'Assistant', 'What is a prepaid wallet?');
  await untilSpoken(small, 1);
  await take(small, 'chat-phone');
}

async function openPage(
  browser: Browser,
  options: { colorScheme: 'light' | 'dark'; viewport: typeof desktop; isMobile?: boolean },
): Promise<ChatPage> {
  const context = await browser.newContext({
    ...options,
    deviceScaleFactor: 2,
    locale: 'en-GB',
    // Nothing moves, so a picture shows the end of every animation.
    reducedMotion: 'reduce',
  });
  return new ChatPage(await context.newPage());
}

async function untilSpoken(page: ChatPage, replies: number): Promise<void> {
  await page.conversation.getByRole('article').nth(replies).waitFor();
  await page.untilIdle();
}

async function take({ page }: ChatPage, name: string): Promise<void> {
  // Fonts and the code that renders markdown may still be on their way.
  await page.waitForLoadState('networkidle');
  await page.locator('[role=log] strong').first().waitFor();
  const path = join(projectRoot(), 'docs', 'images', `${name}.png`);
  await page.screenshot({ path });
  process.stdout.write(`${path}\n`);
}
