import { readFile } from 'node:fs/promises';
import { errorCode } from '../error-code.ts';
import { runCommand } from '../run-command.ts';

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, but belongs to somebody else.
    return errorCode(error) === 'EPERM';
  }
}

/**
 * When the process with this pid started, in the words of the system: only good for comparing. Pids are used again, so
 * a pid alone proves nothing; a pid with this does.
 */
export async function processStart(pid: number): Promise<string | undefined> {
  if (!isAlive(pid)) return undefined;
  if (process.platform === 'linux') {
    const [bootId, stat] = await Promise.all([
      readOrUndefined('/proc/sys/kernel/random/boot_id'),
      readOrUndefined(`/proc/${pid}/stat`),
    ]);
    // The 22nd field; the second is a program's name in brackets and may hold anything.
    const startTicks = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
    return startTicks === undefined ? undefined : `${bootId?.trim() ?? ''}/${startTicks}`;
  }
  if (process.platform === 'win32') return askWindows(`(Get-Process -Id ${pid}).StartTime.ToFileTimeUtc()`);
  return askPs(pid, 'lstart=');
}

export async function processCommandLine(pid: number): Promise<string | undefined> {
  if (!isAlive(pid)) return undefined;
  if (process.platform === 'linux')
    return (await readOrUndefined(`/proc/${pid}/cmdline`))?.replaceAll('\0', ' ');
  if (process.platform === 'win32')
    return askWindows(`(Get-CimInstance Win32_Process -Filter 'ProcessId=${pid}').CommandLine`);
  return askPs(pid, 'command=');
}

async function readOrUndefined(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    // The process may end between any two looks at it; a missing file is the answer.
    return undefined;
  }
}

async function askPs(pid: number, field: string): Promise<string | undefined> {
  return outputOf('ps', ['-ww', '-o', field, '-p', String(pid)]);
}

async function askWindows(expression: string): Promise<string | undefined> {
  return outputOf('powershell.exe', ['-NoProfile', '-NonInteractive', '-Command', expression]);
}

async function outputOf(command: string, commandArguments: readonly string[]): Promise<string | undefined> {
  const outcome = await runCommand(command, commandArguments, { timeoutMs: 10_000 });
  const output = outcome.output.trim();
  return outcome.kind === 'succeeded' && output !== '' ? output : undefined;
}
