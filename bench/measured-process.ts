import { type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

const cpuUsageSchema = z.object({ user: z.number(), system: z.number() });

/** Of the compiled program beside this file, or in another folder of the build. */
export const compiled = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** What Node needs to be told so that `cpuMs` can be asked of the process. */
export function measuredNodeArguments(profileFolder: string | undefined): string[] {
  return [
    '--enable-source-maps',
    `--import=${new URL('./report-cpu.js', import.meta.url).href}`,
    ...(profileFolder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileFolder}`]),
  ];
}

/** Sends one message and waits for its answer; the callers ask one thing at a time. */
export async function ask<Answer>(
  child: ChildProcess,
  question: string | object,
  answer: z.ZodType<Answer>,
): Promise<Answer> {
  const failed = new AbortController();
  const fail = () => failed.abort(new Error('the measured process ended'));
  child.once('exit', fail);
  try {
    const answered = once(child, 'message', { signal: failed.signal });
    child.send(question, (error) => {
      if (error !== null) failed.abort(error);
    });
    const [message]: unknown[] = await answered;
    return answer.parse(message);
  } finally {
    child.off('exit', fail);
  }
}

/** User and system time of all threads of the process since it was started. */
export async function cpuMs(child: ChildProcess): Promise<number> {
  const { user, system } = await ask(child, 'cpu', cpuUsageSchema);
  return (user + system) / 1000;
}
