import { z } from 'zod';
import { idSchema, modelNameSchema, timestampSchema } from './ids.ts';

/**
 * What one model costs from a moment on, in pico-US-dollars per token: $1 per million tokens is 1,000,000 pico-USD
 * per token, so every published price is an integer. A price is never edited: a change is a new entry with a later
 * `effective_from`, and lines that were priced before keep their cost and their price's version.
 */
const priceFacts = {
  /** Null: for everyone. An app's own price goes before it. */
  app_id: idSchema.nullable(),
  model: modelNameSchema,
  /** Where the price was read: `seed`, `local`, `genai-prices/<provider>`, or who set it. */
  source: z.string().min(1).max(256),
};

const maximumPicoUsd = Number.MAX_SAFE_INTEGER;
const picoUsd = z.bigint().min(0n).max(BigInt(maximumPicoUsd));
const picoUsdJson = z.int().min(0).max(maximumPicoUsd);

/** A price as MongoDB holds it (int64 and dates); `_id` is the `price_version` that ledger lines name. */
export const priceSchema = z.strictObject({
  _id: z.string().min(1).max(512),
  ...priceFacts,
  effective_from: z.date(),
  input_pico_usd: picoUsd,
  output_pico_usd: picoUsd,
  cached_input_pico_usd: picoUsd,
  cache_write_pico_usd: picoUsd,
  reasoning_pico_usd: picoUsd,
});
export type Price = z.infer<typeof priceSchema>;

/** A price as HTTP shows it. */
export const priceJsonSchema = z.strictObject({
  price_version: z.string().min(1).max(512),
  ...priceFacts,
  effective_from: timestampSchema,
  input_pico_usd: picoUsdJson,
  output_pico_usd: picoUsdJson,
  cached_input_pico_usd: picoUsdJson,
  cache_write_pico_usd: picoUsdJson,
  reasoning_pico_usd: picoUsdJson,
});

/** From HTTP to MongoDB (`decode`) and back (`encode`); both sides are checked. */
export const priceCodec = z.codec(priceJsonSchema, priceSchema, {
  decode: ({ price_version, ...price }) => ({
    ...price,
    _id: price_version,
    effective_from: new Date(price.effective_from),
    input_pico_usd: BigInt(price.input_pico_usd),
    output_pico_usd: BigInt(price.output_pico_usd),
    cached_input_pico_usd: BigInt(price.cached_input_pico_usd),
    cache_write_pico_usd: BigInt(price.cache_write_pico_usd),
    reasoning_pico_usd: BigInt(price.reasoning_pico_usd),
  }),
  encode: ({ _id, ...price }) => ({
    ...price,
    price_version: _id,
    effective_from: price.effective_from.toISOString(),
    input_pico_usd: Number(price.input_pico_usd),
    output_pico_usd: Number(price.output_pico_usd),
    cached_input_pico_usd: Number(price.cached_input_pico_usd),
    cache_write_pico_usd: Number(price.cache_write_pico_usd),
    reasoning_pico_usd: Number(price.reasoning_pico_usd),
  }),
});

/** A price to set. What is not named costs what it is a part of: cached input what input costs, reasoning what output costs. */
export const priceRequestSchema = z.strictObject({
  // Versions of everyone's prices begin with this word.
  app_id: idSchema
    .refine((id) => id !== 'everyone', 'is a reserved word')
    .nullable()
    .default(null),
  model: modelNameSchema,
  /** Now, when it is not given. */
  effective_from: timestampSchema.optional(),
  input_pico_usd: picoUsdJson,
  output_pico_usd: picoUsdJson,
  cached_input_pico_usd: picoUsdJson.optional(),
  cache_write_pico_usd: picoUsdJson.optional(),
  reasoning_pico_usd: picoUsdJson.optional(),
  source: priceFacts.source.default('api'),
});
export type PriceRequest = z.infer<typeof priceRequestSchema>;

export const priceListSchema = z.strictObject({
  prices: z.array(priceJsonSchema),
  /** What a call to the model asked for costs now; null when it has no price, or none was asked for. */
  current: priceJsonSchema.nullable(),
});
