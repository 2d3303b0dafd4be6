import type { ReactNode } from 'react';

export function Button({
  children,
  onClick,
  kind = 'quiet',
  type = 'button',
}: {
  children: ReactNode;
  onClick?: () => void;
  kind?: 'primary' | 'quiet';
  type?: 'button' | 'submit';
}): ReactNode {
  const colours =
    kind === 'primary'
      ? 'bg-accent text-accent-ink hover:opacity-90'
      : 'border border-line bg-surface text-ink hover:bg-sunken';
  return (
    <button
      type={type}
      onClick={onClick}
      className={`inline-flex h-9 shrink-0 items-center gap-2 rounded-lg px-3.5 text-sm font-medium transition ${colours}`}
    >
      {children}
    </button>
  );
}
