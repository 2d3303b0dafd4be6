import { useEffect, useRef, useState } from 'react';

const settleMs = 450;

/** A number that runs to its new value, so that a change is seen. It jumps for those who asked for less motion. */
export function useSettlingNumber(target: number): number {
  const [shown, setShown] = useState(target);
  const shownNow = useRef(target);
  useEffect(() => {
    const from = shownNow.current;
    if (from === target) return undefined;
    const startedAt = performance.now();
    const durationMs = prefersReducedMotion() ? 0 : settleMs;
    let frame = 0;
    const step = (): void => {
      const share = durationMs === 0 ? 1 : Math.min(1, (performance.now() - startedAt) / durationMs);
      shownNow.current = share === 1 ? target : from + (target - from) * (1 - (1 - share) ** 3);
      setShown(shownNow.current);
      if (share < 1) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
    return () => cancelAnimationFrame(frame);
  }, [target]);
  return shown;
}

function prefersReducedMotion(): boolean {
  return 'matchMedia' in window && window.matchMedia('(prefers-reduced-motion: reduce)').matches;
}
