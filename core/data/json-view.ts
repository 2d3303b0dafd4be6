import type { z } from 'zod';

/** A stored document as JSON shows it: int64 as numbers, dates as ISO texts, checked against its contract. */
export function jsonView<Schema extends z.ZodType>(schema: Schema, document: unknown): z.output<Schema> {
  return schema.parse(toJson(document));
}

function toJson(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, toJson(member)]));
}
