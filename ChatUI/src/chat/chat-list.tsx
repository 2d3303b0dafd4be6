import type { ReactNode } from 'react';
import type { ChatSummary } from '../../../core/contracts/http.ts';
import { Button } from '../design/button.tsx';
import { Icon } from '../design/icon.tsx';
import type { Loaded } from '../design/use-loaded.ts';
import { formatRoute } from '../navigation/route.ts';
import { formatCount } from '../tokens/amount.ts';

export function ChatList({
  workflowName,
  chats,
  openChatId,
  onRetry,
  onChosen,
}: {
  workflowName: string;
  chats: Loaded<ChatSummary[]>;
  openChatId: string | null;
  onRetry: () => void;
  onChosen: () => void;
}): ReactNode {
  return (
    <nav aria-label="Chats" className="flex h-full flex-col gap-3 overflow-y-auto p-3">
      <a
        href={formatRoute({ page: 'new_chat', workflowName })}
        onClick={onChosen}
        className="flex h-10 shrink-0 items-center gap-2 rounded-lg border border-line bg-surface px-3 text-sm font-medium hover:bg-sunken"
      >
        <Icon name="plus" className="size-4 text-accent" />
        New chat
      </a>
      <Earlier {...{ workflowName, chats, openChatId, onRetry, onChosen }} />
    </nav>
  );
}

function Earlier({
  workflowName,
  chats,
  openChatId,
  onRetry,
  onChosen,
}: Parameters<typeof ChatList>[0]): ReactNode {
  switch (chats.status) {
    case 'loading':
      return <p className="px-3 text-sm text-muted">Loading…</p>;
    case 'failed':
      return (
        <div role="alert" className="flex flex-col items-start gap-2 px-3 text-sm text-muted">
          {chats.explanation}
          <Button onClick={onRetry}>Try again</Button>
        </div>
      );
    case 'ready':
      if (chats.value.length === 0)
        return <p className="px-3 text-sm text-muted">Your chats will be listed here.</p>;
      return (
        <>
          <h2 className="px-3 pt-1 text-xs font-medium text-muted">Earlier chats</h2>
          <ul className="flex flex-col gap-0.5">
            {chats.value.map((chat) => (
              <li key={chat.chat_id}>
                <a
                  href={formatRoute({ page: 'chat', workflowName, chatId: chat.chat_id })}
                  aria-current={chat.chat_id === openChatId ? 'page' : undefined}
                  onClick={onChosen}
                  className="flex flex-col rounded-lg px-3 py-2 text-sm hover:bg-sunken aria-[current=page]:bg-accent-soft"
                >
                  <time dateTime={chat.created_at} className="font-medium">
                    {new Date(chat.created_at).toLocaleString(undefined, {
                      day: 'numeric',
                      month: 'short',
                      hour: '2-digit',
                      minute: '2-digit',
                    })}
                  </time>
                  <span className="text-xs text-muted tabular-nums">
                    {chat.status.replaceAll('_', ' ')} · {formatCount(chat.total_tokens)} tokens
                  </span>
                </a>
              </li>
            ))}
          </ul>
        </>
      );
  }
}
