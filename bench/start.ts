import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { startEmbeddedMongo } from '../infra/embedded-mongo/embedded-mongo.ts';
import { projectRoot } from '../infra/project-root.ts';
import { silentLogger } from '../tests/support/silent-logger.ts';
import { createTemporaryFolder } from '../tests/support/temporary-folder.ts';
import { findTestMongod } from '../tests/support/test-mongod.ts';
import { testCacheDir } from '../tests/support/cache-dir.ts';
import type { Benchmark } from './benchmark.ts';
import { median } from './statistics.ts';

const starts = 5;

export const start: Benchmark = {
  name: 'start',
  title: 'How long `npm start` takes',
  explanation: `From typing \`npm start\` to the line that says it is ready, in a checkout that was started before: npm, the check that nothing has to be built, MongoDB with its data of the last time, the local model (unless a provider is configured), the server. Beside it, in turn and on the same data: MongoDB alone, from its start to a primary that takes writes. Medians of ${starts}.`,
  async run({ say, ratio }) {
    const folder = await createTemporaryFolder();
    const binary = await findTestMongod(say);
    const environment = {
      PORT: '0',
      DATA_DIR: folder.path,
      CACHE_DIR: testCacheDir(),
      MONGOD_BINARY: binary,
    };
    const withProvider = { ...environment, OPENAI_BASE_URL: 'http://127.0.0.1:9/v1' };
    try {
      // The first start makes the database; it is not what is measured.
      await timeNpmStart(environment);
      const times = { local: [0], provider: [0], mongod: [0], node: [0] };
      for (const each of Object.values(times)) each.pop();
      for (let round = 0; round < starts; round += 1) {
        times.local.push(await timeNpmStart(environment));
        times.provider.push(await timeNpmStart(withProvider));
        times.mongod.push(await timeMongod(folder.path, binary));
        times.node.push(await timeNode());
      }
      const show = (values: number[]) =>
        `${median(values).toFixed(0)} ms (${Math.min(...values).toFixed(0)} to ${Math.max(...values).toFixed(0)})`;
      say(`npm start, with the local model          ${show(times.local)}`);
      say(`npm start, with a provider configured    ${show(times.provider)}`);
      say(`MongoDB alone                            ${show(times.mongod)}`);
      say(`node -e 0                                ${show(times.node)}`);
      const against = { theirs: median(times.mongod), unit: 'ms', other: 'mongod alone' };
      ratio({ name: 'start', ours: median(times.local), ...against });
      ratio({ name: 'start_with_provider', ours: median(times.provider), ...against });
    } finally {
      await folder.remove();
    }
  },
};

async function timeNpmStart(environment: Record<string, string>): Promise<number> {
  for (;;) {
    const { readyAfterMs, output } = await npmStart(environment);
    // Somebody changed a file meanwhile, so this start compiled; that is not what is measured.
    if (!/^(Installing|Compiling|Building) /m.test(output)) return readyAfterMs;
  }
}

async function npmStart(
  environment: Record<string, string>,
): Promise<{ readyAfterMs: number; output: string }> {
  const startedAt = performance.now();
  const npm = spawn('npm', ['start'], {
    cwd: projectRoot(),
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'inherit'],
    shell: process.platform === 'win32',
  });
  const closed = once(npm, 'close');
  let output = '';
  const readyAfterMs = await new Promise<number>((resolve, reject) => {
    npm.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.includes(' is ready (')) resolve(performance.now() - startedAt);
    });
    npm.once('exit', () => reject(new Error(`npm start ended before it was ready. It said:\n${output}`)));
  });
  npm.kill('SIGTERM');
  // Closed when the server, too, has let go of the output: the next start must not meet it.
  await closed;
  return { readyAfterMs, output };
}

async function timeMongod(dataDir: string, binary: string): Promise<number> {
  const startedAt = performance.now();
  const mongo = await startEmbeddedMongo({ dataDir, binary, log: silentLogger });
  const durationMs = performance.now() - startedAt;
  await mongo.stop();
  return durationMs;
}

async function timeNode(): Promise<number> {
  const startedAt = performance.now();
  await once(spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' }), 'exit');
  return performance.now() - startedAt;
}
