import type { ReactNode } from 'react';
import type { ServerFrameData } from '../../../core/contracts/frames.ts';
import type { Balance } from '../../../core/contracts/http.ts';
import { Alert } from '../design/alert.tsx';
import { Button } from '../design/button.tsx';
import { formatAmount } from './amount.ts';

export function FundsNotice({
  exhausted,
  unit,
  onCheckAgain,
}: {
  exhausted: ServerFrameData<'token_exhausted'>;
  unit: Balance['unit'];
  onCheckAgain: () => void;
}): ReactNode {
  const { scope, remaining_balance, blocked_until } = exhausted;
  const isWallet = scope === 'wallet';
  return (
    <Alert
      tone="warning"
      title={isWallet ? 'The wallet is used up' : `The budget “${scope}” is used up`}
      action={<Button onClick={onCheckAgain}>Check again</Button>}
    >
      {formatAmount(remaining_balance, unit)} left.{' '}
      {blocked_until !== null && `It is free again on ${new Date(blocked_until).toLocaleString()}. `}
      {isWallet
        ? 'Top up the wallet and the chat goes on where it stood.'
        : 'Raise the budget, or wait until it is free again.'}
    </Alert>
  );
}
