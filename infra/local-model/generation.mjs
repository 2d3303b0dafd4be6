import { ApiError } from './api-error.mjs';
import { promptTokens } from './chat-prompt.mjs';
import { createTextStream } from './text-stream.mjs';

const contextTokens = 2048;
// A core reads about 130 tokens a second: a longer prompt would make people wait too long for the first word.
const promptLimit = 1024;
const completionLimit = contextTokens - promptLimit;
const defaultCompletion = 256;
// Chats with several agents ask in turn, each with its own beginning: each finds what was read for it last time.
const keptPrompts = 4;
// Between two pieces the client may have gone: a quarter of a second's work.
const promptPiece = 32;

// What the makers of the model recommend; a small model repeats itself without a penalty.
const sampling = { temperature: 0.2, topP: 0.9, topK: 40 };
const repeatPenalty = 1.1;
// The grammar lets blanks follow the JSON, and the model likes to write them to the end of its room.
const endOfJson = '\n\n\n\n';

/** Loads the model and returns the function that answers one chat. Not to be called twice at a time. */
export async function loadGenerator(llamaModule, modelFile) {
  const { getLlama, LlamaGrammarEvaluationState, LlamaLogLevel } = llamaModule;
  const gpu = process.platform === 'darwin' && process.arch === 'arm64' ? 'metal' : false;
  const llama = await getLlama({
    gpu,
    build: 'never',
    skipDownload: true,
    // More threads are slower here as soon as anything else runs.
    maxThreads: 1,
    logLevel: LlamaLogLevel.error,
    progressLogs: false,
  });
  const model = await llama.loadModel({ modelPath: modelFile });
  const context = await model.createContext({
    contextSize: contextTokens,
    sequences: keptPrompts,
    threads: 1,
  });
  // The least recently used one first.
  const sequences = Array.from({ length: keptPrompts }, () => context.getSequence());

  const grammarState = async (format) => {
    if (format == null || format.type === 'text') return undefined;
    try {
      const grammar =
        format.type === 'json_object'
          ? await llama.getGrammarFor('json')
          : await llama.createGrammarForJsonSchema(format.json_schema.schema);
      return new LlamaGrammarEvaluationState({ model, grammar });
    } catch (error) {
      throw new ApiError(400, 'invalid_schema', `response_format: ${error.message}`, 'response_format');
    }
  };

  /** Takes the sequence that has read most of this prompt already; returns it and how many tokens it keeps. */
  const takeSequence = async (tokens, seed) => {
    const matches = sequences.map((sequence) => ({
      sequence,
      // The last token has to be read again: reading it is what brings forth the next one. With a seed nothing is
      // reused, because the same numbers in other portions round differently.
      reusable:
        seed === undefined
          ? Math.min(sequence.compareContextTokens(tokens).firstDifferentIndex, tokens.length - 1)
          : 0,
    }));
    const closest = matches.reduce((left, right) => (right.reusable > left.reusable ? right : left));
    // Another chat that only begins alike is worth keeping; then the one that was not used for longest goes.
    const isSameChat = closest.reusable * 2 >= Math.min(tokens.length, closest.sequence.nextTokenIndex);
    const best = isSameChat ? closest : matches[0];
    sequences.splice(sequences.indexOf(best.sequence), 1);
    sequences.push(best.sequence);
    await best.sequence.eraseContextTokenRanges([
      { start: best.reusable, end: best.sequence.nextTokenIndex },
    ]);
    return best;
  };

  /** Calls `onText` with each piece of the answer; returns why it ended and the tokens that were read and made. */
  return async function generate(request, signal, onText) {
    const tokens = promptTokens(model, request.messages, promptLimit);
    const maxTokens = Math.min(request.maxTokens ?? defaultCompletion, completionLimit);
    const seed = request.seed ?? undefined;
    const grammar = await grammarState(request.response_format);
    const { sequence, reusable } = await takeSequence(tokens, seed);
    const usage = { prompt: tokens.length, cached: reusable, completion: 0 };

    let at = reusable;
    for (; at < tokens.length - promptPiece; at += promptPiece) {
      signal.throwIfAborted();
      await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(at, at + promptPiece));
    }
    signal.throwIfAborted();

    const made = [];
    const stops = grammar === undefined ? request.stop : [...request.stop, endOfJson];
    const stream = createTextStream((some, before) => model.detokenize(some, false, before), stops);
    const generation = sequence.evaluate(tokens.slice(at), {
      temperature: request.temperature ?? sampling.temperature,
      topP: request.top_p ?? sampling.topP,
      topK: sampling.topK,
      seed,
      repeatPenalty: { penalty: repeatPenalty, punishTokens: () => made.slice(-64) },
      grammarEvaluationState: grammar,
      yieldEogToken: true,
    });
    for await (const token of generation) {
      signal.throwIfAborted();
      made.push(token);
      usage.completion = made.length;
      if (model.isEogToken(token)) {
        onText(stream.push([], true).text);
        return { finishReason: 'stop', usage };
      }
      const { text, stopped } = stream.push([token]);
      if (text !== '') onText(text);
      if (stopped) return { finishReason: 'stop', usage };
      if (made.length >= maxTokens) break;
    }
    onText(stream.push([], true).text);
    return { finishReason: 'length', usage };
  };
}
