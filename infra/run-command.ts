import { spawn } from 'node:child_process';

export type CommandOutcome =
  | { readonly kind: 'succeeded'; readonly output: string }
  | { readonly kind: 'failed'; readonly reason: string; readonly output: string };

type CommandOptions = {
  /** Ends the command when it has taken this long. */
  readonly timeoutMs: number;
  /** Ends the command when it has printed nothing for this long. */
  readonly silenceMs?: number;
  readonly cwd?: string;
  readonly onLine?: (line: string) => void;
};

/** Runs a command to its end without a shell. Never throws: that a command is missing or fails is an answer. */
export function runCommand(
  command: string,
  commandArguments: readonly string[],
  options: CommandOptions,
): Promise<CommandOutcome> {
  return new Promise((resolve) => {
    const child = spawn(command, commandArguments, {
      cwd: options.cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      windowsHide: true,
    });
    let output = '';
    let unfinishedLine = '';
    let ending: string | undefined;
    const end = (reason: string) => () => {
      ending = reason;
      child.kill('SIGKILL');
    };
    const timeout = setTimeout(end(`took longer than ${options.timeoutMs / 1000} s`), options.timeoutMs);
    const startSilence = () =>
      options.silenceMs === undefined
        ? undefined
        : setTimeout(end(`printed nothing for ${options.silenceMs / 1000} s`), options.silenceMs);
    let silence = startSilence();

    const listen = (chunk: string) => {
      clearTimeout(silence);
      silence = startSilence();
      // Only the end is ever shown, so that an endless printer cannot fill the memory.
      output = (output + chunk).slice(-100_000);
      const lines = (unfinishedLine + chunk).split(/[\r\n]+/);
      unfinishedLine = lines.pop() ?? '';
      for (const line of lines) if (line.trim() !== '') options.onLine?.(line.trim());
    };
    child.stdout.setEncoding('utf8').on('data', listen);
    child.stderr.setEncoding('utf8').on('data', listen);

    const settle = (reason: string | undefined) => {
      clearTimeout(timeout);
      clearTimeout(silence);
      resolve(reason === undefined ? { kind: 'succeeded', output } : { kind: 'failed', reason, output });
    };
    child.once('error', (error) => {
      settle('code' in error && error.code === 'ENOENT' ? 'not installed' : error.message);
    });
    child.once('close', (exitCode, signal) => {
      if (exitCode === 0 && ending === undefined) settle(undefined);
      else settle(ending ?? `exit ${exitCode ?? signal ?? 'unknown'}: ${lastLine(output)}`);
    });
  });
}

function lastLine(output: string): string {
  return output.trim().split('\n').at(-1)?.trim() ?? '';
}
