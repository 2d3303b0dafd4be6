import { spawn } from 'node:child_process';
import { constants } from 'node:os';

/**
 * Runs a tool to its end, printing to our terminal, and returns its exit code. It stays in our process group, so Ctrl-C
 * reaches it from the terminal; other signals are passed on.
 */
export function runTool(command, toolArguments, { cwd, shell = false } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, toolArguments, { cwd, shell, stdio: 'inherit' });
    const passOn = (signal) => child.kill(signal);
    // Waits for the tool's end instead of leaving it behind.
    const wait = () => undefined;
    process.on('SIGTERM', passOn).on('SIGHUP', passOn).on('SIGINT', wait);
    const forget = () => process.off('SIGTERM', passOn).off('SIGHUP', passOn).off('SIGINT', wait);
    child.once('error', (error) => {
      forget();
      reject(error);
    });
    child.once('exit', (exitCode, signal) => {
      forget();
      // A tool that was ended by a signal ends us too: the person wanted to stop.
      if (signal !== null) process.exit(128 + constants.signals[signal]);
      resolve(exitCode);
    });
  });
}

/** Says what is being done, and every five seconds that it still is; silence looks like a hang. */
export async function announced(what, work) {
  const startedAt = Date.now();
  const seconds = () => ((Date.now() - startedAt) / 1000).toFixed(1);
  console.log(`${what} …`);
  const reminder = setInterval(() => console.log(`${what} … ${seconds()} s`), 5000);
  try {
    const result = await work();
    console.log(`${what}: ${seconds()} s`);
    return result;
  } finally {
    clearInterval(reminder);
  }
}
