import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** A path in the checkout, wherever the command was called from. */
export function inProject(...parts) {
  return join(root, ...parts);
}
