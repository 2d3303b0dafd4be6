import type { ReactNode } from 'react';
import { Alert } from '../design/alert.tsx';
import { Button } from '../design/button.tsx';
import type { ConnectionStatus } from './chat-connection.ts';

export function ConnectionBanner({
  status,
  onReconnect,
}: {
  status: ConnectionStatus;
  onReconnect: () => void;
}): ReactNode {
  switch (status.state) {
    case 'open':
    case 'connecting':
      return null;
    case 'reconnecting':
      return (
        <div
          role="status"
          aria-label="Connection"
          className="flex items-center justify-center gap-3 border-b border-warning/25 bg-warning-soft px-4 py-1.5 text-sm text-warning"
        >
          <span>
            {navigator.onLine
              ? 'The connection was lost. Reconnecting…'
              : 'You are offline. The chat goes on as soon as you are back.'}
          </span>
          <button type="button" onClick={onReconnect} className="font-semibold underline underline-offset-2">
            Try now
          </button>
        </div>
      );
    case 'closed':
      return status.explanation === '' ? null : (
        <div className="mx-auto w-full max-w-3xl px-4 pt-4">
          <Alert
            tone="danger"
            title="This chat is not connected"
            action={<Button onClick={onReconnect}>Try again</Button>}
          >
            {status.explanation}
          </Alert>
        </div>
      );
  }
}
