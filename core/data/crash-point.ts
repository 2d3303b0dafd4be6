/**
 * Where a process may die while it commits a batch, in the order of the steps. Fault tests set
 * `MOZAIKS_CRASH_AT=<name>` (or `<name>:<n>`) and the process is killed, as by `kill -9`, at the first (or n-th) time
 * it passes there. Without the variable nothing happens.
 */
export const crashPointNames = [
  'before_transaction',
  'after_read',
  'after_sessions',
  'after_ledger',
  'after_events',
  'after_wallets',
  'before_commit',
  'after_commit',
  'after_publish',
] as const;
export type CrashPointName = (typeof crashPointNames)[number];

const [crashAt, passes] = (process.env['MOZAIKS_CRASH_AT'] ?? '').split(':');
let passesLeft = Number(passes ?? 1);

export function crashPoint(name: CrashPointName): void {
  if (name !== crashAt) return;
  passesLeft -= 1;
  if (passesLeft === 0) process.kill(process.pid, 'SIGKILL');
}
