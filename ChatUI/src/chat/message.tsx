import { lazy, memo, Suspense, useDeferredValue, type ReactNode } from 'react';
import { AgentChip } from './agent-chip.tsx';
import type { MessageEntry } from './transcript-entry.ts';

/** A quarter of the page's code, and not needed before the first answer. Until it is there the text shows as it is. */
const Markdown = lazy(() => import('./markdown.tsx'));

export const Message = memo(function Message({
  message,
  agents,
}: {
  message: MessageEntry;
  agents: readonly string[];
}): ReactNode {
  return message.role === 'user' ? (
    <UserMessage content={message.content} />
  ) : (
    <AgentMessage message={message} agents={agents} />
  );
});

export function UserMessage({ content, note }: { content: string; note?: string }): ReactNode {
  return (
    <article aria-label="You" className="flex animate-arrive flex-col items-end gap-1">
      <div
        className={`max-w-[85%] rounded-2xl rounded-br-md bg-accent-soft px-4 py-2.5 leading-relaxed wrap-anywhere whitespace-pre-wrap ${
          note === undefined ? '' : 'opacity-60'
        }`}
      >
        {content}
      </div>
      {note !== undefined && <p className="text-xs text-muted">{note}</p>}
    </article>
  );
}

function AgentMessage({ message, agents }: { message: MessageEntry; agents: readonly string[] }): ReactNode {
  const text = useDeferredValue(message.content);
  const isStreaming = message.streaming !== null;
  return (
    // Busy while it is being written, so that readers are told the whole message once and not each word of it.
    <article aria-label={message.agent} aria-busy={isStreaming} className="animate-arrive">
      <header className="mb-1.5 flex items-center gap-2">
        <AgentChip agent={message.agent} agents={agents} />
        <time dateTime={message.timestamp} className="text-xs text-muted">
          {new Date(message.timestamp).toLocaleTimeString(undefined, { timeStyle: 'short' })}
        </time>
      </header>
      <Suspense fallback={<div className="leading-relaxed wrap-anywhere whitespace-pre-wrap">{text}</div>}>
        <Markdown text={text} />
      </Suspense>
      {message.isPartial && <p className="mt-1.5 text-xs text-muted">Cut short</p>}
    </article>
  );
}
