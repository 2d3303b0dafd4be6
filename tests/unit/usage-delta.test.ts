import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { usageSummaryContentSchema, type UsageSummaryContent } from '../../core/contracts/usage.ts';
import {
  addCounts,
  isZero,
  type TokenCounts,
  tokenKinds,
  zeroCounts,
} from '../../core/usage/token-counts.ts';
import {
  recordObservation,
  type UsageDelta,
  type UsageObservation,
  type UsageState,
} from '../../core/usage/usage-delta.ts';

type Counters = {
  model?: string;
  prompt_tokens?: number;
  completion_tokens?: number;
  cached_tokens?: number;
  reasoning_tokens?: number;
};
type Side = Counters[] | null;

const side = (counters: Side) => ({
  usages: counters?.map((each) => ({ model: 'm', prompt_tokens: 0, completion_tokens: 0, ...each })) ?? null,
  total_cost: null,
});

/** What a producer says: `actual`, and `total` where it is not the same. */
const content = (
  actual: Side,
  { total = actual, mode = 'both' }: { total?: Side; mode?: 'both' | 'total' } = {},
): UsageSummaryContent => ({
  uuid: 'u',
  actual: side(actual),
  total: side(total),
  mode,
});

const metered = (
  what: UsageSummaryContent,
  { client = 'c1', epoch = 1, run_id = 'r', seq = 1 } = {},
): UsageObservation => ({
  run_id,
  seq,
  agent: 'planner',
  meter: { client, epoch },
  content: what,
});
const unmetered = (what: UsageSummaryContent, seq: number, agent = 'planner'): UsageObservation => ({
  run_id: 'r',
  seq,
  agent,
  meter: null,
  content: what,
});

const newState = (): UsageState => ({ marks: [], unmetered: [] });
const counts = (some: Partial<TokenCounts>): TokenCounts => ({ ...zeroCounts(), ...some });
const sumOf = ({ deltas }: UsageDelta) => deltas.map((delta) => delta.counts).reduce(addCounts, zeroCounts());

/** Counts the observations in the given order, and says what was billed by model, and how far the finals stand above it. */
function bill(observations: readonly UsageObservation[], state = newState()) {
  const byModel = new Map<string, TokenCounts>();
  let excess = zeroCounts();
  for (const observation of observations) {
    const { deltas, finalExcessChange } = recordObservation(state, observation);
    for (const { model, counts: delta } of deltas) {
      for (const kind of tokenKinds) expect(delta[kind] >= 0n).toBe(true);
      expect(isZero(delta)).toBe(false);
      byModel.set(model, addCounts(byModel.get(model) ?? zeroCounts(), delta));
    }
    excess = addCounts(excess, finalExcessChange);
  }
  return { byModel: Object.fromEntries([...byModel].toSorted(([a], [b]) => (a < b ? -1 : 1))), excess };
}

const given = (...observations: UsageObservation[]) => ({
  when: (observation: UsageObservation) => {
    const state = newState();
    for (const each of observations) recordObservation(state, each);
    return sumOf(recordObservation(state, observation));
  },
});

describe('a metered client', () => {
  test('is billed how far its counters rose', () => {
    const first = metered(content([{ prompt_tokens: 100, completion_tokens: 10 }]));
    const next = metered(content([{ prompt_tokens: 250, completion_tokens: 30 }]));
    expect(given().when(first)).toEqual(counts({ prompt_tokens: 100n, completion_tokens: 10n }));
    expect(given(first).when(next)).toEqual(counts({ prompt_tokens: 150n, completion_tokens: 20n }));
  });

  test('a counter that grows alone is counted, whatever the others do', () => {
    const before = metered(content([{ prompt_tokens: 100, completion_tokens: 10, cached_tokens: 5 }]));
    for (const kind of ['prompt_tokens', 'completion_tokens', 'cached_tokens', 'reasoning_tokens'] as const) {
      const alone = metered(content([{ [kind]: 150 }]));
      expect(given(before).when(alone)[kind]).toBe(
        150n - { prompt_tokens: 100n, completion_tokens: 10n, cached_tokens: 5n, reasoning_tokens: 0n }[kind],
      );
      expect(given(before).when(alone)).toEqual(counts({ [kind]: given(before).when(alone)[kind] }));
    }
  });

  test('a decrease is never negative, and never a reset: its next epoch says so itself', () => {
    const high = metered(content([{ prompt_tokens: 100 }]));
    expect(given(high).when(metered(content([{ prompt_tokens: 40 }])))).toEqual(zeroCounts());
    expect(given(high).when(metered(content([{ prompt_tokens: 40 }]), { epoch: 2 }))).toEqual(
      counts({ prompt_tokens: 40n }),
    );
  });

  test('usages that are null are none yet, never a reset', () => {
    const high = metered(content([{ prompt_tokens: 100 }]));
    const none = metered(content(null));
    expect(given(high).when(none)).toEqual(zeroCounts());
    expect(given(high, none).when(metered(content([{ prompt_tokens: 110 }])))).toEqual(
      counts({ prompt_tokens: 10n }),
    );
  });

  test('another run, client, epoch or model is another counter', () => {
    const first = metered(content([{ prompt_tokens: 100 }]));
    const same = counts({ prompt_tokens: 100n });
    for (const other of [{ run_id: 'r2' }, { client: 'c2' }, { epoch: 2 }])
      expect(given(first).when(metered(content([{ prompt_tokens: 100 }]), other))).toEqual(same);
    expect(given(first).when(metered(content([{ model: 'm2', prompt_tokens: 100 }])))).toEqual(same);
    expect(given(first).when(first)).toEqual(zeroCounts());
  });

  test('completions from the cache (in total, not in actual) are not billed', () => {
    const cached = metered(content([{ prompt_tokens: 100 }], { total: [{ prompt_tokens: 900 }] }));
    expect(given().when(cached)).toEqual(counts({ prompt_tokens: 100n }));
  });

  test('a model named twice in one summary is one counter: the higher stands', () => {
    const twice = metered(content([{ prompt_tokens: 100 }, { prompt_tokens: 60, completion_tokens: 7 }]));
    expect(given().when(twice)).toEqual(counts({ prompt_tokens: 100n, completion_tokens: 7n }));
  });

  test('counters beyond 32 bits are counted exactly', () => {
    const most = Number.MAX_SAFE_INTEGER;
    const before = metered(content([{ prompt_tokens: most - 1 }]));
    expect(given(before).when(metered(content([{ prompt_tokens: most }])))).toEqual(
      counts({ prompt_tokens: 1n }),
    );
  });
});

describe('final totals', () => {
  const incremental = metered(content([{ prompt_tokens: 100 }]));
  const final = (prompt_tokens: number) => metered(content([{ prompt_tokens }], { mode: 'total' }));

  test('of a client that was billed step by step are never billed', () => {
    expect(given(incremental).when(final(100))).toEqual(zeroCounts());
    expect(given(incremental).when(final(150))).toEqual(zeroCounts());
    expect(bill([incremental, final(150)]).excess).toEqual(counts({ prompt_tokens: 50n }));
  });

  test('a summary that comes after them is still billed up to its own value', () => {
    const late = metered(content([{ prompt_tokens: 150 }]));
    expect(given(incremental, final(150)).when(late)).toEqual(counts({ prompt_tokens: 50n }));
    expect(bill([incremental, final(150), late]).excess).toEqual(zeroCounts());
  });

  test('of a producer that sends nothing else are billed, once', () => {
    expect(given().when(final(100))).toEqual(counts({ prompt_tokens: 100n }));
    expect(given(final(100)).when(final(100))).toEqual(zeroCounts());
    expect(given(final(100)).when(final(130))).toEqual(counts({ prompt_tokens: 30n }));
  });

  test('of a producer that knows no actual counters are its total ones', () => {
    const totalsOnly = metered(content(null, { total: [{ prompt_tokens: 80 }], mode: 'total' }));
    expect(given().when(totalsOnly)).toEqual(counts({ prompt_tokens: 80n }));
    expect(given(totalsOnly).when(totalsOnly)).toEqual(zeroCounts());
    expect(given(metered(content([{ prompt_tokens: 80 }]))).when(totalsOnly)).toEqual(zeroCounts());
  });

  test('before or after the summaries, they give the same bill', () => {
    const history = [40, 70, 100].map((prompt_tokens) => metered(content([{ prompt_tokens }])));
    for (let at = 0; at <= history.length; at += 1)
      expect(bill(history.toSpliced(at, 0, final(100)))).toEqual(bill(history));
  });
});

describe('a client without a meter', () => {
  const prompts = (...values: (number | null)[]) =>
    values.map((prompt_tokens, index) =>
      unmetered(content(prompt_tokens === null ? null : [{ prompt_tokens }]), index + 1),
    );
  const billed = (observations: readonly UsageObservation[]) =>
    bill(observations).byModel['m']?.prompt_tokens ?? 0n;

  test('is billed its growth, and all of it again after a restart', () => {
    expect(billed(prompts(10, 25, 5, 12))).toBe(25n + 12n);
  });

  test('usages that are null are no restart', () => {
    expect(billed(prompts(10, null, 15))).toBe(15n);
  });

  test('a restart that shows in one counter or one model is one of all', () => {
    const observations = [
      unmetered(content([{ prompt_tokens: 100, completion_tokens: 50 }]), 1),
      unmetered(content([{ prompt_tokens: 120, completion_tokens: 20 }]), 2),
    ];
    expect(bill(observations).byModel).toEqual({
      m: counts({ prompt_tokens: 220n, completion_tokens: 70n }),
    });
    const models = [
      unmetered(
        content([
          { model: 'a', prompt_tokens: 10 },
          { model: 'b', prompt_tokens: 10 },
        ]),
        1,
      ),
      unmetered(content([{ model: 'a', prompt_tokens: 15 }]), 2),
    ];
    expect(bill(models).byModel).toEqual({
      a: counts({ prompt_tokens: 25n }),
      b: counts({ prompt_tokens: 10n }),
    });
  });

  test('what arrives late lands where it belongs', () => {
    const [first, second, third] = prompts(10, 4, 9);
    if (first === undefined || second === undefined || third === undefined)
      throw new Error('three were made');
    for (const order of [
      [first, second, third],
      [second, first, third],
      [third, second, first],
      [third, first, second],
    ])
      expect(billed(order)).toBe(19n);
  });

  test('agents are told apart', () => {
    const observations = [
      unmetered(content([{ prompt_tokens: 10 }]), 1),
      unmetered(content([{ prompt_tokens: 4 }]), 2, 'writer'),
    ];
    expect(billed(observations)).toBe(14n);
  });

  test('final totals after its summaries are not billed; alone they are', () => {
    const [one, two] = prompts(10, 25);
    const final = unmetered(content([{ prompt_tokens: 25 }], { mode: 'total' }), 3);
    if (one === undefined || two === undefined) throw new Error('two were made');
    expect(billed([one, two, final])).toBe(25n);
    expect(billed([final, one, two])).toBe(25n);
    expect(billed([final, final])).toBe(25n);
  });
});

/* Histories as producers make them: counters of several clients and models that grow, and restart in a new epoch. */
const growth = fc.record({
  model: fc.constantFrom('gpt-4.1', 'org/model', 'm'),
  prompt_tokens: fc.nat(1000),
  completion_tokens: fc.nat(1000),
  cached_tokens: fc.nat(50),
  reasoning_tokens: fc.nat(50),
});
type Growth = {
  model: string;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  reasoning_tokens: number;
};
const step = fc.record({ client: fc.constantFrom('c1', 'c2'), grows: growth, restarts: fc.boolean() });
type HistoryStep = { client: string; grows: Growth; restarts: boolean };

const plus = (counters: readonly Growth[], more: Growth): Growth[] => {
  const before = counters.find(({ model }) => model === more.model);
  const sum = {
    model: more.model,
    prompt_tokens: (before?.prompt_tokens ?? 0) + more.prompt_tokens,
    completion_tokens: (before?.completion_tokens ?? 0) + more.completion_tokens,
    cached_tokens: (before?.cached_tokens ?? 0) + more.cached_tokens,
    reasoning_tokens: (before?.reasoning_tokens ?? 0) + more.reasoning_tokens,
  };
  return [...counters.filter(({ model }) => model !== more.model), sum];
};

/** The summaries that a history leads to, each with all counters so far, and what was really used. */
function played(steps: readonly HistoryStep[]): {
  observations: UsageObservation[];
  used: Record<string, TokenCounts>;
} {
  const clients = new Map<string, { epoch: number; counters: Growth[] }>();
  let used: Growth[] = [];
  const observations = steps.map(({ client, grows, restarts }, index) => {
    const before = clients.get(client) ?? { epoch: 1, counters: [] };
    const from = restarts ? { epoch: before.epoch + 1, counters: [] } : before;
    const now = { epoch: from.epoch, counters: plus(from.counters, grows) };
    clients.set(client, now);
    used = plus(used, grows);
    return metered(content(now.counters), { client, epoch: now.epoch, seq: index + 1 });
  });
  const usedCounts = used
    .toSorted((a, b) => (a.model < b.model ? -1 : 1))
    .map(({ model, ...each }): [string, TokenCounts] => [
      model,
      counts({
        prompt_tokens: BigInt(each.prompt_tokens),
        completion_tokens: BigInt(each.completion_tokens),
        cached_tokens: BigInt(each.cached_tokens),
        reasoning_tokens: BigInt(each.reasoning_tokens),
      }),
    ])
    .filter(([, each]) => !isZero(each));
  return { observations, used: Object.fromEntries(usedCounts) };
}

const history = fc.array(step, { maxLength: 30 });
const runs = { numRuns: 200 };

describe('every history', () => {
  test('of metered clients is billed exactly, in any order and however often each summary comes', () => {
    fc.assert(
      fc.property(
        history.chain((steps) => {
          const { observations, used } = played(steps);
          return fc.record({
            used: fc.constant(used),
            delivered: fc
              .shuffledSubarray([...observations, ...observations, ...observations], {
                minLength: observations.length * 3,
                maxLength: observations.length * 3,
              })
              .map((shuffled) => shuffled),
          });
        }),
        ({ used, delivered }) => {
          expect(bill(delivered)).toEqual({ byModel: used, excess: zeroCounts() });
        },
      ),
      runs,
    );
  });

  test('counted again from the same state bills nothing', () => {
    fc.assert(
      fc.property(history, (steps) => {
        const { observations } = played(steps);
        const state = newState();
        bill(observations, state);
        expect(bill(observations, state)).toEqual({ byModel: {}, excess: zeroCounts() });
      }),
      runs,
    );
  });

  test('that lost a summary in the middle is made good by the next', () => {
    fc.assert(
      fc.property(history, fc.nat(), (steps, seed) => {
        const { observations, used } = played(steps.map((each) => ({ ...each, restarts: false })));
        const last = new Map(observations.map((each) => [each.meter?.client, each]));
        const arrived = observations.filter(
          (each, index) => (index + seed) % 3 !== 0 || last.get(each.meter?.client) === each,
        );
        expect(bill(arrived).byModel).toEqual(used);
      }),
      runs,
    );
  });

  test('split into epochs anywhere gives the same totals', () => {
    fc.assert(
      fc.property(history, fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }), (steps, splits) => {
        const whole = played(steps.map((each) => ({ ...each, restarts: false })));
        const split = played(steps.map((each, index) => ({ ...each, restarts: splits[index] === true })));
        expect(bill(split.observations)).toEqual(bill(whole.observations));
      }),
      runs,
    );
  });

  test('gives the same bill wherever the final totals of its clients fall', () => {
    fc.assert(
      fc.property(history, fc.array(fc.nat(60), { minLength: 40, maxLength: 40 }), (steps, places) => {
        const { observations, used } = played(steps);
        const last = new Map(
          observations.map((each) => [`${each.meter?.client}~${each.meter?.epoch}`, each]),
        );
        const delivered = [...observations];
        for (const [index, each] of [...last.values()].entries())
          delivered.splice((places[index] ?? 0) % (delivered.length + 1), 0, {
            ...each,
            content: { ...each.content, mode: 'total' },
          });
        expect(bill(delivered)).toEqual({ byModel: used, excess: zeroCounts() });
      }),
      runs,
    );
  });

  test('of a client without a meter is billed exactly in order, also beyond 256 summaries', () => {
    const grows = fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 0, max: 9 })), {
      minLength: 1,
      maxLength: 700,
    });
    fc.assert(
      fc.property(grows, (steps) => {
        const state = newState();
        let [counter, used] = [0, 0n];
        for (const [index, [more, dice]] of steps.entries()) {
          // A restart that leaves the counter lower than it was can be seen; any other is what `unverifiable` is for.
          counter = dice === 0 && more < counter ? more : counter + more;
          used += BigInt(more);
          bill([unmetered(content([{ prompt_tokens: counter }]), index + 1)], state);
        }
        const [client] = state.unmetered;
        expect(client?.billed).toEqual([{ model: 'm', counts: counts({ prompt_tokens: used }) }]);
        expect(client?.observations.length).toBeLessThanOrEqual(256);
      }),
      { numRuns: 60 },
    );
  });

  test('of a client without a meter gives the same bill in every order', () => {
    const values = fc.uniqueArray(fc.nat(500), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(
        values.chain((each) =>
          fc.tuple(
            fc.constant(
              each.map((prompt_tokens, index) => unmetered(content([{ prompt_tokens }]), index + 1)),
            ),
            fc.shuffledSubarray(
              each.map((_, index) => index),
              { minLength: each.length, maxLength: each.length },
            ),
          ),
        ),
        ([observations, order]) => {
          const shuffled = order.flatMap((index) => observations[index] ?? []);
          expect(bill(shuffled)).toEqual(bill(observations));
        },
      ),
      runs,
    );
  });
});

test('a summary is counted only when every number in it is one', () => {
  for (const bad of [-1, 0.5, Number.NaN, Infinity, 2 ** 53, null, '7', true]) {
    const usage = { model: 'm', prompt_tokens: 1, completion_tokens: 1 };
    const wrong = {
      uuid: 'u',
      actual: { usages: [{ ...usage, prompt_tokens: bad }] },
      total: { usages: [usage] },
    };
    expect(usageSummaryContentSchema.safeParse(wrong).success).toBe(false);
  }
});
