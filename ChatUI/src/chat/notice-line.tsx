import type { ReactNode } from 'react';
import type { ServerFrameData } from '../../../core/contracts/frames.ts';
import { Alert } from '../design/alert.tsx';
import { Icon, type IconName } from '../design/icon.tsx';
import { formatCount, formatUsd } from '../tokens/amount.ts';
import { adviceFor } from './error-advice.ts';
import type { NoticeFrame } from './transcript-entry.ts';

/** What has no message of its own: one modest line, or an alert when the user may have to do something. */
export function NoticeLine({ frame }: { frame: NoticeFrame }): ReactNode {
  switch (frame.type) {
    case 'chat.error':
      return <ErrorNotice error={frame.data} />;
    case 'chat.run_complete':
      return <RunEnd run={frame.data} />;
    case 'chat.handoff':
      return (
        <Line icon="arrow">
          {frame.data.from_agent} handed over to <b className="font-semibold">{frame.data.to_agent}</b>
          {handoffReasons.get(frame.data.reason)}
        </Line>
      );
    case 'chat.input_request':
      return (
        <Line icon="question">
          {frame.data.agent ?? 'The chat'} asks: {frame.data.prompt}
        </Line>
      );
    case 'chat.input_timeout':
      return <Line icon="question">The question was not answered in time.</Line>;
    case 'chat.structured_output_ready':
      return (
        <Disclosure icon="document" title={`${frame.data.agent} made ${frame.data.schema_name}`}>
          {JSON.stringify(frame.data.structured_data, null, 2)}
        </Disclosure>
      );
    case 'token_warning':
      return (
        <Line icon="wallet">
          The {frame.data.scope} is running low: {formatCount(frame.data.remaining_balance)} left.
        </Line>
      );
  }
}

/** Taking turns needs no explanation. */
const handoffReasons = new Map([
  ['context_condition', ' · a condition of the workflow was met'],
  ['llm_condition', ' · its own choice'],
  ['tool_result', ' · a tool asked for it'],
]);

export function Line({ icon, children }: { icon: IconName; children: ReactNode }): ReactNode {
  return (
    <p className="flex animate-arrive items-start gap-2 text-sm text-muted">
      <Icon name={icon} className="mt-0.5 size-4" />
      <span className="min-w-0 wrap-anywhere">{children}</span>
    </p>
  );
}

export function Disclosure({
  icon,
  title,
  children,
}: {
  icon: IconName;
  title: ReactNode;
  children: string;
}): ReactNode {
  return (
    <details className="group animate-arrive text-sm text-muted">
      <summary className="flex list-none items-center gap-2 rounded-md [&::-webkit-details-marker]:hidden">
        <Icon name={icon} className="size-4" />
        <span className="min-w-0 wrap-anywhere">{title}</span>
        <Icon name="chevron" className="size-4 transition-transform group-open:rotate-180" />
      </summary>
      <pre className="mt-2 max-h-72 overflow-auto rounded-xl border border-line bg-sunken p-3 font-mono text-xs whitespace-pre-wrap text-ink wrap-anywhere">
        {children}
      </pre>
    </details>
  );
}

function ErrorNotice({ error }: { error: ServerFrameData<'chat.error'> }): ReactNode {
  const { title, advice, isSevere } = adviceFor(error);
  return (
    <Alert tone={isSevere ? 'danger' : 'warning'} title={title}>
      <p className="wrap-anywhere">{error.message}</p>
      <p className="mt-1 text-muted">{advice}</p>
    </Alert>
  );
}

const endings = {
  success: 'Done',
  stopped: 'Stopped',
  error: 'Ended with an error',
  out_of_funds: 'Paused: out of funds',
} as const;

function RunEnd({ run }: { run: ServerFrameData<'chat.run_complete'> }): ReactNode {
  const turns = `${formatCount(run.total_turns)} ${run.total_turns === 1 ? 'turn' : 'turns'}`;
  return (
    <div className="flex animate-arrive items-center gap-3 text-xs text-muted">
      <span className="h-px flex-1 bg-line" />
      <span className="tabular-nums">
        {endings[run.result]} · {turns} · {formatCount(run.totals.total_tokens)} tokens ·{' '}
        {formatUsd(run.totals.total_cost)}
      </span>
      <span className="h-px flex-1 bg-line" />
    </div>
  );
}
