import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { BootstrapError } from './bootstrap-error.mjs';
import { inProject } from './project.mjs';
import { readStamp, writeStamp } from './stamp.mjs';
import { announced, runTool } from './tool.mjs';

/** Installs what package-lock.json says, when node_modules is missing or the lock changed. */
export async function installPackages() {
  const lock = readFileSync(inProject('package-lock.json'));
  const stamp = createHash('sha256').update(lock).digest('hex');
  const installed = readInstalled();
  if (installed !== undefined && readStamp('packages') === stamp) return;
  if (installed === undefined || !hasAll(installed, JSON.parse(lock).packages)) await install();
  writeStamp('packages', stamp);
}

async function install() {
  const { command, prefix, shell } = npm();
  // Not `npm ci`: it insists that the lock names the optional packages for every system there is (compilers come as one
  // per system), and stops when a new one is missing. This takes what the lock says and changes nothing in it.
  const flags = [
    'install',
    '--no-save',
    '--include=dev',
    '--include=optional',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
  ];
  let exitCode;
  try {
    exitCode = await announced('Installing packages (npm install)', () =>
      runTool(command, [...prefix, ...flags], { cwd: inProject(), shell }),
    );
  } catch (error) {
    throw new BootstrapError(
      `npm could not be started (${error.message}). Install npm (it comes with Node), then try again.`,
    );
  }
  if (exitCode !== 0)
    throw new BootstrapError(
      `npm install failed (exit ${exitCode}); its own words are above.\n` +
        'Check that the package registry can be reached (npm ping), then run the same command again.',
    );
}

/** npm says what it installed in a lock file of its own; who ran npm by hand is not made to wait for it again. */
function readInstalled() {
  try {
    return JSON.parse(readFileSync(inProject('node_modules', '.package-lock.json'), 'utf8')).packages;
  } catch {
    return undefined;
  }
}

function hasAll(installed, wanted) {
  return Object.entries(wanted).every(([path, entry]) => {
    const notForHere = entry.optional === true || entry.devOptional === true;
    // Only what is in node_modules: the project and its workspaces are in the list too.
    if (!path.includes('node_modules/')) return true;
    const present = installed[path];
    return present === undefined ? notForHere : present.version === entry.version;
  });
}

/** The npm that called us; called without npm, the one in PATH, which on Windows is a script and needs a shell. */
function npm() {
  const npmProgram = process.env.npm_execpath;
  if (npmProgram !== undefined && /npm-cli\.c?js$/.test(npmProgram))
    return { command: process.execPath, prefix: [npmProgram], shell: false };
  return { command: 'npm', prefix: [], shell: process.platform === 'win32' };
}
