import type { ReactNode } from 'react';
import type { WorkflowSummary } from '../../../core/contracts/http.ts';
import { Alert } from '../design/alert.tsx';
import { Button } from '../design/button.tsx';
import type { Loaded } from '../design/use-loaded.ts';
import { formatRoute } from '../navigation/route.ts';
import { Suggestions } from './suggestions.tsx';
import { WorkflowIcon } from './workflow-icon.tsx';

export function WorkflowPicker({
  workflows,
  isStarting,
  failure,
  onRetry,
  onStart,
}: {
  workflows: Loaded<WorkflowSummary[]>;
  isStarting: boolean;
  failure: string | null;
  onRetry: () => void;
  onStart: (workflowName: string, content: string) => void;
}): ReactNode {
  return (
    <main className="min-h-0 flex-1 overflow-y-auto">
      <div className="mx-auto flex max-w-5xl flex-col gap-8 px-4 py-10 sm:px-6 sm:py-16">
        <div>
          <h1 className="text-3xl font-semibold tracking-tight text-balance sm:text-4xl">
            Who should work on it?
          </h1>
          <p className="mt-2 max-w-xl text-muted">
            Each workflow is a team of agents. Choose one and talk to it; every token it uses is counted
            before your eyes.
          </p>
        </div>
        {failure !== null && (
          <Alert tone="danger" title="The chat could not be started">
            {failure}
          </Alert>
        )}
        <Choices {...{ workflows, isStarting, onRetry, onStart }} />
      </div>
    </main>
  );
}

function Choices({
  workflows,
  isStarting,
  onRetry,
  onStart,
}: Omit<Parameters<typeof WorkflowPicker>[0], 'failure'>): ReactNode {
  switch (workflows.status) {
    case 'loading':
      return (
        <p role="status" className="text-muted">
          Loading workflows…
        </p>
      );
    case 'failed':
      return (
        <Alert
          tone="danger"
          title="The workflows could not be loaded"
          action={<Button onClick={onRetry}>Try again</Button>}
        >
          {workflows.explanation}
        </Alert>
      );
    case 'ready':
      if (workflows.value.length === 0) {
        return (
          <p className="text-muted">
            There is no workflow yet. Add a folder with a workflow.yaml to “workflows” and restart the server.
          </p>
        );
      }
      return (
        <ul aria-label="Workflows" className="grid gap-4 sm:grid-cols-2">
          {workflows.value.map((workflow) => (
            <li key={workflow.workflow_name}>
              <Card {...{ workflow, isStarting, onStart }} />
            </li>
          ))}
        </ul>
      );
  }
}

function Card({
  workflow,
  isStarting,
  onStart,
}: {
  workflow: WorkflowSummary;
  isStarting: boolean;
  onStart: (workflowName: string, content: string) => void;
}): ReactNode {
  const { workflow_name, display_name, description, icon, suggestions, agents, model } = workflow;
  return (
    <article className="relative flex h-full flex-col gap-4 rounded-2xl border border-line bg-surface p-5 shadow-xs transition-colors focus-within:border-accent hover:border-accent">
      <div className="flex items-center gap-3">
        <WorkflowIcon icon={icon} name={display_name} />
        <div className="min-w-0">
          <h2 className="truncate font-semibold tracking-tight">
            <a
              href={formatRoute({ page: 'new_chat', workflowName: workflow_name })}
              className="outline-none after:absolute after:inset-0 after:rounded-2xl"
            >
              {display_name}
            </a>
          </h2>
          <p className="truncate text-xs text-muted">
            {agents.length === 1 ? '1 agent' : `${agents.length} agents`} · {model}
          </p>
        </div>
      </div>
      <p className="text-sm leading-relaxed text-muted">{description}</p>
      {suggestions.length > 0 && (
        <div className="relative z-10 mt-auto">
          <Suggestions
            suggestions={suggestions.slice(0, 3)}
            isDisabled={isStarting}
            onChoose={(suggestion) => onStart(workflow_name, suggestion)}
          />
        </div>
      )}
    </article>
  );
}
