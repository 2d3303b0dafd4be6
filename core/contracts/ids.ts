import { z } from 'zod';

/**
 * Identifiers that travel in paths, keys and documents. The first character is a letter or a digit, so that no
 * identifier can be a MongoDB operator (`$ne`), a path trick (`../`) or a prototype key (`__proto__`); `|` is left
 * out because the ledger joins identifiers with it.
 */
export const idSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$/,
    'must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ + - and begin with a letter or a digit',
  )
  .refine((id) => id !== 'constructor' && id !== 'prototype', 'is a reserved word')
  .meta({ description: 'An identifier', example: 'acme' });

/** An agent's name; AG2's own begin with an underscore (`_User`, `_Group_Tool_Executor`). */
export const agentNameSchema = z.string().min(1).max(256);

/** A producer's name for a model. It holds dots and slashes (`gpt-4.1`, `org/model`), so it is never a field path. */
export const modelNameSchema = z.string().min(1).max(256);

export const timestampSchema = z.iso.datetime({ offset: true }).meta({ description: 'ISO 8601 with offset' });
