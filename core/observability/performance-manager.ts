import type { ChatPerformance, PerformanceAggregate } from '../contracts/http.ts';
import type { SessionDocument } from '../data/collections.ts';
import { DocumentCache } from '../data/document-cache.ts';
import type { EventRecord, PersistenceManager } from '../data/persistence-manager.ts';
import type { IncomingEvent } from '../events/ag2-dialect.ts';
import { performanceOf } from './chat-performance.ts';

/** A chat that nobody heard of for so many others is answered from MongoDB again. */
const trackedChats = 10_000;

/**
 * Takes usage summaries to the persistence manager, and follows what was committed for `/metrics/perf`. It keeps no
 * counts of its own: what it shows are the session documents, as this node committed them last.
 */
export class PerformanceManager {
  readonly #persistence: Pick<PersistenceManager, 'saveUsageSummary' | 'findSession'>;
  readonly #now: () => Date;
  readonly #sessions = new DocumentCache<SessionDocument>(trackedChats);

  constructor(persistence: Pick<PersistenceManager, 'saveUsageSummary' | 'findSession'>, now: () => Date) {
    this.#persistence = persistence;
    this.#now = now;
  }

  /** Counts a summary's growth and debits it; a repeat is answered with `repeated`. */
  recordTokenUsage(event: IncomingEvent, isFresh: boolean): Promise<EventRecord> {
    return this.#persistence.saveUsageSummary(event, isFresh);
  }

  observe(sessions: readonly SessionDocument[]): void {
    for (const session of sessions) this.#sessions.set(session._id, session);
  }

  async snapshotChat(chatId: string): Promise<ChatPerformance | undefined> {
    const session = this.#sessions.get(chatId) ?? (await this.#persistence.findSession(chatId));
    return session === null ? undefined : performanceOf(session, this.#now());
  }

  snapshotAll(): ChatPerformance[] {
    const now = this.#now();
    return this.#sessions.values().map((session) => performanceOf(session, now));
  }

  aggregate(): PerformanceAggregate {
    const chats = this.snapshotAll();
    const sum = (of: (chat: ChatPerformance) => number) => chats.reduce((total, chat) => total + of(chat), 0);
    return {
      active_chats: chats.filter(({ ended_at }) => ended_at === null).length,
      tracked_chats: chats.length,
      total_agent_turns: sum((chat) => chat.agent_turns),
      total_tool_calls: sum((chat) => chat.tool_calls),
      total_errors: sum((chat) => chat.errors),
      total_prompt_tokens: sum((chat) => chat.prompt_tokens),
      total_completion_tokens: sum((chat) => chat.completion_tokens),
      total_cost: sum((chat) => chat.cost),
      chats,
    };
  }
}
