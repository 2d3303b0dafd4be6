import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { BootstrapError } from './bootstrap-error.mjs';
import { inProject } from './project.mjs';

// One Ctrl-C may arrive twice: from the terminal, and passed on by npm. What comes this soon after is the same one.
const sameKeystrokeMs = 500;
const isWindows = process.platform === 'win32';

/**
 * Runs the compiled program and returns its exit code.
 *
 * Running: the first SIGINT, SIGTERM or SIGHUP is passed on, once, and asks the program to stop. Stopping: a second one
 * ends it and all it started, at once.
 *
 * Elsewhere than on Windows the program has a process group of its own, because the terminal sends Ctrl-C to every
 * process in the group, and then the program would hear it a second time from us. On Windows it shares our console and
 * hears Ctrl-C from there.
 */
export function runProgram(program, programArguments) {
  if (!existsSync(inProject(program)))
    throw new BootstrapError(
      `${program} does not exist, so there is nothing to run. Is the checkout complete?`,
    );
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--enable-source-maps', inProject(program), ...programArguments], {
      cwd: inProject(),
      stdio: 'inherit',
      detached: !isWindows,
    });
    const guard = startGuard(child.pid);
    const watch = watchNpm(() => stop('SIGTERM'));
    let askedAt;
    const stop = (signal) => {
      if (askedAt === undefined) {
        askedAt = Date.now();
        if (!isWindows) child.kill(signal);
      } else if (Date.now() - askedAt > sameKeystrokeMs) {
        console.error('Stopping at once.');
        killGroup(child);
      }
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);
    child.once('error', reject);
    child.once('exit', (exitCode, signal) => {
      guard?.kill('SIGKILL');
      clearInterval(watch);
      resolve(exitCode ?? 128 + constants.signals[signal]);
    });
  });
}

function killGroup(child) {
  if (isWindows) child.kill();
  else process.kill(-child.pid, 'SIGKILL');
}

/**
 * npm runs us through a shell. A SIGTERM to npm ends that shell, and npm with it, but never gets to us: all we notice is
 * that our parent is another one. Without npm a changed parent means nothing (nohup, a script that ended).
 */
function watchNpm(onGone) {
  if (isWindows || process.env.npm_lifecycle_event === undefined) return undefined;
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    onGone();
  }, 100);
  return watch;
}

/**
 * Should we be killed outright, the program must not live on unseen: the guard reads from us, and when that ends, it
 * asks the program to stop. On Windows the console does that.
 */
function startGuard(pid) {
  if (isWindows || pid === undefined) return undefined;
  const guard = spawn('/bin/sh', ['-c', 'read -r line; kill -TERM "$0"', String(pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.once('error', () => undefined);
  guard.stdin.once('error', () => undefined);
  return guard;
}
