import type { DurableFrame } from '../contracts/frames.ts';
import { idPart } from './id-part.ts';
import type { ChatEventDocument, Collections } from './collections.ts';

/** Ids in `ChatEvents` are derived from the producer's own, so a repeat finds itself. */
export const eventDocumentId = (chatId: string, uuid: string): string => `${chatId}|${idPart(uuid)}`;
export const runStartDocumentId = (chatId: string, runId: string): string => `${chatId}|run_start|${runId}`;

/** The answer to a question has an id of its own, so a question is answered once. */
export const inputResponseUuid = (requestId: string): string => `input-response:${requestId}`;

/** The durable frames of a chat after `afterSequence`, in order. */
export async function readFrames(
  collections: Pick<Collections, 'events'>,
  chatId: string,
  afterSequence: number,
  limit: number,
): Promise<DurableFrame[]> {
  const documents = await collections.events
    .find({ chat_id: chatId, seq: { $gt: afterSequence } }, { sort: { seq: 1 }, limit })
    .toArray();
  return documents.flatMap((document) => frameOf(document) ?? []);
}

export type SpokenText = { agent: string; content: string };

/** The last `limit` messages of a chat, oldest first. */
export async function readTexts(
  collections: Pick<Collections, 'events'>,
  chatId: string,
  limit: number,
): Promise<SpokenText[]> {
  const documents = await collections.events
    .find({ chat_id: chatId, seq: { $gt: 0 }, 'frame.type': 'chat.text' }, { sort: { seq: -1 }, limit })
    .toArray();
  return documents
    .flatMap(({ frame }) =>
      frame?.type === 'chat.text' ? { agent: frame.data.agent, content: frame.data.content } : [],
    )
    .toReversed();
}

function frameOf({ frame, timestamp, chat_id, seq }: ChatEventDocument): DurableFrame | undefined {
  if (frame === undefined || seq === undefined) return undefined;
  return { ...frame, timestamp: timestamp.toISOString(), chat_id, seq };
}
