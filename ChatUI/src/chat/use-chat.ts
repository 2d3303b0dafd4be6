import { useCallback, useEffect, useReducer, useRef, useState } from 'react';
import type { ServerFrame } from '../../../core/contracts/frames.ts';
import type { Balance } from '../../../core/contracts/http.ts';
import { ChatConnection, type ChatSocketConstructor, type ConnectionStatus } from './chat-connection.ts';
import { chatReducer, initialChatState, type ChatState, type PendingMessage } from './chat-state.ts';
import { newId } from './new-id.ts';

export type Chat = {
  state: ChatState;
  status: ConnectionStatus;
  sendMessage: (content: string) => void;
  answerInput: (requestId: string, answer: string) => void;
  stop: () => void;
  reconnect: () => void;
  refreshBalance: () => Promise<void>;
};

export type ChatOptions = {
  websocketUrl: string;
  WebSocket: ChatSocketConstructor;
  /** Undefined when it could not be read. */
  readBalance: () => Promise<Balance | undefined>;
  /** The message that the chat was started with. */
  firstMessage: PendingMessage | null;
};

/** Frames that arrive close together are shown together; a timer, because hidden pages have no animation frames. */
const refreshMs = 33;

export function useChat({ websocketUrl, WebSocket, readBalance, firstMessage }: ChatOptions): Chat {
  const [state, dispatch] = useReducer(chatReducer, {
    ...initialChatState,
    pending: firstMessage === null ? [] : [firstMessage],
  });
  const [status, setStatus] = useState<ConnectionStatus>({ state: 'connecting' });
  const connection = useRef<ChatConnection>(undefined);

  const refreshBalance = useCallback(async (): Promise<void> => {
    const asOfSequence = connection.current?.lastSequence ?? 0;
    const answer = await readBalance();
    if (answer !== undefined) dispatch({ type: 'balance_read', balance: answer.balance, asOfSequence });
  }, [readBalance]);

  useEffect(() => {
    let waiting: ServerFrame[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const show = (): void => {
      timer = undefined;
      const frames = waiting;
      waiting = [];
      for (const frame of frames) dispatch({ type: 'frame_received', frame });
      if (frames.some((frame) => frame.type === 'chat.resume_boundary')) void refreshBalance();
    };
    const current = new ChatConnection({
      websocketUrl,
      baseUrl: window.location.href,
      WebSocket,
      onFrame: (frame) => {
        waiting.push(frame);
        timer ??= setTimeout(show, refreshMs);
      },
      onStatus: (next) => {
        setStatus(next);
        if (next.state !== 'open') dispatch({ type: 'connection_lost' });
      },
      onUnreadableFrame: (error) => console.warn('A frame could not be read and was skipped', error),
    });
    connection.current = current;
    if (firstMessage !== null) current.sendMessage(firstMessage.content, firstMessage.clientMessageId);
    current.open();
    const comeBack = (): void => current.reconnect();
    window.addEventListener('online', comeBack);
    return () => {
      window.removeEventListener('online', comeBack);
      clearTimeout(timer);
      current.close();
    };
  }, [websocketUrl, WebSocket, refreshBalance, firstMessage]);

  const sendMessage = useCallback((content: string): void => {
    const message = { content, clientMessageId: newId() };
    const outcome = connection.current?.sendMessage(content, message.clientMessageId);
    if (outcome === 'accepted') dispatch({ type: 'message_written', message });
  }, []);
  const answerInput = useCallback((requestId: string, answer: string): void => {
    connection.current?.answerInput(requestId, answer);
  }, []);
  const stop = useCallback((): void => {
    connection.current?.cancel();
  }, []);
  const reconnect = useCallback((): void => connection.current?.reconnect(), []);
  return { state, status, sendMessage, answerInput, stop, reconnect, refreshBalance };
}
