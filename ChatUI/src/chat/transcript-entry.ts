import type { ServerFrame } from '../../../core/contracts/frames.ts';
import type { StreamingText } from './streaming-text.ts';

export type MessageEntry = {
  readonly kind: 'message';
  /** Stays the same from the first streamed word to the final text, and for a user's message from before it was sent. */
  readonly key: string;
  readonly messageId: string;
  readonly agent: string;
  readonly role: 'user' | 'assistant';
  readonly content: string;
  readonly timestamp: string;
  /** Null once the final text has arrived. */
  readonly streaming: StreamingText | null;
  /** The reply was cut short: stopped, or the provider failed. */
  readonly isPartial: boolean;
};

export type ToolEntry = {
  readonly kind: 'tool';
  readonly key: string;
  readonly toolCallId: string;
  readonly toolName: string;
  readonly agent: string;
  readonly arguments: unknown;
  readonly progress: { readonly percent: number; readonly message: string } | null;
  readonly response: { readonly success: boolean; readonly content: string } | null;
};

/** A frame that is one line of the transcript and says everything itself. */
export type NoticeFrame = Extract<
  ServerFrame,
  {
    type:
      | 'chat.handoff'
      | 'chat.input_request'
      | 'chat.input_timeout'
      | 'chat.structured_output_ready'
      | 'chat.run_complete'
      | 'chat.error'
      | 'token_warning';
  }
>;
export type NoticeEntry = { readonly kind: 'notice'; readonly key: string; readonly frame: NoticeFrame };

export type TranscriptEntry = MessageEntry | ToolEntry | NoticeEntry;
