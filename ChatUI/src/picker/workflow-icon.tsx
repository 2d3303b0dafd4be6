import type { ReactNode } from 'react';

/** Icons that look the same on every system, also on those without an emoji font. */
const paths = new Map(
  Object.entries({
    book: 'M5 5.5A2.5 2.5 0 0 1 7.5 3H19v15H7.5A2.5 2.5 0 0 0 5 20.5zM5 20.5A2.5 2.5 0 0 0 7.5 21H19v-3',
    calculator: 'M6 3h12v18H6zM9 7h6M9 12h.01M12 12h.01M15 12h.01M9 16h.01M12 16h.01M15 16h.01',
    chart: 'M4 4v16h16M8 16v-5M12.5 16V7M17 16v-7',
    chat: 'M4 5h16v11H10l-5 4v-4H4z',
    code: 'M8.5 7 4 12l4.5 5M15.5 7 20 12l-4.5 5M13.5 4.5l-3 15',
    globe: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M3 12h18M12 3c5 5 5 13 0 18M12 3c-5 5-5 13 0 18',
    headset:
      'M4 14v-2a8 8 0 0 1 16 0v2M4 13.5h3v5H5.5A1.5 1.5 0 0 1 4 17zM20 13.5h-3v5M20 13.5V18a3 3 0 0 1-3 3h-4',
    lightbulb: 'M9 18h6M10 21h4M12 3a6 6 0 0 0-3.5 10.9c.5.4.5 1 .5 1.6h6c0-.6 0-1.2.5-1.6A6 6 0 0 0 12 3',
    pencil: 'M4 20l1-4L16 5l3 3L8 19zM14 7l3 3',
    puzzle: 'M5 8h4a2.2 2.2 0 1 1 4 0h5v4.5a2.2 2.2 0 1 1 0 4V21H5z',
    scales: 'M12 4v16M8 20h8M5 7h14M5 7l-2.5 6a2.8 2.8 0 0 0 5 0zM19 7l-2.5 6a2.8 2.8 0 0 0 5 0z',
    search: 'M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.5 15.5 20 20',
    sparkles:
      'M11 4l1.8 5.2L18 11l-5.2 1.8L11 18l-1.8-5.2L4 11l5.2-1.8zM18.5 15.5l.8 2.2 2.2.8-2.2.8-.8 2.2-.8-2.2-2.2-.8 2.2-.8z',
    users:
      'M9 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M3.5 19.5c.6-3.4 2.7-5 5.5-5s4.9 1.6 5.5 5M15.5 5.5a3 3 0 0 1 0 5.5M17 14.8c1.9.6 3.1 2.2 3.5 4.7',
    wrench: 'M14.5 6.5a4 4 0 0 0-5 5L4 17l3 3 5.5-5.5a4 4 0 0 0 5-5L15 12l-3-3z',
  }),
);

const names = new Map(
  Object.entries({
    '📚': 'book',
    '🧮': 'calculator',
    '📊': 'chart',
    '💬': 'chat',
    '💻': 'code',
    '🌍': 'globe',
    '🎧': 'headset',
    '💡': 'lightbulb',
    '✏': 'pencil',
    '🧩': 'puzzle',
    '⚖': 'scales',
    '🔍': 'search',
    '✨': 'sparkles',
    '👥': 'users',
    '🔧': 'wrench',
  }),
);
/** Asks for the coloured form of a character; the same picture with and without it. */
const emojiVariant = '\uFE0F';

/** A workflow names one of the icons above, by its name or its emoji, or brings an emoji of its own. */
export function WorkflowIcon({
  icon,
  name,
  size = 'small',
}: {
  icon: string;
  name: string;
  size?: 'small' | 'large';
}): ReactNode {
  return (
    <span
      aria-hidden="true"
      className={`flex shrink-0 items-center justify-center rounded-xl bg-accent-soft font-semibold text-accent ${
        size === 'large' ? 'size-14 text-3xl' : 'size-10 text-xl'
      }`}
    >
      <Picture icon={icon} name={name} />
    </span>
  );
}

function Picture({ icon, name }: { icon: string; name: string }): ReactNode {
  const plain = icon.replaceAll(emojiVariant, '');
  const path = paths.get(names.get(plain) ?? plain);
  if (path !== undefined) {
    return (
      <svg
        className="size-[1.15em]"
        viewBox="0 0 24 24"
        fill="none"
        stroke="currentColor"
        strokeWidth="1.6"
        strokeLinecap="round"
        strokeLinejoin="round"
      >
        <path d={path} />
      </svg>
    );
  }
  // A name that is not in the list becomes the first letter of the title; anything else is an emoji.
  return icon === '' || /^[\w\s-]+$/.test(icon) ? name.slice(0, 1).toUpperCase() : icon;
}
