import OpenAI, {
  APIError,
  APIUserAbortError,
  APIConnectionError,
  APIConnectionTimeoutError,
  AzureOpenAI,
} from 'openai';
import type { ChatCompletionMessageParam } from 'openai/resources/chat/completions';
import type { LlmConfig } from '../config/llm-config.ts';
import type { CallUsage } from './usage-meter.ts';

export type ChatMessage = { role: 'system' | 'user' | 'assistant'; content: string };

export type CompletionRequest = {
  model: string;
  messages: readonly ChatMessage[];
  temperature?: number | undefined;
  max_tokens?: number | undefined;
  signal: AbortSignal;
  onDelta: (delta: string) => void;
};

export type Completion = {
  text: string;
  /** The name the response carries (`gpt-4o-mini-2024-07-18`), which is what is billed. */
  model: string;
  /** Null when the provider reported none: the reply is then unaccounted for, never free and never estimated. */
  usage: CallUsage | null;
  latencyMs: number;
};

export type LlmErrorType =
  | 'provider_unauthorized'
  | 'provider_rate_limited'
  | 'provider_refused'
  | 'provider_unavailable'
  | 'provider_timeout'
  | 'cancelled';

/** A model call that failed; `message` says what to do. Retries with backoff were made where they make sense. */
export class LlmError extends Error {
  readonly code: LlmErrorType;
  readonly retryable: boolean;
  readonly latencyMs: number;
  /** What the provider had reported by then: it is billed like that of a call that went well. */
  readonly reported: Pick<Completion, 'model' | 'usage'>;
  constructor(
    code: LlmErrorType,
    message: string,
    facts: {
      retryable: boolean;
      latencyMs: number;
      cause: unknown;
      reported: Pick<Completion, 'model' | 'usage'>;
    },
  ) {
    super(message, { cause: facts.cause });
    this.name = 'LlmError';
    this.code = code;
    this.retryable = facts.retryable;
    this.latencyMs = facts.latencyMs;
    this.reported = facts.reported;
  }
}

export type LlmClient = {
  readonly defaultModel: string;
  /** @throws LlmError */
  streamChat: (request: CompletionRequest) => Promise<Completion>;
};

/** Models through the `openai` SDK: OpenAI, Azure OpenAI, and every server that speaks its API. */
export function createLlmClient(config: LlmConfig): LlmClient {
  const sdk = openSdk(config);
  return {
    defaultModel: config.defaultModel,
    async streamChat({ model, messages, temperature, max_tokens, signal, onDelta }) {
      const startedAt = performance.now();
      let text = '';
      let reportedModel = model;
      let usage: CallUsage | null = null;
      let isSilent = false;
      const failure = (cause: unknown) =>
        toLlmError(cause, config, {
          latencyMs: performance.now() - startedAt,
          reported: { model: reportedModel, usage },
        });
      try {
        const stream = await sdk.chat.completions.create(
          {
            model,
            messages: messages.map(toParam),
            stream: true,
            stream_options: { include_usage: true },
            ...(temperature === undefined ? {} : { temperature }),
            ...(max_tokens === undefined ? {} : { max_tokens }),
          },
          { signal },
        );
        // The SDK's own limit ends with the first byte; a provider that falls silent later would hold the run for ever.
        const silence = setTimeout(() => {
          isSilent = true;
          stream.controller.abort();
        }, config.timeoutMs);
        try {
          for await (const chunk of stream) {
            silence.refresh();
            if (chunk.model !== '') reportedModel = chunk.model;
            const delta = chunk.choices[0]?.delta?.content;
            if (delta !== undefined && delta !== null && delta !== '') {
              text += delta;
              onDelta(delta);
            }
            // Usage stands in a last chunk without choices; some servers put it into one with choices.
            if (chunk.usage != null) usage = usageOf(chunk.usage);
          }
        } finally {
          clearTimeout(silence);
        }
      } catch (cause) {
        throw failure(cause);
      }
      // The SDK ends an aborted stream as if it were complete.
      if (signal.aborted) throw failure(new APIUserAbortError());
      if (isSilent) throw failure(new APIConnectionTimeoutError());
      return { text, model: reportedModel, usage, latencyMs: performance.now() - startedAt };
    },
  };
}

/** Stands in where no model can be had: the server runs, and every reply says what to do about it. */
export function missingLlmClient(reason: string): LlmClient {
  return {
    defaultModel: 'none',
    streamChat: () =>
      Promise.reject(
        new LlmError('provider_unavailable', reason, {
          retryable: false,
          latencyMs: 0,
          cause: undefined,
          reported: { model: 'none', usage: null },
        }),
      ),
  };
}

function openSdk({ kind, baseUrl, apiKey, azureApiVersion, timeoutMs, maxRetries }: LlmConfig): OpenAI {
  const options = { apiKey, timeout: timeoutMs, maxRetries };
  return kind === 'azure'
    ? new AzureOpenAI({ ...options, endpoint: baseUrl, apiVersion: azureApiVersion ?? '2024-10-21' })
    : new OpenAI({ ...options, baseURL: baseUrl });
}

function toParam({ role, content }: ChatMessage): ChatCompletionMessageParam {
  return { role, content };
}

function usageOf(usage: OpenAI.CompletionUsage): CallUsage {
  return {
    prompt_tokens: usage.prompt_tokens,
    completion_tokens: usage.completion_tokens,
    cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    reasoning_tokens: usage.completion_tokens_details?.reasoning_tokens ?? 0,
  };
}

function toLlmError(
  cause: unknown,
  config: LlmConfig,
  facts: Pick<LlmError, 'latencyMs' | 'reported'>,
): LlmError {
  const fail = (code: LlmErrorType, message: string, retryable: boolean) =>
    new LlmError(code, message, { ...facts, retryable, cause });
  const keyName = config.kind === 'azure' ? 'AZURE_OPENAI_API_KEY' : 'OPENAI_API_KEY';
  if (cause instanceof APIUserAbortError) return fail('cancelled', 'The call was cancelled.', false);
  if (cause instanceof APIConnectionTimeoutError)
    return fail(
      'provider_timeout',
      `The model did not answer in ${config.timeoutMs / 1000} s. Try again, or raise LLM_TIMEOUT_SEC.`,
      true,
    );
  if (cause instanceof APIConnectionError)
    return fail(
      'provider_unavailable',
      `The model provider at ${hostOf(config.baseUrl)} cannot be reached. Check its address (OPENAI_BASE_URL) and the network, then try again.`,
      true,
    );
  if (cause instanceof APIError) {
    if (cause.status === 401 || cause.status === 403)
      return fail(
        'provider_unauthorized',
        `The model provider refused the key. Set a valid ${keyName} and start again.`,
        false,
      );
    if (cause.status === 429)
      return fail(
        'provider_rate_limited',
        'The model provider takes no more requests for now (429). Wait a moment and try again, or check the quota of the account.',
        true,
      );
    if (cause.status === undefined || cause.status >= 500)
      return fail(
        'provider_unavailable',
        `The model provider failed (${cause.status ?? 'no status'}). Try again in a moment.`,
        true,
      );
    return fail(
      'provider_refused',
      `The model provider refused the request (${cause.status}): ${cause.message}`,
      false,
    );
  }
  return fail(
    'provider_unavailable',
    'The connection to the model provider broke off in the middle of the answer. Try again.',
    true,
  );
}

function hostOf(baseUrl: string): string {
  return URL.canParse(baseUrl) ? new URL(baseUrl).host : baseUrl;
}
