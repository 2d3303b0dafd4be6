import type { ServerFrame, ServerFrameData } from '../../../core/contracts/frames.ts';
import type { UsageTotals } from '../../../core/contracts/usage.ts';
import { addAgentUsage, noUsage, type AgentUsage } from '../tokens/agent-usage.ts';
import { emptyStreamingText, placePiece } from './streaming-text.ts';
import type { MessageEntry, NoticeFrame, ToolEntry, TranscriptEntry } from './transcript-entry.ts';

/**
 * Everything a chat shows, made from its frames alone. Durable frames count once, whatever is replayed.
 *
 * `isLive` is false from the loss of a socket to `chat.resume_boundary`: what arrives in between is history, and the
 * balance that it tells is one of back then. A balance that was asked for ends that: see `balance_read`.
 */
export type ChatState = {
  readonly entries: readonly TranscriptEntry[];
  /** What the user wrote and the server has not confirmed. */
  readonly pending: readonly PendingMessage[];
  readonly speaker: string | null;
  readonly run: RunState;
  readonly openInput: ServerFrameData<'chat.input_request'> | null;
  readonly usage: ChatUsage;
  readonly wallet: WalletState;
  readonly exhausted: ServerFrameData<'token_exhausted'> | null;
  readonly isLive: boolean;
  readonly lastSequence: number;
  readonly inspected: readonly InspectedFrame[];
  readonly frameCount: number;
};

type RunState =
  | { readonly status: 'idle' }
  | { readonly status: 'running'; readonly runId: string }
  | { readonly status: 'ended'; readonly result: ServerFrameData<'chat.run_complete'>['result'] };

type ChatUsage = {
  readonly totals: UsageTotals;
  /** Runs whose summary has arrived, and the run that is adding up its updates until then. */
  readonly settled: readonly AgentUsage[];
  readonly running: readonly AgentUsage[];
};

type WalletState = { readonly balance: number | null; readonly sequence: number };

export type PendingMessage = { readonly clientMessageId: string; readonly content: string };
export type InspectedFrame = { readonly number: number; readonly frame: ServerFrame };

export type ChatAction =
  | { type: 'frame_received'; frame: ServerFrame }
  | { type: 'message_written'; message: PendingMessage }
  | { type: 'connection_lost' }
  /** `asOfSequence`: what was last seen when the question was asked; an update that came since knows better. */
  | { type: 'balance_read'; balance: number; asOfSequence: number };

const inspectedLimit = 500;

export const initialChatState: ChatState = {
  entries: [],
  pending: [],
  speaker: null,
  run: { status: 'idle' },
  openInput: null,
  usage: { totals: noUsage, settled: [], running: [] },
  wallet: { balance: null, sequence: 0 },
  exhausted: null,
  isLive: false,
  lastSequence: 0,
  inspected: [],
  frameCount: 0,
};

export function chatReducer(state: ChatState, action: ChatAction): ChatState {
  switch (action.type) {
    case 'frame_received': {
      const { seq } = action.frame;
      if (seq !== null && seq <= state.lastSequence) return state;
      const next = applyFrame(state, action.frame);
      return { ...inspect(next, action.frame), lastSequence: seq ?? state.lastSequence };
    }
    case 'message_written':
      return { ...state, pending: [...state.pending, action.message] };
    case 'connection_lost':
      return { ...state, isLive: false };
    case 'balance_read':
      if (action.asOfSequence < state.wallet.sequence) return state;
      return {
        ...state,
        wallet: { balance: action.balance, sequence: action.asOfSequence },
        exhausted:
          state.exhausted?.scope === 'wallet' && action.balance > state.exhausted.remaining_balance
            ? null
            : state.exhausted,
      };
  }
}

/** What each agent of the chat has used, over all runs. */
export function usageByAgent(state: ChatState): readonly AgentUsage[] {
  return addAgentUsage(state.usage.settled, state.usage.running);
}

/** An agent is at work, and nothing of what it says is to be seen yet. */
export function isThinking(state: ChatState): boolean {
  if (state.run.status !== 'running' || state.openInput !== null) return false;
  return !state.entries.some(
    (entry) => entry.kind === 'message' && entry.streaming !== null && entry.content !== '',
  );
}

function applyFrame(state: ChatState, frame: ServerFrame): ChatState {
  switch (frame.type) {
    case 'chat.run_start':
      return {
        ...state,
        run: { status: 'running', runId: frame.data.run_id },
        exhausted: null,
        usage: {
          ...state.usage,
          settled: addAgentUsage(state.usage.settled, state.usage.running),
          running: [],
        },
      };
    case 'chat.run_complete':
      return {
        ...addNotice(endStreams(state), frame),
        run: { status: 'ended', result: frame.data.result },
        speaker: null,
        openInput: null,
      };
    case 'chat.select_speaker':
      return { ...state, speaker: frame.data.agent, exhausted: null };
    case 'chat.stream':
      return stream(state, frame);
    case 'chat.text':
      return finishMessage(state, frame);
    case 'chat.tool_call':
      return {
        ...state,
        entries: [
          ...state.entries,
          {
            kind: 'tool',
            key: `tool-${state.frameCount}`,
            toolCallId: frame.data.tool_call_id,
            toolName: frame.data.tool_name,
            agent: frame.data.agent,
            arguments: frame.data.arguments,
            progress: null,
            response: null,
          },
        ],
      };
    case 'chat.tool_progress': {
      const { tool_call_id, progress_percent, status_message } = frame.data;
      return updateTool(state, tool_call_id, (tool) => ({
        ...tool,
        progress: { percent: progress_percent, message: status_message },
      }));
    }
    case 'chat.tool_response': {
      const { tool_call_id, success, content } = frame.data;
      return updateTool(state, tool_call_id, (tool) => ({
        ...tool,
        progress: null,
        response: { success, content },
      }));
    }
    case 'chat.input_request':
      return { ...addNotice(state, frame), openInput: frame.data };
    case 'chat.input_ack':
      return closeInput(state, frame.data.request_id);
    case 'chat.input_timeout':
      return closeInput(addNotice(state, frame), frame.data.request_id);
    case 'chat.handoff':
    case 'chat.structured_output_ready':
    case 'chat.error':
      return addNotice(state, frame);
    case 'chat.usage_summary':
      return {
        ...state,
        usage: {
          ...state.usage,
          settled: addAgentUsage(
            state.usage.settled,
            frame.data.by_agent.map(({ agent, ...totals }) => ({ agent, totals })),
          ),
          running: [],
        },
      };
    case 'token_update':
      return updateTokens(state, frame);
    case 'token_warning':
      return rememberBalance(addNotice(state, frame), frame);
    case 'token_exhausted':
      return rememberBalance({ ...state, exhausted: frame.data }, frame);
    case 'chat.resume_boundary':
      return { ...state, isLive: true };
    case 'pong':
      return state;
  }
}

type FrameOf<Type extends ServerFrame['type']> = Extract<ServerFrame, { type: Type }>;

function stream(state: ChatState, frame: FrameOf<'chat.stream'>): ChatState {
  const { message_id, agent, offset, delta } = frame.data;
  const index = messageIndex(state, message_id);
  const known = state.entries[index];
  if (known === undefined || known.kind !== 'message') {
    const streaming = placePiece(emptyStreamingText, offset, delta);
    const message: MessageEntry = {
      kind: 'message',
      key: message_id,
      messageId: message_id,
      agent,
      role: 'assistant',
      content: streaming.text,
      timestamp: frame.timestamp,
      streaming,
      isPartial: false,
    };
    return { ...state, entries: [...state.entries, message] };
  }
  // The final text has been said: a piece that comes late cannot add to it.
  if (known.streaming === null) return state;
  const streaming = placePiece(known.streaming, offset, delta);
  return replaceEntry(state, index, { ...known, streaming, content: streaming.text });
}

function finishMessage(state: ChatState, frame: FrameOf<'chat.text'>): ChatState {
  const { message_id, agent, role, content, client_message_id, partial } = frame.data;
  const message: MessageEntry = {
    kind: 'message',
    key: client_message_id ?? message_id,
    messageId: message_id,
    agent,
    role,
    content,
    timestamp: frame.timestamp,
    streaming: null,
    isPartial: partial ?? false,
  };
  const pending = state.pending.filter((waiting) => waiting.clientMessageId !== client_message_id);
  const index = messageIndex(state, message_id);
  if (index === -1) return { ...state, pending, entries: [...state.entries, message] };
  return { ...replaceEntry(state, index, message), pending };
}

/** A run that broke off may leave a message without its final text: what was seen of it stays. */
function endStreams(state: ChatState): ChatState {
  if (!state.entries.some((entry) => entry.kind === 'message' && entry.streaming !== null)) return state;
  const entries = state.entries.map((entry) =>
    entry.kind === 'message' && entry.streaming !== null
      ? { ...entry, streaming: null, isPartial: true }
      : entry,
  );
  return { ...state, entries };
}

function updateTokens(state: ChatState, frame: FrameOf<'token_update'>): ChatState {
  const { cumulative, delta, agent } = frame.data;
  const { last_model: _, ...totals } = cumulative;
  const running = addAgentUsage(state.usage.running, [{ agent: agent ?? 'other', totals: delta }]);
  return rememberBalance({ ...state, usage: { ...state.usage, totals, running } }, frame);
}

function rememberBalance(
  state: ChatState,
  frame: FrameOf<'token_update' | 'token_warning' | 'token_exhausted'>,
): ChatState {
  if (!state.isLive) return state;
  return { ...state, wallet: { balance: frame.data.remaining_balance, sequence: frame.seq ?? 0 } };
}

function addNotice(state: ChatState, frame: NoticeFrame): ChatState {
  const entry: TranscriptEntry = { kind: 'notice', key: `notice-${state.frameCount}`, frame };
  return { ...state, entries: [...state.entries, entry] };
}

function closeInput(state: ChatState, requestId: string): ChatState {
  return state.openInput?.request_id === requestId ? { ...state, openInput: null } : state;
}

function updateTool(state: ChatState, toolCallId: string, change: (tool: ToolEntry) => ToolEntry): ChatState {
  const index = state.entries.findLastIndex(
    (entry) => entry.kind === 'tool' && entry.toolCallId === toolCallId,
  );
  const tool = state.entries[index];
  return tool?.kind === 'tool' ? replaceEntry(state, index, change(tool)) : state;
}

function messageIndex(state: ChatState, messageId: string): number {
  return state.entries.findLastIndex((entry) => entry.kind === 'message' && entry.messageId === messageId);
}

function replaceEntry(state: ChatState, index: number, entry: TranscriptEntry): ChatState {
  return { ...state, entries: state.entries.with(index, entry) };
}

function inspect(state: ChatState, frame: ServerFrame): ChatState {
  const frameCount = state.frameCount + 1;
  const inspected = [...state.inspected.slice(1 - inspectedLimit), { number: frameCount, frame }];
  return { ...state, inspected, frameCount };
}
