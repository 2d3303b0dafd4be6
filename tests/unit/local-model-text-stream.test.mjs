import { describe, expect, it } from '@jest/globals';
import { createTextStream } from '../../infra/local-model/text-stream.mjs';

/** Here a token is a list of bytes. */
const detokenize = (tokens) => Buffer.from(tokens.flat()).toString('utf8');
const bytes = (text) => [...Buffer.from(text)];

function streamAll(tokens, stops = []) {
  const stream = createTextStream(detokenize, stops);
  const pieces = [];
  for (const token of tokens) {
    const { text, stopped } = stream.push([token]);
    pieces.push(text);
    if (stopped) return { pieces, stopped };
  }
  pieces.push(stream.push([], true).text);
  return { pieces, stopped: false };
}

describe("the local model's text", () => {
  it('is sent token by token', () => {
    expect(streamAll([bytes('Hel'), bytes('lo')]).pieces).toEqual(['Hel', 'lo', '']);
  });

  it('never contains half a character', () => {
    const [first, second, third, fourth] = bytes('🌊');
    const { pieces } = streamAll([bytes('sea '), [first, second], [third], [fourth]]);
    expect(pieces).toEqual(['sea ', '', '', '🌊', '']);
  });

  it('ends before a stop sequence, also when it came in pieces', () => {
    const { pieces, stopped } = streamAll([bytes('one tw'), bytes('o th'), bytes('ree')], ['two three']);
    expect(pieces.join('')).toBe('one ');
    expect(stopped).toBe(true);
  });

  it('holds back what could become a stop sequence, and sends it when it does not', () => {
    const { pieces } = streamAll([bytes('a '), bytes('EN'), bytes('Dless')], ['END.']);
    expect(pieces).toEqual(['a ', '', 'ENDless', '']);
  });

  it('sends at the end what was held back', () => {
    expect(streamAll([bytes('the EN')], ['END']).pieces).toEqual(['the ', 'EN']);
  });

  it('ends at the earliest of several stop sequences', () => {
    expect(streamAll([bytes('abcd')], ['d', 'b']).pieces.join('')).toBe('a');
  });
});
