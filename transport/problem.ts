import type { Problem } from '../core/contracts/http.ts';

/** An answer that is an error, as RFC 9457 has it. Only transport knows status codes; core's errors carry a `code`. */
export class ProblemError extends Error {
  readonly problem: Problem;
  readonly retryAfterSec: number | undefined;
  constructor(
    status: number,
    code: string,
    detail: string,
    facts: Record<string, unknown> = {},
    retryAfterSec?: number,
  ) {
    super(detail);
    this.name = 'ProblemError';
    this.problem = {
      type: `urn:mozaiks:problem:${code}`,
      title: titles.get(status) ?? 'Error',
      status,
      code,
      detail,
      ...facts,
    };
    this.retryAfterSec = retryAfterSec;
  }
}

const titles = new Map([
  [400, 'Bad request'],
  [401, 'Not signed in'],
  [402, 'Payment required'],
  [403, 'Forbidden'],
  [404, 'Not found'],
  [405, 'Method not allowed'],
  [409, 'Conflict'],
  [410, 'Gone'],
  [413, 'Too large'],
  [415, 'Unsupported media type'],
  [429, 'Too many requests'],
  [500, 'Internal error'],
  [503, 'Unavailable'],
]);

const statusByCode = new Map<unknown, number>([
  ['unknown_workflow', 404],
  ['queue_full', 503],
  ['shutting_down', 503],
  ['storage_unavailable', 503],
]);

/** What a caller is told about an error from inside. An error nobody expected says nothing of itself. */
export function problemOf(error: unknown): ProblemError {
  if (error instanceof ProblemError) return error;
  const { code, message, retryAfterSec, workflows, type, status } = factsOf(error);
  if (type === 'entity.too.large') return new ProblemError(413, 'too_large', 'The body is larger than 1 MB.');
  if (type === 'entity.parse.failed')
    return new ProblemError(400, 'malformed_json', 'The body is not valid JSON.');
  if (typeof status === 'number' && status >= 400 && status < 500)
    return new ProblemError(status, 'bad_request', 'The request cannot be read.');
  const known = statusByCode.get(code);
  if (known === undefined)
    return new ProblemError(
      500,
      'internal_error',
      'Something went wrong on the server; its log has the details.',
    );
  return new ProblemError(
    known,
    String(code),
    String(message),
    workflows === undefined ? {} : { workflows },
    typeof retryAfterSec === 'number' ? retryAfterSec : undefined,
  );
}

function factsOf(error: unknown): Record<string, unknown> {
  if (typeof error !== 'object' || error === null) return {};
  const pick = (key: string): unknown =>
    key in error
      ? Object.entries(Object.getOwnPropertyDescriptors(error)).find(([name]) => name === key)?.[1].value
      : undefined;
  return {
    code: pick('code'),
    message: pick('message'),
    retryAfterSec: pick('retryAfterSec'),
    workflows: pick('workflows'),
    type: pick('type'),
    status: pick('status'),
  };
}
