import type { InputAnswer } from '../core/contracts/http.ts';
import type { DurableFrame } from '../core/contracts/frames.ts';
import { inputResponseUuid } from '../core/data/event-log.ts';
import type { ChatIdentity } from '../core/data/new-session.ts';
import type { EventRecord, PersistenceManager } from '../core/data/persistence-manager.ts';
import type { UnifiedEventDispatcher } from '../core/events/unified-event-dispatcher.ts';
import { ProblemError } from './problem.ts';

/**
 * Questions of agents to the user. A question is pending until it is answered, once, or until it expires; both are in
 * the chat's log, so neither a restart nor a lost connection forgets them. Who asked waits here for the answer.
 */
const recheckMs = 2_000;

export class UserInput {
  readonly #persistence: Pick<PersistenceManager, 'findInput'>;
  readonly #dispatcher: UnifiedEventDispatcher<EventRecord>;
  readonly #now: () => Date;
  readonly #waiting = new Map<string, Set<() => void>>();

  constructor(
    persistence: Pick<PersistenceManager, 'findInput'>,
    dispatcher: UnifiedEventDispatcher<EventRecord>,
    now: () => Date,
  ) {
    this.#persistence = persistence;
    this.#dispatcher = dispatcher;
    this.#now = now;
  }

  /** @throws ProblemError 404 for a question that was never put, 409 for one that is answered, 410 for an expired one. */
  async answer(chat: ChatIdentity, requestId: string, value: string): Promise<void> {
    const state = await this.read(chat.chat_id, requestId);
    if (state.status === 'answered')
      throw new ProblemError(409, 'input_answered', 'This question was answered already.');
    if (state.status === 'expired')
      throw new ProblemError(410, 'input_expired', 'This question is no longer waiting for an answer.');
    const found = await this.#persistence.findInput(chat.chat_id, requestId);
    const [published] = await this.#dispatcher.publish([
      {
        v: 1,
        dialect: 'mozaiks',
        ...chat,
        run_id: found?.request.event.run_id ?? 'input',
        seq: found?.request.event.seq ?? 0,
        ts: this.#now().toISOString(),
        agent: 'user',
        event: {
          type: 'input_response',
          content: { uuid: inputResponseUuid(requestId), request_id: requestId, value },
        },
      },
    ]);
    if (published?.refused !== undefined || published?.recorded.outcome === 'refused')
      throw new ProblemError(400, 'invalid_answer', published.refused?.reason ?? 'The answer was refused.');
    if (published?.recorded.outcome === 'repeated')
      throw new ProblemError(409, 'input_answered', 'This question was answered already.');
  }

  async read(chatId: string, requestId: string): Promise<InputAnswer> {
    const found = await this.#persistence.findInput(chatId, requestId);
    if (found === null)
      throw new ProblemError(404, 'unknown_input_request', `There is no question ${requestId} in this chat.`);
    if (found.answer !== null) return { request_id: requestId, status: 'answered', user_input: found.answer };
    const { frame } = found.request;
    const expiresAt = frame?.type === 'chat.input_request' ? frame.data.expires_at : '';
    const isExpired = Date.parse(expiresAt) <= this.#now().getTime();
    return { request_id: requestId, status: isExpired ? 'expired' : 'pending', user_input: null };
  }

  /** Like `read`, but waits for an answer as long as it takes, at most `waitMs`. */
  async waitFor(chatId: string, requestId: string, waitMs: number): Promise<InputAnswer> {
    const deadline = Date.now() + waitMs;
    for (;;) {
      const answered = this.#nextAnswer(`${chatId}|${requestId}`, Math.min(recheckMs, deadline - Date.now()));
      const state = await this.read(chatId, requestId);
      if (state.status !== 'pending' || Date.now() >= deadline) return state;
      await answered;
    }
  }

  /** Resolves with an answer given at this node, or after a while: one given at another wakes nobody here. */
  #nextAnswer(key: string, atMostMs: number): Promise<void> {
    return new Promise((resolve) => {
      const waiting = this.#waiting.get(key) ?? new Set();
      this.#waiting.set(key, waiting);
      const wake = () => {
        clearTimeout(timer);
        waiting.delete(wake);
        if (waiting.size === 0) this.#waiting.delete(key);
        resolve();
      };
      const timer = setTimeout(wake, Math.max(0, atMostMs));
      waiting.add(wake);
    });
  }

  observe(frames: readonly DurableFrame[]): void {
    for (const frame of frames)
      if (frame.type === 'chat.input_ack')
        for (const wake of this.#waiting.get(`${frame.chat_id}|${frame.data.request_id}`) ?? []) wake();
  }
}
