import type { ClientSession } from 'mongodb';
import { z } from 'zod';
import type { Checked } from '../contracts/verification.ts';
import { chainStart, type ChainEnd, closeChain, followChain, readLine } from './chain-verification.ts';
import type { Collections } from './collections.ts';
import type { Differences } from './differences.ts';
import type { LineBytes } from './line-bytes.ts';

/** Wallet ids from `from` up to, and without, `to`; null: to the last. Ids are ordered byte by byte. */
export type WalletRange = { from: string; to: string | null };

/** The first id after this one. */
const after = (id: string): string => `${id}\0`;

export const everyWallet: WalletRange = { from: '', to: null };
/** Ids are `<app_id>|<user_id>`, and `}` comes right after `|`. */
export const walletsOfApp = (appId: string): WalletRange => ({ from: `${appId}|`, to: `${appId}}` });
export const oneWallet = (id: string): WalletRange => ({ from: id, to: after(id) });

/** Where the walk over all wallets stands: what is to come, and a chain that is longer than one step. */
export type WalletPosition = { range: WalletRange; chain: ChainEnd | null };

export type WalletStep = {
  collections: Pick<Collections, 'wallets' | 'ledger' | 'holds'>;
  /** All that one step reads is of one moment. */
  session: ClientSession;
  reader: LineBytes;
  differences: Differences;
  checked: Checked;
  now: Date;
  isTimeUp: () => boolean;
};

const walletsInStep = 500;
/** A hold whose time is over is released by its node or another within this time. */
const holdGraceMs = 60_000;

const walletSchema = z.object({
  _id: z.string(),
  balance: z.bigint(),
  held: z.bigint(),
  line_count: z.bigint(),
  last_hash: z.string().nullable(),
});
type Wallet = z.infer<typeof walletSchema>;

/**
 * Checks the next wallets: each one's chain, line by line, then the wallet against its chain and its holds.
 * @returns where to go on; null when the range has been walked to its end.
 */
export async function verifyWallets(
  position: WalletPosition,
  step: WalletStep,
): Promise<WalletPosition | null> {
  const { range, chain } = position;
  const listed = await step.collections.wallets
    .find({ _id: within(range) }, { session: step.session, sort: { _id: 1 }, limit: walletsInStep })
    .map((document): unknown => document)
    .toArray();
  const wallets = readWallets(listed, step.differences);
  const last = listed.length < walletsInStep ? undefined : [...wallets.keys()].at(-1);
  const end = last === undefined ? range.to : after(last);
  const { walked, open } = await walkChains({ from: range.from, to: end }, chain, wallets, step);
  // When time was up in the middle of a chain, the wallets before it are done.
  const done: WalletRange = { from: range.from, to: open === null ? end : open.wallet_id };
  for (const id of wallets.keys())
    if (!isWithin(id, done)) wallets.delete(id);
    else if (!walked.has(id))
      step.differences.add('wallet_without_lines', id, '1', '0', 'a wallet begins with its start balance');
  step.checked.wallets += wallets.size;
  await verifyHolds(done, wallets, step);
  if (open !== null) return { range: { from: open.wallet_id, to: range.to }, chain: open };
  return last === undefined ? null : { range: { from: after(last), to: range.to }, chain: null };
}

function readWallets(documents: readonly unknown[], differences: Differences): Map<string, Wallet | null> {
  const wallets = new Map<string, Wallet | null>();
  for (const document of documents) {
    const parsed = walletSchema.safeParse(document);
    const { _id: id } = z.object({ _id: z.string() }).parse(document);
    wallets.set(id, parsed.success ? parsed.data : null);
    for (const issue of parsed.error?.issues ?? [])
      differences.add('wallet_malformed', id, null, null, `${issue.path.join('.')}: ${issue.message}`);
  }
  return wallets;
}

async function walkChains(
  range: WalletRange,
  resumed: ChainEnd | null,
  wallets: ReadonlyMap<string, Wallet | null>,
  step: WalletStep,
): Promise<{ walked: Set<string>; open: ChainEnd | null }> {
  const { ledger } = step.collections;
  const options = {
    session: step.session,
    sort: { wallet_id: 1, line: 1 },
    raw: true,
    batchSize: 500,
  } as const;
  const filters =
    resumed === null
      ? [{ wallet_id: within(range) }]
      : [
          { wallet_id: resumed.wallet_id, line: { $gt: resumed.line } },
          { wallet_id: within({ from: after(resumed.wallet_id), to: range.to }) },
        ];
  const walked = new Set<string>();
  let open: ChainEnd | null = resumed === null ? null : structuredClone(resumed);
  const finish = () => {
    if (open === null) return;
    compareWallet(open, wallets.get(open.wallet_id), step.differences);
    walked.add(open.wallet_id);
    open = null;
  };
  for (const filter of filters) {
    const cursor = ledger.find(filter, options);
    // A whole batch at a time: one wait for each line would cost as much as checking it.
    for await (const first of cursor) {
      for (const document of [first, ...cursor.readBufferedDocuments()]) {
        step.checked.ledger_lines += 1;
        const read = readLine(bytesOf(document), step.reader);
        if ('malformed' in read) {
          step.differences.add('line_malformed', read.id, null, null, read.malformed);
          continue;
        }
        const { line, hash } = read;
        if (open !== null && line.wallet_id !== open.wallet_id) finish();
        open ??= chainStart(line.wallet_id);
        followChain(open, line, hash, step.differences);
      }
      if (open !== null && step.isTimeUp()) return { walked, open };
    }
  }
  finish();
  return { walked, open };
}

function bytesOf(document: unknown): Buffer {
  if (Buffer.isBuffer(document)) return document;
  throw new TypeError('the driver gave a document where bytes were asked for');
}

function compareWallet(end: ChainEnd, wallet: Wallet | null | undefined, differences: Differences): void {
  const id = end.wallet_id;
  closeChain(end, differences);
  if (wallet === null) return;
  if (wallet === undefined) {
    differences.add('wallet_missing', id, id, null, 'there are ledger lines, and no such wallet');
    return;
  }
  if (wallet.line_count !== end.line)
    differences.add('wallet_line_count', id, end.line, wallet.line_count, 'the chain ends with another line');
  if (wallet.last_hash !== end.hash)
    differences.add('wallet_last_hash', id, end.hash, wallet.last_hash, 'the chain ends with another hash');
  if (wallet.balance !== end.balance)
    differences.add('wallet_balance', id, end.balance, wallet.balance, 'the lines add up to another balance');
  if (wallet.held !== end.held)
    differences.add('wallet_held', id, end.held, wallet.held, 'the lines add up to another sum of holds');
}

const holdSchema = z.object({
  _id: z.string(),
  wallet_id: z.string(),
  units: z.bigint(),
  expires_at: z.date(),
});

/** What a wallet holds back is the sum of its holds, and no hold outlives its time. */
async function verifyHolds(
  range: WalletRange,
  wallets: ReadonlyMap<string, Wallet | null>,
  { collections, session, now, differences, checked }: WalletStep,
): Promise<void> {
  const sums = new Map<string, bigint>();
  const projection = { wallet_id: 1, units: 1, expires_at: 1 };
  const found = collections.holds
    .find({ wallet_id: within(range) }, { session, projection })
    .map((hold): unknown => hold);
  for await (const document of found) {
    checked.holds += 1;
    const parsed = holdSchema.safeParse(document);
    if (!parsed.success) {
      const { _id: id } = z.object({ _id: z.coerce.string() }).parse(document);
      differences.add('hold_orphaned', id, null, null, `the hold is malformed: ${parsed.error.message}`);
      continue;
    }
    const { _id, wallet_id, units, expires_at } = parsed.data;
    sums.set(wallet_id, (sums.get(wallet_id) ?? 0n) + units);
    if (!wallets.has(wallet_id))
      differences.add('hold_orphaned', _id, wallet_id, null, 'its wallet does not exist');
    if (expires_at.getTime() < now.getTime() - holdGraceMs)
      differences.add(
        'hold_orphaned',
        _id,
        null,
        expires_at.toISOString(),
        'it should have been released when its time was over',
      );
  }
  for (const [id, wallet] of wallets) {
    if (wallet === null) continue;
    const sum = sums.get(id) ?? 0n;
    if (sum !== wallet.held)
      differences.add('wallet_held', id, sum, wallet.held, 'its holds add up to another sum');
  }
}

export const within = ({ from, to }: WalletRange) => ({ $gte: from, ...(to === null ? {} : { $lt: to }) });

const isWithin = (id: string, { to }: WalletRange): boolean =>
  to === null || Buffer.compare(Buffer.from(id), Buffer.from(to)) < 0;
