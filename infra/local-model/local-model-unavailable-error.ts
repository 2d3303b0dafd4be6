/** The model for people without a key cannot run here. `failures` says what was tried. */
export class LocalModelUnavailableError extends Error {
  readonly code = 'local_model_unavailable';
  readonly failures: readonly string[];
  constructor(failures: readonly string[]) {
    super(
      [
        'No API key is set, and the local model is not available:',
        ...failures.map((failure) => `  - ${failure}`),
        'Any one of these helps:',
        '  1. set OPENAI_API_KEY',
        '  2. set OPENAI_BASE_URL to a compatible server (Ollama, vLLM, LiteLLM, llama.cpp), with OPENAI_API_KEY if it wants one',
        '  3. set AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and AZURE_OPENAI_DEPLOYMENT',
        '  4. start once with internet access, so that the local model can be downloaded (about 190 MB)',
      ].join('\n'),
    );
    this.name = 'LocalModelUnavailableError';
    this.failures = failures;
  }
}
