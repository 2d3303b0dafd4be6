import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Envelope, RunResult } from '../contracts/agent-events.ts';
import type { SpokenText } from '../data/event-log.ts';
import type { ChatIdentity } from '../data/new-session.ts';
import { type Blocked, explainBlock, type HoldOutcome } from '../data/spending.ts';
import { type CallEstimate, holdIdFor } from '../data/wallet-manager.ts';
import type { Logger } from '../observability/logging.ts';
import { EnvelopeFactory } from './envelope-factory.ts';
import type { LiveStream } from './live-stream.ts';
import { type ChatMessage, type Completion, LlmError, type LlmClient } from './llm-client.ts';
import { nextSpeaker } from './orchestration-patterns.ts';
import type { TokenCounter } from './token-counter.ts';
import { UsageMeter } from './usage-meter.ts';
import type { WorkflowCatalog } from './workflow-catalog.ts';
import type { AgentDefinition, Workflow } from './workflow-definition.ts';

/**
 * Runs workflows. A chat is idle until its user writes; then a run begins, agents speak in the order of the
 * workflow's pattern, and the run ends with exactly one `run_completion`, whatever happens: success, stopped by the
 * user, out of funds, or an error that says what to do. A message that arrives while a run is under way is recorded
 * at once and begins the next run.
 *
 * Everything an agent does is published as AG2 events. A step's events become durable together before the next step
 * begins; words in between only pass through the live stream.
 */
export type EngineOptions = {
  workflows: WorkflowCatalog;
  llm: LlmClient;
  live: LiveStream;
  /** Hands envelopes to the dispatcher; answers in order. */
  publish: (envelopes: readonly Envelope[], isFresh: boolean) => Promise<readonly PublishedEvent[]>;
  holds: Holds;
  countTokens: TokenCounter;
  /** The last `limit` messages of a chat, oldest first. */
  readTexts: (chatId: string, limit: number) => Promise<SpokenText[]>;
  newId: () => string;
  now: () => Date;
  log: Logger;
};

/** Reservations over wallet and budgets: made before each model call, settled by its usage or given back. */
export type Holds = {
  place: (call: CallEstimate) => Promise<HoldOutcome>;
  release: (holdId: string, reason: string) => Promise<void>;
  renew: (holdIds: readonly string[]) => Promise<void>;
};

export type PublishedEvent =
  { outcome: 'recorded' | 'repeated' } | { outcome: 'refused'; code: string; reason: string };

export type UserMessage = { content: string; client_message_id: string };
export type SubmitOutcome = 'accepted' | 'repeated';

/** A chat whose run is under way. */
type ActiveRun = {
  runId: string;
  controller: AbortController;
  envelopes: EnvelopeFactory;
  done: Promise<void>;
  next: UserMessage | null;
};

/** One model call to come: who is asked what, and the reservation it runs under. */
type Turn = {
  agent: AgentDefinition;
  model: string;
  messages: ChatMessage[];
  maxTokens: number;
  holdId: string;
};
type ReservedTurn = { turn: Turn; hold: HoldOutcome };

/** Where a run begins: at its start, or where one stood that ran out of funds. */
type RunStart = { history: SpokenText[]; spoken: string[]; first: ReservedTurn | null };

export class EngineStoppingError extends Error {
  readonly code = 'shutting_down';
  constructor() {
    super('The server is restarting. Send the message again in a moment.');
    this.name = 'EngineStoppingError';
  }
}

/** Failures after which the provider may have worked all the same; a refusal costs nothing. */
const mayHaveCost: ReadonlySet<string> = new Set(['cancelled', 'provider_timeout']);

const historyLimit = 200;
const renewMs = 60_000;

/** Numbers of a run that another process began; its own are far below. */
const seqAfterRestart = 1_000_000;

/** The cap on a reply's tokens where an agent names none; it is reserved, and sent to the provider. */
const defaultMaxTokens = 4_096;

export class OrchestrationEngine {
  readonly #options: EngineOptions;
  readonly #active = new Map<string, ActiveRun>();
  readonly #submissions = new Map<string, Promise<unknown>>();
  readonly #heldCalls = new Set<string>();
  readonly #renewal: NodeJS.Timeout;
  #isStopping = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#renewal = setInterval(() => {
      options.holds
        .renew([...this.#heldCalls])
        .catch((cause: unknown) => options.log.warn({ err: cause }, 'reservations were not renewed'));
    }, renewMs);
    this.#renewal.unref();
  }

  get activeRunCount(): number {
    return this.#active.size;
  }

  /**
   * Takes a message of the user: recorded when this resolves, answered after that. A message whose
   * `client_message_id` was seen before starts nothing.
   */
  async submit(chat: ChatIdentity, message: UserMessage): Promise<SubmitOutcome> {
    if (this.#isStopping) throw new EngineStoppingError();
    return this.#inTurn(chat.chat_id, () => this.#submit(chat, message));
  }

  /** Takes a run up again that ran out of funds, from where it stood; `repeated` when that happened already. */
  async resume(chat: ChatIdentity, paused: { run_id: string; spoken: string[] }): Promise<SubmitOutcome> {
    if (this.#isStopping) throw new EngineStoppingError();
    return this.#inTurn(chat.chat_id, () => this.#resume(chat, paused));
  }

  /** One thing at a time for each chat, or two at once would begin two runs. */
  async #inTurn<Result>(chatId: string, act: () => Promise<Result>): Promise<Result> {
    const before = this.#submissions.get(chatId);
    const mine = (before ?? Promise.resolve()).then(act);
    const settled = mine.catch(() => undefined);
    this.#submissions.set(chatId, settled);
    try {
      return await mine;
    } finally {
      if (this.#submissions.get(chatId) === settled) this.#submissions.delete(chatId);
    }
  }

  /** Ends the chat's run, down to the provider's connection; `false` when none is under way. */
  cancel(chatId: string): boolean {
    const run = this.#active.get(chatId);
    run?.controller.abort('stopped');
    return run !== undefined;
  }

  /** Takes no more messages, gives runs `graceMs` to end, then cancels them and waits for their last words. */
  async stop(graceMs = 0): Promise<void> {
    this.#isStopping = true;
    clearInterval(this.#renewal);
    const runs = [...this.#active.values()];
    const allDone = Promise.all(runs.map(({ done }) => done));
    if (graceMs > 0) await Promise.race([allDone, delay(graceMs, undefined, { ref: false })]);
    for (const { controller } of runs) controller.abort('restarting');
    await allDone;
  }

  /** Ends a run that this node had under way when it was killed. */
  async endOrphanedRun(
    chat: ChatIdentity,
    { run_id, speaker }: { run_id: string; speaker: string | null },
  ): Promise<void> {
    const envelopes = this.#envelopesFor(chat, run_id, seqAfterRestart);
    await this.#publish([
      ...(speaker === null ? [] : [envelopes.callInterrupted(speaker, 'server_restarted')]),
      envelopes.error(
        null,
        'The server was restarted in the middle of this reply. Send your message again.',
        {
          error_type: 'server_restarted',
          retryable: true,
        },
      ),
      envelopes.runCompletion({
        result: 'error',
        reason: 'the server was restarted',
        lastSpeaker: null,
        summary: '',
        spoken: [],
      }),
    ]);
  }

  async #submit(chat: ChatIdentity, message: UserMessage): Promise<SubmitOutcome> {
    const running = this.#active.get(chat.chat_id);
    if (running !== undefined) {
      const [published] = await this.#publish(
        [running.envelopes.userText(message.content, message.client_message_id)],
        false,
      );
      if (published?.outcome !== 'recorded') return 'repeated';
      // The run may have ended while the message was being recorded.
      if (this.#active.get(chat.chat_id) === running) running.next = message;
      else await this.#beginAnswer(chat, message);
      return 'accepted';
    }
    const workflow = this.#workflowOf(chat);
    const run = this.#newRun(chat, runIdFor(chat, message.client_message_id));
    const history = [
      ...(await this.#options.readTexts(chat.chat_id, historyLimit)),
      { agent: 'user', content: message.content },
    ];
    const agent = nextSpeaker(workflow, []);
    const turn = agent === null ? null : this.#plan(chat, workflow, agent, history, run, 1);
    // All ids follow from the message's own, so a message that arrives twice, at any node, is one message and one run.
    const [[published], hold] = await Promise.all([
      this.#publish(
        [
          run.envelopes.userText(message.content, message.client_message_id),
          ...(agent === null
            ? []
            : [run.envelopes.selectSpeaker(agent.name, `first-speaker:${message.client_message_id}`)]),
        ],
        false,
      ),
      turn === null ? null : this.#reserve(chat, run, turn),
    ]);
    const first = turn === null || hold === null ? null : { turn, hold };
    if (published?.outcome !== 'recorded') {
      await this.#giveBack(first, 'the message was a repeat');
      return 'repeated';
    }
    this.#begin(chat, run, { history, spoken: [], first });
    return 'accepted';
  }

  /** Begins the run that answers a message which is in the log already. */
  async #beginAnswer(chat: ChatIdentity, message: UserMessage): Promise<void> {
    const running = this.#active.get(chat.chat_id);
    // Another message began a run in between; two at once would speak over each other.
    if (running !== undefined) {
      running.next = message;
      return;
    }
    const run = this.#newRun(chat, runIdFor(chat, message.client_message_id));
    const history = await this.#options.readTexts(chat.chat_id, historyLimit);
    await this.#announce(chat, run, history, [], `first-speaker:${message.client_message_id}`);
  }

  async #resume(
    chat: ChatIdentity,
    { run_id, spoken }: { run_id: string; spoken: string[] },
  ): Promise<SubmitOutcome> {
    if (this.#active.has(chat.chat_id)) return 'repeated';
    const run = this.#newRun(chat, runIdFor(chat, `resume:${run_id}`));
    const history = await this.#options.readTexts(chat.chat_id, historyLimit);
    return this.#announce(chat, run, history, spoken, `resume:${run_id}`);
  }

  /** Says who speaks next and reserves for the call; begins the run unless this was done before. */
  async #announce(
    chat: ChatIdentity,
    run: ActiveRun,
    history: SpokenText[],
    spoken: string[],
    announcementId: string,
  ): Promise<SubmitOutcome> {
    const workflow = this.#workflowOf(chat);
    const agent = nextSpeaker(workflow, spoken);
    if (agent === null) return 'repeated';
    const turn = this.#plan(chat, workflow, agent, history, run, 1);
    const [[published], hold] = await Promise.all([
      this.#publish([run.envelopes.selectSpeaker(agent.name, announcementId)], false),
      this.#reserve(chat, run, turn),
    ]);
    if (published?.outcome !== 'recorded') {
      await this.#giveBack({ turn, hold }, 'the run was taken up already');
      return 'repeated';
    }
    this.#begin(chat, run, { history, spoken, first: { turn, hold } });
    return 'accepted';
  }

  #begin(chat: ChatIdentity, run: ActiveRun, start: RunStart): void {
    const { log } = this.#options;
    this.#active.set(chat.chat_id, run);
    run.done = this.#run(chat, run, start)
      .catch((cause: unknown) =>
        log.error({ err: cause, chat_id: chat.chat_id }, 'a run ended without its last event'),
      )
      .finally(() => {
        this.#active.delete(chat.chat_id);
        const { next } = run;
        if (next === null) return;
        if (this.#isStopping) {
          this.#publish([
            run.envelopes.error(
              null,
              'The server was restarted before this message was answered. Send it again.',
              {
                error_type: 'server_restarted',
                retryable: true,
              },
            ),
          ]).catch((cause: unknown) =>
            log.error({ err: cause, chat_id: chat.chat_id }, 'a message was left without a word'),
          );
          return;
        }
        this.#inTurn(chat.chat_id, () => this.#beginAnswer(chat, next)).catch((cause: unknown) =>
          log.error({ err: cause, chat_id: chat.chat_id }, 'a message that waited was not answered'),
        );
      });
  }

  async #run(chat: ChatIdentity, run: ActiveRun, { history, spoken, first }: RunStart): Promise<void> {
    const { envelopes, controller } = run;
    let lastText = '';
    const end = (result: RunResult, reason: string, before: Envelope[] = []) =>
      this.#publish([
        ...before,
        envelopes.termination(reason),
        envelopes.runCompletion({
          result,
          reason,
          lastSpeaker: spoken.at(-1) ?? null,
          summary: lastText,
          spoken,
        }),
      ]);
    let reserved = first;
    try {
      const workflow = this.#workflowOf(chat);
      const meters = new Map<string, UsageMeter>();
      while (reserved !== null) {
        const { turn, hold } = reserved;
        if (hold.outcome === 'settled') throw new TypeError('a call that is over was announced again');
        if (hold.outcome === 'blocked') {
          await end('out_of_funds', explainBlock(hold), [outOfFunds(envelopes, hold)]);
          return;
        }
        if (controller.signal.aborted) {
          await Promise.all([
            end('stopped', String(controller.signal.reason)),
            this.#giveBack(reserved, 'stopped'),
          ]);
          return;
        }
        const taken = await this.#takeTurn(chat, turn, run, meters);
        if ('failed' in taken) {
          await Promise.all([
            end(taken.result, taken.reason, taken.failed),
            this.#giveBack(reserved, taken.reason),
          ]);
          return;
        }
        const settled = taken.isMetered ? null : reserved;
        reserved = null;
        spoken.push(turn.agent.name);
        lastText = taken.text;
        history.push({ agent: turn.agent.name, content: taken.text });
        const following = nextSpeaker(workflow, spoken);
        if (following === null) {
          await Promise.all([
            end('success', 'every agent has spoken', taken.events),
            this.#giveBack(settled, 'the provider reported no usage'),
          ]);
          return;
        }
        const next = this.#plan(chat, workflow, following, history, run, spoken.length + 1);
        // In one batch: what was used is settled, then the next call is reserved for.
        const [, nextHold] = await Promise.all([
          this.#publish([
            ...taken.events,
            envelopes.afterWork(turn.agent.name, following.name),
            envelopes.selectSpeaker(following.name),
          ]),
          this.#reserve(chat, run, next),
          this.#giveBack(settled, 'the provider reported no usage'),
        ]);
        reserved = { turn: next, hold: nextHold };
      }
      await end('success', 'no agent has anything to say');
    } catch (cause) {
      this.#options.log.error({ err: cause, chat_id: chat.chat_id, run_id: run.runId }, 'a run failed');
      await end('error', 'an internal error', [
        envelopes.error(
          null,
          'Something went wrong on the server. Send the message again; the log has the details.',
          {
            error_type: 'internal_error',
            retryable: true,
          },
        ),
      ]);
      await this.#giveBack(reserved, 'an internal error');
    }
  }

  async #takeTurn(
    chat: ChatIdentity,
    { agent, model, messages, maxTokens, holdId }: Turn,
    { envelopes, controller }: ActiveRun,
    meters: Map<string, UsageMeter>,
  ): Promise<
    | { text: string; events: Envelope[]; isMetered: boolean }
    | { failed: Envelope[]; result: RunResult; reason: string }
  > {
    const { llm, live, newId, log } = this.#options;
    const messageId = newId();
    let said = '';
    // What the provider reported is billed, whether the call went well or not.
    const metered = (
      { model: reportedModel, usage }: Pick<Completion, 'model' | 'usage'>,
      latencyMs: number,
    ): Envelope[] => {
      if (usage === null) return [];
      const meter = meters.get(agent.name) ?? new UsageMeter(newId());
      meters.set(agent.name, meter);
      meter.add(reportedModel, usage);
      this.#heldCalls.delete(holdId);
      return [envelopes.usageSummary(agent.name, meter, latencyMs, holdId)];
    };
    try {
      const completion = await llm.streamChat({
        model,
        messages,
        temperature: agent.temperature,
        max_tokens: maxTokens,
        signal: controller.signal,
        onDelta: (delta) => {
          said += delta;
          live.append({ chat_id: chat.chat_id, message_id: messageId, agent: agent.name, delta });
        },
      });
      return {
        text: completion.text,
        events: [
          ...metered(completion, completion.latencyMs),
          envelopes.agentText(agent.name, completion.text, messageId, false),
        ],
        isMetered: completion.usage !== null,
      };
    } catch (cause) {
      if (!(cause instanceof LlmError)) throw cause;
      // Cut off before a word and without usage: what it cost is not known, and that must not look like nothing.
      const isUnknown = said === '' && cause.reported.usage === null && mayHaveCost.has(cause.code);
      const words = [
        ...(isUnknown ? [envelopes.callInterrupted(agent.name, cause.code)] : []),
        ...metered(cause.reported, cause.latencyMs),
        ...(said === '' ? [] : [envelopes.agentText(agent.name, said, messageId, true)]),
      ];
      if (said === '') live.drop({ chat_id: chat.chat_id, message_id: messageId });
      if (cause.code === 'cancelled')
        return { failed: words, result: 'stopped', reason: String(controller.signal.reason) };
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

  #plan(
    chat: ChatIdentity,
    workflow: Workflow,
    agent: AgentDefinition,
    history: readonly SpokenText[],
    run: ActiveRun,
    call: number,
  ): Turn {
    return {
      agent,
      model: agent.model ?? this.#options.llm.defaultModel,
      messages: promptOf(workflow, agent, history),
      maxTokens: agent.max_tokens ?? defaultMaxTokens,
      holdId: holdIdFor(chat, `${run.runId}:${call}`),
    };
  }

  async #reserve(
    chat: ChatIdentity,
    run: ActiveRun,
    { agent, model, messages, maxTokens, holdId }: Turn,
  ): Promise<HoldOutcome> {
    const { holds, countTokens } = this.#options;
    const { chat_id, app_id, user_id, workflow_name } = chat;
    const outcome = await holds.place({
      hold_id: holdId,
      facts: { chat_id, app_id, user_id, workflow_name, model },
      run_id: run.runId,
      agent: agent.name,
      input_tokens: countTokens(messages.map(({ content }) => content)),
      max_tokens: maxTokens,
    });
    if (outcome.outcome === 'held') this.#heldCalls.add(holdId);
    return outcome;
  }

  /** Gives a reservation back that no usage settles. */
  async #giveBack(reserved: ReservedTurn | null, reason: string): Promise<void> {
    if (reserved?.hold.outcome !== 'held') return;
    this.#heldCalls.delete(reserved.turn.holdId);
    await this.#options.holds.release(reserved.turn.holdId, reason);
  }

  /** Publishes, waiting as long as the storage is overloaded: what an agent did must not be lost. */
  async #publish(envelopes: readonly Envelope[], isFresh = true): Promise<readonly PublishedEvent[]> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#options.publish(envelopes, isFresh && attempt === 0);
      } catch (cause) {
        const isFull =
          typeof cause === 'object' && cause !== null && 'code' in cause && cause.code === 'queue_full';
        if (!isFull || this.#isStopping) throw cause;
        await delay(Math.min(2000, 100 * 2 ** attempt));
      }
    }
  }

  #workflowOf(chat: ChatIdentity): Workflow {
    const workflow = this.#options.workflows.get(chat.workflow_name);
    if (workflow === undefined)
      throw new UnknownWorkflowError(chat.workflow_name, [...this.#options.workflows.keys()]);
    return workflow;
  }

  #newRun(chat: ChatIdentity, runId: string): ActiveRun {
    return {
      runId,
      controller: new AbortController(),
      envelopes: this.#envelopesFor(chat, runId),
      done: Promise.resolve(),
      next: null,
    };
  }

  #envelopesFor(identity: ChatIdentity, runId: string, afterSeq = 0): EnvelopeFactory {
    const { chat_id, app_id, user_id, workflow_name } = identity;
    const { newId, now } = this.#options;
    return new EnvelopeFactory({
      identity: { chat_id, app_id, user_id, workflow_name },
      runId,
      newId,
      now,
      afterSeq,
    });
  }
}

export class UnknownWorkflowError extends Error {
  readonly code = 'unknown_workflow';
  readonly workflows: readonly string[];
  constructor(name: string, workflows: readonly string[]) {
    super(`There is no workflow named ${name}. There are: ${workflows.join(', ')}.`);
    this.name = 'UnknownWorkflowError';
    this.workflows = workflows;
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

/** A run's id follows from what began it, so that what began it twice begins one run. */
function runIdFor(chat: ChatIdentity, cause: string): string {
  return `run-${createHash('sha256').update(`${chat.chat_id}|${cause}`).digest('hex').slice(0, 32)}`;
}

function outOfFunds(envelopes: EnvelopeFactory, blocked: Blocked): Envelope {
  const { scope, budget_id, limit, used, held, needed, frees_at } = blocked;
  return envelopes.error(null, explainBlock(blocked), {
    error_type: scope === 'wallet' ? 'insufficient_tokens' : 'budget_exceeded',
    retryable: true,
    details: {
      scope,
      ...(budget_id === null ? {} : { budget_id }),
      remaining_balance: Number(limit - used),
      limit: Number(limit),
      used: Number(used),
      held: Number(held),
      needed: Number(needed),
      blocked_until: frees_at?.toISOString() ?? null,
    },
  });
}
