import { countTokens } from 'gpt-tokenizer/encoding/o200k_base';

/** Counts tokens of messages before they are sent, to reserve enough for the call. What is billed is what the provider reports. */
export type TokenCounter = (texts: readonly string[]) => number;

/** What the chat format adds to each message, and to the whole. */
const perMessage = 4;
const perRequest = 3;
const rememberedTexts = 2_000;

/**
 * Counts as OpenAI's current models do; for other models it is an estimate, which the reservation's margin covers.
 * A chat sends its history again and again, so the counts of texts are remembered.
 */
export function createTokenCounter(): TokenCounter {
  const counts = new Map<string, number>();
  const count = (text: string): number => {
    const known = counts.get(text);
    if (known !== undefined) return known;
    const counted = countTokens(text);
    if (counts.size >= rememberedTexts) counts.clear();
    counts.set(text, counted);
    return counted;
  };
  return (texts) => texts.reduce((sum, text) => sum + count(text) + perMessage, perRequest);
}
