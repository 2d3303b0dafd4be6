import { expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import { CommitQueue, QueueClosedError, QueueFullError } from '../../core/data/commit-queue.ts';

/** A commit that ends when the test says so, and refuses every batch that holds a poisoned item. */
function heldCommits(isPoison: (item: number) => boolean = () => false) {
  const batches: number[][] = [];
  const waiting: (() => void)[] = [];
  return {
    batches,
    commit: async (items: readonly number[]) => {
      batches.push([...items]);
      await new Promise<void>((resolve) => waiting.push(resolve));
      const poison = items.find(isPoison);
      if (poison !== undefined) throw new Error(`poison ${poison}`);
    },
    /** Ends the commit that is under way, and lets what follows from it happen. */
    async endOne() {
      waiting.shift()?.();
      await new Promise(setImmediate);
    },
    async endAll() {
      await new Promise(setImmediate);
      while (waiting.length > 0) await this.endOne();
    },
  };
}

const outcomes = async (promises: Promise<void>[]) =>
  (await Promise.allSettled(promises)).map((each) =>
    each.status === 'fulfilled' ? 'durable' : String(each.reason),
  );

test('what is added in one turn is committed together; what arrives meanwhile is the next batch', async () => {
  const commits = heldCommits();
  const queue = new CommitQueue({ commit: commits.commit });
  const added = [1, 2, 3].map((item) => queue.add(item));
  await new Promise(setImmediate);
  added.push(queue.add(4));
  await new Promise(setImmediate);
  added.push(queue.add(5));
  expect(commits.batches).toEqual([[1, 2, 3]]);
  expect(queue.length).toBe(2);
  await commits.endOne();
  expect(commits.batches).toEqual([
    [1, 2, 3],
    [4, 5],
  ]);
  await commits.endAll();
  expect(await outcomes(added)).toEqual(Array.from({ length: 5 }, () => 'durable'));
  added.push(queue.add(6));
  await commits.endAll();
  await Promise.all(added);
});

test('an item is not durable before its commit has ended', async () => {
  const commits = heldCommits();
  const queue = new CommitQueue({ commit: commits.commit });
  let isDurable = false;
  const added = queue.add(1).then(() => (isDurable = true));
  await new Promise(setImmediate);
  expect([commits.batches.length, isDurable]).toEqual([1, false]);
  await commits.endAll();
  await added;
});

test('a batch is never larger than its limit, and order is kept', async () => {
  const commits = heldCommits();
  const queue = new CommitQueue({ commit: commits.commit, batchLimit: 3 });
  const added = [1, 2, 3, 4, 5, 6, 7].map((item) => queue.add(item));
  await commits.endAll();
  expect(commits.batches).toEqual([[1, 2, 3], [4, 5, 6], [7]]);
  expect(await outcomes(added)).toEqual(added.map(() => 'durable'));
});

test('an item that cannot be committed fails alone, with its own error, and its neighbours go through', async () => {
  const commits = heldCommits((item) => item === 3 || item === 6);
  const queue = new CommitQueue({ commit: commits.commit });
  const added = [1, 2, 3, 4, 5, 6, 7, 8].map((item) => queue.add(item));
  const settled = outcomes(added);
  await commits.endAll();
  expect(await settled).toEqual([
    'durable',
    'durable',
    'Error: poison 3',
    'durable',
    'durable',
    'Error: poison 6',
    'durable',
    'durable',
  ]);
});

test('each item is committed exactly once or fails alone, whatever is poisoned', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { maxLength: 40 }),
      fc.integer({ min: 1, max: 8 }),
      async (poisoned, batchLimit) => {
        const committed: number[] = [];
        const queue = new CommitQueue<number>({
          batchLimit,
          commit: async (items) => {
            await Promise.resolve();
            if (items.some((item) => poisoned[item] === true)) throw new Error('poison');
            committed.push(...items);
          },
        });
        const results = await outcomes(poisoned.map((_, item) => queue.add(item)));
        expect(results).toEqual(poisoned.map((is) => (is ? 'Error: poison' : 'durable')));
        expect(committed).toEqual(poisoned.flatMap((is, item) => (is ? [] : [item])));
      },
    ),
  );
});

test('a full queue takes nothing, says so, and takes again when there is room', async () => {
  const commits = heldCommits();
  const queue = new CommitQueue({ commit: commits.commit, batchLimit: 2, queueLimit: 3 });
  const added = [1, 2, 3].map((item) => queue.add(item));
  const refused = queue.add(4);
  await expect(refused).rejects.toThrow(QueueFullError);
  await expect(refused).rejects.toMatchObject({ code: 'queue_full', retryAfterSec: 1 });
  await new Promise(setImmediate);
  added.push(queue.add(5));
  await commits.endAll();
  await Promise.all(added);
  expect(commits.batches.flat()).toEqual([1, 2, 3, 5]);
});

test('closing takes nothing more and waits until everything taken is settled', async () => {
  const commits = heldCommits((item) => item === 2);
  const queue = new CommitQueue({ commit: commits.commit, batchLimit: 1 });
  const settled = outcomes([1, 2, 3].map((item) => queue.add(item)));
  let isClosed = false;
  const closed = queue.close().then(() => (isClosed = true));
  await expect(queue.add(4)).rejects.toThrow(QueueClosedError);
  await commits.endOne();
  expect(isClosed).toBe(false);
  await commits.endAll();
  await closed;
  expect(await settled).toEqual(['durable', 'Error: poison 2', 'durable']);
  await queue.close();
});
