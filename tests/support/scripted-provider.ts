import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import {
  agentOf,
  completionRequestSchema,
  planCompletion,
  scriptStepSchema,
  usageUpTo,
  type CompletionPlan,
  type CompletionRequest,
  type CompletionUsage,
  type ScriptStep,
} from './scripted-provider-step.ts';

/**
 * A deterministic OpenAI-compatible server for tests, demos and benchmarks. It bills, streams, fails and stalls on
 * request, and its `bill` is the truth that token accounting is compared with.
 *
 * Without a script every completion is answered with words derived from the request (or like `answer`). With a
 * script completions take its steps in order of arrival; a call that no step is left for, or that its step's
 * `expect` refuses, is answered 500 (not to be retried) and makes `expectAllStepsRead` throw.
 *
 * A completion is billed once, when it ends: in full before its last byte is sent, or, when the client went away or
 * the step cut the connection, its prompt and the share of the reply that had been sent. Errors bill nothing.
 */
export type ScriptedProviderOptions = {
  script?: ScriptStep[];
  /** How completions are answered when there is no script. */
  answer?: ScriptStep | ((request: CompletionRequest) => ScriptStep);
  /** Default: everything in one write, or one chunk per write when there is a delay between chunks. */
  chunksPerWrite?: number;
  models?: string[];
  port?: number;
  host?: string;
};

export type BilledCompletion = {
  n: number;
  id: string;
  model: string;
  agent?: string;
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  cached_tokens?: number;
  reasoning_tokens?: number;
  stream: boolean;
  /** The client went away before the end; `ended_at_ms` says when that was noticed. */
  aborted: boolean;
  /** Whether the client was told. The others were billed in silence: cut, aborted, or `usage: 'missing'`. */
  usage_reported: boolean;
  started_at_ms: number;
  ended_at_ms: number;
};

export type StalledCompletion = { id: string; chunksSent: number; release: () => void };

/** Bodies beyond this many are forgotten, oldest first, so that long benchmarks do not fill the memory. */
const requestsKept = 10_000;
/** A fixed time: the same request gets the same bytes. */
const createdSeconds = 1_750_000_000;
const defaultModels = [
  'gpt-4',
  'gpt-4-turbo',
  'gpt-4o',
  'gpt-4o-mini',
  'gpt-3.5-turbo',
  'SmolLM2-135M-Instruct',
];

export async function startScriptedProvider(
  options: ScriptedProviderOptions = {},
): Promise<ScriptedProvider> {
  const provider = new ScriptedProvider(options);
  await provider.listen();
  return provider;
}

type Exchange = {
  id: string;
  request: CompletionRequest;
  model: string;
  agent: string | undefined;
  step: ScriptStep;
  plan: CompletionPlan;
  response: ServerResponse;
  /** Aborted when the client goes away, or the provider stops, before the answer is complete. */
  gone: AbortSignal;
  startedAtMs: number;
};

export class ScriptedProvider {
  readonly bill: BilledCompletion[] = [];
  readonly requests: CompletionRequest[] = [];
  readonly #options: ScriptedProviderOptions;
  #script: ScriptStep[] | undefined;
  #stepsTaken = 0;
  #asked = 0;
  #completions = 0;
  #violations: string[] = [];
  #stalled: StalledCompletion[] = [];
  readonly #stalling = new Set<StalledCompletion>();
  readonly #changes = new EventEmitter().setMaxListeners(0);
  readonly #stopping = new AbortController();
  #stopped: Promise<void> | undefined;
  readonly #server = createServer((request, response) => {
    this.#answer(request, response).catch((error: unknown) => {
      response.destroy();
      // A client that left in the middle of its own request did nothing that a test wants to hear of.
      if (request.complete) this.#violations.push(`the provider itself failed: ${String(error)}`);
    });
  });

  constructor(options: ScriptedProviderOptions) {
    this.#options = options;
    this.#script = options.script;
  }

  async listen(): Promise<void> {
    this.#server.listen(this.#options.port ?? 0, this.#options.host ?? '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** The server's root: the endpoint of an Azure client, and of `/bill`, `/script` and `/release`. */
  get url(): string {
    const address = this.#server.address();
    if (address === null || typeof address === 'string')
      throw new Error('the scripted provider is not listening');
    return `http://${address.address.includes(':') ? `[${address.address}]` : address.address}:${address.port}`;
  }

  get baseUrl(): string {
    return `${this.url}/v1`;
  }

  /** Begins a new script; `undefined` returns to answering everything. Violations so far are kept. */
  setScript(steps: ScriptStep[] | undefined): void {
    this.#script = steps;
    this.#stepsTaken = 0;
  }

  totals(isCounted: (line: BilledCompletion) => boolean = () => true) {
    const totals = {
      calls: 0,
      prompt_tokens: 0,
      completion_tokens: 0,
      total_tokens: 0,
      cached_tokens: 0,
      reasoning_tokens: 0,
    };
    for (const line of this.bill.filter(isCounted)) {
      totals.calls += 1;
      totals.prompt_tokens += line.prompt_tokens;
      totals.completion_tokens += line.completion_tokens;
      totals.total_tokens += line.total_tokens;
      totals.cached_tokens += line.cached_tokens ?? 0;
      totals.reasoning_tokens += line.reasoning_tokens ?? 0;
    }
    return totals;
  }

  /** The next completion that fell silent after its chunks were sent; each is handed out once. */
  async stalled(): Promise<StalledCompletion> {
    for (;;) {
      const next = this.#stalled.shift();
      if (next !== undefined) return next;
      await once(this.#changes, 'stalled', { signal: this.#stopping.signal });
    }
  }

  /** Lets every completion that is silent now go on. */
  release(): void {
    for (const completion of this.#stalling) completion.release();
  }

  /** Resolves once the bill has that many lines; an aborted completion gets its line when the abort is noticed. */
  async untilBilled(count: number): Promise<void> {
    while (this.bill.length < count) await once(this.#changes, 'billed', { signal: this.#stopping.signal });
  }

  /** Resolves once that many completions were asked for. */
  async untilAsked(count: number): Promise<void> {
    while (this.#asked < count) await once(this.#changes, 'asked', { signal: this.#stopping.signal });
  }

  expectAllStepsRead(): void {
    const problems = this.#problems();
    if (problems.length > 0) throw new Error(`The script was not followed:\n- ${problems.join('\n- ')}`);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#close();
    return this.#stopped;
  }

  async #close(): Promise<void> {
    this.#stopping.abort();
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #problems(): string[] {
    const unread = (this.#script ?? []).slice(this.#stepsTaken);
    return [
      ...this.#violations,
      ...unread.map(
        (step, index) => `step ${this.#stepsTaken + index + 1} was never asked for: ${summary(step)}`,
      ),
    ];
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
    const body = request.method === 'POST' ? await text(request) : '';
    const deployment = /^\/openai\/deployments\/([^/]+)\/chat\/completions$/.exec(pathname)?.[1];
    if (deployment !== undefined && request.method === 'POST') {
      if (request.headers['api-key'] === undefined && request.headers.authorization === undefined) {
        return sendError(response, { status: 401, message: 'an api-key header is required' });
      }
      if (!searchParams.has('api-version')) {
        return sendError(response, { status: 404, message: 'api-version is required' });
      }
      return this.#complete(request, response, body, decodeURIComponent(deployment));
    }
    switch (`${request.method} ${pathname}`) {
      case 'POST /v1/chat/completions':
        return this.#complete(request, response, body, undefined);
      case 'GET /v1/models':
        return sendJson(response, 200, {
          object: 'list',
          data: (this.#options.models ?? defaultModels).map((id) => ({
            id,
            object: 'model',
            created: createdSeconds,
            owned_by: 'scripted-provider',
          })),
        });
      case 'GET /bill':
        return sendJson(response, 200, {
          bill: this.bill,
          totals: this.totals(),
          script_problems: this.#problems(),
        });
      case 'POST /script': {
        const steps = z.array(scriptStepSchema).nullable().safeParse(parseJson(body));
        if (!steps.success)
          return sendError(response, { status: 400, message: z.prettifyError(steps.error) });
        this.setScript(steps.data ?? undefined);
        return sendJson(response, 200, { steps: steps.data?.length ?? null });
      }
      case 'POST /release':
        this.release();
        return sendJson(response, 200, {});
      default:
        return sendError(response, { status: 404, message: `no such path: ${request.method} ${pathname}` });
    }
  }

  async #complete(
    incoming: IncomingMessage,
    response: ServerResponse,
    body: string,
    deployment: string | undefined,
  ): Promise<void> {
    const startedAtMs = Date.now();
    const parsed = completionRequestSchema.safeParse(parseJson(body));
    if (!parsed.success) return sendError(response, { status: 400, message: z.prettifyError(parsed.error) });
    const request = parsed.data;
    this.#asked += 1;
    this.requests.push(request);
    if (this.requests.length > requestsKept) this.requests.shift();
    this.#changes.emit('asked');

    const step = this.#nextStep(request);
    if (typeof step === 'string') {
      this.#violations.push(step);
      return sendError(response, { status: 500, message: step }, { 'x-should-retry': 'false' });
    }
    const header = incoming.headers['x-agent'];
    this.#completions += 1;
    const id = `chatcmpl-${String(this.#completions).padStart(5, '0')}`;
    const disconnected = new AbortController();
    response.once('close', () => {
      if (!response.writableEnded) disconnected.abort();
    });
    const exchange: Exchange = {
      id,
      request,
      model: request.model ?? deployment ?? 'scripted',
      agent: typeof header === 'string' ? header : agentOf(request),
      step,
      plan: planCompletion(id, request, step),
      response,
      gone: disconnected.signal,
      startedAtMs,
    };
    if (step.delayMs !== undefined) await pause(step.delayMs, exchange.gone);
    if (step.error !== undefined) return sendError(response, step.error);
    return request.stream === true ? this.#stream(exchange) : this.#reply(exchange);
  }

  /** A text instead of a step says what the caller did wrong. */
  #nextStep(request: CompletionRequest): ScriptStep | string {
    if (this.#script === undefined) {
      const { answer = {} } = this.#options;
      return typeof answer === 'function' ? answer(request) : answer;
    }
    const step = this.#script[this.#stepsTaken];
    if (step === undefined) {
      return `unexpected completion: all ${this.#stepsTaken} steps of the script were taken (asked by ${agentOf(request) ?? 'nobody named'})`;
    }
    this.#stepsTaken += 1;
    try {
      return step.expect?.(request) === false ? `step ${this.#stepsTaken} refused its request` : step;
    } catch (error) {
      return `step ${this.#stepsTaken} refused its request: ${String(error)}`;
    }
  }

  async #reply(exchange: Exchange): Promise<void> {
    const { id, model, step, plan, response, gone } = exchange;
    if (step.stallAfterChunks !== undefined) await this.#stall(exchange, 0);
    if (gone.aborted) return this.#end(exchange, usageUpTo(plan, 0), { aborted: true, reported: false });
    if (step.failAfterChunks !== undefined) {
      this.#end(exchange, usageUpTo(plan, 0), { aborted: false, reported: false });
      response.destroy();
      return;
    }
    const isReported = step.usage !== 'missing';
    this.#end(exchange, plan.usage, { aborted: false, reported: isReported });
    sendJson(response, 200, {
      id,
      object: 'chat.completion',
      created: createdSeconds,
      model,
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: plan.content,
            refusal: null,
            ...(plan.toolCalls.length > 0 && { tool_calls: plan.toolCalls }),
          },
          logprobs: null,
          finish_reason: plan.finishReason,
        },
      ],
      ...(isReported && { usage: plan.usage }),
    });
  }

  async #stream(exchange: Exchange): Promise<void> {
    const { request, step, plan, response, gone } = exchange;
    response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
    });
    const isUsageAsked = request.stream_options?.include_usage === true;
    const isUsageOnClosingChunk = step.usageInChunkWithChoices === true;
    const isReported = step.usage !== 'missing' && (isUsageAsked || isUsageOnClosingChunk);
    const opening = `data: {"id":${JSON.stringify(exchange.id)},"object":"chat.completion.chunk","created":${createdSeconds},"model":${JSON.stringify(exchange.model)},`;
    const noUsageYet = isUsageAsked ? ',"usage":null}\n\n' : '}\n\n';
    const usage = `,"usage":${JSON.stringify(plan.usage)}}\n\n`;
    const line = (deltaJson: string, finishReason: string | null, ending = noUsageYet) =>
      `${opening}"choices":[{"index":0,"delta":${deltaJson},"logprobs":null,"finish_reason":${JSON.stringify(finishReason)}}]${ending}`;

    const isPaced = step.delayPerChunkMs !== undefined;
    const chunksPerWrite = this.#options.chunksPerWrite ?? (isPaced ? 1 : Infinity);
    const stops = [step.failAfterChunks, step.stallAfterChunks].filter((stop) => stop !== undefined);
    let sentChunks = 0;
    let pending = line('{"role":"assistant","content":""}', null);
    const flush = async () => {
      await write(response, pending, gone);
      pending = '';
    };
    for (let chunk = 0; ; chunk += 1) {
      // A stop that lies behind the last chunk still stops, before the closing chunk.
      const isLast = chunk === plan.deltasJson.length;
      const isDue = (stop: number | undefined) =>
        stop === chunk || (isLast && stop !== undefined && stop > chunk);
      if (stops.some(isDue)) {
        await flush();
        sentChunks = chunk;
        if (isDue(step.stallAfterChunks)) await this.#stall(exchange, chunk);
        if (isDue(step.failAfterChunks) && !gone.aborted) {
          this.#end(exchange, usageUpTo(plan, chunk), { aborted: false, reported: false });
          response.destroy();
          return;
        }
      }
      const deltaJson = plan.deltasJson[chunk];
      if (deltaJson === undefined || gone.aborted) break;
      if (step.delayPerChunkMs !== undefined) await pause(step.delayPerChunkMs, gone);
      if (gone.aborted) break;
      pending += line(deltaJson, null);
      // Without pauses nobody can leave in mid-write: what is joined to one write counts as sent with it.
      if ((chunk + 1) % chunksPerWrite === 0) {
        await flush();
        sentChunks = chunk + 1;
      }
    }
    if (gone.aborted) {
      return this.#end(exchange, usageUpTo(plan, sentChunks), { aborted: true, reported: false });
    }
    pending += line('{}', plan.finishReason, isUsageOnClosingChunk && isReported ? usage : noUsageYet);
    if (isReported && !isUsageOnClosingChunk) pending += `${opening}"choices":[]${usage}`;
    this.#end(exchange, plan.usage, { aborted: false, reported: isReported });
    response.end(`${pending}data: [DONE]\n\n`);
  }

  async #stall({ id, gone }: Exchange, chunksSent: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const release = () => {
        this.#stalling.delete(completion);
        resolve();
      };
      const completion: StalledCompletion = { id, chunksSent, release };
      this.#stalling.add(completion);
      this.#stalled.push(completion);
      gone.addEventListener('abort', release, { once: true });
      if (gone.aborted) release();
      this.#changes.emit('stalled');
    });
  }

  #end(
    exchange: Exchange,
    usage: CompletionUsage,
    { aborted, reported }: { aborted: boolean; reported: boolean },
  ) {
    const cachedTokens = usage.prompt_tokens_details?.cached_tokens;
    const reasoningTokens = usage.completion_tokens_details?.reasoning_tokens;
    this.bill.push({
      n: this.bill.length + 1,
      id: exchange.id,
      model: exchange.model,
      ...(exchange.agent !== undefined && { agent: exchange.agent }),
      prompt_tokens: usage.prompt_tokens,
      completion_tokens: usage.completion_tokens,
      total_tokens: usage.total_tokens,
      ...(cachedTokens !== undefined && { cached_tokens: cachedTokens }),
      ...(reasoningTokens !== undefined && { reasoning_tokens: reasoningTokens }),
      stream: exchange.request.stream === true,
      aborted,
      usage_reported: reported,
      started_at_ms: exchange.startedAtMs,
      ended_at_ms: Date.now(),
    });
    this.#changes.emit('billed');
  }
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

function sendError(
  response: ServerResponse,
  { status, code, message, retryAfterSeconds }: NonNullable<ScriptStep['error']>,
  headers: Record<string, string> = {},
): void {
  if (retryAfterSeconds !== undefined) response.setHeader('retry-after', String(retryAfterSeconds));
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  sendJson(response, status, {
    error: {
      message: message ?? `the script says ${status}`,
      type: status === 429 ? 'rate_limit_error' : status < 500 ? 'invalid_request_error' : 'server_error',
      param: null,
      code: code ?? null,
    },
  });
}

/** Waits for the bytes to leave, so that a connection cut right after still delivers them. */
function write(response: ServerResponse, chunk: string, gone: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      gone.removeEventListener('abort', done);
      resolve();
    };
    gone.addEventListener('abort', done);
    if (gone.aborted) done();
    else response.write(chunk, done);
  });
}

/** Ends early, without an error, when the client is gone. */
async function pause(durationMs: number, gone: AbortSignal): Promise<void> {
  await sleep(durationMs, undefined, { signal: gone }).catch(() => undefined);
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function summary(step: ScriptStep): string {
  return JSON.stringify(step).slice(0, 120);
}
