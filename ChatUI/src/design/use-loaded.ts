import { useCallback, useEffect, useState } from 'react';
import { explainFailure } from '../api/api-problem.ts';

export type Loaded<Value> =
  { status: 'loading' } | { status: 'ready'; value: Value } | { status: 'failed'; explanation: string };

/** Something from the server, and how to ask for it again. While it is asked for again the old value stays. */
export function useLoaded<Value>(load: () => Promise<Value>): [Loaded<Value>, () => void] {
  const [loaded, setLoaded] = useState<Loaded<Value>>({ status: 'loading' });
  const [request, setRequest] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    const show = async (): Promise<void> => {
      const answer = await settle(load);
      if (isCurrent) setLoaded(answer);
    };
    void show();
    return () => {
      isCurrent = false;
    };
  }, [load, request]);
  const reload = useCallback(() => setRequest((count) => count + 1), []);
  return [loaded, reload];
}

async function settle<Value>(load: () => Promise<Value>): Promise<Loaded<Value>> {
  try {
    return { status: 'ready', value: await load() };
  } catch (error) {
    return { status: 'failed', explanation: explainFailure(error) };
  }
}
