import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { z } from 'zod';
import { type Envelope, envelopeSchema } from '../../core/contracts/agent-events.ts';
import { readAg2V1Event } from '../../core/events/ag2-v1-dialect.ts';

/** `tests/fixtures/ag2-v1` holds events of real AG2 1.2.1 runs, beside what the provider billed. */
const totalsSchema = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  cached_tokens: z.int(),
  reasoning_tokens: z.int(),
});

function readFixture(name: string): { envelopes: Envelope[]; billed: z.infer<typeof totalsSchema> } {
  const read = (file: string) =>
    readFileSync(new URL(`../fixtures/ag2-v1/${file}`, import.meta.url), 'utf8').trim();
  return {
    envelopes: read(`${name}.jsonl`)
      .split('\n')
      .map((line) => envelopeSchema.parse(JSON.parse(line))),
    billed: z.object({ totals: totalsSchema }).parse(JSON.parse(read(`${name}.billed.json`))).totals,
  };
}

function envelope(type: string, content: Record<string, unknown>): Envelope {
  return envelopeSchema.parse({
    v: 1,
    dialect: 'ag2/1.2.1',
    chat_id: 'chat',
    run_id: 'run',
    seq: 1,
    ts: '2026-11-22T20:12:47.841Z',
    agent: 'planner',
    meter: null,
    event: { type, content: { uuid: 'event-1', ...content } },
  });
}

const usageEvent = (usage: Record<string, unknown>, more: Record<string, unknown> = {}) =>
  envelope('ag2.events.types.UsageEvent', {
    kind: 'model_call',
    model: 'gpt-4o-mini',
    provider: 'openai',
    parts: [],
    usage: { __dataclass__: 'ag2.events.types.Usage', data: usage },
    ...more,
  });

const spent = (usage: Record<string, unknown>, more?: Record<string, unknown>) => {
  const reading = readAg2V1Event(usageEvent(usage, more));
  return reading !== null && 'usage' in reading ? reading.usage : reading;
};

describe('the usage of captured runs', () => {
  test.each(['delegation', 'stream'])('%s: the sum of the UsageEvents is the bill', (name) => {
    const { envelopes, billed } = readFixture(name);
    const usages = envelopes.flatMap((each) => {
      const reading = readAg2V1Event(each);
      return reading !== null && 'usage' in reading ? [reading.usage] : [];
    });
    const sum = (field: 'prompt_tokens' | 'completion_tokens' | 'cached_tokens' | 'reasoning_tokens') =>
      usages.reduce((total, usage) => total + usage[field], 0);
    expect(sum('prompt_tokens')).toBe(billed.prompt_tokens);
    expect(sum('completion_tokens')).toBe(billed.completion_tokens);
    expect(sum('prompt_tokens') + sum('completion_tokens')).toBe(billed.total_tokens);
    expect(sum('cached_tokens')).toBe(billed.cached_tokens);
    expect(sum('reasoning_tokens')).toBe(billed.reasoning_tokens);
    expect(new Set(usages.map(({ uuid }) => uuid)).size).toBe(usages.length);
    expect(new Set(usages.map(({ model }) => model))).toEqual(new Set(['gpt-4o-mini']));
  });

  test('a reply that the provider reported nothing for has a text and no usage', () => {
    const readings = readFixture('unreported').envelopes.map((each) => readAg2V1Event(each));
    expect(readings.filter((reading) => reading !== null)).toEqual([
      { known: expect.objectContaining({ type: 'text' }) },
    ]);
  });

  test('nothing of a captured run is refused', () => {
    for (const name of ['delegation', 'stream', 'unreported'])
      for (const each of readFixture(name).envelopes)
        expect(readAg2V1Event(each) ?? {}).not.toHaveProperty('refused');
  });
});

describe('what people see of captured runs', () => {
  test('each reply is said once, tools are called and answer, and a failing tool is shown as failed', () => {
    const known = readFixture('delegation').envelopes.flatMap((each) => {
      const reading = readAg2V1Event(each);
      return reading !== null && 'known' in reading ? [reading.known] : [];
    });
    expect(known.map(({ type }) => type)).toEqual([
      'tool_call',
      'tool_call',
      'executed_function',
      'executed_function',
      'tool_call',
      'executed_function',
      'text',
    ]);
    expect(known.at(-1)).toMatchObject({
      content: {
        sender: 'planner',
        content: 'It rains in Lima, and the record is 40 degrees.',
        role: 'assistant',
      },
    });
    const results = known.flatMap((event) => (event.type === 'executed_function' ? [event.content] : []));
    expect(results.map((result) => result.is_exec_success)).toEqual([true, false, true]);
    expect(results[0]).toMatchObject({ func_name: 'look_outside', content: 'Lima: 7 degrees, rain' });
    expect(known[0]).toMatchObject({
      content: { tool_calls: [{ function: { name: 'look_outside', arguments: '{"city":"Lima"}' } }] },
    });
  });

  test('a streamed reply is said once, not in pieces', () => {
    const known = readFixture('stream').envelopes.map((each) => readAg2V1Event(each));
    expect(known.filter((reading) => reading !== null && 'known' in reading)).toHaveLength(1);
  });
});

describe('a UsageEvent', () => {
  test('may write whole numbers as floats', () => {
    expect(spent({ prompt_tokens: 12.0, completion_tokens: 3e2 })).toMatchObject({
      uuid: 'event-1',
      model: 'gpt-4o-mini',
      prompt_tokens: 12,
      completion_tokens: 300,
    });
  });

  test.each([[1.5], [-1], [2 ** 53], ['7'], [Infinity], [true]])(
    'that says %p tokens is refused',
    (tokens) => {
      expect(spent({ prompt_tokens: tokens, completion_tokens: 1 })).toMatchObject({
        refused: { code: 'invalid_usage' },
      });
    },
  );

  test('without counts, or of a kind nobody knows, is refused or counts nothing', () => {
    expect(readAg2V1Event(envelope('ag2.events.types.UsageEvent', {}))).toMatchObject({
      refused: { code: 'invalid_usage' },
    });
    expect(spent({ prompt_tokens: 1 }, { kind: 'rollup_of_rollups' })).toMatchObject({
      refused: { code: 'invalid_usage' },
    });
    expect(spent({ prompt_tokens: null })).toMatchObject({ prompt_tokens: 0, completion_tokens: 0 });
  });

  test.each(['model_call', 'subtask', 'compaction', 'aggregation'])('of the kind %s counts', (kind) => {
    expect(spent({ prompt_tokens: 5 }, { kind })).toMatchObject({ prompt_tokens: 5 });
  });

  test('is the same under the name it has inside classic AG2', () => {
    const reading = readAg2V1Event(
      envelope('autogen.beta.events.types.UsageEvent', { usage: { prompt_tokens: 5 }, model: null }),
    );
    expect(reading).toMatchObject({ usage: { prompt_tokens: 5, model: 'unknown' } });
  });

  test('of a provider that counts its cache beside the prompt has it added to the prompt', () => {
    const usage = {
      prompt_tokens: 10,
      completion_tokens: 7,
      cache_read_input_tokens: 100,
      cache_creation_input_tokens: 20,
      thinking_tokens: 3,
    };
    expect(spent(usage, { provider: 'anthropic' })).toMatchObject({
      prompt_tokens: 130,
      completion_tokens: 7,
      cached_tokens: 100,
      cache_write_tokens: 20,
      reasoning_tokens: 3,
    });
    expect(spent(usage, { provider: 'google' })).toMatchObject({ prompt_tokens: 10, completion_tokens: 10 });
    expect(spent(usage, { provider: 'openai' })).toMatchObject({ prompt_tokens: 10, completion_tokens: 7 });
  });

  test('that sums up several providers is corrected by its parts, which are never added to it', () => {
    const part = (provider: string, usage: Record<string, number>) => ({
      __event__: 'ag2.events.types.UsageEvent',
      provider,
      model: 'm',
      usage: { __dataclass__: 'ag2.events.types.Usage', data: usage },
    });
    const parts = [
      part('anthropic', { prompt_tokens: 10, completion_tokens: 5, cache_read_input_tokens: 90 }),
      part('openai', { prompt_tokens: 20, completion_tokens: 5 }),
    ];
    const sum = { prompt_tokens: 30, completion_tokens: 10, cache_read_input_tokens: 90 };
    const facts = { kind: 'subtask', provider: null, model: null };
    expect(spent(sum, { ...facts, parts })).toMatchObject({ prompt_tokens: 120, completion_tokens: 10 });
    // Parts that do not add up to the sum say nothing about it.
    expect(spent({ prompt_tokens: 31 }, { ...facts, parts })).toMatchObject({ prompt_tokens: 31 });
    expect(spent({ prompt_tokens: 31 }, { ...facts, parts: ['nonsense'] })).toMatchObject({
      prompt_tokens: 31,
    });
  });
});

describe('other events', () => {
  test('usage that is repeated elsewhere is not counted', () => {
    const usage = { __dataclass__: 'ag2.events.types.Usage', data: { prompt_tokens: 5 } };
    expect(readAg2V1Event(envelope('ag2.events.types.ModelResponse', { message: null, usage }))).toBeNull();
    expect(readAg2V1Event(envelope('ag2.events.task_events.TaskCompleted', { usage }))).toBeNull();
  });

  test('a summary of cumulative counters in such a run is refused: one of the two would count twice', () => {
    expect(readAg2V1Event(envelope('usage_summary', { actual: {}, total: {} }))).toMatchObject({
      refused: { code: 'invalid_usage' },
    });
  });

  test('the end of a run and its failure come in the classic shapes, from the bridge', () => {
    expect(readAg2V1Event(envelope('run_completion', { result: 'success' }))).toMatchObject({
      known: { type: 'run_completion', content: { result: 'success' } },
    });
    expect(readAg2V1Event(envelope('error', { error: 'ValueError: no' }))).toMatchObject({
      known: { type: 'error' },
    });
    expect(readAg2V1Event(envelope('run_completion', { result: 'perhaps' }))).toHaveProperty('refused');
  });

  test('any other event is kept and shown as nothing', () => {
    for (const type of ['ag2.events.types.ModelMessage', 'ag2.events.alert.HaltEvent', 'my.app.Event', 'x'])
      expect(readAg2V1Event(envelope(type, { content: 'hello' }))).toBeNull();
  });
});
