import { useCallback, useEffect, useMemo, useState, type ReactNode } from 'react';
import type { Balance } from '../../core/contracts/http.ts';
import type { ApiClient } from './api/api-client.ts';
import { explainFailure } from './api/api-problem.ts';
import type { ChatSocketConstructor } from './chat/chat-connection.ts';
import type { PendingMessage } from './chat/chat-state.ts';
import { newId } from './chat/new-id.ts';
import { NewChat } from './chat/new-chat.tsx';
import { OpenChat } from './chat/open-chat.tsx';
import { chatSocketPath } from './chat/socket-url.ts';
import { Alert } from './design/alert.tsx';
import { useLoaded } from './design/use-loaded.ts';
import { loadIdentity, saveIdentity, type Identity } from './identity/identity.ts';
import { SettingsDialog } from './identity/settings-dialog.tsx';
import { formatRoute, type Route } from './navigation/route.ts';
import { useRoute } from './navigation/use-route.ts';
import { PageHeader } from './page-header.tsx';
import { WorkflowPicker } from './picker/workflow-picker.tsx';

export type AppServices = { api: ApiClient; WebSocket: ChatSocketConstructor; storage: Storage };

export function App({ api, WebSocket, storage }: AppServices): ReactNode {
  const [identity, setIdentity] = useState(() => loadIdentity(storage, window.location.search, newId));
  const [isChoosingIdentity, setIsChoosingIdentity] = useState(false);

  const saveSettings = (chosen: Identity): void => {
    saveIdentity(storage, chosen);
    // The address would overrule what was just chosen; and the open chat belongs to the one before.
    window.history.replaceState(null, '', window.location.pathname);
    window.location.hash = formatRoute({ page: 'workflows' });
    setIdentity(chosen);
    setIsChoosingIdentity(false);
  };
  return (
    <>
      <Pages
        key={JSON.stringify(identity)}
        api={api}
        WebSocket={WebSocket}
        identity={identity}
        onSettings={() => setIsChoosingIdentity(true)}
      />
      {isChoosingIdentity && (
        <SettingsDialog
          identity={identity}
          onSave={saveSettings}
          onClose={() => setIsChoosingIdentity(false)}
        />
      )}
    </>
  );
}

type StartedChat = { chatId: string; websocketUrl: string; firstMessage: PendingMessage };
type Start =
  { status: 'none' } | { status: 'starting' } | { status: 'failed'; explanation: string; on: Route };

function Pages({
  api,
  WebSocket,
  identity,
  onSettings,
}: Omit<AppServices, 'storage'> & { identity: Identity; onSettings: () => void }): ReactNode {
  const route = useRoute();
  const workflowName = route.page === 'workflows' ? null : route.workflowName;
  const [started, setStarted] = useState<StartedChat | null>(null);
  const [start, setStart] = useState<Start>({ status: 'none' });
  const [wallet, setWallet] = useState<Balance | null>(null);

  const readBalance = useCallback(async (): Promise<Balance | undefined> => {
    try {
      const balance = await api.readBalance(identity);
      setWallet(balance);
      return balance;
    } catch {
      // The wallet then shows no number. What the user does next meets the same failure and says so.
      return undefined;
    }
  }, [api, identity]);
  useEffect(() => {
    void readBalance();
  }, [readBalance, route]);
  const rememberBalance = useCallback(
    (balance: number) => setWallet((before) => (before === null ? null : { ...before, balance })),
    [],
  );
  const [workflows, reloadWorkflows] = useLoaded(api.listWorkflows);
  const listChats = useCallback(
    async () => (workflowName === null ? [] : api.listChats(identity, workflowName)),
    [api, identity, workflowName],
  );
  const [chats, reloadChats] = useLoaded(listChats);

  const startChat = async (name: string, content: string): Promise<void> => {
    setStart({ status: 'starting' });
    try {
      const answer = await api.startChat(identity, { workflowName: name, clientRequestId: newId() });
      setStart({ status: 'none' });
      setStarted({
        chatId: answer.chat_id,
        websocketUrl: answer.websocket_url,
        firstMessage: { clientMessageId: newId(), content },
      });
      window.location.hash = formatRoute({ page: 'chat', workflowName: name, chatId: answer.chat_id });
    } catch (error) {
      setStart({ status: 'failed', explanation: explainFailure(error), on: route });
    }
  };
  const startState = {
    isStarting: start.status === 'starting',
    failure: start.status === 'failed' && start.on === route ? start.explanation : null,
    onStart: (name: string, content: string): void => void startChat(name, content),
  };

  const workflow = useMemo(
    () =>
      workflows.status === 'ready'
        ? workflows.value.find((each) => each.workflow_name === workflowName)
        : undefined,
    [workflows, workflowName],
  );
  if (route.page === 'workflows' || workflow === undefined) {
    return (
      <div className="flex h-dvh flex-col">
        <title>Mozaiks</title>
        <PageHeader title={null} wallet={wallet} onSettings={onSettings} />
        {workflowName !== null && workflows.status === 'ready' && (
          <div className="mx-auto w-full max-w-5xl px-4 pt-6 sm:px-6">
            <Alert tone="warning" title={`There is no workflow “${workflowName}”`}>
              Choose one of those below.
            </Alert>
          </div>
        )}
        <WorkflowPicker workflows={workflows} onRetry={reloadWorkflows} {...startState} />
      </div>
    );
  }
  const shared = { workflow, chats, wallet, onReloadChats: reloadChats, onSettings };
  switch (route.page) {
    case 'new_chat':
      return (
        <>
          <title>{`${workflow.display_name} · Mozaiks`}</title>
          <NewChat key={workflow.workflow_name} {...shared} {...startState} />
        </>
      );
    case 'chat': {
      const isStarted = started?.chatId === route.chatId;
      return (
        <>
          <title>{`${workflow.display_name} · Mozaiks`}</title>
          <OpenChat
            key={route.chatId}
            {...shared}
            WebSocket={WebSocket}
            readBalance={readBalance}
            onBalance={rememberBalance}
            chatId={route.chatId}
            websocketUrl={
              isStarted
                ? started.websocketUrl
                : chatSocketPath({
                    workflow_name: workflow.workflow_name,
                    chat_id: route.chatId,
                    ...identity,
                  })
            }
            firstMessage={isStarted ? started.firstMessage : null}
          />
        </>
      );
    }
  }
}
