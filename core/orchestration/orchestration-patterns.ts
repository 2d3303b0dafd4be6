import type { AgentDefinition, Workflow } from './workflow-definition.ts';

/** Who speaks next, pure: a workflow's pattern, and who spoke in this run so far. Null gives the word to the user. */
export function nextSpeaker(workflow: Workflow, spoken: readonly string[]): AgentDefinition | null {
  if (spoken.length >= workflow.max_turns) return null;
  const order = speakingOrder(workflow);
  switch (workflow.pattern) {
    case 'default':
      return spoken.length === 0 ? (order[0] ?? null) : null;
    case 'round_robin':
      return order[spoken.length] ?? null;
  }
}

/** The initial agent first, the others as the file names them. */
function speakingOrder({ agents, initial_agent }: Workflow): AgentDefinition[] {
  const first = agents.find(({ name }) => name === initial_agent) ?? agents[0];
  return agents.toSorted((a, b) => Number(b === first) - Number(a === first));
}
