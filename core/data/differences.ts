import type { Difference, DifferenceKind } from '../contracts/verification.ts';

/** Differences found so far: all are counted, the first of each kind are kept, so that one flood hides no others. */
export class Differences {
  readonly #keptOfEach: number;
  readonly #counts = new Map<DifferenceKind, number>();
  readonly #kept: Difference[] = [];

  constructor(keptOfEach: number) {
    this.#keptOfEach = keptOfEach;
  }

  get kept(): readonly Difference[] {
    return this.#kept;
  }

  get total(): number {
    return [...this.#counts.values()].reduce((sum, count) => sum + count, 0);
  }

  get counts(): Partial<Record<DifferenceKind, number>> {
    return Object.fromEntries(this.#counts);
  }

  add(kind: DifferenceKind, id: string, expected: unknown, found: unknown, detail: string): void {
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    if (count <= this.#keptOfEach)
      this.#kept.push({ kind, id, expected: textOf(expected), found: textOf(found), detail });
  }

  addAll(other: Differences): void {
    for (const [kind, count] of other.#counts) {
      const had = this.#counts.get(kind) ?? 0;
      this.#counts.set(kind, had + count);
      this.#kept.push(
        ...other.#kept.filter((each) => each.kind === kind).slice(0, Math.max(0, this.#keptOfEach - had)),
      );
    }
  }
}

const textOf = (value: unknown): string | null =>
  value === null || value === undefined
    ? null
    : typeof value === 'string'
      ? value
      : typeof value === 'bigint' || typeof value === 'number'
        ? String(value)
        : JSON.stringify(value);
