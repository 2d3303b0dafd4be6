import type { ReactNode } from 'react';
import { AgentChip } from './agent-chip.tsx';

export function ThinkingIndicator({
  speaker,
  agents,
}: {
  speaker: string | null;
  agents: readonly string[];
}): ReactNode {
  return (
    <div
      role="status"
      aria-label="Thinking"
      className="flex animate-arrive items-center gap-2.5 text-sm text-muted"
    >
      {speaker !== null && <AgentChip agent={speaker} agents={agents} />}
      <span className="sr-only">is thinking</span>
      <span aria-hidden="true" className="flex gap-1">
        <span className="size-1.5 animate-dot rounded-full bg-current" />
        <span className="size-1.5 animate-dot rounded-full bg-current [animation-delay:150ms]" />
        <span className="size-1.5 animate-dot rounded-full bg-current [animation-delay:300ms]" />
      </span>
    </div>
  );
}
