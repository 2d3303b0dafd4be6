import type { ReactNode } from 'react';
import { Icon } from './design/icon.tsx';
import { Logo } from './design/logo.tsx';
import { WalletBalance, type WalletView } from './tokens/wallet-balance.tsx';

export function PageHeader({
  title,
  wallet,
  onSettings,
  before,
  after,
}: {
  title: string | null;
  wallet: WalletView | null;
  onSettings: () => void;
  before?: ReactNode;
  after?: ReactNode;
}): ReactNode {
  return (
    <header className="flex h-14 shrink-0 items-center gap-1 border-b border-line bg-surface px-2 sm:gap-2 sm:px-3">
      {before}
      <a
        href="#/"
        aria-label="Mozaiks, all workflows"
        className="flex h-9 items-center gap-2.5 rounded-lg px-1.5 font-semibold tracking-tight"
      >
        <Logo />
        <span className={title === null ? '' : 'hidden sm:inline'}>Mozaiks</span>
      </a>
      {title !== null && (
        <>
          <span aria-hidden="true" className="hidden text-line-strong sm:inline">
            /
          </span>
          <h1 className="min-w-0 truncate px-1 text-sm font-medium">{title}</h1>
        </>
      )}
      <div className="ml-auto flex items-center gap-1">
        <WalletBalance wallet={wallet} />
        {after}
        <button type="button" aria-label="Settings" onClick={onSettings} className="icon-button">
          <Icon name="settings" />
        </button>
      </div>
    </header>
  );
}
