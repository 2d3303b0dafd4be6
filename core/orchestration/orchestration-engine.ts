import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Envelope, RunResult } from '../contracts/agent-events.ts';
import type { SpokenText } from '../data/event-log.ts';
import type { ChatIdentity } from '../data/new-session.ts';
import type { Logger } from '../observability/logging.ts';
import { EnvelopeFactory } from './envelope-factory.ts';
import type { LiveStream } from './live-stream.ts';
import { type ChatMessage, LlmError, type LlmClient } from './llm-client.ts';
import { nextSpeaker } from './orchestration-patterns.ts';
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
  /** What the owner of a chat may still spend, in wallet units; null when nothing is debited. */
  readFunds: (owner: { app_id: string; user_id: string }) => Promise<bigint | null>;
  /** The last `limit` messages of a chat, oldest first. */
  readTexts: (chatId: string, limit: number) => Promise<SpokenText[]>;
  newId: () => string;
  now: () => Date;
  log: Logger;
};

export type PublishedEvent =
  { outcome: 'recorded' | 'repeated' } | { outcome: 'refused'; code: string; reason: string };

export type UserMessage = { content: string; client_message_id: string };
export type SubmitOutcome = 'accepted' | 'repeated';

/** A chat whose run is under way. */
type ActiveRun = {
  controller: AbortController;
  envelopes: EnvelopeFactory;
  done: Promise<void>;
  next: UserMessage | null;
};

export class EngineStoppingError extends Error {
  readonly code = 'shutting_down';
  constructor() {
    super('The server is restarting. Send the message again in a moment.');
    this.name = 'EngineStoppingError';
  }
}

const historyLimit = 200;

export class OrchestrationEngine {
  readonly #options: EngineOptions;
  readonly #active = new Map<string, ActiveRun>();
  readonly #submissions = new Map<string, Promise<unknown>>();
  #isStopping = false;

  constructor(options: EngineOptions) {
    this.#options = options;
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
    // One at a time for each chat, or two messages at once would begin two runs.
    const before = this.#submissions.get(chat.chat_id);
    const mine = (before ?? Promise.resolve()).then(() => this.#submit(chat, message));
    const settled = mine.catch(() => undefined);
    this.#submissions.set(chat.chat_id, settled);
    try {
      return await mine;
    } finally {
      if (this.#submissions.get(chat.chat_id) === settled) this.#submissions.delete(chat.chat_id);
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
    const runs = [...this.#active.values()];
    const allDone = Promise.all(runs.map(({ done }) => done));
    if (graceMs > 0) await Promise.race([allDone, delay(graceMs, undefined, { ref: false })]);
    for (const { controller } of runs) controller.abort('restarting');
    await allDone;
  }

  /** Ends a run that this node had under way when it was killed. */
  async endOrphanedRun(chat: ChatIdentity, runId: string): Promise<void> {
    const envelopes = this.#envelopesFor(chat, runId);
    await this.#publish([
      envelopes.error(
        null,
        'The server was restarted in the middle of this reply. Send your message again.',
        {
          error_type: 'server_restarted',
          retryable: true,
        },
      ),
      envelopes.runCompletion('error', 'the server was restarted', null, ''),
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
      else this.#begin(chat, message, this.#envelopesFor(chat, runIdFor(chat, message)), null);
      return 'accepted';
    }
    const workflow = this.#workflowOf(chat);
    const first = nextSpeaker(workflow, []);
    const envelopes = this.#envelopesFor(chat, runIdFor(chat, message));
    // All ids follow from the message's own, so a message that arrives twice, at any node, is one message and one run.
    const [published] = await this.#publish(
      [
        envelopes.userText(message.content, message.client_message_id),
        ...(first === null
          ? []
          : [envelopes.selectSpeaker(first.name, `first-speaker:${message.client_message_id}`)]),
      ],
      false,
    );
    if (published?.outcome !== 'recorded') return 'repeated';
    this.#begin(chat, message, envelopes, first);
    return 'accepted';
  }

  #begin(
    chat: ChatIdentity,
    message: UserMessage,
    envelopes: EnvelopeFactory,
    announced: AgentDefinition | null,
  ): void {
    const controller = new AbortController();
    const run: ActiveRun = { controller, envelopes, next: null, done: Promise.resolve() };
    this.#active.set(chat.chat_id, run);
    run.done = this.#run(chat, message, run, announced)
      .catch((cause: unknown) =>
        this.#options.log.error({ err: cause, chat_id: chat.chat_id }, 'a run ended without its last event'),
      )
      .finally(() => {
        this.#active.delete(chat.chat_id);
        const { next } = run;
        if (next !== null && !this.#isStopping)
          this.#begin(chat, next, this.#envelopesFor(chat, runIdFor(chat, next)), null);
      });
  }

  async #run(
    chat: ChatIdentity,
    message: UserMessage,
    run: ActiveRun,
    announced: AgentDefinition | null,
  ): Promise<void> {
    const { envelopes, controller } = run;
    const spoken: string[] = [];
    let lastText = '';
    const end = (result: RunResult, reason: string, before: Envelope[] = []) =>
      this.#publish([
        ...before,
        envelopes.termination(reason),
        envelopes.runCompletion(result, reason, spoken.at(-1) ?? null, lastText),
      ]);
    try {
      const workflow = this.#workflowOf(chat);
      // From the log, which is the same on every node and after every restart.
      const messages = await this.#options.readTexts(chat.chat_id, historyLimit);
      const meters = new Map<string, UsageMeter>();
      let speaker = announced ?? nextSpeaker(workflow, []);
      if (announced === null && speaker !== null)
        await this.#publish([envelopes.selectSpeaker(speaker.name)]);
      while (speaker !== null) {
        if (controller.signal.aborted) {
          await end('stopped', String(controller.signal.reason));
          return;
        }
        const funds = await this.#options.readFunds(chat);
        if (funds !== null && funds <= 0n) {
          await end('out_of_funds', 'the wallet is empty', [outOfFunds(envelopes, funds)]);
          return;
        }
        const turn = await this.#takeTurn(chat, workflow, speaker, messages, run, meters);
        spoken.push(speaker.name);
        if ('failed' in turn) {
          await end(turn.result, turn.reason, turn.failed);
          return;
        }
        lastText = turn.text;
        messages.push({ agent: speaker.name, content: turn.text });
        const following = nextSpeaker(workflow, spoken);
        if (following === null) {
          await end('success', 'every agent has spoken', turn.events);
          return;
        }
        await this.#publish([
          ...turn.events,
          envelopes.afterWork(speaker.name, following.name),
          envelopes.selectSpeaker(following.name),
        ]);
        speaker = following;
      }
      await end('success', 'no agent has anything to say');
    } catch (cause) {
      this.#options.log.error(
        { err: cause, chat_id: chat.chat_id, client_message_id: message.client_message_id },
        'a run failed',
      );
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
    }
  }

  async #takeTurn(
    chat: ChatIdentity,
    workflow: Workflow,
    agent: AgentDefinition,
    history: readonly SpokenText[],
    { envelopes, controller }: ActiveRun,
    meters: Map<string, UsageMeter>,
  ): Promise<
    { text: string; events: Envelope[] } | { failed: Envelope[]; result: RunResult; reason: string }
  > {
    const { llm, live, newId } = this.#options;
    const messageId = newId();
    const model = agent.model ?? llm.defaultModel;
    let said = '';
    try {
      const completion = await llm.streamChat({
        model,
        messages: promptOf(workflow, agent, history),
        temperature: agent.temperature,
        max_tokens: agent.max_tokens,
        signal: controller.signal,
        onDelta: (delta) => {
          said += delta;
          live.append({ chat_id: chat.chat_id, message_id: messageId, agent: agent.name, delta });
        },
      });
      const events: Envelope[] = [];
      if (completion.usage !== null) {
        const meter = meters.get(agent.name) ?? new UsageMeter(newId());
        meters.set(agent.name, meter);
        meter.add(completion.model, completion.usage);
        events.push(envelopes.usageSummary(agent.name, meter, completion.latencyMs));
      }
      events.push(envelopes.agentText(agent.name, completion.text, messageId, false));
      return { text: completion.text, events };
    } catch (cause) {
      if (!(cause instanceof LlmError)) throw cause;
      const words = said === '' ? [] : [envelopes.agentText(agent.name, said, messageId, true)];
      if (said === '') live.drop({ chat_id: chat.chat_id, message_id: messageId });
      if (cause.code === 'cancelled')
        return { failed: words, result: 'stopped', reason: String(controller.signal.reason) };
      this.#options.log.warn(
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

  #envelopesFor(identity: ChatIdentity, runId: string): EnvelopeFactory {
    const { chat_id, app_id, user_id, workflow_name } = identity;
    const { newId, now } = this.#options;
    return new EnvelopeFactory({ identity: { chat_id, app_id, user_id, workflow_name }, runId, newId, now });
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

function runIdFor(chat: ChatIdentity, message: UserMessage): string {
  const digest = createHash('sha256').update(`${chat.chat_id}|${message.client_message_id}`).digest('hex');
  return `run-${digest.slice(0, 32)}`;
}

function outOfFunds(envelopes: EnvelopeFactory, funds: bigint): Envelope {
  return envelopes.error(
    null,
    'The wallet is empty, so no agent was asked. Top it up and send your message again.',
    {
      error_type: 'insufficient_tokens',
      retryable: true,
      details: { remaining_balance: Number(funds), scope: 'wallet' },
    },
  );
}
