import type { ReactNode } from 'react';
import type { UsageTotals } from '../../../core/contracts/usage.ts';
import { AgentChip } from '../chat/agent-chip.tsx';
import { Icon } from '../design/icon.tsx';
import { useSettlingNumber } from '../design/use-settling-number.ts';
import type { AgentUsage } from './agent-usage.ts';
import { formatCount, formatUsd } from './amount.ts';

export function TokenMeter({
  totals,
  byAgent,
  agents,
}: {
  totals: UsageTotals;
  byAgent: readonly AgentUsage[];
  agents: readonly string[];
}): ReactNode {
  return (
    <section aria-label="Token meter" className="border-b border-line bg-surface">
      <div className="relative mx-auto flex max-w-3xl items-center gap-4 px-4 py-2 sm:gap-8">
        <dl className="grid flex-1 grid-cols-[1fr_1fr_1fr_auto] gap-3 sm:flex sm:gap-8">
          <Figure label="Prompt" value={totals.prompt_tokens} format={formatCount} />
          <Figure label="Completion" value={totals.completion_tokens} format={formatCount} />
          <Figure label="Total" value={totals.total_tokens} format={formatCount} />
          <Figure label="Cost" value={totals.total_cost} format={formatUsd} isMain />
        </dl>
        {byAgent.length > 0 && <ByAgent byAgent={byAgent} agents={agents} />}
      </div>
    </section>
  );
}

function Figure({
  label,
  value,
  format,
  isMain = false,
}: {
  label: string;
  value: number;
  format: (value: number) => string;
  isMain?: boolean;
}): ReactNode {
  const shown = useSettlingNumber(value);
  return (
    <div className="min-w-0">
      <dt className="text-[0.6875rem] leading-4 text-muted">{label}</dt>
      <dd className={`text-sm leading-5 font-semibold tabular-nums ${isMain ? 'text-accent' : ''}`}>
        <data value={value}>{format(shown)}</data>
      </dd>
    </div>
  );
}

function ByAgent({
  byAgent,
  agents,
}: {
  byAgent: readonly AgentUsage[];
  agents: readonly string[];
}): ReactNode {
  return (
    <details className="group">
      <summary className="flex h-9 list-none items-center gap-1 rounded-lg px-2 text-xs font-medium text-muted hover:bg-sunken hover:text-ink [&::-webkit-details-marker]:hidden">
        <span className="sr-only sm:not-sr-only">By agent</span>
        <Icon name="chevron" className="size-4 transition-transform group-open:rotate-180" />
      </summary>
      <div className="absolute inset-x-2 top-full z-20 mt-1 overflow-x-auto rounded-xl border border-line bg-surface p-4 shadow-lg sm:right-4 sm:left-auto sm:min-w-md">
        <table className="w-full text-sm tabular-nums">
          <caption className="sr-only">Tokens and cost by agent</caption>
          <thead>
            <tr className="text-xs text-muted [&_th]:pb-2 [&_th]:font-medium">
              <th scope="col" className="text-left">
                Agent
              </th>
              <th scope="col" className="pl-4 text-right">
                Prompt
              </th>
              <th scope="col" className="pl-4 text-right">
                Completion
              </th>
              <th scope="col" className="pl-4 text-right">
                Cost
              </th>
            </tr>
          </thead>
          <tbody>
            {byAgent.map(({ agent, totals }) => (
              <tr key={agent}>
                <th scope="row" className="py-1 text-left font-normal">
                  <AgentChip agent={agent} agents={agents} />
                </th>
                <td className="pl-4 text-right">{formatCount(totals.prompt_tokens)}</td>
                <td className="pl-4 text-right">{formatCount(totals.completion_tokens)}</td>
                <td className="pl-4 text-right font-semibold">{formatUsd(totals.total_cost)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
