import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { projectRoot } from '../../infra/project-root.ts';

export type BuiltProgram = {
  readonly child: ChildProcess;
  /** The program's first line. */
  readonly firstLine: Promise<string>;
  readonly exited: Promise<number | null>;
};

/**
 * Starts a program of this project in a process group of its own, as a terminal does. Compiled, because a process of
 * its own cannot run TypeScript on the oldest Node supported.
 */
export function startBuiltProgram(path: string, programArguments: readonly string[]): BuiltProgram {
  const file = join(projectRoot(), 'dist', path);
  if (!existsSync(file)) throw new Error(`${file} does not exist; run "npm run build" first`);
  const child = spawn(process.execPath, [file, ...programArguments], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', resolve);
  });
  const firstLine = new Promise<string>((resolve, reject) => {
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.includes('\n')) resolve(output.slice(0, output.indexOf('\n')));
    });
    child.once('exit', (exitCode) => {
      reject(new Error(`${path} ended with ${String(exitCode)} before its first line`));
    });
  });
  return { child, firstLine, exited };
}
