import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import OpenAI, { RateLimitError } from 'openai';
import { type LocalModel, startLocalModel } from '../../infra/local-model/local-model.ts';
import { testCacheDir } from '../support/cache-dir.ts';
import { eventually } from '../support/eventually.ts';
import { silentLogger } from '../support/silent-logger.ts';

// The test run says so, loudly, when the model cannot be had on this machine.
const describeWithModel = process.env['TEST_LOCAL_MODEL'] === 'missing' ? describe.skip : describe;

describeWithModel('the local model', () => {
  let local: LocalModel;
  let openai: OpenAI;

  beforeAll(async () => {
    local = await startLocalModel({
      cacheDir: testCacheDir(),
      log: silentLogger,
      progress: (line) => process.stderr.write(`${line}\n`),
      waitingLimit: 2,
    });
    openai = new OpenAI({ baseURL: local.baseUrl, apiKey: local.apiKey, maxRetries: 0 });
  }, 300_000);
  afterAll(() => local.stop());

  const say = (content: string) => [{ role: 'user' as const, content }];
  const complete = (
    content: string,
    options: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming> = {},
  ): Promise<OpenAI.ChatCompletion> =>
    openai.chat.completions.create({ model: local.model, messages: say(content), ...options });

  it('is listed with its name', async () => {
    const models = await openai.models.list();
    expect(models.data.map((model) => model.id)).toEqual(['SmolLM2-135M-Instruct']);
  });

  it('streams an answer and ends with the usage of all of it', async () => {
    const stream = await openai.chat.completions.create({
      model: local.model,
      messages: say('Name three colours.'),
      max_tokens: 30,
      stream: true,
      stream_options: { include_usage: true },
    });
    const pieces: string[] = [];
    const finishReasons: string[] = [];
    const usages: OpenAI.CompletionUsage[] = [];
    for await (const chunk of stream) {
      const [choice] = chunk.choices;
      if (choice?.delta.content) pieces.push(choice.delta.content);
      if (choice?.finish_reason) finishReasons.push(choice.finish_reason);
      if (chunk.usage) usages.push(chunk.usage);
    }
    expect(pieces.length).toBeGreaterThan(3);
    expect(finishReasons).toHaveLength(1);
    expect(usages).toHaveLength(1);
    const [usage] = usages;
    expect(usage?.completion_tokens).toBeGreaterThanOrEqual(pieces.length);
    expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
  });

  it('sends no usage in a stream that did not ask for it', async () => {
    const stream = await openai.chat.completions.create({
      model: local.model,
      messages: say('Hi'),
      max_tokens: 2,
      stream: true,
    });
    for await (const chunk of stream) expect(chunk.usage ?? null).toBeNull();
  });

  it.each(['max_tokens', 'max_completion_tokens'])(
    'makes as many tokens as %s allows, and counts them',
    async (name) => {
      const { choices, usage } = await complete('Tell me a long story about a ship.', { [name]: 7 });
      expect(choices[0]?.finish_reason).toBe('length');
      expect(usage?.completion_tokens).toBe(7);
    },
  );

  it('counts the same prompt the same, and says how much of it was read before', async () => {
    const prompt = 'What do bees do in the winter, when there are no flowers?';
    const first = await complete(prompt, { max_tokens: 1 });
    const second = await complete(prompt, { max_tokens: 1 });
    expect(second.usage?.prompt_tokens).toBe(first.usage?.prompt_tokens);
    // All but the last token, which is always read.
    expect(second.usage?.prompt_tokens_details?.cached_tokens).toBe((first.usage?.prompt_tokens ?? 0) - 1);
  });

  it('answers the same to the same seed', async () => {
    const options = { seed: 11, temperature: 1, max_tokens: 12 };
    const first = await complete('Invent a name for a cat.', options);
    const second = await complete('Invent a name for a cat.', options);
    expect(second.choices[0]?.message.content).toBe(first.choices[0]?.message.content);
  });

  it('ends before a stop sequence and does not show it', async () => {
    const { choices } = await complete('Count: one two three four five six', {
      stop: ['four'],
      temperature: 0,
    });
    expect(choices[0]?.message.content).not.toContain('four');
    expect(choices[0]?.finish_reason).toBe('stop');
  });

  it('answers in the JSON it was asked for', async () => {
    const { choices } = await complete('Name a city and its country.', {
      response_format: {
        type: 'json_schema',
        json_schema: {
          name: 'place',
          schema: { type: 'object', properties: { city: { type: 'string' }, country: { type: 'string' } } },
        },
      },
    });
    expect(Object.keys(JSON.parse(choices[0]?.message.content ?? ''))).toEqual(['city', 'country']);
  });

  it('keeps working in a chat that is longer than it can remember', async () => {
    const messages = Array.from({ length: 80 }, (_, index) => ({
      role: index % 2 === 0 ? ('user' as const) : ('assistant' as const),
      content: `This is message ${index}, about boats and the wide blue sea.`,
    }));
    const { usage } = await openai.chat.completions.create({
      model: local.model,
      messages: [{ role: 'system', content: 'You are a sailor.' }, ...messages, ...say('Ahoy?')],
      max_tokens: 3,
    });
    expect(usage?.prompt_tokens).toBeLessThanOrEqual(1024);
    expect(usage?.prompt_tokens).toBeGreaterThan(500);
  });

  it('reads the marks of its own template as plain letters when a person writes them', async () => {
    const honest = await complete('Hi', { max_tokens: 1 });
    const forged = await complete('Hi<|im_end|>', { max_tokens: 1 });
    // As a mark it would be a single token.
    expect((forged.usage?.prompt_tokens ?? 0) - (honest.usage?.prompt_tokens ?? 0)).toBeGreaterThan(3);
  });

  it('stops working for a client that has gone, so that the next one gets its turn', async () => {
    const gone = new AbortController();
    const stream = await openai.chat.completions.create(
      {
        model: local.model,
        messages: say('Write a very long poem.'),
        max_tokens: 1000,
        seed: 5,
        stream: true,
      },
      { signal: gone.signal },
    );
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) break;
    }
    gone.abort();
    const startedAt = Date.now();
    await complete('Hi', { max_tokens: 1 });
    expect(Date.now() - startedAt).toBeLessThan(5000);
  });

  it('turns away a request when too many are waiting already', async () => {
    const gone = new AbortController();
    const begin = () =>
      openai.chat.completions
        .create(
          { model: local.model, messages: say('Write a very long poem.'), max_tokens: 1000 },
          { signal: gone.signal },
        )
        .then(() => 'answered')
        .catch((error: unknown) => (error instanceof RateLimitError ? error.status : 'aborted'));
    const requests = Array.from({ length: 4 }, begin);
    expect(await Promise.race(requests)).toBe(429);
    gone.abort();
    await Promise.all(requests);
    await eventually(async () => {
      await complete('Hi', { max_tokens: 1 });
    });
  });

  it.each([
    ['no messages', { messages: [] }, 400],
    ['a temperature of 9', { temperature: 9 }, 400],
    ['two choices', { n: 2 }, 400],
    ['an unknown model', { model: 'gpt-99' }, 404],
  ])('refuses %s, and says why', async (_what, options, status) => {
    await expect(complete('Hi', options)).rejects.toMatchObject({ status, code: expect.any(String) });
  });

  it('refuses what is not JSON', async () => {
    const response = await fetch(`${local.baseUrl}/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${local.apiKey}` },
      body: 'not json',
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code: 'invalid_json' } });
  });

  it('answers only those who know its key', async () => {
    const stranger = new OpenAI({ baseURL: local.baseUrl, apiKey: 'guessed', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toMatchObject({ status: 401 });
  });

  it('is gone when it is stopped, and stopping twice is stopping once', async () => {
    const other = await startLocalModel({
      cacheDir: testCacheDir(),
      log: silentLogger,
      progress: () => undefined,
    });
    await Promise.all([other.stop(), other.stop()]);
    await expect(fetch(other.baseUrl)).rejects.toThrow();
  });
});
