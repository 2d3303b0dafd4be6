import { useEffect, useRef, useState, type ReactNode } from 'react';
import type { Balance } from '../../../core/contracts/http.ts';
import { Icon } from '../design/icon.tsx';
import { formatAmount, formatCount } from './amount.ts';

export type WalletView = { balance: number; unit: Balance['unit'] };

/** The number itself does not run: it is a live region, and a reader should hear one number for each change. */
export function WalletBalance({ wallet }: { wallet: WalletView | null }): ReactNode {
  const change = useLastChange(wallet?.balance ?? null);
  const isLow = wallet !== null && wallet.balance <= 0;
  return (
    <div className="relative">
      <div
        role="status"
        aria-label="Wallet balance"
        className={`flex h-9 items-center gap-2 rounded-lg border px-2.5 text-sm font-medium whitespace-nowrap tabular-nums sm:px-3 ${
          isLow ? 'border-danger/40 bg-danger-soft text-danger' : 'border-line bg-surface'
        }`}
      >
        <Icon name="wallet" className={`size-4 ${isLow ? '' : 'text-accent'}`} />
        {wallet === null ? (
          <span className="text-muted">–</span>
        ) : (
          <data value={wallet.balance}>
            <Amount wallet={wallet} />
          </data>
        )}
      </div>
      {wallet !== null && change !== null && (
        <span
          key={change.number}
          aria-hidden="true"
          className={`pointer-events-none absolute top-1/2 right-full -mt-2 mr-3 hidden animate-spent text-xs font-semibold whitespace-nowrap sm:block tabular-nums ${
            change.amount < 0 ? 'text-warning' : 'text-accent'
          }`}
        >
          {change.amount < 0 ? '−' : '+'}
          {formatAmount(Math.abs(change.amount), wallet.unit)}
        </span>
      )}
    </div>
  );
}

/** A phone's header has no room for the unit; readers are told it all the same. */
function Amount({ wallet }: { wallet: WalletView }): ReactNode {
  if (wallet.unit !== 'tokens') return formatAmount(wallet.balance, wallet.unit);
  return (
    <>
      {formatCount(wallet.balance)}
      <span className="max-sm:sr-only"> tokens</span>
    </>
  );
}

type Change = { number: number; amount: number };

function useLastChange(balance: number | null): Change | null {
  const before = useRef(balance);
  const [change, setChange] = useState<Change | null>(null);
  useEffect(() => {
    const from = before.current;
    before.current = balance;
    if (from === null || balance === null || from === balance) return;
    setChange((last) => ({ number: (last?.number ?? 0) + 1, amount: balance - from }));
  }, [balance]);
  return change;
}
