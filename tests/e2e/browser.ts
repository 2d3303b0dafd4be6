import { type Browser, chromium } from 'playwright-core';

/** The browser that `npm test` found; the empty string when there is none to be had. */
export const chromePath = process.env['CHROME_PATH'] ?? '/usr/bin/chromium';

/** A browser that talks to nobody but us. */
export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromePath,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}
