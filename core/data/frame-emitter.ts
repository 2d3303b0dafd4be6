import type { DurableFrameBody } from '../contracts/frames.ts';
import type { ChatEventDocument } from './collections.ts';
import { eventDocumentId } from './event-log.ts';
import type { IncomingEvent } from '../events/ag2-dialect.ts';
import type { ChatDraft } from './session-fold.ts';

/** Gives each frame of one event its `seq` and its place in the log, under ids derived from the event. */
export class FrameEmitter {
  readonly uuid: string;
  count = 0;
  readonly #draft: ChatDraft;
  readonly #now: Date;
  readonly #commitId: string;
  readonly #source: ChatEventDocument['event'];

  constructor(
    draft: ChatDraft,
    { envelope, uuid }: Pick<IncomingEvent, 'envelope' | 'uuid'>,
    { now, commit_id }: { now: Date; commit_id: string },
  ) {
    this.uuid = uuid;
    this.#draft = draft;
    this.#now = now;
    this.#commitId = commit_id;
    this.#source = {
      uuid,
      type: envelope.event.type,
      dialect: envelope.dialect,
      run_id: envelope.run_id,
      seq: envelope.seq,
      ts: new Date(envelope.ts),
      agent: envelope.agent,
      meter: envelope.meter ?? null,
    };
  }

  emit(body: DurableFrameBody, id?: string, content?: Record<string, unknown>): void {
    const { session, writes } = this.#draft;
    session.last_sequence += 1;
    const seq = session.last_sequence;
    writes.events.push({
      _id: id ?? this.#nextId(),
      chat_id: session._id,
      seq,
      frame: body,
      timestamp: this.#now,
      commit_id: this.#commitId,
      event: content === undefined ? this.#source : { ...this.#source, content },
    });
    writes.frames.push({ ...body, timestamp: this.#now.toISOString(), chat_id: session._id, seq });
  }

  /** An event that shows nothing still leaves its trace: that is how a repeat is known. */
  recordSilently(content: Record<string, unknown>): void {
    const { session, writes } = this.#draft;
    writes.events.push({
      _id: this.#nextId(),
      chat_id: session._id,
      timestamp: this.#now,
      commit_id: this.#commitId,
      event: { ...this.#source, content },
    });
  }

  #nextId(): string {
    const id = eventDocumentId(this.#draft.session._id, this.uuid);
    this.count += 1;
    return this.count === 1 ? id : `${id}#${this.count}`;
  }
}
