// Checks a wallet's ledger without trusting the server that serves it: every line's hash, the chain of hashes, the
// places, the running balance and what is reserved (PERSISTENCE.md, "The chain of a ledger").
//
//   node docs/examples/verify-ledger.mjs
//
// MOZAIKS_URL, APP_ID and USER_ID say where and whose; AUTH_TOKEN is a JWT or the service key, when one is asked for.
import { createHash } from 'node:crypto';

const {
  MOZAIKS_URL: server = 'http://127.0.0.1:8000',
  APP_ID: appId = 'demo',
  USER_ID: userId = 'ann',
  AUTH_TOKEN: token,
} = process.env;

/** All other numbers are int64 in the database: in the hashed text they are decimal texts. */
const plainNumbers = new Set(['sequence', 'reported_cost']);

function canonical(value, name) {
  if (typeof value === 'number' && !plainNumbers.has(name)) return `"${value}"`;
  if (Array.isArray(value)) return `[${value.map((each) => canonical(each)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const names = Object.keys(value)
    .filter((each) => each !== 'hash')
    .sort();
  return `{${names.map((each) => `${JSON.stringify(each)}:${canonical(value[each], each)}`).join(',')}}`;
}

let lines = 0;
let balance = 0;
let held = 0;
let previousHash = null;
for await (const entry of entries()) {
  const hash = createHash('sha256').update(canonical(entry)).digest('hex');
  lines += 1;
  balance += entry.amount;
  held += entry.held_change;
  if (entry.hash !== hash) fail(entry, `its hash should be ${hash}`);
  if (entry.previous_hash !== previousHash) fail(entry, `the line before has the hash ${previousHash}`);
  if (entry.line !== lines) fail(entry, `it should be line ${lines}`);
  if (entry.balance_after !== balance) fail(entry, `the balance after it should be ${balance}`);
  if (entry.held_after !== held) fail(entry, `what is reserved after it should be ${held}`);
  previousHash = entry.hash;
}
console.log(
  `${lines} lines, balance ${balance}, reserved ${held}, last hash ${previousHash}: the chain holds`,
);

async function* entries() {
  for (let cursor = '0'; cursor !== null;) {
    const url = `${server}/api/tokens/${userId}/ledger?app_id=${appId}&cursor=${cursor}&limit=1000`;
    const answer = await fetch(url, {
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    });
    const page = await answer.json();
    if (!answer.ok) throw new Error(page.detail);
    yield* page.entries;
    cursor = page.next_cursor;
  }
}

function fail({ line, _id }, reason) {
  console.error(`line ${line} (${_id}): ${reason}`);
  process.exit(1);
}
