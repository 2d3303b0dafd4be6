import { describe, expect, it } from '@jest/globals';
import { createTurnQueue } from '../../infra/local-model/turn-queue.mjs';

/** A piece of work that ends when it is told to. */
function openWork() {
  let finish;
  const done = new Promise((resolve) => {
    finish = resolve;
  });
  return { run: () => done, finish };
}
const forever = new AbortController().signal;

describe("the local model's queue", () => {
  it('lets one work at a time, in the order of arrival', async () => {
    const queue = createTurnQueue(5);
    const first = openWork();
    const order = [];
    const waiting = [
      queue.run(forever, first.run).then(() => order.push('first')),
      queue.run(forever, async () => order.push('second')),
      queue.run(forever, async () => order.push('third')),
    ];
    expect(order).toEqual([]);
    first.finish();
    await Promise.all(waiting);
    expect(order).toEqual(expect.arrayContaining(['first', 'second', 'third']));
    expect(order.indexOf('second')).toBeLessThan(order.indexOf('third'));
  });

  it('turns away the one for whom there is no room', async () => {
    const queue = createTurnQueue(1);
    const first = openWork();
    const running = queue.run(forever, first.run);
    const waiting = queue.run(forever, async () => 'second');
    await expect(queue.run(forever, async () => 'third')).rejects.toMatchObject({ status: 429 });
    first.finish();
    await running;
    expect(await waiting).toBe('second');
  });

  it('forgets one that left while waiting, and goes on after one that failed', async () => {
    const queue = createTurnQueue(2);
    const first = openWork();
    const running = queue.run(forever, first.run);
    const leaving = new AbortController();
    const left = queue.run(leaving.signal, async () => 'never');
    const failing = queue.run(forever, () => Promise.reject(new Error('broken')));
    leaving.abort();
    await expect(left).rejects.toMatchObject({ name: 'AbortError' });
    first.finish();
    await running;
    await expect(failing).rejects.toThrow('broken');
    expect(await queue.run(forever, async () => 'next')).toBe('next');
  });
});
