import { hash } from 'node:crypto';

/**
 * The hash of a ledger line, straight from the bytes that MongoDB sent: what `hashLine` says, five times as fast,
 * because no object and hardly any string is made. A million lines are checked in this way.
 *
 * It never has the last word on a difference. What it does not know (an unusual type, say) it answers with
 * `undefined`, and a line whose hash it finds different is hashed again by `hashLine`, which is the definition.
 */
export class LineBytes {
  #text = Buffer.allocUnsafe(64 * 1024);
  #length = 0;
  readonly #shapes = new Map<number, Shape>();

  /** The line's hash, and its members where they lie; undefined when only the definition can tell. */
  read(bytes: Buffer): { hash: string; members: Members } | undefined {
    // A member takes three bytes at least and is written as eight times as many at most.
    if (bytes.length * 8 > this.#text.length) this.#text = Buffer.allocUnsafe(bytes.length * 8);
    this.#length = 0;
    const members = this.#scan(bytes, 0);
    if (members === undefined || !this.#writeObject(members)) return undefined;
    return { hash: hash('sha256', this.#text.subarray(0, this.#length), 'hex'), members };
  }

  /** The members of a document inside; undefined when it is none. */
  membersOf(members: Members, name: string): Members[] | undefined {
    const at = members.placeOf(name);
    if (at === undefined) return undefined;
    const type = members.bytes[at];
    const start = endOfName(members.bytes, at) + 1;
    if (type === bsonType.object) return flat(this.#scan(members.bytes, start));
    if (type !== bsonType.array) return undefined;
    const items = this.#scan(members.bytes, start);
    if (items === undefined) return undefined;
    const found: Members[] = [];
    for (const offset of items.offsets) {
      const item =
        members.bytes[offset] === bsonType.object
          ? this.#scan(members.bytes, endOfName(members.bytes, offset) + 1)
          : undefined;
      if (item === undefined) return undefined;
      found.push(item);
    }
    return found;
  }

  #scan(bytes: Buffer, start: number): Members | undefined {
    const end = start + bytes.readInt32LE(start) - 1;
    const offsets: number[] = [];
    // FNV-1a over the names; who has the same is compared byte by byte.
    let key = 0x811c9dc5;
    let at = start + 4;
    while (at < end) {
      offsets.push(at);
      const type = bytes[at] ?? 0;
      let byte: number;
      do {
        at += 1;
        byte = bytes[at] ?? 0;
        key = Math.imul(key ^ byte, 0x01000193);
      } while (byte !== 0);
      const size = sizeOf(bytes, type, at + 1);
      if (size === undefined) return undefined;
      at += 1 + size;
    }
    let shape = this.#shapes.get(key);
    if (shape === undefined) {
      // Lines have a handful of shapes; somebody who wrote thousands of others does not get our memory for it.
      if (this.#shapes.size >= 1000) return undefined;
      shape = shapeOf(bytes, offsets);
      this.#shapes.set(key, shape);
    }
    return hasShape(bytes, offsets, shape) ? new Members(bytes, offsets, shape) : undefined;
  }

  #writeObject({ bytes, offsets, shape }: Members): boolean {
    this.#writeByte(0x7b);
    for (let index = 0; index < shape.order.length; index += 1) {
      const at = offsets[shape.order[index] ?? 0] ?? 0;
      if (index > 0) this.#writeByte(0x2c);
      const end = endOfName(bytes, at);
      if (!this.#writeString(bytes, at + 1, end)) return false;
      this.#writeByte(0x3a);
      if (!this.#writeValue(bytes, bytes[at] ?? 0, end + 1)) return false;
    }
    this.#writeByte(0x7d);
    return true;
  }

  #writeArray(bytes: Buffer, start: number): boolean {
    const items = this.#scan(bytes, start);
    if (items === undefined) return false;
    this.#writeByte(0x5b);
    for (const [index, at] of items.offsets.entries()) {
      if (index > 0) this.#writeByte(0x2c);
      if (!this.#writeValue(bytes, bytes[at] ?? 0, endOfName(bytes, at) + 1)) return false;
    }
    this.#writeByte(0x5d);
    return true;
  }

  #writeValue(bytes: Buffer, type: number, at: number): boolean {
    switch (type) {
      case bsonType.double:
        this.#writeText(JSON.stringify(bytes.readDoubleLE(at)));
        return true;
      case bsonType.string:
        return this.#writeString(bytes, at + 4, at + 3 + bytes.readInt32LE(at));
      case bsonType.object: {
        const members = this.#scan(bytes, at);
        return members !== undefined && this.#writeObject(members);
      }
      case bsonType.array:
        return this.#writeArray(bytes, at);
      case bsonType.boolean:
        this.#writeText(bytes[at] === 0 ? 'false' : 'true');
        return true;
      case bsonType.date: {
        const date = new Date(int64At(bytes, at) ?? Number.NaN);
        if (Number.isNaN(date.getTime())) return false;
        this.#writeText(`"${date.toISOString()}"`);
        return true;
      }
      case bsonType.null:
        this.#writeText('null');
        return true;
      case bsonType.int32:
        this.#writeInteger(bytes.readInt32LE(at));
        return true;
      case bsonType.int64: {
        const value = int64At(bytes, at);
        this.#writeByte(0x22);
        if (value === undefined) this.#writeText(String(bytes.readBigInt64LE(at)));
        else this.#writeInteger(value);
        this.#writeByte(0x22);
        return true;
      }
      default:
        return false;
    }
  }

  /** Copies a string as it is. One that JSON would escape is left to the definition. */
  #writeString(bytes: Buffer, start: number, end: number): boolean {
    this.#writeByte(0x22);
    const text = this.#text;
    let length = this.#length;
    for (let at = start; at < end; at += 1) {
      const byte = bytes[at] ?? 0;
      if (byte < 0x20 || byte === 0x22 || byte === 0x5c) return false;
      text[length] = byte;
      length += 1;
    }
    this.#length = length;
    this.#writeByte(0x22);
    return true;
  }

  #writeInteger(value: number): void {
    let rest = value;
    if (rest < 0) {
      this.#writeByte(0x2d);
      rest = -rest;
    }
    let digits = 1;
    for (let limit = 10; limit <= rest; limit *= 10) digits += 1;
    this.#length += digits;
    for (let at = this.#length - 1; digits > 0; at -= 1, digits -= 1) {
      const digit = rest % 10;
      this.#text[at] = 0x30 + digit;
      rest = (rest - digit) / 10;
    }
  }

  #writeText(text: string): void {
    this.#length += this.#text.write(text, this.#length, 'latin1');
  }

  #writeByte(byte: number): void {
    this.#text[this.#length] = byte;
    this.#length += 1;
  }
}

/** A document's members where they lie in its bytes. What is of another type than asked for is undefined. */
export class Members {
  readonly bytes: Buffer;
  readonly offsets: readonly number[];
  readonly shape: Shape;

  constructor(bytes: Buffer, offsets: readonly number[], shape: Shape) {
    this.bytes = bytes;
    this.offsets = offsets;
    this.shape = shape;
  }

  placeOf(name: string): number | undefined {
    const index = this.shape.places.get(name);
    return index === undefined ? undefined : this.offsets[index];
  }

  string(name: string): string | undefined {
    const at = this.placeOf(name);
    if (at === undefined || this.bytes[at] !== bsonType.string) return undefined;
    const start = endOfName(this.bytes, at) + 1;
    return this.bytes.toString('utf8', start + 4, start + 3 + this.bytes.readInt32LE(start));
  }

  int64(name: string): bigint | undefined {
    const at = this.placeOf(name);
    if (at === undefined || this.bytes[at] !== bsonType.int64) return undefined;
    return this.bytes.readBigInt64LE(endOfName(this.bytes, at) + 1);
  }

  isNull(name: string): boolean {
    const at = this.placeOf(name);
    return at !== undefined && this.bytes[at] === bsonType.null;
  }
}

/** Which names a document has, in which order they are written, and where each is. */
type Shape = { names: Buffer; order: readonly number[]; places: ReadonlyMap<string, number> };

const bsonType = {
  double: 0x01,
  string: 0x02,
  object: 0x03,
  array: 0x04,
  boolean: 0x08,
  date: 0x09,
  null: 0x0a,
  int32: 0x10,
  int64: 0x12,
} as const;

function sizeOf(bytes: Buffer, type: number, at: number): number | undefined {
  switch (type) {
    case bsonType.double:
    case bsonType.date:
    case bsonType.int64:
      return 8;
    case bsonType.string:
      return 4 + bytes.readInt32LE(at);
    case bsonType.object:
    case bsonType.array:
      return bytes.readInt32LE(at);
    case bsonType.boolean:
      return 1;
    case bsonType.null:
      return 0;
    case bsonType.int32:
      return 4;
    default:
      return undefined;
  }
}

function shapeOf(bytes: Buffer, offsets: readonly number[]): Shape {
  const names = offsets.map((at) => bytes.toString('utf8', at + 1, endOfName(bytes, at)));
  const order = [...names.keys()]
    .filter((index) => names[index] !== 'hash')
    .toSorted((left, right) => ((names[left] ?? '') < (names[right] ?? '') ? -1 : 1));
  return {
    names: Buffer.from(names.map((name) => `${name}\0`).join('')),
    order,
    places: new Map(names.map((name, index) => [name, index])),
  };
}

function hasShape(bytes: Buffer, offsets: readonly number[], { names }: Shape): boolean {
  let place = 0;
  for (const offset of offsets) {
    let at = offset;
    let byte: number;
    do {
      at += 1;
      byte = bytes[at] ?? 0;
      if (byte !== names[place]) return false;
      place += 1;
    } while (byte !== 0);
  }
  return place === names.length;
}

function endOfName(bytes: Buffer, at: number): number {
  let end = at + 1;
  while (bytes[end] !== 0) end += 1;
  return end;
}

/** As a number; undefined beyond what numbers hold exactly. */
function int64At(bytes: Buffer, at: number): number | undefined {
  const value = bytes.readInt32LE(at + 4) * 0x1_0000_0000 + bytes.readUInt32LE(at);
  return Number.isSafeInteger(value) ? value : undefined;
}

const flat = (members: Members | undefined): Members[] | undefined =>
  members === undefined ? undefined : [members];
