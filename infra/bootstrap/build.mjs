import { existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { BootstrapError } from './bootstrap-error.mjs';
import { inProject } from './project.mjs';
import { listFiles, readStamp, stampOf, writeStamp } from './stamp.mjs';
import { announced, runTool } from './tool.mjs';

const serverFolders = ['core', 'transport', 'workflows', 'infra', 'bench', 'tests'];
const isTypeScript = (file) => /\.tsx?$/.test(file);
const lock = () => inProject('package-lock.json');

/** Compiles the server, its tests and benchmarks into dist/. Workflows' YAML stays where it is. */
export async function buildServer() {
  const sources = serverFolders.flatMap((folder) => listFiles(inProject(folder)).filter(isTypeScript));
  const stamp = stampOf([...sources, inProject('tsconfig.json'), lock()]);
  if (existsSync(inProject('dist')) && readStamp('server') === stamp) return;
  const exitCode = await announced('Compiling the server', () =>
    runTool(
      process.execPath,
      [inProject('node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json'],
      {
        cwd: inProject(),
      },
    ),
  );
  if (exitCode !== 0)
    throw new BootstrapError('The server does not compile; correct the errors above, then try again.');
  removeLeftovers(sources);
  writeStamp('server', stamp);
}

/** What was compiled from a file that is gone must go too, or a deleted test would run for ever. */
function removeLeftovers(sources) {
  const wanted = new Set(
    sources.map((file) => inProject('dist', relative(inProject(), file).replace(/\.tsx?$/, ''))),
  );
  for (const file of listFiles(inProject('dist')))
    if (!wanted.has(file.replace(/\.js(\.map)?$/, ''))) rmSync(file);
}

/** Builds the web page into ChatUI/dist, from where the server serves it. A checkout without one works without. */
export async function buildChatUi() {
  if (!existsSync(inProject('ChatUI', 'index.html'))) return;
  const sources = [...listFiles(inProject('ChatUI')), ...listFiles(inProject('core', 'contracts'))];
  const stamp = stampOf([...sources, lock()]);
  if (existsSync(inProject('ChatUI', 'dist', 'index.html')) && readStamp('chat-ui') === stamp) return;
  const require = createRequire(inProject('ChatUI', 'package.json'));
  const vite = join(dirname(require.resolve('vite/package.json')), 'bin', 'vite.js');
  const exitCode = await announced('Building the ChatUI', () =>
    runTool(process.execPath, [vite, 'build', '--logLevel', 'warn'], { cwd: inProject('ChatUI') }),
  );
  if (exitCode !== 0)
    throw new BootstrapError('The ChatUI does not build; correct the errors above, then try again.');
  writeStamp('chat-ui', stamp);
}
