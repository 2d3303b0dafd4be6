import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';
import { projectRoot } from '../../infra/project-root.ts';
import { runCommand } from '../../infra/run-command.ts';

type BrowserSearch = {
  readonly chromePath: string | undefined;
  readonly progress: (line: string) => void;
};

/**
 * A Chromium-like browser for the tests that need one: the one CHROME_PATH names, the system's, the one playwright
 * downloaded before; then apt-get (root on Debian or Ubuntu) and playwright's download. `undefined`: none can be had.
 */
export async function findBrowser({ chromePath, progress }: BrowserSearch): Promise<string | undefined> {
  if (chromePath !== undefined) {
    if (existsSync(chromePath)) return chromePath;
    throw new Error(
      `CHROME_PATH=${chromePath} does not exist. Correct it, or unset it to have a browser looked for.`,
    );
  }
  return (
    (await findInstalled()) ??
    findDownloaded() ??
    (await installWithApt(progress)) ??
    (await downloadWithPlaywright(progress))
  );
}

async function findInstalled(): Promise<string | undefined> {
  for (const path of installedPaths()) if (existsSync(path) && (await runsHere(path))) return path;
  return undefined;
}

function installedPaths(): string[] {
  const variable = (name: string) => process.env[name] ?? '';
  if (process.platform === 'win32')
    return ['PROGRAMFILES', 'PROGRAMFILES(X86)', 'LOCALAPPDATA'].flatMap((folder) => [
      join(variable(folder), 'Google', 'Chrome', 'Application', 'chrome.exe'),
      join(variable(folder), 'Microsoft', 'Edge', 'Application', 'msedge.exe'),
    ]);
  if (process.platform === 'darwin')
    return ['', variable('HOME')].flatMap((home) =>
      ['Google Chrome', 'Chromium', 'Microsoft Edge'].map(
        (name) => `${home}/Applications/${name}.app/Contents/MacOS/${name}`,
      ),
    );
  return variable('PATH')
    .split(delimiter)
    .flatMap((folder) =>
      ['google-chrome-stable', 'google-chrome', 'chromium', 'chromium-browser', 'microsoft-edge'].map(
        (name) => join(folder, name),
      ),
    );
}

/** Ubuntu's chromium-browser may be a stub that only asks to install something else. */
async function runsHere(path: string): Promise<boolean> {
  // On Windows it would open a window instead of printing its version.
  if (process.platform === 'win32') return true;
  return (await runCommand(path, ['--version'], { timeoutMs: 20_000 })).kind === 'succeeded';
}

function findDownloaded(): string | undefined {
  const path = chromium.executablePath();
  return existsSync(path) ? path : undefined;
}

async function installWithApt(progress: (line: string) => void): Promise<string | undefined> {
  if (process.getuid?.() !== 0 || !existsSync('/etc/debian_version')) return undefined;
  progress('installing chromium with apt-get (for the browser tests)');
  await runCommand('apt-get', ['update'], { timeoutMs: 180_000 });
  const reminder = setInterval(() => {
    progress('still installing chromium');
  }, 10_000);
  const outcome = await runCommand('apt-get', ['install', '-y', '--no-install-recommends', 'chromium'], {
    timeoutMs: 900_000,
  });
  clearInterval(reminder);
  if (outcome.kind === 'succeeded') return findInstalled();
  progress(`apt-get could not install chromium: ${outcome.reason}`);
  return undefined;
}

async function downloadWithPlaywright(progress: (line: string) => void): Promise<string | undefined> {
  progress('downloading chromium with playwright (for the browser tests)');
  const outcome = await runCommand(
    process.execPath,
    [join(projectRoot(), 'node_modules', 'playwright-core', 'cli.js'), 'install', 'chromium'],
    { timeoutMs: 900_000, silenceMs: 60_000, onLine: progress },
  );
  const path = findDownloaded();
  if (outcome.kind === 'failed') progress(`playwright could not download chromium: ${outcome.reason}`);
  return path !== undefined && (await runsHere(path)) ? path : undefined;
}
