import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { BSON, Double, Int32, ObjectId } from 'mongodb';
import { hash } from 'node:crypto';
import { LineBytes } from '../../core/data/line-bytes.ts';
import { canonicalJson } from '../../core/data/wallet-ledger.ts';

const hashByDefinition = (bytes: Uint8Array): string =>
  hash('sha256', canonicalJson(BSON.deserialize(bytes, { useBigInt64: true })));

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const date = fc.date({ noInvalidDate: true });
const leaf = fc.oneof(
  int64,
  fc.string({ unit: 'binary' }),
  fc.string(),
  fc.integer().map((value) => new Int32(value)),
  fc.double({ noNaN: true }).map((value) => new Double(value)),
  fc.boolean(),
  fc.constant(null),
  date,
);
const name = fc.oneof(
  fc.constantFrom('_id', 'hash', 'amount', 'line', 'by_model', 'tokens', 'previous_hash'),
  fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => !text.includes('\0')),
);
const { document } = fc.letrec((tie) => ({
  value: fc.oneof({ depthSize: 'small' }, leaf, tie('document'), fc.array(tie('value'), { maxLength: 4 })),
  document: fc.dictionary(name, tie('value'), { maxKeys: 12 }),
}));

describe('the hash read from the bytes of a line', () => {
  it('is that of the definition, for every document it does not leave to it', () => {
    const reader = new LineBytes();
    let read = 0;
    fc.assert(
      fc.property(document, (each) => {
        const bytes = Buffer.from(BSON.serialize(each));
        const found = reader.read(bytes)?.hash;
        if (found === undefined) return;
        read += 1;
        expect(found).toBe(hashByDefinition(bytes));
      }),
      { numRuns: 1000 },
    );
    expect(read).toBeGreaterThan(100);
  });

  it('is left to the definition for what JSON escapes and for unusual types', () => {
    const reader = new LineBytes();
    for (const each of [{ a: 'a "quoted" word' }, { a: 'two\nlines' }, { a: new ObjectId() }, { 'a"': 1 }])
      expect(reader.read(Buffer.from(BSON.serialize(each)))).toBeUndefined();
  });
});
