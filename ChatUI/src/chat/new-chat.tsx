import { useState, type ReactNode } from 'react';
import type { ChatSummary, WorkflowSummary } from '../../../core/contracts/http.ts';
import { Alert } from '../design/alert.tsx';
import type { Loaded } from '../design/use-loaded.ts';
import type { WalletView } from '../tokens/wallet-balance.tsx';
import { Suggestions } from '../picker/suggestions.tsx';
import { WorkflowIcon } from '../picker/workflow-icon.tsx';
import { ChatLayout } from './chat-layout.tsx';
import { Composer } from './composer.tsx';

/** A chat that has no message yet. It comes into being on the server with its first one, so no empty chats pile up. */
export function NewChat({
  workflow,
  chats,
  wallet,
  isStarting,
  failure,
  onStart,
  onReloadChats,
  onSettings,
}: {
  workflow: WorkflowSummary;
  chats: Loaded<ChatSummary[]>;
  wallet: WalletView | null;
  isStarting: boolean;
  failure: string | null;
  onStart: (workflowName: string, content: string) => void;
  onReloadChats: () => void;
  onSettings: () => void;
}): ReactNode {
  const [draft, setDraft] = useState('');
  return (
    <ChatLayout
      workflow={workflow}
      chats={chats}
      openChatId={null}
      wallet={wallet}
      onReloadChats={onReloadChats}
      onSettings={onSettings}
    >
      <div className="flex min-h-0 flex-1 flex-col overflow-y-auto">
        <div className="mx-auto my-auto flex w-full max-w-3xl flex-col gap-6 px-4 py-8">
          <div className="flex flex-col items-start gap-4">
            <WorkflowIcon icon={workflow.icon} name={workflow.display_name} size="large" />
            <div>
              <h2 className="text-2xl font-semibold tracking-tight sm:text-3xl">{workflow.display_name}</h2>
              <p className="mt-2 max-w-prose leading-relaxed text-muted">{workflow.description}</p>
            </div>
          </div>
          <Suggestions
            suggestions={workflow.suggestions}
            isDisabled={isStarting}
            onChoose={(suggestion) => onStart(workflow.workflow_name, suggestion)}
          />
          {failure !== null && (
            <Alert tone="danger" title="The chat could not be started">
              {failure}
            </Alert>
          )}
        </div>
      </div>
      <div className="px-4 pt-2 pb-4">
        <Composer
          draft={draft}
          mode={isStarting ? 'starting' : 'ready'}
          placeholder={isStarting ? 'Starting the chat…' : `Message ${workflow.display_name}`}
          onDraft={setDraft}
          onSend={() => onStart(workflow.workflow_name, draft.trim())}
        />
      </div>
    </ChatLayout>
  );
}
