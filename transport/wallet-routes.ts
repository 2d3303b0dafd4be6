import { z } from 'zod';
import {
  balanceSchema,
  ledgerPageSchema,
  walletChangeRequestSchema,
  walletChangeSchema,
} from '../core/contracts/http.ts';
import { idSchema } from '../core/contracts/ids.ts';
import { balanceOf, type PersistenceManager } from '../core/data/persistence-manager.ts';
import { walletId } from '../core/data/wallet-ledger.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { type Identity, mayActFor } from './sign-in.ts';

const userPath = z.object({ user_id: idSchema });
const idempotencyHeaders = z.object({ 'idempotency-key': idSchema });

/** Wallets: what they hold, what moved them, and moving them. */
export function walletRoutes({ persistence }: { persistence: PersistenceManager }): Route[] {
  const checkOwner = (identity: Identity, owner: { app_id: string; user_id: string }) => {
    if (!mayActFor(identity, owner))
      throw new ProblemError(404, 'unknown_user', `There is no user ${owner.user_id} in this app.`);
    return owner;
  };
  const change = (kind: 'grant' | 'debit', verb: 'credit' | 'consume', summary: string): Route =>
    route({
      method: 'post',
      path: `/api/tokens/{user_id}/${verb}`,
      summary,
      tag: 'wallets',
      input: z.object({
        params: userPath,
        headers: idempotencyHeaders,
        body: walletChangeRequestSchema,
      }),
      answer: walletChangeSchema,
      problems: [402, 404, 409, 503],
      async run({ params: { user_id }, headers, body }, { identity }) {
        // A user's own token cannot make money.
        if (identity.kind === 'user')
          throw new ProblemError(
            403,
            'service_only',
            'Wallets are moved by services: send the service key as Bearer token.',
          );
        const owner = { app_id: body.app_id, user_id };
        const result = await persistence.changeWallet({
          owner,
          kind,
          amount: BigInt(body.amount),
          idempotencyKey: headers['idempotency-key'],
          reason: body.reason,
        });
        switch (result.outcome) {
          case 'recorded':
          case 'repeated':
            return { ...balanceOf(result.wallet), outcome: result.outcome, ledger_entry_id: result.line._id };
          case 'insufficient_funds':
            throw new ProblemError(
              402,
              'insufficient_tokens',
              `The wallet holds ${balanceOf(result.wallet).available}, less than ${body.amount}.`,
              {
                scope: 'wallet',
                remaining_balance: balanceOf(result.wallet).available,
              },
            );
          case 'key_reused':
            throw new ProblemError(
              409,
              'idempotency_key_reused',
              'This Idempotency-Key was used for another request. Use a new one.',
            );
        }
      },
    });

  return [
    route({
      method: 'get',
      path: '/api/tokens/{user_id}/balance',
      summary: "A user's balance",
      tag: 'wallets',
      input: z.object({ params: userPath, query: z.object({ app_id: idSchema }) }),
      answer: balanceSchema,
      problems: [404],
      run: ({ params: { user_id }, query: { app_id } }, { identity }) =>
        persistence.readBalance(checkOwner(identity, { app_id, user_id })),
    }),
    change('grant', 'credit', 'Top a wallet up, once for each Idempotency-Key'),
    change('debit', 'consume', 'Take from a wallet, once for each Idempotency-Key'),
    route({
      method: 'get',
      path: '/api/tokens/{user_id}/ledger',
      summary: "A wallet's ledger, oldest line first",
      tag: 'wallets',
      input: z.object({
        params: userPath,
        query: z.object({
          app_id: idSchema,
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
