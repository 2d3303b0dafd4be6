import { z } from 'zod';
import {
  adjustmentRequestSchema,
  autoRefillSchema,
  balanceSchema,
  creditRequestSchema,
  holdListSchema,
  ledgerPageSchema,
  walletChangeRequestSchema,
  walletChangeSchema,
} from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import type { PersistenceManager } from '../core/data/persistence-manager.ts';
import { walletId } from '../core/data/wallet-ledger.ts';
import {
  balanceAfter,
  balanceOf,
  type WalletChange,
  type WalletManager,
} from '../core/data/wallet-manager.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor, requireService } from './sign-in.ts';

const userPath = z.object({ user_id: idSchema });
const ofApp = z.object({ app_id: idSchema });
const idempotencyHeaders = z.object({ 'idempotency-key': idSchema });

/** Wallets: what they hold, what moved them, and moving them. */
export function walletRoutes({
  wallets,
  persistence,
}: {
  wallets: WalletManager;
  persistence: PersistenceManager;
}): Route[] {
  const checkOwner = (identity: Identity, owner: { app_id: string; user_id: string }) => {
    if (!mayActFor(identity, owner))
      throw new ProblemError(404, 'unknown_user', `There is no user ${owner.user_id} in this app.`);
    return owner;
  };
  const change = async (identity: Identity, request: WalletChange) => {
    requireService(identity, 'Wallets are moved by services');
    const result = await wallets.changeWallet(request);
    switch (result.outcome) {
      case 'recorded':
      case 'repeated':
        return { ...balanceAfter(result.line), outcome: result.outcome, ledger_entry_id: result.line._id };
      case 'insufficient_funds': {
        const { available } = balanceOf(result.wallet);
        throw new ProblemError(
          402,
          'insufficient_tokens',
          `The wallet has ${available} to spend, less than ${request.amount}.`,
          {
            scope: 'wallet',
            remaining_balance: available,
          },
        );
      }
      case 'key_reused':
        throw new ProblemError(
          409,
          'idempotency_key_reused',
          'This Idempotency-Key was used for another request. Use a new one.',
        );
    }
  };
  const changeProblems = [402, 404, 409, 503];

  return [
    route({
      method: 'get',
      path: '/api/tokens/{user_id}/balance',
      summary: "A user's balance",
      tag: 'wallets',
      input: z.object({ params: userPath, query: ofApp }),
      answer: balanceSchema,
      problems: [404],
      run: ({ params: { user_id }, query: { app_id } }, { identity }) =>
        wallets.readBalance(checkOwner(identity, { app_id, user_id })),
    }),
    route({
      method: 'post',
      path: '/api/tokens/{user_id}/credit',
      summary: 'Top a wallet up, once for each Idempotency-Key; chats that stopped for want of funds go on',
      tag: 'wallets',
      input: z.object({ params: userPath, headers: idempotencyHeaders, body: creditRequestSchema }),
      answer: walletChangeSchema,
      problems: changeProblems,
      run: ({ params: { user_id }, headers, body }, { identity }) =>
        change(identity, {
          owner: { app_id: body.app_id, user_id },
          kind: 'grant',
          amount: BigInt(body.amount),
          idempotencyKey: headers['idempotency-key'],
          reason: body.reason,
          ...(body.expires_at === undefined
            ? {}
            : { lot: { expires_at: new Date(body.expires_at), priority: body.priority } }),
        }),
    }),
    route({
      method: 'post',
      path: '/api/tokens/{user_id}/consume',
      summary: 'Take from a wallet, once for each Idempotency-Key',
      tag: 'wallets',
      input: z.object({ params: userPath, headers: idempotencyHeaders, body: walletChangeRequestSchema }),
      answer: walletChangeSchema,
      problems: changeProblems,
      run: ({ params: { user_id }, headers, body }, { identity }) =>
        change(identity, {
          owner: { app_id: body.app_id, user_id },
          kind: 'debit',
          amount: BigInt(body.amount),
          idempotencyKey: headers['idempotency-key'],
          reason: body.reason,
        }),
    }),
    ...(['refund', 'adjustment'] as const).map((kind) =>
      route({
        method: 'post',
        path: `/api/admin/${kind}`,
        summary:
          kind === 'refund'
            ? 'Give units back, with a reason'
            : 'Correct a balance up or down, with a reason',
        tag: 'admin',
        input: z.object({ headers: idempotencyHeaders, body: adjustmentRequestSchema }),
        answer: walletChangeSchema,
        problems: changeProblems,
        run({ headers, body }, { identity }) {
          if (kind === 'refund' && body.amount < 0)
            throw new ProblemError(
              400,
              'invalid_request',
              'body.amount: a refund gives; use an adjustment to take',
            );
          return change(identity, {
            owner: { app_id: body.app_id, user_id: body.user_id },
            kind,
            amount: BigInt(body.amount),
            idempotencyKey: headers['idempotency-key'],
            reason: body.reason,
          });
        },
      }),
    ),
    route({
      method: 'put',
      path: '/api/tokens/{user_id}/auto-refill',
      summary: 'Top the wallet up by itself when it runs low, at most once in each window; null ends it',
      tag: 'wallets',
      input: z.object({
        params: userPath,
        body: z.strictObject({ app_id: idSchema, auto_refill: autoRefillSchema.nullable() }),
      }),
      answer: balanceSchema,
      problems: [404, 503],
      async run({ params: { user_id }, body: { app_id, auto_refill } }, { identity }) {
        requireService(identity, 'Wallets are moved by services');
        const refill =
          auto_refill === null
            ? null
            : {
                ...auto_refill,
                threshold: BigInt(auto_refill.threshold),
                amount: BigInt(auto_refill.amount),
              };
        return balanceOf(await wallets.setAutoRefill({ app_id, user_id }, refill));
      },
    }),
    route({
      method: 'get',
      path: '/api/tokens/{user_id}/holds',
      summary: 'What is reserved for calls under way',
      tag: 'wallets',
      input: z.object({ params: userPath, query: ofApp }),
      answer: holdListSchema,
      problems: [404],
      async run({ params: { user_id }, query: { app_id } }, { identity }) {
        const holds = await wallets.listHolds(checkOwner(identity, { app_id, user_id }));
        return {
          holds: holds.map(({ _id, chat_id, run_id, agent, model, units, created_at, expires_at }) => ({
            hold_id: _id,
            chat_id,
            run_id,
            agent,
            model,
            units: Number(units),
            created_at: created_at.toISOString(),
            expires_at: expires_at.toISOString(),
          })),
        };
      },
    }),
    route({
      method: 'get',
      path: '/api/tokens/{user_id}/ledger',
      summary: "A wallet's ledger, oldest line first",
      tag: 'wallets',
      input: z.object({
        params: userPath,
        query: ofApp.extend({
          cursor: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
          limit: z.coerce.number().int().min(1).max(1000).default(200),
        }),
      }),
      answer: ledgerPageSchema,
      problems: [404],
      async run({ params: { user_id }, query: { app_id, cursor, limit } }, { identity }) {
        const owner = checkOwner(identity, { app_id, user_id });
        const entries = await persistence.readLedger(
          { wallet_id: walletId(owner.app_id, owner.user_id) },
          cursor,
          limit,
        );
        const last = entries.at(-1)?.line;
        return { entries, next_cursor: entries.length < limit || last === undefined ? null : String(last) };
      },
    }),
  ];
}
