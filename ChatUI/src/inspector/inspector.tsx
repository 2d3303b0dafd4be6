import { memo, useState, type ReactNode } from 'react';
import type { InspectedFrame } from '../chat/chat-state.ts';
import { Icon } from '../design/icon.tsx';
import { formatCount } from '../tokens/amount.ts';

/** What really travels over the socket, newest first. */
export function Inspector({
  frames,
  frameCount,
  onClose,
}: {
  frames: readonly InspectedFrame[];
  frameCount: number;
  onClose: () => void;
}): ReactNode {
  const [wanted, setWanted] = useState('');
  const shown = frames.filter(({ frame }) => frame.type.includes(wanted.trim())).toReversed();
  return (
    <section
      aria-label="Inspector"
      className="fixed inset-0 z-30 flex flex-col border-l border-line bg-surface lg:static lg:w-96 lg:shrink-0"
    >
      <header className="flex items-center gap-2 border-b border-line py-2 pr-2 pl-4">
        <h2 className="text-sm font-semibold">Inspector</h2>
        <span className="text-xs text-muted tabular-nums">{formatCount(frameCount)} frames</span>
        <input
          type="search"
          aria-label="Filter by type"
          placeholder="Filter by type"
          value={wanted}
          onChange={(event) => setWanted(event.currentTarget.value)}
          className="ml-auto h-8 w-32 rounded-md border border-line bg-canvas px-2 text-xs placeholder:text-muted"
        />
        <button type="button" aria-label="Close inspector" onClick={onClose} className="icon-button">
          <Icon name="close" className="size-4" />
        </button>
      </header>
      <ol className="flex-1 overflow-y-auto overscroll-contain py-1">
        {shown.map((inspected) => (
          <Row key={inspected.number} inspected={inspected} />
        ))}
        {shown.length === 0 && <li className="px-4 py-3 text-sm text-muted">No frames yet.</li>}
      </ol>
    </section>
  );
}

const Row = memo(function Row({ inspected: { frame } }: { inspected: InspectedFrame }): ReactNode {
  const [isOpen, setIsOpen] = useState(false);
  return (
    <li>
      <details onToggle={(event) => setIsOpen(event.currentTarget.open)}>
        <summary className="grid list-none grid-cols-[2.5rem_1fr_auto] items-baseline gap-2 px-4 py-1 font-mono text-xs hover:bg-sunken [&::-webkit-details-marker]:hidden">
          <span className="text-right text-muted tabular-nums">{frame.seq ?? '·'}</span>
          <span className={`truncate ${frame.seq === null ? 'text-muted' : 'font-semibold'}`}>
            {frame.type}
          </span>
          <time dateTime={frame.timestamp} className="text-muted tabular-nums">
            {clock(frame.timestamp)}
          </time>
        </summary>
        {isOpen && (
          <pre className="mx-4 my-1 overflow-x-auto rounded-lg border border-line bg-sunken p-3 font-mono text-xs">
            {JSON.stringify(frame, null, 2)}
          </pre>
        )}
      </details>
    </li>
  );
});

function clock(timestamp: string): string {
  const date = new Date(timestamp);
  const milliseconds = String(date.getMilliseconds()).padStart(3, '0');
  return `${date.toLocaleTimeString('en-GB')}.${milliseconds}`;
}
