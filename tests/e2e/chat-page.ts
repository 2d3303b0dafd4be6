import type { Locator, Page } from 'playwright-core';
import { eventually } from '../support/eventually.ts';

/** The page as a person uses it: everything is found by its role and its name. */
export class ChatPage {
  readonly page: Page;
  /** What the browser complained about: scripts that failed, and what the Content-Security-Policy stopped. */
  readonly complaints: string[] = [];

  constructor(page: Page) {
    this.page = page;
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') this.complaints.push(message.text());
    });
    page.on('pageerror', (error) => this.complaints.push(String(error)));
  }

  get message(): Locator {
    return this.page.getByRole('textbox', { name: 'Message' });
  }
  get send(): Locator {
    return this.page.getByRole('button', { name: 'Send' });
  }
  get stop(): Locator {
    return this.page.getByRole('button', { name: 'Stop' });
  }
  get conversation(): Locator {
    return this.page.getByRole('log', { name: 'Conversation' });
  }
  get alert(): Locator {
    return this.page.getByRole('alert');
  }
  get connectionBanner(): Locator {
    return this.page.getByRole('status', { name: 'Connection' });
  }
  get inspector(): Locator {
    return this.page.getByRole('region', { name: 'Inspector' });
  }

  saidBy(speaker: string): Locator {
    return this.conversation.getByRole('article', { name: speaker });
  }

  /** From the list of workflows to an answer on its way. */
  async startChat(url: string, workflow: string, words: string): Promise<void> {
    await this.page.goto(url);
    await this.page.getByRole('link', { name: workflow, exact: true }).click();
    await this.say(words);
  }

  async say(words: string): Promise<void> {
    await this.message.fill(words);
    await this.send.click();
  }

  async openInspector(): Promise<void> {
    await this.page.getByRole('button', { name: 'Inspector', exact: true }).click();
    await this.inspector.waitFor();
  }

  /** Everything that was said, in order. */
  async transcript(): Promise<{ speaker: string | null; words: string }[]> {
    const articles = await this.conversation.getByRole('article').all();
    return Promise.all(
      articles.map(async (article) => ({
        speaker: await article.getAttribute('aria-label'),
        // How lines break changes while the code that renders markdown is still being loaded.
        words: (await article.innerText()).replaceAll(/\s+/g, ' '),
      })),
    );
  }

  walletBalance(): Promise<number> {
    return valueOf(this.page.getByRole('status', { name: 'Wallet balance' }).locator('data'));
  }

  async tokenMeter(): Promise<{ prompt: number; completion: number; total: number; cost: number }> {
    const figures = this.page.getByRole('region', { name: 'Token meter' }).locator('dl data');
    const [prompt = 0, completion = 0, total = 0, cost = 0] = await Promise.all(
      (await figures.all()).map(valueOf),
    );
    return { prompt, completion, total, cost };
  }

  async untilSpokenBy(speaker: string, words: string): Promise<void> {
    await eventually(async () => {
      const said = await this.saidBy(speaker).last().innerText();
      if (!said.includes(words)) throw new Error(`${speaker} said "${said}", which is not yet "${words}"`);
    });
  }

  /** The composer offers Send again, so the run has ended. */
  async untilIdle(): Promise<void> {
    await this.send.waitFor();
  }

  async untilWalletIs(balance: number): Promise<void> {
    await eventually(async () => {
      const shown = await this.walletBalance();
      if (shown !== balance) throw new Error(`the wallet shows ${shown}, not ${balance}`);
    });
  }

  /** By how many pixels the page is wider than its window. */
  sidewaysScroll(): Promise<number> {
    return this.page.evaluate<number>(
      'document.documentElement.scrollWidth - document.documentElement.clientWidth',
    );
  }
}

async function valueOf(data: Locator): Promise<number> {
  return Number(await data.getAttribute('value'));
}
