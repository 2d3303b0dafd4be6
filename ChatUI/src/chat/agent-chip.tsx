import type { ReactNode } from 'react';

const colourCount = 8;
const colourClasses = [
  'agent-0',
  'agent-1',
  'agent-2',
  'agent-3',
  'agent-4',
  'agent-5',
  'agent-6',
  'agent-7',
] as const;

/** An agent keeps its colour in the whole chat; the first eight of a workflow differ from each other. */
export function agentColourClass(agent: string, agents: readonly string[]): string {
  const index = agents.indexOf(agent);
  return colourClasses[(index === -1 ? hash(agent) : index) % colourCount] ?? colourClasses[0];
}

export function AgentChip({ agent, agents }: { agent: string; agents: readonly string[] }): ReactNode {
  return (
    <span
      className={`${agentColourClass(agent, agents)} inline-flex max-w-full items-center gap-1.5 rounded-full bg-(--agent)/10 py-0.5 pr-2.5 pl-2 text-xs font-semibold text-(--agent)`}
    >
      <span aria-hidden="true" className="size-1.5 shrink-0 rounded-full bg-(--agent)" />
      <span className="truncate">{agent}</span>
    </span>
  );
}

function hash(text: string): number {
  let sum = 0;
  for (const character of text) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 9973;
  return sum;
}
