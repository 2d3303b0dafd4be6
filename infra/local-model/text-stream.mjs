/**
 * Turns tokens into text that may be sent: holds back half a character (a token may end within one), and what could
 * become a stop sequence.
 */
export function createTextStream(detokenize, stopSequences) {
  let undecoded = [];
  let lastTokens = [];
  let heldBack = '';

  const decode = (tokens, final) => {
    undecoded.push(...tokens);
    const text = detokenize(undecoded, lastTokens);
    if (text.endsWith('\uFFFD') && !final) return '';
    lastTokens = undecoded.slice(-4);
    undecoded = [];
    return text;
  };

  return {
    /** Returns the text that is ready, and whether a stop sequence was met; then the text ends before it. */
    push(tokens, final = false) {
      heldBack += decode(tokens, final);
      const stopAt = Math.min(
        ...stopSequences.map((stop) => heldBack.indexOf(stop)).filter((index) => index >= 0),
      );
      if (stopAt !== Infinity) return { text: heldBack.slice(0, stopAt), stopped: true };
      const sendable = final
        ? heldBack.length
        : heldBack.length - longestStopBeginning(heldBack, stopSequences);
      const text = heldBack.slice(0, sendable);
      heldBack = heldBack.slice(sendable);
      return { text, stopped: false };
    },
  };
}

/** How many characters at the end of the text are the beginning of a stop sequence. */
function longestStopBeginning(text, stopSequences) {
  let longest = 0;
  for (const stop of stopSequences)
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length -= 1)
      if (text.endsWith(stop.slice(0, length))) longest = length;
  return longest;
}
