import type { Problem } from '../../../core/contracts/http.ts';

/** An answer that was not the one asked for. `problem` is null when nothing readable came back at all. */
export class ApiProblem extends Error {
  readonly code = 'api_problem';
  readonly problem: Problem | null;

  constructor(message: string, problem: Problem | null, cause?: unknown) {
    super(message, { cause });
    this.name = 'ApiProblem';
    this.problem = problem;
  }
}

/** What to tell the user about something that was thrown. */
export function explainFailure(error: unknown): string {
  return error instanceof ApiProblem
    ? error.message
    : 'This page met something it did not expect. Reload it and try again.';
}
