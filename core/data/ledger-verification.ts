import type { MongoClient } from 'mongodb';
import type { Checked, VerificationReport } from '../contracts/verification.ts';
import { type Collections, openCollections } from './collections.ts';
import { Differences } from './differences.ts';
import { LineBytes } from './line-bytes.ts';
import { type ChatScope, verifyChatsNamed, verifySessions } from './session-verification.ts';
import { readSnapshot } from './snapshot-read.ts';
import { walletId } from './wallet-ledger.ts';
import {
  everyWallet,
  oneWallet,
  verifyWallets,
  type WalletPosition,
  type WalletRange,
  walletsOfApp,
  within,
} from './wallet-verification.ts';

/** What to verify: everything, one app, one user of an app, or one chat with the wallet it is debited from. */
export type VerificationScope = { app_id?: string; user_id?: string; chat_id?: string };

export type VerificationOptions = {
  client: MongoClient;
  database: string;
  scope?: VerificationScope;
  now?: () => Date;
  signal?: AbortSignal;
  /** Called after each step with what has been checked by then. */
  onProgress?: (checked: Checked) => void;
};

/** A scope that says nothing of its own: users are users of an app. */
export class VerificationScopeError extends Error {
  readonly code = 'invalid_scope';
  constructor() {
    super('A user is verified within an app: name app_id too.');
    this.name = 'VerificationScopeError';
  }
}

const keptOfEachKind = 50;
const stepMs = 15_000;

/**
 * Verifies what is stored against itself: each wallet against its chain and holds, each chat against its ledger lines,
 * marks, usage rows and log. Differences are the answer, not an error.
 *
 * On a live system nothing that is only under way looks broken: every step reads one moment of the database, and a
 * batch is one transaction, so at any moment a wallet and its lines, a chat and its marks belong together. A step takes
 * seconds, some hundred wallets or chats; when its moment is gone it is taken again, and what it found is forgotten.
 * Chains longer than a step go on from the last line, which no later write can change.
 * @throws VerificationScopeError; MongoDB's errors when the database cannot be read.
 */
export async function verifyLedger({
  client,
  database,
  scope = {},
  now = () => new Date(),
  signal,
  onProgress,
}: VerificationOptions): Promise<VerificationReport> {
  if (scope.user_id !== undefined && scope.app_id === undefined) throw new VerificationScopeError();
  const collections = openCollections(client.db(database));
  const startedAt = now();
  const start = performance.now();
  const checked = nothingChecked();
  const differences = new Differences(keptOfEachKind);
  const wallets = await walletsIn(collections, scope);
  const stop = new AbortController();
  const until = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);

  /** One step in one snapshot; what it found counts only when it came to its end. */
  const take = async <Position>(
    walk: (found: { differences: Differences; checked: Checked }, session: StepSession) => Promise<Position>,
  ): Promise<Position> => {
    const { next, found } = await readSnapshot(
      client,
      async (session) => {
        const found = { differences: new Differences(keptOfEachKind), checked: nothingChecked() };
        return { next: await walk(found, session), found };
      },
      until,
    );
    differences.addAll(found.differences);
    addChecked(checked, found.checked);
    onProgress?.({ ...checked });
    return next;
  };
  const checkWallets = async () => {
    const reader = new LineBytes();
    for (const range of wallets)
      for (let position: WalletPosition | null = { range, chain: null }; position !== null;) {
        const from: WalletPosition = position;
        position = await take((found, session) => {
          const endsAt = performance.now() + stepMs;
          const isTimeUp = () => performance.now() > endsAt;
          return verifyWallets(from, { ...found, collections, session, reader, now: now(), isTimeUp });
        });
      }
  };
  const checkSessions = async () => {
    const chats = chatsIn(scope);
    for (let after: string | null = ''; after !== null;) {
      const from: string = after;
      after = await take((found, session) =>
        verifySessions(from, { ...found, collections, session, scope: chats }),
      );
    }
    // A chat that does not exist is of no app and no user: only its lines tell.
    if (scope.app_id !== undefined && scope.chat_id === undefined)
      for (const range of wallets)
        await take((found, session) =>
          verifyChatsNamed(within(range), { ...found, collections, session, scope: chats }),
        );
  };
  // Side by side: one keeps this process busy, the other the database. Neither outlives the other's failure.
  const walks = [checkWallets(), checkSessions()];
  try {
    await Promise.all(walks);
  } finally {
    stop.abort();
    await Promise.allSettled(walks);
  }
  return {
    ok: differences.total === 0,
    scope: {
      app_id: scope.app_id ?? null,
      user_id: scope.user_id ?? null,
      chat_id: scope.chat_id ?? null,
    },
    started_at: startedAt.toISOString(),
    duration_ms: Math.round(performance.now() - start),
    checked,
    difference_count: differences.total,
    counts: differences.counts,
    differences: [...differences.kept],
  };
}

type StepSession = Parameters<Parameters<typeof readSnapshot>[1]>[0];

async function walletsIn(
  { sessions, ledger }: Collections,
  { app_id, user_id, chat_id }: VerificationScope,
): Promise<WalletRange[]> {
  if (chat_id !== undefined) {
    const chat = await sessions.findOne({ _id: chat_id }, { projection: { app_id: 1, user_id: 1 } });
    const debited = await ledger.distinct('wallet_id', { chat_id });
    const own = chat === null ? [] : [walletId(chat.app_id, chat.user_id)];
    return [...new Set([...own, ...debited])].map(oneWallet);
  }
  if (app_id === undefined) return [everyWallet];
  return [user_id === undefined ? walletsOfApp(app_id) : oneWallet(walletId(app_id, user_id))];
}

function chatsIn({ app_id, user_id, chat_id }: VerificationScope): ChatScope {
  if (chat_id !== undefined) return { _id: chat_id };
  return {
    ...(app_id === undefined ? {} : { app_id }),
    ...(user_id === undefined ? {} : { user_id }),
  };
}

const nothingChecked = (): Checked => ({
  wallets: 0,
  ledger_lines: 0,
  holds: 0,
  sessions: 0,
  events: 0,
  usage_marks: 0,
  usage_rows: 0,
});

function addChecked(total: Checked, more: Checked): void {
  total.wallets += more.wallets;
  total.ledger_lines += more.ledger_lines;
  total.holds += more.holds;
  total.sessions += more.sessions;
  total.events += more.events;
  total.usage_marks += more.usage_marks;
  total.usage_rows += more.usage_rows;
}
