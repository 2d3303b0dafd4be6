import { useEffect, useMemo, useState, type ReactNode } from 'react';
import type { Balance, ChatSummary, WorkflowSummary } from '../../../core/contracts/http.ts';
import { Icon } from '../design/icon.tsx';
import type { Loaded } from '../design/use-loaded.ts';
import { Inspector } from '../inspector/inspector.tsx';
import type { AgentUsage } from '../tokens/agent-usage.ts';
import { FundsNotice } from '../tokens/funds-notice.tsx';
import { TokenMeter } from '../tokens/token-meter.tsx';
import type { WalletView } from '../tokens/wallet-balance.tsx';
import { ChatLayout } from './chat-layout.tsx';
import { usageByAgent, type ChatState, type PendingMessage } from './chat-state.ts';
import { Composer, type ComposerMode } from './composer.tsx';
import type { ChatSocketConstructor, ConnectionStatus } from './chat-connection.ts';
import { ConnectionBanner } from './connection-banner.tsx';
import { Transcript } from './transcript.tsx';
import { useChat } from './use-chat.ts';

export function OpenChat({
  workflow,
  chatId,
  websocketUrl,
  firstMessage,
  WebSocket,
  chats,
  wallet,
  readBalance,
  onBalance,
  onReloadChats,
  onSettings,
}: {
  workflow: WorkflowSummary;
  chatId: string;
  websocketUrl: string;
  firstMessage: PendingMessage | null;
  WebSocket: ChatSocketConstructor;
  chats: Loaded<ChatSummary[]>;
  /** As it was before this chat's frames told anything newer. */
  wallet: WalletView | null;
  readBalance: () => Promise<Balance | undefined>;
  /** The newest balance that this chat knows of, for the pages around it. */
  onBalance: (balance: number) => void;
  onReloadChats: () => void;
  onSettings: () => void;
}): ReactNode {
  const chat = useChat({ websocketUrl, WebSocket, readBalance, firstMessage });
  const { state, status } = chat;
  const [draft, setDraft] = useState('');
  const [isInspecting, setIsInspecting] = useState(false);
  const byAgent = useMemo(() => usageByAgent(state), [state]);
  const agents = useAgentNames(workflow, byAgent);

  const { balance } = state.wallet;
  useEffect(() => {
    if (balance !== null) onBalance(balance);
  }, [balance, onBalance]);
  useEffect(onReloadChats, [onReloadChats, state.run.status]);

  const send = (): void => {
    if (state.openInput === null) chat.sendMessage(draft.trim());
    else chat.answerInput(state.openInput.request_id, draft);
    setDraft('');
  };
  const unit = wallet?.unit ?? 'tokens';
  return (
    <ChatLayout
      workflow={workflow}
      chats={chats}
      openChatId={chatId}
      wallet={balance === null ? wallet : { balance, unit }}
      onReloadChats={onReloadChats}
      onSettings={onSettings}
      headerActions={
        <button
          type="button"
          aria-label="Inspector"
          aria-expanded={isInspecting}
          onClick={() => setIsInspecting((before) => !before)}
          className="icon-button"
        >
          <Icon name="inspector" />
        </button>
      }
      panel={
        isInspecting && (
          <Inspector
            frames={state.inspected}
            frameCount={state.frameCount}
            onClose={() => setIsInspecting(false)}
          />
        )
      }
    >
      <TokenMeter totals={state.usage.totals} byAgent={byAgent} agents={agents} />
      <ConnectionBanner status={status} onReconnect={chat.reconnect} />
      <Transcript state={state} agents={agents} status={status}>
        {state.exhausted !== null && (
          <FundsNotice
            exhausted={state.exhausted}
            unit={unit}
            onCheckAgain={() => void chat.refreshBalance()}
          />
        )}
      </Transcript>
      <div className="px-4 pt-2 pb-4">
        <Composer
          draft={draft}
          mode={composerMode(state, status)}
          placeholder={placeholder(state, status, workflow)}
          isSecret={state.openInput?.password ?? false}
          canStop={status.state === 'open'}
          onDraft={setDraft}
          onSend={send}
          onStop={chat.stop}
        />
      </div>
    </ChatLayout>
  );
}

function composerMode(state: ChatState, status: ConnectionStatus): ComposerMode {
  if (status.state === 'closed') return 'blocked';
  if (state.run.status === 'running' && state.openInput === null) return 'busy';
  return 'ready';
}

function placeholder(state: ChatState, status: ConnectionStatus, workflow: WorkflowSummary): string {
  if (status.state === 'closed') return 'Not connected';
  if (state.openInput !== null) return `Answer ${state.openInput.agent ?? 'the question'}`;
  return `Message ${workflow.display_name}`;
}

/** The workflow's agents first, so that colours are the same in all its chats; then whoever else spoke or cost something. */
function useAgentNames(workflow: WorkflowSummary, byAgent: readonly AgentUsage[]): readonly string[] {
  const names = new Set(workflow.agents.map(({ name }) => name));
  for (const { agent } of byAgent) names.add(agent);
  const key = [...names].join('\n');
  return useMemo(() => key.split('\n'), [key]);
}
