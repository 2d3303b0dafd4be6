/** A message that is being written. `ahead` holds pieces that arrived before the text in front of them. */
export type StreamingText = {
  readonly text: string;
  readonly ahead: readonly Piece[];
};
type Piece = { readonly offset: number; readonly delta: string };

export const emptyStreamingText: StreamingText = { text: '', ahead: [] };

/**
 * Puts a piece at its offset (in UTF-16 units, as JavaScript counts). A repeated piece changes nothing, a piece from
 * the future waits: whatever the order and however often, the same pieces give the same text.
 */
export function placePiece(before: StreamingText, offset: number, delta: string): StreamingText {
  let { text } = before;
  let waiting: readonly Piece[] = [...before.ahead, { offset, delta }];
  for (;;) {
    const next = waiting.find((piece) => piece.offset <= text.length);
    if (next === undefined) return { text, ahead: waiting };
    text = overwrite(text, next);
    waiting = waiting.filter((piece) => piece !== next);
  }
}

function overwrite(text: string, { offset, delta }: Piece): string {
  return text.slice(0, offset) + delta + text.slice(offset + delta.length);
}
