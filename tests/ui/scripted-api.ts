import type { Fetch } from '../../ChatUI/src/api/api-client.ts';

type Answer = { status?: number; body: unknown };
export type AskedRequest = { method: string; path: string; body: unknown };

/** Answers the requests it was given answers for, and fails the test on any other. */
export class ScriptedApi {
  readonly asked: AskedRequest[] = [];
  readonly #answers = new Map<string, Answer>();

  answer(request: string, body: unknown, status = 200): void {
    this.#answers.set(request, { status, body });
  }

  readonly fetch: Fetch = async (path, { method, body }) => {
    this.asked.push({ method, path, body: body === undefined ? undefined : JSON.parse(body) });
    const answer = this.#answers.get(`${method} ${path}`);
    if (answer === undefined) throw new Error(`nobody expected ${method} ${path}`);
    const status = answer.status ?? 200;
    return { ok: status < 400, status, json: async () => answer.body };
  };
}
