import type { ReactNode } from 'react';
import { Icon } from './icon.tsx';

/** Something went wrong, what it was, and what can be done about it. */
export function Alert({
  tone,
  title,
  children,
  action,
}: {
  tone: 'danger' | 'warning';
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}): ReactNode {
  const colours =
    tone === 'danger'
      ? 'border-danger/30 bg-danger-soft text-danger'
      : 'border-warning/30 bg-warning-soft text-warning';
  return (
    <div role="alert" className={`flex gap-3 rounded-xl border px-4 py-3 text-sm ${colours}`}>
      <Icon name="warning" className="mt-px size-5" />
      <div className="min-w-0 flex-1">
        <p className="font-semibold">{title}</p>
        {children !== undefined && <div className="mt-0.5 text-ink">{children}</div>}
      </div>
      {action}
    </div>
  );
}
