import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { inProject } from './project.mjs';

/** What was true when a step was last done. Lies in node_modules: who deletes that, wants everything done anew. */
const stampFile = (step) => inProject('node_modules', '.mozaiks', step);

export function readStamp(step) {
  try {
    return readFileSync(stampFile(step), 'utf8');
  } catch {
    return undefined;
  }
}

export function writeStamp(step, stamp) {
  mkdirSync(dirname(stampFile(step)), { recursive: true });
  writeFileSync(stampFile(step), stamp);
}

/** Path, size and time of change of each file: as good as its content here, and a hundred times faster. */
export function stampOf(files) {
  const hash = createHash('sha256');
  for (const file of files) {
    const { size, mtimeMs } = statSync(file);
    hash.update(`${file}\0${size}\0${mtimeMs}\n`);
  }
  return hash.digest('hex');
}

/** All files in a folder, without what is installed, built or hidden. A folder that does not exist has none. */
export function listFiles(folder, files = []) {
  let entries;
  try {
    entries = readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (error.code === 'ENOENT') return files;
    throw error;
  }
  for (const entry of entries) {
    if (entry.name.startsWith('.') || entry.name === 'node_modules' || entry.name === 'dist') continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) listFiles(path, files);
    else if (entry.isFile()) files.push(path);
  }
  return files;
}
