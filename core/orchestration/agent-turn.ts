import type { Envelope, RunResult } from '../contracts/agent-events.ts';
import type { SpokenText } from '../data/event-log.ts';
import type { ChatIdentity } from '../data/new-session.ts';
import type { HoldOutcome } from '../data/spending.ts';
import { type CallEstimate, holdIdFor } from '../data/wallet-manager.ts';
import type { Logger } from '../observability/logging.ts';
import type { EnvelopeFactory } from './envelope-factory.ts';
import type { LiveStream } from './live-stream.ts';
import { type ChatMessage, type Completion, type LlmClient, LlmError } from './llm-client.ts';
import type { TokenCounter } from './token-counter.ts';
import { UsageMeter } from './usage-meter.ts';
import type { AgentDefinition, Workflow } from './workflow-definition.ts';

/**
 * One agent's turn: planned, reserved for, taken, and settled or given back. A reservation is renewed for as long as
 * its call is under way; usage settles it in the commit that debits, and a call without usage gives it back.
 */
export type TurnOptions = {
  llm: LlmClient;
  live: LiveStream;
  holds: Holds;
  countTokens: TokenCounter;
  newId: () => string;
  log: Logger;
};

/** Reservations over wallet and budgets: made before each model call, settled by its usage or given back. */
export type Holds = {
  place: (call: CallEstimate) => Promise<HoldOutcome>;
  release: (holdId: string, reason: string) => Promise<void>;
  renew: (holdIds: readonly string[]) => Promise<void>;
};

/** One model call to come: who is asked what, and the reservation it runs under. */
export type Turn = {
  agent: AgentDefinition;
  model: string;
  messages: ChatMessage[];
  maxTokens: number;
  holdId: string;
};
export type ReservedTurn = { turn: Turn; hold: HoldOutcome };

/** What a turn needs of the run it belongs to. */
type TurnContext = { envelopes: EnvelopeFactory; signal: AbortSignal };

const renewMs = 60_000;

/** Failures after which the provider may have worked all the same; a refusal costs nothing. */
const mayHaveCost: ReadonlySet<string> = new Set(['cancelled', 'provider_timeout']);

/** The cap on a reply's tokens where an agent names none; it is reserved, and sent to the provider. */
const defaultMaxTokens = 4_096;

export class AgentTurns {
  readonly #options: TurnOptions;
  readonly #heldCalls = new Set<string>();
  readonly #renewal: NodeJS.Timeout;

  constructor(options: TurnOptions) {
    this.#options = options;
    this.#renewal = setInterval(() => {
      options.holds
        .renew([...this.#heldCalls])
        .catch((cause: unknown) => options.log.warn({ err: cause }, 'reservations were not renewed'));
    }, renewMs);
    this.#renewal.unref();
  }

  stop(): void {
    clearInterval(this.#renewal);
  }

  /** Asks the model, lets the words through, and gives the events that the reply became. */
  async take(
    chat: ChatIdentity,
    { agent, model, messages, maxTokens, holdId }: Turn,
    { envelopes, signal }: TurnContext,
    meters: Map<string, UsageMeter>,
  ): Promise<
    { text: string; events: Envelope[] } | { failed: Envelope[]; result: RunResult; reason: string }
  > {
    const { llm, live, newId, log } = this.#options;
    const messageId = newId();
    let said = '';
    // What the provider reported is billed, whether the call went well or not. When it reported nothing the counters
    // stand still, and that is what says that the reply is unaccounted for.
    const metered = (
      { model: reportedModel, usage }: Pick<Completion, 'model' | 'usage'>,
      latencyMs: number,
    ): Envelope => {
      const meter = meters.get(agent.name) ?? new UsageMeter(newId());
      meters.set(agent.name, meter);
      if (usage !== null) meter.add(reportedModel, usage);
      this.#heldCalls.delete(holdId);
      return envelopes.usageSummary(agent.name, meter, latencyMs, holdId);
    };
    try {
      const completion = await llm.streamChat({
        model,
        messages,
        temperature: agent.temperature,
        max_tokens: maxTokens,
        signal,
        onDelta: (delta) => {
          said += delta;
          live.append({ chat_id: chat.chat_id, message_id: messageId, agent: agent.name, delta });
        },
      });
      return {
        text: completion.text,
        events: [
          metered(completion, completion.latencyMs),
          envelopes.agentText(agent.name, completion.text, messageId, false),
        ],
      };
    } catch (cause) {
      if (!(cause instanceof LlmError)) throw cause;
      // Cut off before a word and without usage: what it cost is not known, and that must not look like nothing.
      const isUnknown = said === '' && cause.reported.usage === null && mayHaveCost.has(cause.code);
      const words = [
        ...(isUnknown ? [envelopes.callInterrupted(agent.name, cause.code)] : []),
        ...(said === '' && cause.reported.usage === null ? [] : [metered(cause.reported, cause.latencyMs)]),
        ...(said === '' ? [] : [envelopes.agentText(agent.name, said, messageId, true)]),
      ];
      if (said === '') live.drop({ chat_id: chat.chat_id, message_id: messageId });
      if (cause.code === 'cancelled')
        return { failed: words, result: 'stopped', reason: String(signal.reason) };
      log.warn(
        { chat_id: chat.chat_id, agent: agent.name, model, code: cause.code, err: cause.cause },
        'a model call failed',
      );
      const error = envelopes.error(agent.name, cause.message, {
        error_type: cause.code,
        retryable: cause.retryable,
        details: { agent: agent.name, model },
        llm_call: { model, latency_ms: Math.round(cause.latencyMs) },
      });
      return { failed: [...words, error], result: 'error', reason: cause.message };
    }
  }

  /** Who is asked what: the prompt, the cap, and the id of the reservation. */
  plan(
    chat: ChatIdentity,
    workflow: Workflow,
    agent: AgentDefinition,
    history: readonly SpokenText[],
    runId: string,
    call: number,
  ): Turn {
    return {
      agent,
      model: agent.model ?? this.#options.llm.defaultModel,
      messages: promptOf(workflow, agent, history),
      maxTokens: agent.max_tokens ?? defaultMaxTokens,
      holdId: holdIdFor(chat, `${runId}:${call}`),
    };
  }

  /** Reserves the most that the call can use. */
  async reserve(
    chat: ChatIdentity,
    runId: string,
    { agent, model, messages, maxTokens, holdId }: Turn,
  ): Promise<HoldOutcome> {
    const { holds, countTokens } = this.#options;
    const { chat_id, app_id, user_id, workflow_name } = chat;
    const outcome = await holds.place({
      hold_id: holdId,
      facts: { chat_id, app_id, user_id, workflow_name, model },
      run_id: runId,
      agent: agent.name,
      input_tokens: countTokens(messages.map(({ content }) => content)),
      max_tokens: maxTokens,
    });
    if (outcome.outcome === 'held') this.#heldCalls.add(holdId);
    return outcome;
  }

  /** Gives a reservation back that no usage settles. */
  async giveBack(reserved: ReservedTurn | null, reason: string): Promise<void> {
    if (reserved?.hold.outcome !== 'held') return;
    this.#heldCalls.delete(reserved.turn.holdId);
    await this.#options.holds.release(reserved.turn.holdId, reason);
  }
}

/** An agent sees its own words as the assistant's, everyone else's as users', with the speaker named among several. */
function promptOf(workflow: Workflow, agent: AgentDefinition, history: readonly SpokenText[]): ChatMessage[] {
  const isGroup = workflow.agents.length > 1;
  return [
    { role: 'system', content: agent.system_message },
    ...history.map(({ agent: speaker, content }): ChatMessage => {
      if (speaker === agent.name) return { role: 'assistant', content };
      return { role: 'user', content: isGroup && speaker !== 'user' ? `${speaker}: ${content}` : content };
    }),
  ];
}
