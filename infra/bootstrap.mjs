// Behind `npm start`, `npm test`, `npm run bench`, `npm run verify` and `npm run build`: makes the checkout runnable
// (packages, compiled server, built ChatUI), each only when something changed, and runs the wanted program. Plain
// JavaScript without packages, because it runs before there are any, and because the oldest Node supported cannot run
// TypeScript.
import { buildChatUi, buildServer } from './bootstrap/build.mjs';
import { BootstrapError } from './bootstrap/bootstrap-error.mjs';
import { installPackages } from './bootstrap/packages.mjs';
import { requireNodeVersion } from './bootstrap/node-version.mjs';
import { runProgram } from './bootstrap/program.mjs';

const programs = {
  start: 'dist/infra/main.js',
  test: 'dist/tests/support/run-tests.js',
  bench: 'dist/bench/main.js',
  verify: 'dist/infra/verify.js',
  build: undefined,
};

const [command = '', ...programArguments] = process.argv.slice(2);
try {
  if (!Object.hasOwn(programs, command))
    throw new BootstrapError(
      `Usage: node infra/bootstrap.mjs ${Object.keys(programs).join('|')} [arguments]`,
    );
  requireNodeVersion(process.versions.node);
  await installPackages();
  await buildServer();
  await buildChatUi();
  const program = programs[command];
  if (program !== undefined) process.exitCode = await runProgram(program, programArguments);
} catch (error) {
  if (!(error instanceof BootstrapError)) throw error;
  console.error(`\n${error.message}`);
  process.exitCode = 1;
}
