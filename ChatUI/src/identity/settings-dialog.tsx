import { useEffect, useRef, useState, type ReactNode } from 'react';
import { idSchema } from '../../../core/contracts/ids.ts';
import { Button } from '../design/button.tsx';
import type { Identity } from './identity.ts';

export function SettingsDialog({
  identity,
  onSave,
  onClose,
}: {
  identity: Identity;
  onSave: (identity: Identity) => void;
  onClose: () => void;
}): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [draft, setDraft] = useState(identity);
  useEffect(() => dialog.current?.showModal(), []);
  const isValid = idSchema.safeParse(draft.app_id).success && idSchema.safeParse(draft.user_id).success;
  return (
    <dialog
      ref={dialog}
      aria-labelledby="settings-title"
      onClose={onClose}
      className="m-auto w-full max-w-md rounded-2xl border border-line bg-surface p-6 text-ink shadow-2xl backdrop:bg-black/40"
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (isValid) onSave(draft);
        }}
        className="flex flex-col gap-4"
      >
        <div>
          <h2 id="settings-title" className="text-lg font-semibold tracking-tight">
            Settings
          </h2>
          <p className="mt-1 text-sm text-muted">
            Chats and wallet belong to a user of an app. Without a sign-in you choose who you are.
          </p>
        </div>
        <IdField
          label="App"
          value={draft.app_id}
          onChange={(app_id) => setDraft((before) => ({ ...before, app_id }))}
        />
        <IdField
          label="User"
          value={draft.user_id}
          onChange={(user_id) => setDraft((before) => ({ ...before, user_id }))}
        />
        <div className="mt-2 flex justify-end gap-2">
          <Button onClick={() => dialog.current?.close()}>Cancel</Button>
          <Button type="submit" kind="primary">
            Save
          </Button>
        </div>
      </form>
    </dialog>
  );
}

function IdField({
  label,
  value,
  onChange,
}: {
  label: string;
  value: string;
  onChange: (value: string) => void;
}): ReactNode {
  const problem = idSchema.safeParse(value).error?.issues[0]?.message;
  return (
    <label className="flex flex-col gap-1.5 text-sm font-medium">
      {label}
      <input
        value={value}
        onChange={(event) => onChange(event.currentTarget.value)}
        spellCheck={false}
        autoCapitalize="off"
        autoComplete="off"
        aria-invalid={problem !== undefined}
        className="h-10 rounded-lg border border-line-strong/60 bg-canvas px-3 font-mono text-sm font-normal"
      />
      {problem !== undefined && <span className="text-xs font-normal text-danger">{`It ${problem}`}</span>}
    </label>
  );
}
