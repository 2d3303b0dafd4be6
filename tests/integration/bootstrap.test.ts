import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { isAlive } from '../../infra/embedded-mongo/running-process.ts';
import { eventually } from '../support/eventually.ts';
import { createScratchProject } from '../support/scratch-project.ts';

const onUnix = process.platform === 'win32' ? it.skip : it;

/** Says its arguments and each signal; ends half a second after the first one, unless it is stubborn. */
const program = `
console.log('running as', process.pid, 'with', process.argv.slice(2).join(','));
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    console.log('heard', signal);
    if (process.argv[2] !== 'stubborn') setTimeout(() => process.exit(7), 500);
  });
setInterval(() => undefined, 1000);
`;

describe('npm start and its likes', () => {
  let project: Awaited<ReturnType<typeof createScratchProject>>;

  beforeEach(async () => {
    project = await createScratchProject();
    await project.write('core/first.ts', 'export const first: number = 1;\n');
    await project.write('bench/main.ts', program);
  });
  afterEach(() => project.remove());

  async function build(): Promise<{ exitCode: number | null; output: string }> {
    const run = project.bootstrap('build');
    const exitCode = await run.exited;
    return { exitCode, output: run.output() };
  }
  async function startProgram(...programArguments: string[]) {
    const run = project.bootstrap('bench', ...programArguments);
    const pid = await eventually(() => {
      const said = /running as (\d+)/.exec(run.output())?.[1];
      expect(said).toBeDefined();
      return Number(said);
    });
    return { ...run, pid };
  }

  it('compile once, and not again while nothing changes', async () => {
    const first = await build();
    expect(first).toMatchObject({ exitCode: 0, output: expect.stringContaining('Compiling the server') });
    expect(await build()).toEqual({ exitCode: 0, output: '' });
  });

  it('compile what changed, and throw away what was compiled from a file that is gone', async () => {
    await project.write('core/second.ts', 'export const second: number = 2;\n');
    await build();
    expect(existsSync(join(project.path, 'dist', 'core', 'second.js'))).toBe(true);
    await rm(join(project.path, 'core', 'second.ts'));
    expect((await build()).output).toContain('Compiling the server');
    expect(existsSync(join(project.path, 'dist', 'core', 'second.js'))).toBe(false);
    expect(existsSync(join(project.path, 'dist', 'core', 'first.js'))).toBe(true);
  });

  it('stop at a mistake in the code, tell it, and try again next time', async () => {
    await project.write('core/first.ts', "export const first: number = 'one';\n");
    for (const { exitCode, output } of [await build(), await build()]) {
      expect(exitCode).toBe(1);
      expect(output).toContain('core/first.ts');
      expect(output).toContain('does not compile');
    }
  });

  it('run the program with the arguments they were given', async () => {
    const run = await startProgram('one', 'two');
    expect(run.output()).toContain('with one,two');
    run.child.kill('SIGTERM');
    await run.exited;
  });

  onUnix.each(['SIGINT', 'SIGTERM'] as const)(
    'pass one %s on to the program however often it comes at once, and end with its exit code',
    async (signal) => {
      const run = await startProgram();
      run.child.kill(signal);
      run.child.kill(signal);
      expect(await run.exited).toBe(7);
      expect(run.output().match(/heard/g)).toHaveLength(1);
    },
  );

  onUnix('end a program that does not stop, when they are asked a second time', async () => {
    const run = await startProgram('stubborn');
    run.child.kill('SIGINT');
    await eventually(() => {
      expect(run.output()).toContain('heard SIGINT');
    });
    // What comes at once counts as the same keystroke, so it is pressed until it counts.
    const again = setInterval(() => run.child.kill('SIGINT'), 100);
    expect(await run.exited).toBe(137);
    clearInterval(again);
    expect(isAlive(run.pid)).toBe(false);
  });

  onUnix('leave no program behind when they are killed', async () => {
    const run = await startProgram();
    run.child.kill('SIGKILL');
    await run.exited;
    await eventually(() => {
      expect(isAlive(run.pid)).toBe(false);
    });
  });

  it('say how they are used when the command is unknown', async () => {
    const run = project.bootstrap('dance');
    expect(await run.exited).toBe(1);
    expect(run.output()).toContain('start|test|bench|verify|build');
  });
});
