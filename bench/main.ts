// `npm run bench` runs every benchmark and writes docs/BENCHMARKS.md; `npm run bench -- road` runs one and writes nothing.
// `--profile FOLDER` has the measured servers leave a CPU profile there.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { projectRoot } from '../infra/project-root.ts';
import { type Benchmark, formatRatio } from './benchmark.ts';
import { ledger } from './ledger.ts';
import { describeMachine } from './machine.ts';
import { road } from './road.ts';
import { start } from './start.ts';

const benchmarks: readonly Benchmark[] = [road, start, ledger];

const { values, positionals } = parseArgs({
  options: { profile: { type: 'string' } },
  allowPositionals: true,
});
const print = (line: string) => process.stdout.write(`${line}\n`);

async function runOne({ name, title, run }: Benchmark): Promise<{ lines: string[]; ratios: string[] }> {
  print(`\n${name}: ${title}`);
  const lines: string[] = [];
  const ratios: string[] = [];
  await run({
    profileFolder: values.profile,
    say: (line) => {
      print(`  ${line}`);
      lines.push(line);
    },
    ratio: (ratio) => ratios.push(formatRatio(ratio)),
  });
  return { lines, ratios };
}

async function runAll(): Promise<void> {
  const machine = await describeMachine();
  const sections: string[] = [];
  const allRatios: string[] = [];
  for (const benchmark of benchmarks) {
    const { lines, ratios } = await runOne(benchmark);
    allRatios.push(...ratios);
    sections.push(
      `## ${benchmark.title}\n\n${benchmark.explanation}\n\n\`\`\`\n${[...lines, '', ...ratios].join('\n')}\n\`\`\`\n`,
    );
  }
  const header = `# Benchmarks

Written by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}; run it to have the numbers of your own machine. \`npm run bench -- road\` runs one of them. Times depend on the machine and on what else it does; the ratios compare two sides that took turns in the same run.

${machine.map((line) => `- ${line}`).join('\n')}
`;
  await writeFile(join(projectRoot(), 'docs', 'BENCHMARKS.md'), [header, ...sections].join('\n'));
  print('\ndocs/BENCHMARKS.md is written.');
  for (const ratio of allRatios) print(ratio);
}

const wanted = benchmarks.filter(({ name }) => positionals.includes(name));
if (positionals.length === 0) await runAll();
else if (wanted.length < positionals.length) {
  print(`The benchmarks are: ${benchmarks.map(({ name }) => name).join(', ')}.`);
  process.exitCode = 1;
} else for (const benchmark of wanted) for (const ratio of (await runOne(benchmark)).ratios) print(ratio);
