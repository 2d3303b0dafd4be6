import { type ChildProcess, spawn } from 'node:child_process';
import { cp, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { projectRoot } from '../../infra/project-root.ts';
import { createTemporaryFolder } from './temporary-folder.ts';

type ScratchProject = {
  write: (path: string, content: string) => Promise<void>;
  bootstrap: (command: string, ...more: string[]) => BootstrapRun;
  path: string;
  remove: () => Promise<void>;
};
type BootstrapRun = {
  readonly child: ChildProcess;
  output: () => string;
  readonly exited: Promise<number | null>;
};

/** A tiny checkout with the real bootstrap and the real packages, whose program is whatever a test needs. */
export async function createScratchProject(): Promise<ScratchProject> {
  const folder = await createTemporaryFolder();
  const here = (...parts: string[]) => join(folder.path, ...parts);
  const real = (...parts: string[]) => join(projectRoot(), ...parts);
  for (const file of ['package.json', 'package-lock.json']) await cp(real(file), here(file));
  await cp(real('infra', 'bootstrap.mjs'), here('infra', 'bootstrap.mjs'));
  await cp(real('infra', 'bootstrap'), here('infra', 'bootstrap'), { recursive: true });
  // A folder of links and not one link: the bootstrap keeps its stamps in it.
  await mkdir(here('node_modules'));
  for (const name of await readdir(real('node_modules')))
    if (name !== '.mozaiks' && name !== '.package-lock.json')
      await symlink(real('node_modules', name), here('node_modules', name), 'junction');
  await cp(real('node_modules', '.package-lock.json'), here('node_modules', '.package-lock.json'));

  const write = async (path: string, content: string) => {
    await mkdir(dirname(here(path)), { recursive: true });
    await writeFile(here(path), content);
  };
  await write(
    'tsconfig.json',
    JSON.stringify({
      compilerOptions: {
        module: 'nodenext',
        target: 'es2023',
        outDir: 'dist',
        rootDir: '.',
        types: ['node'],
      },
      include: ['core', 'infra', 'bench'],
    }),
  );
  return {
    path: folder.path,
    write,
    remove: folder.remove,
    bootstrap: (command, ...more) => {
      const child = spawn(process.execPath, [here('infra', 'bootstrap.mjs'), command, ...more], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, npm_lifecycle_event: undefined },
      });
      let output = '';
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
      const exited = new Promise<number | null>((resolve) => {
        child.once('close', resolve);
      });
      return { child, output: () => output, exited };
    },
  };
}
