// Checks a downloaded statement without the server: each line's hash, the chain of hashes, the places and balances, that
// the columns for people say what was hashed, and the head. The head of an earlier statement must still be in it.
//
//   curl "http://127.0.0.1:8000/api/tokens/ann/ledger.csv?app_id=demo" > statement.csv
//   node docs/examples/verify-statement.mjs statement.csv [head of an earlier statement]
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const [file, earlierHead] = process.argv.slice(2);
const [names = [], ...rows] = rowsOf(readFileSync(file, 'utf8'));
let [lines, balance, held, head] = [0n, 0n, 0n, null];
let hasEarlierHead = earlierHead === undefined;
const problems = [];
for (const [index, cells] of rows.entries()) {
  const row = Object.fromEntries(names.map((name, column) => [name, cells[column] ?? '']));
  const compare = (name, found, expected) => {
    if (String(found ?? '') !== String(expected ?? ''))
      problems.push(`row ${index + 2}: ${name} is ${found}, and should be ${expected}`);
  };
  if (row.line === 'head') {
    const end = { balance: `${balance}`, head, held: `${held}`, lines: `${lines}`, wallet_id: row._id };
    compare('canonical', row.canonical, JSON.stringify(end));
    for (const [name, value] of Object.entries({ balance_after: balance, held_after: held, hash: head }))
      compare(name, row[name], value);
    continue;
  }
  compare('hash', row.hash, createHash('sha256').update(row.canonical).digest('hex'));
  const said = JSON.parse(row.canonical || '{}');
  for (const name of names.slice(0, -2)) compare(name, row[name], said.tokens?.[name] ?? said[name]);
  balance += BigInt(said.amount ?? 0);
  held += BigInt(said.held_change ?? 0);
  const chain = { line: ++lines, balance_after: balance, held_after: held, previous_hash: head };
  for (const [name, expected] of Object.entries(chain)) compare(name, said[name], expected);
  head = row.hash;
  hasEarlierHead ||= head === earlierHead;
}
if (rows.at(-1)?.[0] !== 'head') problems.push('the last row is not the head: the statement was cut off');
if (!hasEarlierHead) problems.push(`no line has the hash ${earlierHead}: the past was rewritten`);
console.log(problems.slice(0, 20).join('\n') || `${lines} lines, balance ${balance}, head ${head}: it holds`);
process.exitCode = problems.length > 0 ? 1 : 0;

/** RFC 4180; an apostrophe in front of a cell keeps spreadsheets from taking it for a formula. */
function rowsOf(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push((quoted?.replaceAll('""', '"') ?? plain).replace(/^'(?=[=+\-@'\t\r])/, ''));
    if (end !== ',') rows.push([]);
  }
  return rows.filter((row) => row.length > 1);
}
