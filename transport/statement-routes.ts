import { z } from 'zod';
import { idSchema } from '../core/contracts/ids.ts';
import type { Collections } from '../core/data/collections.ts';
import type { WalletManager } from '../core/data/wallet-manager.ts';
import { ProblemError } from './problem.ts';
import { type Route, streamRoute } from './route.ts';
import { mayActFor } from './sign-in.ts';
import { writeStatement } from './statement.ts';

export type StatementRoutesOptions = {
  collections: Pick<Collections, 'ledger'>;
  wallets: WalletManager;
  now: () => Date;
};

/** Statements of wallets, to be kept and checked by whoever they are for. */
export function statementRoutes({ collections, wallets, now }: StatementRoutesOptions): Route[] {
  return [
    streamRoute({
      method: 'get',
      path: '/api/tokens/{user_id}/ledger.csv',
      summary: "A wallet's whole ledger as CSV, which docs/examples/verify-statement.mjs checks offline",
      tag: 'wallets',
      input: z.object({
        params: z.object({ user_id: idSchema }),
        query: z.object({ app_id: idSchema }),
      }),
      answer: z.string(),
      mediaType: 'text/csv',
      problems: [404],
      async run({ params: { user_id }, query: { app_id } }, { identity }) {
        const owner = { app_id, user_id };
        if (!mayActFor(identity, owner))
          throw new ProblemError(404, 'unknown_user', `There is no user ${user_id} in this app.`);
        // Read before its lines: nobody changes those up to the last that it knows of.
        const wallet = await wallets.readWallet(owner);
        const lines = collections.ledger.find(
          { wallet_id: wallet._id, line: { $lte: wallet.line_count } },
          { sort: { line: 1 }, batchSize: 1000 },
        );
        const name = `ledger-${app_id}-${user_id}`.replaceAll(/[^\w.-]/g, '_');
        return {
          headers: {
            'content-disposition': `attachment; filename="${name}.csv"`,
            'x-ledger-head': wallet.last_hash ?? '',
            'x-ledger-lines': String(wallet.line_count),
          },
          pieces: writeStatement(wallet, lines, now()),
        };
      },
    }),
  ];
}
