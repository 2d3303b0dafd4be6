import type { UsageReport } from '../contracts/http.ts';
import { nanoToUsd } from '../usage/token-pricing.ts';
import type { Collections, LlmUsageDocument } from './collections.ts';

/** Reports over `llm_usage` and `task_metrics`, the collections of the same names in the seeds' schema. */
export type UsageScope = {
  task_id?: string;
  user_id?: string;
  app_id?: string;
  model?: string;
  workflow_name?: string;
};
export type TaskMetricsReport = {
  total_tasks: number;
  by_status: Record<string, number>;
  success_rate_percent: number | null;
  avg_duration_sec: number | null;
};

type ModelRow = {
  _id: string;
  requests: number;
  succeeded: number;
  prompt_tokens: bigint | number;
  completion_tokens: bigint | number;
  cost_nano_usd: bigint | number;
  latency_ms: number;
  timed: number;
};

export async function reportUsage(
  { llmUsage }: Pick<Collections, 'llmUsage'>,
  scope: UsageScope,
  since: Date | null,
): Promise<UsageReport> {
  const rows = await llmUsage
    .aggregate<ModelRow>([
      { $match: { ...scope, ...(since === null ? {} : { timestamp: { $gte: since } }) } },
      {
        $group: {
          _id: '$model',
          requests: { $sum: 1 },
          succeeded: {
            $sum: { $cond: [{ $eq: ['$status', 'success' satisfies LlmUsageDocument['status']] }, 1, 0] },
          },
          prompt_tokens: { $sum: '$prompt_tokens' },
          completion_tokens: { $sum: '$completion_tokens' },
          cost_nano_usd: { $sum: '$cost_nano_usd' },
          latency_ms: { $sum: '$latency_ms' },
          timed: { $sum: { $cond: [{ $eq: [{ $type: '$latency_ms' }, 'null'] }, 0, 1] } },
        },
      },
    ])
    .toArray();
  const sum = (of: (row: ModelRow) => bigint | number) =>
    rows.reduce((total, row) => total + Number(of(row)), 0);
  const [requests, timed] = [sum((row) => row.requests), sum((row) => row.timed)];
  return {
    total_requests: requests,
    total_tokens: sum((row) => row.prompt_tokens) + sum((row) => row.completion_tokens),
    prompt_tokens: sum((row) => row.prompt_tokens),
    completion_tokens: sum((row) => row.completion_tokens),
    total_cost_usd: nanoToUsd(rows.reduce((total, row) => total + BigInt(row.cost_nano_usd), 0n)),
    avg_latency_ms: timed === 0 ? null : sum((row) => row.latency_ms) / timed,
    success_rate_percent: requests === 0 ? null : (100 * sum((row) => row.succeeded)) / requests,
    by_model: Object.fromEntries(
      rows.map((row) => [
        row._id,
        {
          requests: row.requests,
          tokens: Number(row.prompt_tokens) + Number(row.completion_tokens),
          cost_usd: nanoToUsd(BigInt(row.cost_nano_usd)),
        },
      ]),
    ),
  };
}

export async function reportTasks(
  { taskMetrics }: Pick<Collections, 'taskMetrics'>,
  scope: UsageScope,
  since: Date,
): Promise<TaskMetricsReport> {
  const rows = await taskMetrics
    .aggregate<{ _id: string; tasks: number; duration_sec: number }>([
      { $match: { ...scope, metric_name: 'task_duration_seconds', timestamp: { $gte: since } } },
      { $group: { _id: '$status', tasks: { $sum: 1 }, duration_sec: { $sum: '$metric_value' } } },
    ])
    .toArray();
  const total = rows.reduce((sum, { tasks }) => sum + tasks, 0);
  const succeeded = rows.find(({ _id }) => _id === 'success')?.tasks ?? 0;
  return {
    total_tasks: total,
    by_status: Object.fromEntries(rows.map(({ _id, tasks }) => [_id, tasks])),
    success_rate_percent: total === 0 ? null : (100 * succeeded) / total,
    avg_duration_sec: total === 0 ? null : rows.reduce((sum, row) => sum + row.duration_sec, 0) / total,
  };
}
