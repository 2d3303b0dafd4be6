/** One benchmark: what it measures, in words for docs/BENCHMARKS.md, and how. */
export type Benchmark = {
  readonly name: string;
  readonly title: string;
  readonly explanation: string;
  run: (bench: BenchContext) => Promise<void>;
};

export type BenchContext = {
  /** A line for people. */
  say: (line: string) => void;
  /** What programs look for: ours against the other's, both measured in this run. */
  ratio: (ratio: Ratio) => void;
  /** Where the measured servers write a CPU profile (`--cpu-prof-dir`); profiling makes them slower. */
  readonly profileFolder: string | undefined;
};

export type Ratio = {
  readonly name: string;
  readonly ours: number;
  readonly theirs: number;
  readonly unit: string;
  readonly other: string;
};

export function formatRatio({ name, ours, theirs, unit, other }: Ratio): string {
  return `ratio ${name} ${(ours / theirs).toFixed(2)} (${ours.toFixed(2)} ${unit} vs ${other} ${theirs.toFixed(2)} ${unit})`;
}
