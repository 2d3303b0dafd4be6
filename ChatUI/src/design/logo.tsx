import type { ReactNode } from 'react';

export function Logo({ className = 'size-6' }: { className?: string }): ReactNode {
  return (
    <svg aria-hidden="true" className={className} viewBox="0 0 32 32">
      <rect x="2" y="2" width="13" height="13" rx="3.5" className="fill-accent" />
      <rect x="17" y="2" width="13" height="13" rx="6.5" fill="#e0a458" />
      <rect x="2" y="17" width="13" height="13" rx="6.5" className="fill-accent opacity-40" />
      <rect x="17" y="17" width="13" height="13" rx="3.5" className="fill-ink opacity-80" />
    </svg>
  );
}
