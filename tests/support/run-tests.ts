// What `npm test` runs, from dist/. It gets what the tests need (a mongod, the local model, a browser), starts one
// MongoDB for the whole run, runs jest with the arguments it was given, and says last how many passed and failed.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { startEmbeddedMongo } from '../../infra/embedded-mongo/embedded-mongo.ts';
import { errorMessage } from '../../infra/error-message.ts';
import { obtainLocalModel } from '../../infra/local-model/local-model.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { testCacheDir } from './cache-dir.ts';
import { findBrowser } from './find-browser.ts';
import { silentLogger } from './silent-logger.ts';
import { createTemporaryFolder } from './temporary-folder.ts';
import { findTestMongod } from './test-mongod.ts';

const resultsSchema = z.object({
  numPassedTests: z.number(),
  numFailedTests: z.number(),
  numPendingTests: z.number(),
  numTodoTests: z.number(),
  /** Files that could not even be loaded; none of their tests is counted elsewhere. */
  numRuntimeErrorTestSuites: z.number(),
});
type Needs = {
  readonly mongod: string;
  readonly browser: string | undefined;
  /** Why there is no local model, if there is none. */
  readonly localModelProblem: string | undefined;
};

const progress = (line: string) => process.stdout.write(`${line}\n`);

async function obtainNeeds(cacheDir: string): Promise<Needs> {
  const [mongod, browser, localModelProblem] = await Promise.all([
    findTestMongod(progress),
    findBrowser({ chromePath: setOrUndefined(process.env['CHROME_PATH']), progress }),
    obtainLocalModel(cacheDir, progress).then(
      () => undefined,
      (error: unknown) => errorMessage(error),
    ),
  ]);
  return { mongod, browser, localModelProblem };
}

/** Said before the tests and again after them, where nobody can overlook it. */
function saySkipped({ browser, localModelProblem }: Needs): void {
  if (browser === undefined)
    progress(
      '\nTHE BROWSER TESTS ARE SKIPPED: no Chrome or Chromium was found, and none could be downloaded. ' +
        'Install one, or set CHROME_PATH to its program, and run npm test again.\n',
    );
  if (localModelProblem !== undefined)
    progress(`\nTHE LOCAL MODEL'S TESTS ARE SKIPPED. ${localModelProblem}\n`);
}

function setOrUndefined(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}

/** Faults take minutes and both cores: they run when they are asked for (`npm run test:faults`). */
function chosenTests(wanted: readonly string[]): string[] {
  const isChosen = wanted.includes('--selectProjects');
  return isChosen
    ? [...wanted]
    : ['--selectProjects', 'unit', 'integration', 'ui', 'e2e', ...testPaths(wanted)];
}

/** jest would take what follows its list of projects for one more project. */
function testPaths(wanted: readonly string[]): string[] {
  return wanted.length === 0 || wanted[0]?.startsWith('-') === true
    ? [...wanted]
    : ['--testPathPatterns', ...wanted];
}

/** Runs jest to its end; SIGINT and SIGTERM are passed on to it, and then everything is still put away. */
function runJest(environment: NodeJS.ProcessEnv, resultsFile: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const jest = spawn(
      process.execPath,
      [
        '--experimental-vm-modules',
        '--disable-warning=ExperimentalWarning',
        join(projectRoot(), 'node_modules', 'jest', 'bin', 'jest.js'),
        '--json',
        `--outputFile=${resultsFile}`,
        ...chosenTests(process.argv.slice(2)),
      ],
      { cwd: projectRoot(), stdio: 'inherit', env: environment },
    );
    const passOn = (signal: NodeJS.Signals) => jest.kill(signal);
    process.on('SIGINT', passOn).on('SIGTERM', passOn);
    jest.once('error', reject);
    jest.once('exit', (exitCode) => {
      process.off('SIGINT', passOn).off('SIGTERM', passOn);
      resolve(exitCode ?? 130);
    });
  });
}

/** The last line: what a person, or a program, looks for. */
async function summarize(resultsFile: string): Promise<{ failed: number; line: string }> {
  try {
    const results = resultsSchema.parse(JSON.parse(await readFile(resultsFile, 'utf8')));
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = results.numPendingTests + results.numTodoTests;
    const counts = [`${results.numPassedTests} passed`, `${failed} failed`];
    if (skipped > 0) counts.push(`${skipped} skipped`);
    return { failed, line: counts.join(', ') };
  } catch {
    progress('The test run was broken off: there are no results.');
    return { failed: 1, line: '0 passed, 1 failed' };
  }
}

const cacheDir = testCacheDir();
const needs = await obtainNeeds(cacheDir);
saySkipped(needs);
const folder = await createTemporaryFolder();
const mongo = await startEmbeddedMongo({
  dataDir: join(folder.path, 'data'),
  binary: needs.mongod,
  log: silentLogger,
  progress,
});
const resultsFile = join(folder.path, 'results.json');
try {
  const environment = {
    ...process.env,
    TEST_MONGODB_URI: mongo.uri,
    MONGOD_BINARY: needs.mongod,
    CACHE_DIR: cacheDir,
    CHROME_PATH: needs.browser ?? '',
    TEST_LOCAL_MODEL: needs.localModelProblem === undefined ? 'present' : 'missing',
  };
  const jestExitCode = await runJest(environment, resultsFile);
  const { failed, line } = await summarize(resultsFile);
  saySkipped(needs);
  progress(line);
  process.exitCode = failed > 0 ? 1 : jestExitCode;
} finally {
  await mongo.stop();
  await folder.remove();
}
