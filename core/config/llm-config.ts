import type { CoreConfig } from './core-config.ts';

/** Where models are called. `kind` is for people; the SDK needs the rest. */
export type LlmConfig = {
  kind: 'openai' | 'azure' | 'compatible' | 'local';
  baseUrl: string;
  apiKey: string;
  /** The model of agents that name none. For Azure, the deployment. */
  defaultModel: string;
  azureApiVersion?: string;
  timeoutMs: number;
  maxRetries: number;
};

/** The provider that the configuration names; undefined when it names none, and the local model stands in. */
export function makeLlmConfig(config: CoreConfig): LlmConfig | undefined {
  const limits = { timeoutMs: config.LLM_TIMEOUT_SEC * 1000, maxRetries: config.LLM_MAX_RETRIES };
  if (
    config.AZURE_OPENAI_ENDPOINT !== undefined &&
    config.AZURE_OPENAI_API_KEY !== undefined &&
    config.AZURE_OPENAI_DEPLOYMENT !== undefined
  )
    return {
      kind: 'azure',
      baseUrl: config.AZURE_OPENAI_ENDPOINT,
      apiKey: config.AZURE_OPENAI_API_KEY,
      azureApiVersion: config.AZURE_OPENAI_API_VERSION,
      defaultModel: config.DEFAULT_LLM_MODEL ?? config.AZURE_OPENAI_DEPLOYMENT,
      ...limits,
    };
  if (config.OPENAI_BASE_URL !== undefined)
    return {
      kind: 'compatible',
      baseUrl: config.OPENAI_BASE_URL,
      // Servers of one's own often ask for none, and the SDK for any.
      apiKey: config.OPENAI_API_KEY ?? 'none',
      defaultModel: config.DEFAULT_LLM_MODEL ?? 'gpt-4o-mini',
      ...limits,
    };
  if (config.OPENAI_API_KEY !== undefined)
    return {
      kind: 'openai',
      baseUrl: 'https://api.openai.com/v1',
      apiKey: config.OPENAI_API_KEY,
      defaultModel: config.DEFAULT_LLM_MODEL ?? 'gpt-4o-mini',
      ...limits,
    };
  return undefined;
}
