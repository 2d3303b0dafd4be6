import { useEffect, useLayoutEffect, useRef, type KeyboardEvent, type ReactNode } from 'react';
import { Icon } from '../design/icon.tsx';

const longestMessage = 100_000;
const tallestPx = 192;

/**
 * What the send button does at this moment. `busy` shows Stop in its place; the draft can be written on meanwhile.
 */
export type ComposerMode = 'ready' | 'starting' | 'busy' | 'blocked';

export function Composer({
  draft,
  mode,
  placeholder,
  isSecret = false,
  canStop = false,
  onDraft,
  onSend,
  onStop,
}: {
  draft: string;
  mode: ComposerMode;
  placeholder: string;
  isSecret?: boolean;
  canStop?: boolean;
  onDraft: (draft: string) => void;
  onSend: () => void;
  onStop?: () => void;
}): ReactNode {
  const area = useRef<HTMLTextAreaElement>(null);
  const secret = useRef<HTMLInputElement>(null);
  const canSend = mode === 'ready' && draft.trim() !== '';

  useLayoutEffect(() => {
    if (area.current === null) return;
    area.current.style.height = 'auto';
    area.current.style.height = `${Math.min(area.current.scrollHeight, tallestPx)}px`;
  }, [draft]);
  useEffect(() => (isSecret ? secret : area).current?.focus(), [isSecret]);

  const sendOnEnter = (event: KeyboardEvent): void => {
    // Enter that ends the composition of a character (Japanese, Chinese …) belongs to the keyboard.
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    if (canSend) onSend();
  };
  const field = {
    'aria-label': 'Message',
    value: draft,
    maxLength: longestMessage,
    placeholder,
    disabled: mode === 'blocked',
    onKeyDown: sendOnEnter,
    className:
      'min-w-0 flex-1 resize-none bg-transparent px-2 py-2 text-base leading-6 outline-none placeholder:text-muted disabled:cursor-not-allowed',
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (canSend) onSend();
      }}
      className="mx-auto flex w-full max-w-184 items-end gap-2 rounded-2xl border border-line-strong/50 bg-surface p-1.5 pl-2.5 shadow-sm focus-within:border-accent focus-within:ring-3 focus-within:ring-accent/15"
    >
      {isSecret ? (
        <input
          ref={secret}
          type="password"
          autoComplete="off"
          {...field}
          onChange={(event) => onDraft(event.currentTarget.value)}
        />
      ) : (
        <textarea ref={area} rows={1} {...field} onChange={(event) => onDraft(event.currentTarget.value)} />
      )}
      {mode === 'busy' ? (
        <button
          type="button"
          onClick={onStop}
          disabled={!canStop}
          className="flex h-10 items-center gap-1.5 rounded-xl bg-ink px-3.5 text-sm font-medium text-canvas transition disabled:opacity-40"
        >
          <Icon name="stop" className="size-4 fill-current" />
          Stop
        </button>
      ) : (
        <button
          type="submit"
          aria-label="Send"
          disabled={!canSend}
          className="flex size-10 items-center justify-center rounded-xl bg-accent text-accent-ink transition disabled:bg-sunken disabled:text-muted"
        >
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
