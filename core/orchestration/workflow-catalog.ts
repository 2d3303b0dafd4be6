import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LineCounter, parseDocument } from 'yaml';
import type { WorkflowSummary } from '../contracts/http.ts';
import { type Workflow, workflowFileSchema, workflowNameSchema } from './workflow-definition.ts';

/** A workflow file that cannot be used: each problem names file, line, field and what is wrong. */
export class WorkflowError extends Error {
  readonly code = 'invalid_workflow';
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(`Workflows cannot be used:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'WorkflowError';
    this.problems = problems;
  }
}

export type WorkflowCatalog = ReadonlyMap<string, Workflow>;

/**
 * Reads every `<folder>/<name>/workflow.yaml`. A folder is a workflow; nothing else registers it.
 * @throws WorkflowError with all problems of all files.
 */
export async function readWorkflows(folder: string): Promise<WorkflowCatalog> {
  const entries = await readdir(folder, { withFileTypes: true });
  const catalog = new Map<string, Workflow>();
  const problems: string[] = [];
  for (const entry of entries
    .filter((each) => each.isDirectory())
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    const file = join(folder, entry.name, 'workflow.yaml');
    const read = await readWorkflow(file, entry.name);
    if ('problems' in read) problems.push(...read.problems);
    else catalog.set(entry.name, read.workflow);
  }
  if (problems.length > 0) throw new WorkflowError(problems);
  return catalog;
}

async function readWorkflow(
  file: string,
  name: string,
): Promise<{ workflow: Workflow } | { problems: string[] }> {
  const validName = workflowNameSchema.safeParse(name);
  if (!validName.success)
    return {
      problems: [`${file}: the folder's name ${validName.error.issues[0]?.message ?? 'is not valid'}`],
    };
  const lines = new LineCounter();
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    return {
      problems: [`${file}: cannot be read (${cause instanceof Error ? cause.message : String(cause)})`],
    };
  }
  const document = parseDocument(text, { lineCounter: lines });
  if (document.errors.length > 0)
    return {
      problems: document.errors.map(
        (error) => `${file}:${lines.linePos(error.pos[0]).line}: ${error.message.split('\n')[0] ?? ''}`,
      ),
    };
  const parsed = workflowFileSchema.safeParse(document.toJS());
  if (parsed.success) return { workflow: { ...parsed.data, workflow_name: name } };
  return {
    problems: parsed.error.issues.map((issue) => {
      const path = issue.path.map((key) => (typeof key === 'symbol' ? String(key) : key));
      return `${file}:${lineOf(path)}: ${path.join('.') || 'workflow'}: ${issue.message}`;
    }),
  };

  /** The line of the field, or of the nearest thing around it that is there. */
  function lineOf(path: (string | number)[]): number {
    for (let length = path.length; length > 0; length -= 1) {
      const node: unknown = document.getIn(path.slice(0, length), true);
      if (
        typeof node === 'object' &&
        node !== null &&
        'range' in node &&
        Array.isArray(node.range) &&
        typeof node.range[0] === 'number'
      )
        return lines.linePos(node.range[0]).line;
    }
    return 1;
  }
}

export function summarize(workflow: Workflow, defaultModel: string): WorkflowSummary {
  return {
    workflow_name: workflow.workflow_name,
    display_name: workflow.ui.display_name,
    description: workflow.ui.description,
    icon: workflow.ui.icon,
    suggestions: workflow.ui.suggestions,
    pattern: workflow.pattern,
    agents: workflow.agents.map(({ name, description }) => ({ name, description })),
    model: workflow.agents[0]?.model ?? defaultModel,
  };
}
