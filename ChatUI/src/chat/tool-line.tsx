import type { ReactNode } from 'react';
import { Disclosure } from './notice-line.tsx';
import type { ToolEntry } from './transcript-entry.ts';

export function ToolLine({ tool }: { tool: ToolEntry }): ReactNode {
  const details = [`Arguments\n${JSON.stringify(tool.arguments, null, 2)}`];
  if (tool.response !== null) details.push(`Result\n${tool.response.content}`);
  return (
    <Disclosure
      icon={tool.response === null ? 'tool' : tool.response.success ? 'check' : 'warning'}
      title={
        <>
          {tool.agent} used <b className="font-semibold">{tool.toolName}</b>
          {toolState(tool)}
        </>
      }
    >
      {details.join('\n\n')}
    </Disclosure>
  );
}

function toolState({ response, progress }: ToolEntry): string {
  if (response !== null) return response.success ? '' : ' · failed';
  if (progress === null) return ' · working';
  return ` · ${Math.round(progress.percent)} % ${progress.message}`;
}
