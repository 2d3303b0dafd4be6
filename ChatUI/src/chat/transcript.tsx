import { memo, useEffect, useRef, useState, type ReactNode } from 'react';
import { Icon } from '../design/icon.tsx';
import type { ConnectionStatus } from './chat-connection.ts';
import type { ChatState } from './chat-state.ts';
import { isThinking } from './chat-state.ts';
import { Message, UserMessage } from './message.tsx';
import { NoticeLine } from './notice-line.tsx';
import { ThinkingIndicator } from './thinking-indicator.tsx';
import { ToolLine } from './tool-line.tsx';
import type { TranscriptEntry } from './transcript-entry.ts';

/** Follows what is being written for as long as the user is at its end; who scrolled up to read is left in peace. */
export function Transcript({
  state,
  agents,
  status,
  children,
}: {
  state: ChatState;
  agents: readonly string[];
  status: ConnectionStatus;
  children?: ReactNode;
}): ReactNode {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const [isFollowing, setIsFollowing] = useState(true);
  useEffect(() => {
    if (!isFollowing || !('ResizeObserver' in window)) return undefined;
    // A text may grow after its frame was shown: markdown is deferred, and its code arrives with the first answer.
    const observer = new ResizeObserver(() => scrollToEnd(scroller.current));
    for (const element of [scroller.current, content.current]) {
      if (element !== null) observer.observe(element);
    }
    return () => observer.disconnect();
  }, [isFollowing]);
  const pendingCount = state.pending.length;
  useEffect(() => {
    if (pendingCount === 0) return;
    scrollToEnd(scroller.current);
    setIsFollowing(true);
  }, [pendingCount]);
  return (
    <div className="relative min-h-0 flex-1">
      <div
        ref={scroller}
        onScroll={(event) => setIsFollowing(isAtEnd(event.currentTarget))}
        className="h-full overflow-y-auto overscroll-contain"
      >
        <div
          ref={content}
          role="log"
          aria-label="Conversation"
          aria-live="polite"
          aria-relevant="additions text"
          className="mx-auto flex max-w-3xl flex-col gap-6 px-4 py-6"
        >
          {state.entries.map((entry) => (
            <Entry key={entry.key} entry={entry} agents={agents} />
          ))}
          {state.pending.map(({ clientMessageId, content }) => (
            <UserMessage key={clientMessageId} content={content} note={pendingNotes[status.state]} />
          ))}
          {isThinking(state) && <ThinkingIndicator speaker={state.speaker} agents={agents} />}
          {children}
        </div>
      </div>
      {!isFollowing && (
        <button
          type="button"
          onClick={() => {
            scrollToEnd(scroller.current);
            setIsFollowing(true);
          }}
          className="absolute bottom-3 left-1/2 flex h-9 -translate-x-1/2 items-center gap-1.5 rounded-full border border-line bg-surface px-4 text-sm font-medium shadow-md"
        >
          <Icon name="down" className="size-4" />
          Latest
        </button>
      )}
    </div>
  );
}

const pendingNotes = {
  connecting: 'Sending…',
  open: 'Sending…',
  reconnecting: 'Waits for the connection',
  closed: 'Not sent',
} as const;

const Entry = memo(function Entry({
  entry,
  agents,
}: {
  entry: TranscriptEntry;
  agents: readonly string[];
}): ReactNode {
  switch (entry.kind) {
    case 'message':
      return <Message message={entry} agents={agents} />;
    case 'tool':
      return <ToolLine tool={entry} />;
    case 'notice':
      return <NoticeLine frame={entry.frame} />;
  }
});

function isAtEnd({ scrollHeight, scrollTop, clientHeight }: HTMLElement): boolean {
  return scrollHeight - scrollTop - clientHeight < 80;
}

function scrollToEnd(element: HTMLElement | null): void {
  if (element !== null) element.scrollTop = element.scrollHeight;
}
