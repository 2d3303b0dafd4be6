import { createHash } from 'node:crypto';
import type { Balance } from '../contracts/http.ts';
import type { SpendFacts } from '../usage/budget.ts';
import { zeroCounts } from '../usage/token-counts.ts';
import type { AutoRefill, Collections, HoldDocument, LedgerDocument, WalletDocument } from './collections.ts';
import type { BatchDraft } from './batch-draft.ts';
import type { DurableWriter } from './durable-writer.ts';
import { type HoldOutcome, openBudgets, placeHold, releaseHold } from './spending.ts';
import {
  appendLine,
  availableIn,
  canonicalJson,
  grant,
  walletId,
  type WalletOwner,
} from './wallet-ledger.ts';

/** Wallets, reservations and what moves them. All writes go through the one durable writer. */
export type WalletChange = {
  owner: WalletOwner;
  kind: 'grant' | 'debit' | 'refund' | 'adjustment';
  /** In wallet units; positive, but for an adjustment, which may also take. */
  amount: bigint;
  idempotencyKey: string;
  reason: string;
  /** A grant that ends: what is left then expires. Lower priorities are spent first. */
  lot?: { expires_at: Date; priority: number };
};
export type WalletChangeResult =
  | { outcome: 'recorded' | 'repeated'; line: LedgerDocument; unit: WalletDocument['unit'] }
  | { outcome: 'insufficient_funds' | 'key_reused'; wallet: WalletDocument };

export type CallEstimate = {
  hold_id: string;
  facts: SpendFacts;
  run_id: string;
  agent: string;
  /** Counted, not guessed; a margin is added here. */
  input_tokens: number;
  /** The cap that is sent to the provider. */
  max_tokens: number;
};

const holdLifetimeMs = 15 * 60 * 1000;

export class WalletManager {
  readonly #collections: Collections;
  readonly #writer: DurableWriter;

  constructor(collections: Collections, writer: DurableWriter) {
    this.#collections = collections;
    this.#writer = writer;
  }

  /** The wallet, which comes into being here when it was never used before. */
  async readWallet(owner: WalletOwner): Promise<WalletDocument> {
    const found = await this.#collections.wallets.findOne({ _id: walletId(owner.app_id, owner.user_id) });
    return found ?? this.#writer.write({ owners: [owner], fold: (draft) => ({ ...draft.wallet(owner) }) });
  }

  async readBalance(owner: WalletOwner): Promise<Balance> {
    return balanceOf(await this.readWallet(owner));
  }

  /** Gives to or takes from a wallet, once for each idempotency key, for ever. */
  changeWallet({
    owner,
    kind,
    amount,
    idempotencyKey,
    reason,
    lot,
  }: WalletChange): Promise<WalletChangeResult> {
    const lineId = `${kind}|${walletId(owner.app_id, owner.user_id)}|${idempotencyKey}`;
    const request_hash = createHash('sha256').update(canonicalJson({ amount, reason, lot })).digest('hex');
    return this.#writer.write({
      owners: [owner],
      lineIds: [lineId],
      fold: (draft): WalletChangeResult => {
        const wallet = draft.wallet(owner);
        const { unit } = wallet;
        const made = draft.line(lineId);
        if (made !== undefined)
          return made.request_hash === request_hash
            ? { outcome: 'repeated', line: made, unit }
            : { outcome: 'key_reused', wallet: { ...wallet } };
        const isTaking = kind === 'debit' || amount < 0n;
        if (isTaking && availableIn(wallet) < (amount < 0n ? -amount : amount))
          return refuse(draft, { outcome: 'insufficient_funds', wallet: { ...wallet } });
        const facts = { _id: lineId, reason, request_hash, created_at: draft.context.now };
        const line =
          kind === 'debit' || amount < 0n
            ? appendLine(wallet, { ...facts, kind, amount: amount < 0n ? amount : -amount })
            : grant(wallet, { ...facts, kind, amount }, lot);
        draft.writes.ledger.push(line);
        return { outcome: 'recorded', line, unit };
      },
    });
  }

  setAutoRefill(owner: WalletOwner, refill: Omit<AutoRefill, 'last_window'> | null): Promise<WalletDocument> {
    return this.#writer.write({
      owners: [owner],
      fold: (draft) => {
        const wallet = draft.wallet(owner);
        // Changing the rule does not give another refill in a window that had its one.
        wallet.auto_refill =
          refill === null ? null : { ...refill, last_window: wallet.auto_refill?.last_window ?? null };
        return { ...wallet };
      },
    });
  }

  /** Reserves the most that a call can use, over the wallet and every budget at once, before the call is made. */
  placeHold({ hold_id, facts, run_id, agent, input_tokens, max_tokens }: CallEstimate): Promise<HoldOutcome> {
    const { app_id, user_id, chat_id, model } = facts;
    const prompt_tokens = BigInt(Math.ceil(input_tokens * 1.05));
    const completion_tokens = BigInt(max_tokens);
    return this.#writer.write({
      chatIds: [chat_id],
      owners: [{ app_id, user_id }],
      newHoldIds: [hold_id],
      lineIds: [`hold|${hold_id}`],
      isFresh: true,
      spends: { chat_id, identity: facts, models: [model] },
      fold: (draft): HoldOutcome => {
        const made = draft.findHold(hold_id);
        if (made !== undefined) return { outcome: 'held', hold: made };
        if (draft.line(`hold|${hold_id}`) !== undefined) return { outcome: 'settled' };
        const { context } = draft;
        const { now } = context;
        const counts = { ...zeroCounts(), prompt_tokens, completion_tokens };
        const cost = context.price({ model, app_id, at: now, counts })?.cost_nano_usd ?? null;
        const { result, lines } = placeHold(
          {
            hold_id,
            facts,
            run_id,
            agent,
            tokens: prompt_tokens + completion_tokens,
            cost_nano_usd: cost,
            expires_at: new Date(now.getTime() + holdLifetimeMs),
          },
          {
            wallet: draft.wallet({ app_id, user_id }),
            budgets: openBudgets(context.budgets, facts, now, draft.spending.windowOf),
            freeTrial: context.freeTrial,
            node_id: context.node_id,
            now,
          },
        );
        draft.writes.ledger.push(...lines);
        if (result.outcome === 'held') draft.holds.added.set(hold_id, result.hold);
        return result.outcome === 'blocked' ? refuse(draft, result) : result;
      },
    });
  }

  /** Gives a reservation back whose call used nothing; nothing happens when it is gone already. */
  releaseHold(holdId: string, reason: string): Promise<void> {
    return this.#writer.write({
      holdIds: [holdId],
      ...ownerOfHold(holdId),
      fold: (draft) => {
        const hold = draft.spending.takeHold(holdId);
        if (hold === undefined) return;
        const wallet = draft.wallet(hold);
        draft.writes.ledger.push(
          releaseHold(hold, wallet, draft.spending.findWindow, draft.context.now, reason),
        );
      },
    });
  }

  /** Puts off the end of reservations whose calls are still under way. */
  async renewHolds(holdIds: readonly string[], now: Date): Promise<void> {
    if (holdIds.length === 0) return;
    await this.#collections.holds.updateMany(
      { _id: { $in: [...holdIds] } },
      { $set: { expires_at: new Date(now.getTime() + holdLifetimeMs) } },
    );
  }

  /** Releases what nobody renewed and takes out grants that ended. The usage of a late call is still debited. */
  async sweep(now: Date): Promise<{ released: number; expired: number }> {
    const holds = await this.#collections.holds.find({ expires_at: { $lt: now } }, { limit: 1000 }).toArray();
    await Promise.all(holds.map(({ _id }) => this.releaseHold(_id, 'expired')));
    const wallets = await this.#collections.wallets
      .find({ 'lots.expires_at': { $lte: now } }, { limit: 1000 })
      .toArray();
    await Promise.all(
      wallets.map(({ app_id, user_id }) =>
        this.#writer.write({
          owners: [{ app_id, user_id }],
          fold: (draft) => void draft.wallet({ app_id, user_id }),
        }),
      ),
    );
    return { released: holds.length, expired: wallets.length };
  }

  listHolds(owner: WalletOwner): Promise<HoldDocument[]> {
    return this.#collections.holds
      .find({ wallet_id: walletId(owner.app_id, owner.user_id) }, { limit: 1000 })
      .toArray();
  }
}

/** A hold's id begins with its wallet's, so that the wallet can be read before the hold is. */
export const holdIdFor = (owner: WalletOwner, callId: string): string =>
  `${walletId(owner.app_id, owner.user_id)}|${callId}`;

function ownerOfHold(holdId: string): { owners: WalletOwner[] } {
  const [app_id = '', user_id = ''] = holdId.split('|');
  return { owners: [{ app_id, user_id }] };
}

export function balanceOf(wallet: WalletDocument): Balance {
  return {
    balance: Number(wallet.balance),
    held: Number(wallet.held),
    available: Number(availableIn(wallet)),
    unit: wallet.unit,
  };
}

/** What the wallet held right after a line: the answer that its request got, however often it is asked again. */
export function balanceAfter({ balance_after, held_after, unit }: LedgerDocument): Balance {
  return {
    balance: Number(balance_after),
    held: Number(held_after),
    available: Number(balance_after - held_after),
    unit,
  };
}

/** A refusal is only final when it rests on what is stored now. */
function refuse<Refusal>(draft: BatchDraft, refusal: Refusal): Refusal {
  draft.isRefusing = true;
  return refusal;
}
