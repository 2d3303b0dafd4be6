import type { UsageSummaryContent } from '../contracts/usage.ts';
import {
  addCounts,
  countsOf,
  growthOf,
  isBelow,
  isZero,
  maxCounts,
  type TokenCounts,
  zeroCounts,
} from './token-counts.ts';

/**
 * The counting rules (docs/EVENT_ARCHITECTURE.md, "Counting"), pure. A summary is an observation of cumulative
 * counters; what is billed is how far they rose above everything seen before. Each result is a function of the *set*
 * of observations, so repeats, re-orderings and races give the same totals.
 *
 * A metered client names its counter (run, client, epoch): its state is one high-water mark per model. An unmetered
 * client (a producer that sends no meter) can restart unseen: its state is the observations themselves, in the
 * producer's order, so that a late one still lands where it belongs.
 */
export type UsageMark = {
  run_id: string;
  client: string;
  epoch: number;
  model: string;
  /** What was billed so far: the highest counters seen. */
  billed: TokenCounts;
  /** The highest counters of `mode: "total"` summaries. Never billed when the client also sends incremental ones. */
  final: TokenCounts | null;
  /** Whether an incremental summary of this client was ever counted. */
  incremental: boolean;
  /** `total` for a producer that reports nothing but totals including cached completions. */
  basis: 'actual' | 'total';
};

export type UnmeteredClient = {
  run_id: string;
  agent: string;
  incremental: boolean;
  /** By the producer's sequence number. Beyond {@link observationLimit} the oldest is folded into `settled`. */
  observations: Observation[];
  /** The sum up to the last observation that left; what comes from before it is too late to be placed, and ignored. */
  settled: { totals: { model: string; counts: TokenCounts }[]; last: Observation } | null;
  billed: { model: string; counts: TokenCounts }[];
  final: { model: string; counts: TokenCounts }[];
};

type Observation = { seq: number; models: { model: string; counts: TokenCounts }[] };

export type UsageState = { marks: UsageMark[]; unmetered: UnmeteredClient[] };

export type UsageObservation = {
  run_id: string;
  seq: number;
  agent: string;
  meter: { client: string; epoch: number } | null;
  content: UsageSummaryContent;
};

export type ModelDelta = { model: string; counts: TokenCounts };

export type UsageDelta = {
  /** Growth to bill, by model; empty when nothing grew. */
  deltas: ModelDelta[];
  /** How far final marks stand above billing marks now, less how far they stood before; may be negative. */
  finalExcessChange: TokenCounts;
};

const observationLimit = 256;

/** Counts one summary into `state` (changed in place) and says what grew. */
export function recordObservation(state: UsageState, observation: UsageObservation): UsageDelta {
  return observation.meter === null
    ? recordUnmetered(state, observation)
    : recordMetered(state, { ...observation, meter: observation.meter });
}

function recordMetered(
  state: UsageState,
  { run_id, meter, content }: UsageObservation & { meter: { client: string; epoch: number } },
): UsageDelta {
  const marks = state.marks.filter(
    (mark) => mark.run_id === run_id && mark.client === meter.client && mark.epoch === meter.epoch,
  );
  const isTotal = content.mode === 'total';
  const { models, basis } = countedSide(
    content,
    marks.some((mark) => mark.basis === 'actual'),
  );
  const incremental = marks.some((mark) => mark.incremental) || (!isTotal && models.length > 0);
  const newMark = (model: string): UsageMark => ({
    run_id,
    client: meter.client,
    epoch: meter.epoch,
    model,
    billed: zeroCounts(),
    final: null,
    incremental,
    basis,
  });
  if (!isTotal && models.length === 0) {
    // Nothing but cached completions so far: remembered, or the client's final total would bill them.
    for (const { model } of content.total.usages ?? [])
      if (!marks.some((mark) => mark.model === model)) state.marks.push(newMark(model));
  }
  const deltas: ModelDelta[] = [];
  let finalExcessChange = zeroCounts();
  for (const { model, counts } of models) {
    let mark = marks.find((each) => each.model === model);
    if (mark === undefined) {
      mark = newMark(model);
      state.marks.push(mark);
      marks.push(mark);
    }
    const excessBefore = excessOf(mark.billed, mark.final);
    if (isTotal) mark.final = maxCounts(mark.final ?? zeroCounts(), counts);
    if (!isTotal || !incremental) {
      const growth = growthOf(mark.billed, counts);
      if (!isZero(growth)) deltas.push({ model, counts: growth });
      mark.billed = maxCounts(mark.billed, counts);
    }
    finalExcessChange = addCounts(
      finalExcessChange,
      difference(excessOf(mark.billed, mark.final), excessBefore),
    );
  }
  if (incremental) for (const mark of marks) mark.incremental = true;
  return { deltas, finalExcessChange };
}

function recordUnmetered(state: UsageState, { run_id, agent, seq, content }: UsageObservation): UsageDelta {
  let client = state.unmetered.find((each) => each.run_id === run_id && each.agent === agent);
  if (client === undefined) {
    client = { run_id, agent, incremental: false, observations: [], settled: null, billed: [], final: [] };
    state.unmetered.push(client);
  }
  const isTotal = content.mode === 'total';
  const { models } = countedSide(content, client.incremental);
  if (!isTotal) client.incremental = true;
  const excessBefore = unmeteredExcess(client);
  if (isTotal) for (const { model, counts } of models) raise(client.final, model, counts);
  const deltas = isTotal && client.incremental ? [] : billUnmetered(client, seq, models);
  return { deltas, finalExcessChange: difference(unmeteredExcess(client), excessBefore) };
}

function billUnmetered(client: UnmeteredClient, seq: number, models: ModelDelta[]): ModelDelta[] {
  if (models.length === 0 || (client.settled !== null && seq <= client.settled.last.seq)) return [];
  const at = client.observations.findLastIndex((observation) => observation.seq <= seq);
  client.observations.splice(at + 1, 0, { seq, models });
  const deltas: ModelDelta[] = [];
  for (const { model, counts } of sumSegments(client.settled, client.observations)) {
    const growth = growthOf(findCounts(client.billed, model), counts);
    if (isZero(growth)) continue;
    deltas.push({ model, counts: growth });
    raise(client.billed, model, counts);
  }
  if (client.observations.length > observationLimit) {
    const oldest = client.observations.splice(0, 1);
    const totals = sumSegments(client.settled, oldest);
    for (const last of oldest) client.settled = { totals, last };
  }
  return deltas;
}

/** Sums an unmetered client's counters over its restarts: when one fell, or is gone, all began again at zero. */
function sumSegments(
  settled: UnmeteredClient['settled'],
  observations: readonly Observation[],
): ModelDelta[] {
  const totals = settled?.totals.map((each) => ({ ...each })) ?? [];
  let previous = settled?.last.models ?? [];
  for (const { models } of observations) {
    const before = previous;
    const restarted = before.some(({ model, counts }) => isBelow(findCounts(models, model), counts));
    for (const { model, counts } of models) {
      const since = restarted ? counts : growthOf(findCounts(before, model), counts);
      const total = totals.find((each) => each.model === model);
      if (total === undefined) totals.push({ model, counts: since });
      else total.counts = addCounts(total.counts, since);
    }
    previous = models;
  }
  return totals;
}

/** `actual` is what is billed. A producer of nothing but totals has no `actual`: then its `total` counts. */
function countedSide(
  content: UsageSummaryContent,
  hasActual: boolean,
): { models: ModelDelta[]; basis: 'actual' | 'total' } {
  const totalsOnly = content.mode === 'total' && content.actual.usages === null && !hasActual;
  const usages = (totalsOnly ? content.total.usages : content.actual.usages) ?? [];
  const models: ModelDelta[] = [];
  // A model named twice in one summary is one counter reported twice, so the higher stands.
  for (const usage of usages) raise(models, usage.model, countsOf(usage));
  return { models, basis: totalsOnly ? 'total' : 'actual' };
}

const findCounts = (list: ModelDelta[], model: string): TokenCounts =>
  list.find((each) => each.model === model)?.counts ?? zeroCounts();

function raise(list: ModelDelta[], model: string, counts: TokenCounts): void {
  const found = list.find((each) => each.model === model);
  if (found === undefined) list.push({ model, counts });
  else found.counts = maxCounts(found.counts, counts);
}

const excessOf = (billed: TokenCounts, final: TokenCounts | null): TokenCounts =>
  final === null ? zeroCounts() : growthOf(billed, final);

function unmeteredExcess(client: UnmeteredClient): TokenCounts {
  return client.final
    .map(({ model, counts }) => growthOf(findCounts(client.billed, model), counts))
    .reduce(addCounts, zeroCounts());
}

function difference(after: TokenCounts, before: TokenCounts): TokenCounts {
  return {
    prompt_tokens: after.prompt_tokens - before.prompt_tokens,
    completion_tokens: after.completion_tokens - before.completion_tokens,
    cached_tokens: after.cached_tokens - before.cached_tokens,
    cache_write_tokens: after.cache_write_tokens - before.cache_write_tokens,
    reasoning_tokens: after.reasoning_tokens - before.reasoning_tokens,
  };
}
