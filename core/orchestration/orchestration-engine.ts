import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Envelope, RunResult } from '../contracts/agent-events.ts';
import type { SpokenText } from '../data/event-log.ts';
import type { ChatIdentity } from '../data/new-session.ts';
import { type Blocked, explainBlock } from '../data/spending.ts';
import { AgentTurns, type ReservedTurn, type TurnOptions } from './agent-turn.ts';
import { EnvelopeFactory } from './envelope-factory.ts';
import { nextSpeaker } from './orchestration-patterns.ts';
import type { UsageMeter } from './usage-meter.ts';
import type { WorkflowCatalog } from './workflow-catalog.ts';
import type { Workflow } from './workflow-definition.ts';

/**
 * Runs workflows. A chat is idle until its user writes; then a run begins, agents speak in the order of the
 * workflow's pattern, and the run ends with exactly one `run_completion`, whatever happens: success, stopped by the
 * user, out of funds, or an error that says what to do. A message that arrives while a run is under way is recorded
 * at once and begins the next run.
 *
 * Everything an agent does is published as AG2 events. A step's events become durable together before the next step
 * begins; words in between only pass through the live stream.
 */
export type EngineOptions = TurnOptions & {
  workflows: WorkflowCatalog;
  /** Hands envelopes to the dispatcher; answers in order. */
  publish: (envelopes: readonly Envelope[], isFresh: boolean) => Promise<readonly PublishedEvent[]>;
  /** The last `limit` messages of a chat, oldest first. */
  readTexts: (chatId: string, limit: number) => Promise<SpokenText[]>;
  now: () => Date;
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

/** Where a run begins: at its start, or where one stood that ran out of funds. */
type RunStart = { history: SpokenText[]; spoken: string[]; first: ReservedTurn | null };

export class EngineStoppingError extends Error {
  readonly code = 'shutting_down';
  constructor() {
    super('The server is restarting. Send the message again in a moment.');
    this.name = 'EngineStoppingError';
  }
}

const historyLimit = 200;

/** Numbers of a run that another process began; its own are far below. */
const seqAfterRestart = 1_000_000;

export class OrchestrationEngine {
  readonly #options: EngineOptions;
  readonly #active = new Map<string, ActiveRun>();
  readonly #submissions = new Map<string, Promise<unknown>>();
  readonly #turns: AgentTurns;
  #isStopping = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#turns = new AgentTurns(options);
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
    this.#turns.stop();
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
    const turn = agent === null ? null : this.#turns.plan(chat, workflow, agent, history, run.runId, 1);
    // All ids follow from the message's own, so a message that arrives twice, at any node, is one message and one run: the log has
    // its ids then, and says so.
    const [[published], hold] = await Promise.all([
      this.#publish([
        run.envelopes.userText(message.content, message.client_message_id),
        ...(agent === null
          ? []
          : [run.envelopes.selectSpeaker(agent.name, `first-speaker:${message.client_message_id}`)]),
      ]),
      turn === null ? null : this.#turns.reserve(chat, run.runId, turn),
    ]);
    const first = turn === null || hold === null ? null : { turn, hold };
    if (published?.outcome !== 'recorded') {
      await this.#turns.giveBack(first, 'the message was a repeat');
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
    const turn = this.#turns.plan(chat, workflow, agent, history, run.runId, 1);
    const [[published], hold] = await Promise.all([
      this.#publish([run.envelopes.selectSpeaker(agent.name, announcementId)]),
      this.#turns.reserve(chat, run.runId, turn),
    ]);
    if (published?.outcome !== 'recorded') {
      await this.#turns.giveBack({ turn, hold }, 'the run was taken up already');
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
            this.#turns.giveBack(reserved, 'stopped'),
          ]);
          return;
        }
        const taken = await this.#turns.take(chat, turn, { envelopes, signal: controller.signal }, meters);
        if ('failed' in taken) {
          await Promise.all([
            end(taken.result, taken.reason, taken.failed),
            this.#turns.giveBack(reserved, taken.reason),
          ]);
          return;
        }
        reserved = null;
        spoken.push(turn.agent.name);
        lastText = taken.text;
        history.push({ agent: turn.agent.name, content: taken.text });
        const following = nextSpeaker(workflow, spoken);
        if (following === null) {
          await end('success', 'every agent has spoken', taken.events);
          return;
        }
        const next = this.#turns.plan(chat, workflow, following, history, run.runId, spoken.length + 1);
        // In one batch: what was used is settled, then the next call is reserved for.
        const [, nextHold] = await Promise.all([
          this.#publish([
            ...taken.events,
            envelopes.afterWork(turn.agent.name, following.name),
            envelopes.selectSpeaker(following.name),
          ]),
          this.#turns.reserve(chat, run.runId, next),
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
      await this.#turns.giveBack(reserved, 'an internal error');
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
