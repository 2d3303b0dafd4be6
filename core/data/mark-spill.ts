import { idPart } from './id-part.ts';
import type { UsageMarkDocument, SessionDocument } from './collections.ts';

/**
 * High-water marks live in the session document while they are few. A long chat has one for each client of each run,
 * so the oldest move to `UsageMarks` and come back when their client is heard of again.
 */
const mostMarks = 48;
const keptMarks = 32;

/** Takes the oldest clients' marks out of the session (changed in place) when there are too many. */
export function spillMarks(session: SessionDocument): UsageMarkDocument[] {
  const state = session.usage_state;
  const spilled: UsageMarkDocument[] = [];
  if (state.marks.length > mostMarks) {
    // A client leaves with all its marks: one that stayed behind would hide that others are elsewhere.
    const clients = [...new Set(state.marks.map(clientOf))];
    while (state.marks.length > keptMarks && clients.length > 1) {
      const oldest = clients.shift();
      for (const mark of state.marks.filter((each) => clientOf(each) === oldest))
        spilled.push({
          _id: [session._id, mark.run_id, mark.client, String(mark.epoch), mark.model].map(idPart).join('|'),
          chat_id: session._id,
          run_id: mark.run_id,
          client: mark.client,
          mark,
          unmetered: null,
        });
      state.marks = state.marks.filter((each) => clientOf(each) !== oldest);
    }
  }
  if (state.unmetered.length > mostMarks)
    for (const client of state.unmetered.splice(0, state.unmetered.length - keptMarks))
      spilled.push({
        _id: `unmetered|${[session._id, client.run_id, client.agent].map(idPart).join('|')}`,
        chat_id: session._id,
        run_id: client.run_id,
        client: client.agent,
        mark: null,
        unmetered: client,
      });
  if (spilled.length > 0) state.spilled = true;
  return spilled;
}

const clientOf = (mark: { run_id: string; client: string }): string => `${mark.run_id}|${mark.client}`;

/** Puts marks back that were spilled. What the session holds already is newer and stays. */
export function restoreMarks(session: SessionDocument, documents: readonly UsageMarkDocument[]): void {
  const { marks, unmetered } = session.usage_state;
  for (const { mark, unmetered: client } of documents) {
    if (
      mark !== null &&
      !marks.some(
        (each) =>
          each.run_id === mark.run_id &&
          each.client === mark.client &&
          each.epoch === mark.epoch &&
          each.model === mark.model,
      )
    )
      marks.push(mark);
    if (
      client !== null &&
      !unmetered.some((each) => each.run_id === client.run_id && each.agent === client.agent)
    )
      unmetered.push(client);
  }
}

/** Which spilled marks an observation of this client may need; undefined when the session holds them itself. */
export function missingClient(
  session: SessionDocument,
  runId: string,
  client: string,
  isMetered: boolean,
): { run_id: string; client: string } | undefined {
  const { marks, unmetered, spilled } = session.usage_state;
  if (!spilled) return undefined;
  const held = isMetered
    ? marks.some((mark) => mark.run_id === runId && mark.client === client)
    : unmetered.some((each) => each.run_id === runId && each.agent === client);
  return held ? undefined : { run_id: runId, client };
}
