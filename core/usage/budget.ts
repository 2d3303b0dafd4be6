import type { BudgetRequest } from '../contracts/budgets.ts';

/** Budgets, pure: whom they concern, which window a moment is in, and which thresholds were crossed. */
export type BudgetDocument = Omit<BudgetRequest, 'limit'> & {
  _id: string;
  limit: bigint;
  created_at: Date;
  updated_at: Date;
};

/** What is being spent on, as far as budgets look at it. */
export type SpendFacts = {
  app_id: string;
  user_id: string;
  chat_id: string;
  workflow_name: string;
  model: string;
};

/** The subject a budget counts these facts under; undefined when it does not concern them. */
export function subjectOf(
  budget: Pick<BudgetDocument, 'app_id' | 'scope' | 'subject'>,
  facts: SpendFacts,
): string | undefined {
  if (budget.app_id !== facts.app_id) return undefined;
  const own = subjectIn(budget.scope, facts);
  return budget.subject === '*' || budget.subject === own ? own : undefined;
}

function subjectIn(scope: BudgetDocument['scope'], facts: SpendFacts): string {
  switch (scope) {
    case 'app':
      return facts.app_id;
    case 'user':
      return facts.user_id;
    case 'chat':
      return facts.chat_id;
    case 'model':
      return facts.model;
    case 'workflow':
      return facts.workflow_name;
  }
}

/** The window a moment falls into, and when the next one begins (null: never). */
export function windowAt(
  window: BudgetDocument['window'],
  timeZone: string,
  at: Date,
): { key: string; endsAt: Date | null } {
  if (window === 'total') return { key: 'total', endsAt: null };
  const { year, month, day } = dateIn(timeZone, at);
  return window === 'day'
    ? { key: `${year}-${pad(month)}-${pad(day)}`, endsAt: midnightIn(timeZone, year, month, day + 1) }
    : { key: `${year}-${pad(month)}`, endsAt: midnightIn(timeZone, year, month + 1, 1) };
}

const pad = (value: number): string => String(value).padStart(2, '0');

function dateIn(timeZone: string, at: Date): { year: number; month: number; day: number } {
  const wall = wallClock(timeZone, at);
  return { year: wall.getUTCFullYear(), month: wall.getUTCMonth() + 1, day: wall.getUTCDate() };
}

/** The moment at which the given date begins in a time zone; months and days may run over. */
function midnightIn(timeZone: string, year: number, month: number, day: number): Date {
  const wanted = Date.UTC(year, month - 1, day);
  let moment = wanted;
  // The offset is that of the moment looked for, which a first guess may miss by a change of the clocks.
  for (let round = 0; round < 2; round += 1)
    moment = wanted - (wallClock(timeZone, new Date(moment)).getTime() - moment);
  return new Date(moment);
}

/** What a clock on the wall shows there, as if it were UTC. */
function wallClock(timeZone: string, at: Date): Date {
  const parts = new Map(
    formatterFor(timeZone)
      .formatToParts(at)
      .map(({ type, value }) => [type, Number(value)]),
  );
  const part = (name: Intl.DateTimeFormatPartTypes) => parts.get(name) ?? 0;
  return new Date(
    Date.UTC(part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second')),
  );
}

const formatters = new Map<string, Intl.DateTimeFormat>();

function formatterFor(timeZone: string): Intl.DateTimeFormat {
  let formatter = formatters.get(timeZone);
  if (formatter === undefined) {
    formatter = new Intl.DateTimeFormat('en-US', {
      timeZone,
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    });
    formatters.set(timeZone, formatter);
  }
  return formatter;
}

const thresholds = [50, 80, 95, 100] as const;

/** The highest threshold (in percent) that `used` has reached of `limit`; 0 when none. */
export function thresholdReached(used: bigint, limit: bigint): number {
  return thresholds.findLast((threshold) => used * 100n >= limit * BigInt(threshold)) ?? 0;
}
