import { z } from 'zod';
import { idSchema, modelNameSchema } from '../core/contracts/ids.ts';
import {
  priceCodec,
  priceJsonSchema,
  priceListSchema,
  priceRequestSchema,
} from '../core/contracts/prices.ts';
import type { PriceStore } from '../core/data/price-store.ts';
import { findPrice } from '../core/usage/token-pricing.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { requireService } from './sign-in.ts';

/** What models cost, and setting it. Prices are added, never changed or removed. */
export function priceRoutes({ prices, now }: { prices: PriceStore; now: () => Date }): Route[] {
  return [
    route({
      method: 'get',
      path: '/api/prices',
      summary: "What models cost, from which moment on: everyone's prices and those of one app",
      tag: 'prices',
      input: z.object({
        query: z.object({ app_id: idSchema.optional(), model: modelNameSchema.optional() }),
      }),
      answer: priceListSchema,
      problems: [404],
      async run({ query: { app_id, model } }, { identity }) {
        if (identity.kind === 'user' && app_id !== undefined && app_id !== identity.app_id)
          throw new ProblemError(404, 'unknown_app', `There is no app ${app_id}.`);
        const app = app_id ?? (identity.kind === 'user' ? identity.app_id : undefined);
        const visible = prices
          .list()
          .filter((price) => app === undefined || price.app_id === null || price.app_id === app);
        const current =
          model === undefined ? undefined : findPrice(visible, { model, appId: app ?? null, at: now() });
        return {
          prices: visible
            .filter((price) => model === undefined || [model, current?.model].includes(price.model))
            .map((price) => priceCodec.encode(price)),
          current: current === undefined ? null : priceCodec.encode(current),
        };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/prices',
      summary: 'Set what a model costs from a moment on; what was debited before keeps its price',
      tag: 'prices',
      input: z.object({ body: priceRequestSchema }),
      answer: priceJsonSchema,
      problems: [409],
      async run({ body }, { identity }) {
        requireService(identity, 'Prices are set by services');
        const change = await prices.add(body, now());
        switch (change.outcome) {
          case 'added':
            return priceCodec.encode(change.price);
          case 'exists':
            throw new ProblemError(
              409,
              'price_exists',
              'There is a price for this app, model and moment. Prices do not change: add one that begins later.',
              { price_version: change.price_version },
            );
          case 'too_early':
            throw new ProblemError(
              400,
              'price_too_early',
              `The model has a price, and what was debited under it stays. Let the new one begin now or later, not before ${change.earliest.toISOString()}.`,
              { earliest: change.earliest.toISOString() },
            );
        }
      },
    }),
  ];
}
