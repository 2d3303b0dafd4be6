import { z } from 'zod';
import { idSchema } from '../core/contracts/ids.ts';
import { type VerificationReport, verificationReportSchema } from '../core/contracts/verification.ts';
import type { VerificationScope } from '../core/data/ledger-verification.ts';
import { ProblemError } from './problem.ts';
import { type Route, route } from './route.ts';
import { requireService } from './sign-in.ts';

export type AdminRoutesOptions = {
  verify: (scope: VerificationScope, signal: AbortSignal) => Promise<VerificationReport>;
};

/** For those who run the server. */
export function adminRoutes({ verify }: AdminRoutesOptions): Route[] {
  let isVerifying = false;
  return [
    route({
      method: 'get',
      path: '/api/admin/verify',
      summary: 'Check what is stored against itself: wallets, their ledgers, chats and their logs',
      tag: 'operations',
      input: z.object({
        query: z
          .object({
            app_id: idSchema.optional(),
            user_id: idSchema.optional(),
            chat_id: idSchema.optional(),
          })
          .refine(({ app_id, user_id }) => user_id === undefined || app_id !== undefined, {
            path: ['app_id'],
            message: 'is needed with user_id: users are users of an app',
          }),
      }),
      answer: verificationReportSchema,
      problems: [404, 409],
      async run({ query: { app_id, user_id, chat_id } }, { identity, response }) {
        requireService(identity, 'What is stored is verified for services');
        // It reads the whole database; two at once would only be slower.
        if (isVerifying)
          throw new ProblemError(
            409,
            'verification_running',
            'A verification is under way on this node. Ask again when it is done.',
          );
        isVerifying = true;
        // Who hangs up does not want the answer any more.
        const gone = new AbortController();
        response.once('close', () => gone.abort());
        try {
          const report = await verify(
            {
              ...(app_id === undefined ? {} : { app_id }),
              ...(user_id === undefined ? {} : { user_id }),
              ...(chat_id === undefined ? {} : { chat_id }),
            },
            gone.signal,
          );
          const { wallets, sessions } = report.checked;
          const isScoped = app_id !== undefined || chat_id !== undefined;
          if (isScoped && report.ok && wallets === 0 && sessions === 0)
            throw new ProblemError(404, 'nothing_to_verify', 'There is no such wallet or chat.');
          return report;
        } catch (cause) {
          if (gone.signal.aborted) throw new ProblemError(400, 'client_gone', 'The client hung up.');
          throw cause;
        } finally {
          isVerifying = false;
        }
      },
    }),
  ];
}
