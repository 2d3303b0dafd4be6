import { createReadStream, createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createInflateRaw } from 'node:zlib';

const endOfDirectory = 0x06054b50;
const directoryEntry = 0x02014b50;
const deflated = 8;

/** Writes one file of a zip archive (a Python wheel is one) to `target`. Archives beyond 4 GB are not read. */
export async function extractZipEntry(archive: string, entryName: string, target: string): Promise<void> {
  const entry = await findEntry(archive, entryName);
  if (entry === undefined) throw new Error(`${archive} has no ${entryName}`);
  const content = createReadStream(archive, {
    start: entry.contentOffset,
    end: entry.contentOffset + entry.packedBytes - 1,
  });
  const unpack = entry.method === deflated ? createInflateRaw() : new PassThrough();
  await pipeline(content, unpack, createWriteStream(target));
}

async function findEntry(archive: string, entryName: string) {
  const file = await open(archive, 'r');
  const read = async (offset: number, length: number) => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  };
  try {
    const { size } = await file.stat();
    // The directory's end is 22 bytes and may be followed by a comment of up to 64 KiB.
    const tailOffset = Math.max(0, size - 65_557);
    const tail = await read(tailOffset, size - tailOffset);
    const end = tail.lastIndexOf(Uint8Array.of(0x50, 0x4b, 0x05, 0x06));
    if (end < 0 || tail.readUInt32LE(end) !== endOfDirectory) throw new Error(`${archive} is no zip archive`);
    const directory = await read(tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    let at = 0;
    while (at < directory.length && directory.readUInt32LE(at) === directoryEntry) {
      const nameLength = directory.readUInt16LE(at + 28);
      const name = directory.toString('utf8', at + 46, at + 46 + nameLength);
      if (name === entryName) {
        const headerOffset = directory.readUInt32LE(at + 42);
        const header = await read(headerOffset, 30);
        return {
          method: directory.readUInt16LE(at + 10),
          packedBytes: directory.readUInt32LE(at + 20),
          contentOffset: headerOffset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28),
        };
      }
      at += 46 + nameLength + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
    }
    return undefined;
  } finally {
    await file.close();
  }
}
