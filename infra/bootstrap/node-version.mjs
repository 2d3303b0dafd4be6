import { BootstrapError } from './bootstrap-error.mjs';

const least = [20, 19];

export function requireNodeVersion(version) {
  const [major, minor] = version.split('.').map(Number);
  if (major > least[0] || (major === least[0] && minor >= least[1])) return;
  throw new BootstrapError(
    `Node ${version} is too old: ${least.join('.')} or newer is needed.\n` +
      'Install a newer one (https://nodejs.org, or `nvm install 22`), then run the same command again.',
  );
}
