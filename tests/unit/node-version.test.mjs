import { describe, expect, it } from '@jest/globals';
import { requireNodeVersion } from '../../infra/bootstrap/node-version.mjs';

describe('the Node version', () => {
  it.each(['20.19.0', '20.20.2', '22.0.0', '26.1.0'])('%s is new enough', (version) => {
    requireNodeVersion(version);
  });
  it.each(['18.20.4', '20.9.0', '20.18.3'])('%s is too old, and the message says what to do', (version) => {
    expect(() => requireNodeVersion(version)).toThrow(/20\.19 or newer[\s\S]*Install/);
  });
});
