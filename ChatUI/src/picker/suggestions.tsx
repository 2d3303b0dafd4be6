import type { ReactNode } from 'react';

export function Suggestions({
  suggestions,
  isDisabled,
  onChoose,
}: {
  suggestions: readonly string[];
  isDisabled: boolean;
  onChoose: (suggestion: string) => void;
}): ReactNode {
  return (
    <ul aria-label="Suggestions" className="flex flex-wrap gap-2">
      {suggestions.map((suggestion) => (
        <li key={suggestion} className="min-w-0">
          <button
            type="button"
            disabled={isDisabled}
            onClick={() => onChoose(suggestion)}
            className="rounded-full border border-line bg-surface px-3.5 py-1.5 text-left text-sm transition-colors hover:border-accent hover:text-accent disabled:opacity-50"
          >
            {suggestion}
          </button>
        </li>
      ))}
    </ul>
  );
}
