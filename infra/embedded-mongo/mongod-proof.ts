import { existsSync } from 'node:fs';
import { runCommand } from '../run-command.ts';

const oldestMajor = 6;

export type MongodProof =
  | { readonly kind: 'runs'; readonly version: string }
  | { readonly kind: 'does_not_run'; readonly reason: string };

/** Runs `mongod --version`: a binary for another system, or one whose libraries are missing, is found out here. */
export async function proveMongod(binary: string, progress: (line: string) => void): Promise<MongodProof> {
  const proof = await runVersion(binary);
  if (proof.kind === 'runs' || !/libcurl\.so\.4/.test(proof.reason)) return proof;
  if (!isRootOnDebian())
    return { kind: 'does_not_run', reason: 'needs the library libcurl4 (apt-get install libcurl4)' };
  progress('mongod needs libcurl4: installing it with apt-get');
  await runCommand('apt-get', ['update'], { timeoutMs: 120_000 });
  const install = await runCommand('apt-get', ['install', '-y', '--no-install-recommends', 'libcurl4'], {
    timeoutMs: 300_000,
  });
  if (install.kind === 'failed')
    return { kind: 'does_not_run', reason: `needs libcurl4, and apt-get install failed: ${install.reason}` };
  return runVersion(binary);
}

async function runVersion(binary: string): Promise<MongodProof> {
  const outcome = await runCommand(binary, ['--version'], { timeoutMs: 20_000 });
  if (outcome.kind === 'failed') return { kind: 'does_not_run', reason: outcome.reason };
  const version = /db version v(?<version>(?<major>\d+)\.[\w.-]+)/.exec(outcome.output)?.groups;
  if (version === undefined)
    return { kind: 'does_not_run', reason: 'does not say its version as mongod does' };
  if (Number(version['major']) < oldestMajor)
    return {
      kind: 'does_not_run',
      reason: `version ${version['version'] ?? ''} is too old, ${oldestMajor}.0 is needed`,
    };
  return { kind: 'runs', version: version['version'] ?? '' };
}

function isRootOnDebian(): boolean {
  return process.getuid?.() === 0 && existsSync('/etc/debian_version');
}
