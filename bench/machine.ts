import { readFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { projectRoot } from '../infra/project-root.ts';
import { runCommand } from '../infra/run-command.ts';
import { findTestMongod } from '../tests/support/test-mongod.ts';

/** Where a measurement was made, and with what: without it a number says nothing. */
export async function describeMachine(): Promise<string[]> {
  const processors = cpus();
  const { version } = z
    .object({ version: z.string() })
    .parse(JSON.parse(await readFile(join(projectRoot(), 'package.json'), 'utf8')));
  const mongod = await runCommand(await findTestMongod(), ['--version'], { timeoutMs: 10_000 });
  return [
    `${processors.length} × ${processors[0]?.model ?? 'unknown processor'}, ${(totalmem() / 2 ** 30).toFixed(1)} GiB of memory, ${process.platform} ${release()}`,
    `Mozaiks Runtime ${version}, Node ${process.versions.node}, mongod ${/db version v(\S+)/.exec(mongod.output)?.[1] ?? 'unknown'}`,
  ];
}
