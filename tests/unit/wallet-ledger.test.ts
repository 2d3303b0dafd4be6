import { describe, expect, test } from '@jest/globals';
import * as fc from 'fast-check';
import type { LedgerDocument, WalletDocument } from '../../core/data/collections.ts';
import {
  appendLine,
  canonicalJson,
  debit,
  expireLots,
  grant,
  hashLine,
  newWallet,
  startGrant,
  walletId,
} from '../../core/data/wallet-ledger.ts';

const now = new Date('2026-01-05T10:00:00.000Z');
const owner = { app_id: 'acme', user_id: 'ann' };

/** The wallet after a start grant and some debits, with its lines. */
function walletWith(
  debits: readonly bigint[],
  startBalance = 1000n,
): { wallet: WalletDocument; lines: LedgerDocument[] } {
  const wallet = newWallet(owner, 'tokens', now);
  const lines = [startGrant(wallet, startBalance, now)];
  for (const [index, units] of debits.entries())
    lines.push(...debit(wallet, units, { _id: `debit|c|${index}`, chat_id: 'c', created_at: now }));
  return { wallet, lines };
}

/** What an auditor does with a wallet and its lines: the first line that does not fit, or the wallet itself. */
function firstFault(wallet: WalletDocument, lines: readonly LedgerDocument[]): string | null {
  let previous: LedgerDocument | null = null;
  for (const line of lines) {
    const fits =
      line.hash === hashLine(line) &&
      line.previous_hash === (previous?.hash ?? null) &&
      line.line === (previous?.line ?? 0n) + 1n &&
      line.balance_after === (previous?.balance_after ?? 0n) + line.amount;
    if (!fits) return line._id;
    previous = line;
  }
  const isWhole =
    wallet.line_count === BigInt(lines.length) &&
    wallet.last_hash === (previous?.hash ?? null) &&
    wallet.balance === (previous?.balance_after ?? 0n);
  return isWhole ? null : wallet._id;
}

describe('the chain of lines', () => {
  const amounts = fc.array(fc.bigInt({ min: 0n, max: 500n }), { minLength: 2, maxLength: 12 });

  test('holds together as it grows, also below zero', () => {
    fc.assert(
      fc.property(amounts, (debits) => {
        const { wallet, lines } = walletWith(debits);
        expect(firstFault(wallet, lines)).toBeNull();
        expect(wallet.balance).toBe(1000n - debits.reduce((sum, each) => sum + each, 0n));
      }),
    );
  });

  test('shows a line that was changed, whatever was changed', () => {
    const { wallet, lines } = walletWith([10n, 20n, 30n]);
    const changes: Partial<LedgerDocument>[] = [
      { amount: -1n },
      { balance_after: 5n },
      { kind: 'refund' },
      { user_id: 'eve' },
      { chat_id: null },
      { reason: 'a better reason' },
      { created_at: new Date(now.getTime() + 1) },
      {
        tokens: {
          prompt_tokens: 1n,
          completion_tokens: 0n,
          cached_tokens: 0n,
          cache_write_tokens: 0n,
          reasoning_tokens: 0n,
          total_tokens: 1n,
        },
      },
      { hash: 'f'.repeat(64) },
      { previous_hash: null },
      { line: 7n },
    ];
    for (const change of changes) {
      const forged = lines.map((line, index) => (index === 2 ? { ...line, ...change } : line));
      expect([change, firstFault(wallet, forged)]).toEqual([change, 'debit|c|1']);
    }
  });

  test('shows a changed line even when its own hash was made anew', () => {
    const { wallet, lines } = walletWith([10n, 20n, 30n]);
    const forged = lines.map((line, index) => {
      const changed = { ...line, amount: -1n, balance_after: 989n };
      return index === 2 ? { ...changed, hash: hashLine(changed) } : line;
    });
    expect(firstFault(wallet, forged)).toBe('debit|c|2');
  });

  test('shows a line that was removed, repeated, invented or moved', () => {
    fc.assert(
      fc.property(amounts, fc.nat(), fc.nat(), (debits, one, two) => {
        const { wallet, lines } = walletWith(debits);
        const [at, to] = [one % lines.length, two % lines.length];
        expect(firstFault(wallet, lines.toSpliced(at, 1))).not.toBeNull();
        expect(firstFault(wallet, lines.toSpliced(at, 0, ...lines.slice(at, at + 1)))).not.toBeNull();
        if (at === to) return;
        const moved = lines.toSpliced(at, 1).toSpliced(to, 0, ...lines.slice(at, at + 1));
        expect(firstFault(wallet, moved)).not.toBeNull();
      }),
    );
  });
});

describe('a debit', () => {
  test('beyond the balance is a line of what there was, and one of debt', () => {
    const { wallet, lines } = walletWith([700n, 700n]);
    expect(lines.map(({ _id, kind, amount }) => [_id, kind, amount])).toEqual([
      ['start-grant|acme|ann', 'grant', 1000n],
      ['debit|c|0', 'debit', -700n],
      ['debit|c|1', 'debit', -300n],
      ['debt|c|1', 'debt', -400n],
    ]);
    expect(wallet.balance).toBe(-400n);
  });

  test('uses up what ends first', () => {
    const wallet = newWallet(owner, 'tokens', now);
    const lot = (id: string, days: number, priority = 0) => {
      const expires_at = new Date(now.getTime() + days * 86_400_000);
      grant(wallet, { _id: id, kind: 'grant', amount: 100n, created_at: now }, { expires_at, priority });
    };
    lot('late', 20);
    lot('soon', 10);
    debit(wallet, 130n, { _id: 'debit|c|1', created_at: now });
    expect(wallet.lots.map(({ line_id, remaining }) => [line_id, remaining])).toEqual([['late', 70n]]);
    const lines = expireLots(wallet, new Date(now.getTime() + 30 * 86_400_000));
    expect(lines.map(({ kind, amount }) => [kind, amount])).toEqual([['expiry', -70n]]);
    expect(wallet).toMatchObject({ balance: 0n, lots: [] });
  });

  test('that the balance does not cover leaves nothing to expire, and an end never makes a debt', () => {
    const wallet = newWallet(owner, 'tokens', now);
    grant(
      wallet,
      { _id: 'g', kind: 'grant', amount: 100n, created_at: now },
      { expires_at: now, priority: 0 },
    );
    debit(wallet, 150n, { _id: 'debit|c|1', created_at: now });
    expireLots(wallet, now);
    expect(wallet.balance).toBe(-50n);
  });
});

describe('canonical JSON', () => {
  test('does not depend on the order of keys, at any depth', () => {
    const reversed = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(reversed);
      if (typeof value !== 'object' || value === null) return value;
      return Object.fromEntries(
        Object.entries(value)
          .map(([key, member]): [string, unknown] => [key, reversed(member)])
          .toReversed(),
      );
    };
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(canonicalJson(reversed(value))).toBe(canonicalJson(value));
      }),
    );
  });

  test('tells different values apart', () => {
    const values = [
      null,
      0,
      '0',
      0n,
      false,
      '',
      [],
      {},
      [null],
      { a: null },
      { a: [1, 2] },
      { a: [2, 1] },
      { a: '1,2' },
    ];
    const texts = values.map((value) => canonicalJson(value));
    // int64 are decimal texts, so that they are exact; a field is always the one or the other.
    expect(new Set(texts).size).toBe(values.length - 1);
    expect(canonicalJson(0n)).toBe(canonicalJson('0'));
  });

  test('keeps int64 exact, dates as ISO 8601, and leaves out the hash itself', () => {
    const value = { b: 9_007_199_254_740_993n, a: now, hash: 'x', missing: undefined };
    expect(canonicalJson(value)).toBe('{"a":"2026-01-05T10:00:00.000Z","b":"9007199254740993"}');
  });
});

test('a wallet belongs to one user of one app', () => {
  expect(walletId('acme', 'ann')).toBe('acme|ann');
  expect(walletId('a', 'b|c')).not.toBe(walletId('a|b', 'd'));
});

test('a line says what it moved and what there is after it', () => {
  const wallet = newWallet(owner, 'tokens', now);
  const line = appendLine(wallet, { _id: 'x', kind: 'hold', held_change: 40n, created_at: now });
  expect(line).toMatchObject({ line: 1n, amount: 0n, balance_after: 0n, held_change: 40n, held_after: 40n });
  expect(wallet).toMatchObject({ balance: 0n, held: 40n, line_count: 1n, last_hash: line.hash });
});
