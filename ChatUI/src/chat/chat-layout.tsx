import { useState, type ReactNode } from 'react';
import type { ChatSummary, WorkflowSummary } from '../../../core/contracts/http.ts';
import { Icon } from '../design/icon.tsx';
import type { Loaded } from '../design/use-loaded.ts';
import { PageHeader } from '../page-header.tsx';
import type { WalletView } from '../tokens/wallet-balance.tsx';
import { ChatList } from './chat-list.tsx';

/** What a new chat and an open one share: header, the list of earlier chats, and room for the conversation. */
export function ChatLayout({
  workflow,
  chats,
  openChatId,
  wallet,
  onReloadChats,
  onSettings,
  headerActions,
  panel,
  children,
}: {
  workflow: WorkflowSummary;
  chats: Loaded<ChatSummary[]>;
  openChatId: string | null;
  wallet: WalletView | null;
  onReloadChats: () => void;
  onSettings: () => void;
  headerActions?: ReactNode;
  panel?: ReactNode;
  children: ReactNode;
}): ReactNode {
  const [isListOpen, setIsListOpen] = useState(false);
  return (
    <div className="flex h-dvh flex-col">
      <PageHeader
        title={workflow.display_name}
        wallet={wallet}
        onSettings={onSettings}
        before={
          <button
            type="button"
            aria-label="Chats"
            aria-expanded={isListOpen}
            onClick={() => setIsListOpen((isOpen) => !isOpen)}
            className="icon-button lg:hidden"
          >
            <Icon name="chats" />
          </button>
        }
        after={headerActions}
      />
      <div className="relative flex min-h-0 flex-1">
        <div
          className={`${isListOpen ? 'block' : 'hidden'} absolute inset-0 z-20 bg-canvas lg:static lg:block lg:w-60 lg:shrink-0 lg:border-r lg:border-line`}
        >
          <ChatList
            workflowName={workflow.workflow_name}
            chats={chats}
            openChatId={openChatId}
            onRetry={onReloadChats}
            onChosen={() => setIsListOpen(false)}
          />
        </div>
        <main className="flex min-w-0 flex-1 flex-col">{children}</main>
        {panel}
      </div>
    </div>
  );
}
