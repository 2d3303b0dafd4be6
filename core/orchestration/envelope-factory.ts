import type { Envelope, Meter, RunResult } from '../contracts/agent-events.ts';
import type { ChatIdentity } from '../data/new-session.ts';
import type { UsageMeter } from './usage-meter.ts';

/** How a run ended, and who had spoken by then. */
type RunEnd = {
  result: RunResult;
  reason: string;
  lastSpeaker: string | null;
  summary: string;
  spoken: string[];
};

/** Makes the envelopes of one run, numbered in order: the same shapes that an AG2 process posts. */
export class EnvelopeFactory {
  readonly #identity: ChatIdentity;
  readonly #runId: string;
  readonly #newId: () => string;
  readonly #now: () => Date;
  #seq: number;

  constructor({
    identity,
    runId,
    newId,
    now,
    afterSeq,
  }: {
    identity: ChatIdentity;
    runId: string;
    newId: () => string;
    now: () => Date;
    afterSeq: number;
  }) {
    this.#seq = afterSeq;
    this.#identity = identity;
    this.#runId = runId;
    this.#newId = newId;
    this.#now = now;
  }

  userText(content: string, clientMessageId: string): Envelope {
    return this.#make('user', {
      type: 'text',
      // The id the client gave is the event's id, so a message sent twice is one message.
      content: {
        uuid: `user-message:${clientMessageId}`,
        content,
        sender: 'user',
        recipient: 'chat_manager',
        message_id: clientMessageId,
        client_message_id: clientMessageId,
        role: 'user',
      },
    });
  }

  selectSpeaker(speaker: string, uuid: string = this.#newId()): Envelope {
    return this.#make(speaker, { type: 'group_chat_run_chat', content: { uuid, speaker, silent: false } });
  }

  /** `holdId` is the reservation that this usage settles. */
  usageSummary(agent: string, meter: UsageMeter, latencyMs: number, holdId: string): Envelope {
    const content = meter.summarize(this.#newId());
    return this.#make(
      agent,
      { type: 'usage_summary', content },
      {
        agent,
        client: meter.client,
        epoch: 1,
        reason: 'llm_call',
        latency_ms: Math.round(latencyMs),
        hold_id: holdId,
      },
    );
  }

  agentText(agent: string, content: string, messageId: string, isPartial: boolean): Envelope {
    return this.#make(agent, {
      type: 'text',
      content: {
        uuid: this.#newId(),
        content,
        sender: agent,
        recipient: 'chat_manager',
        message_id: messageId,
        role: 'assistant',
        ...(isPartial ? { partial: true } : {}),
      },
    });
  }

  afterWork(from: string, to: string): Envelope {
    return this.#make(from, {
      type: 'after_works_transition',
      content: {
        uuid: this.#newId(),
        source_agent: from,
        transition_target: { type: 'AgentTarget', name: to },
      },
    });
  }

  error(
    agent: string | null,
    error: string,
    facts: {
      error_type: string;
      retryable: boolean;
      details?: Record<string, unknown>;
      llm_call?: { model: string; latency_ms: number };
    },
  ): Envelope {
    return this.#make(agent, { type: 'error', content: { uuid: this.#newId(), error, ...facts } });
  }

  callInterrupted(agent: string, reason: string): Envelope {
    return this.#make(agent, { type: 'call_interrupted', content: { uuid: this.#newId(), agent, reason } });
  }

  termination(reason: string): Envelope {
    return this.#make(null, {
      type: 'termination',
      content: { uuid: this.#newId(), termination_reason: reason, sender: 'chat_manager', recipient: null },
    });
  }

  runCompletion({ result, reason, lastSpeaker, summary, spoken }: RunEnd): Envelope {
    return this.#make(null, {
      type: 'run_completion',
      content: {
        uuid: this.#newId(),
        summary,
        last_speaker: lastSpeaker,
        result,
        reason: reason.slice(0, 1000),
        spoken,
      },
    });
  }

  #make(agent: string | null, event: Envelope['event'], meter: Meter | null = null): Envelope {
    this.#seq += 1;
    return {
      v: 1,
      dialect: 'mozaiks',
      ...this.#identity,
      run_id: this.#runId,
      seq: this.#seq,
      ts: this.#now().toISOString(),
      agent,
      meter,
      event,
    };
  }
}
