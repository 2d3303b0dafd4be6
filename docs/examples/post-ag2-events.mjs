// Posts the events of a captured AG2 run and prints what the runtime counted.
//
//   node docs/examples/post-ag2-events.mjs                     the first capture, as a new chat
//   node docs/examples/post-ag2-events.mjs <file> <chat_id>    another capture, or the same chat once more
//
// Captures carry the time they were made, and events older than 35 days are refused. So the whole run is moved to now;
// the distances between its events stay. MOZAIKS_URL, APP_ID and USER_ID say where and who; AUTH_SERVICE_KEY is the
// service key, when the server asks for one.
import { readFile } from 'node:fs/promises';

const {
  MOZAIKS_URL: server = 'http://127.0.0.1:8000',
  APP_ID: app_id = 'demo',
  USER_ID: user_id = 'ann',
  AUTH_SERVICE_KEY: serviceKey,
} = process.env;
const file = process.argv[2] ?? new URL('../../tests/fixtures/ag2/events.jsonl', import.meta.url);
const chat_id = process.argv[3] ?? `ag2-${Date.now()}`;
const authorization = serviceKey === undefined ? {} : { authorization: `Bearer ${serviceKey}` };

const captured = (await readFile(file, 'utf8'))
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line));
const shiftMs = Date.now() - Math.max(...captured.map(({ ts }) => Date.parse(ts)));
const envelopes = captured.map((envelope) => ({
  ...envelope,
  app_id,
  user_id,
  workflow_name: 'assistant',
  chat_id,
  ts: new Date(Date.parse(envelope.ts) + shiftMs).toISOString(),
}));

const counts = { recorded: 0, repeated: 0, refused: 0 };
const most = 500; // a request takes up to 1,000 events and 1 MB
for (let from = 0; from < envelopes.length; from += most) {
  const answer = await post(envelopes.slice(from, from + most));
  for (const name of Object.keys(counts)) counts[name] += answer[name];
  for (const { outcome, code, reason, stop, scope } of answer.results) {
    if (outcome === 'refused') console.log(`refused: ${code}: ${reason}`);
    if (stop) console.log(`stop: the ${scope} is used up`);
  }
}
console.log(`chat ${chat_id}:`, counts);

const session = await (await fetch(`${server}/api/sessions/${chat_id}`, { headers: authorization })).json();
console.log(session.real_time_tracking.tokens);

async function post(events) {
  const answer = await fetch(`${server}/api/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson', ...authorization },
    body: events.map((event) => JSON.stringify(event)).join('\n'),
  });
  const body = await answer.json();
  if (answer.ok) return body;
  if (answer.status !== 503) throw new Error(body.detail);
  // Some may have been taken before the server said so; sent again, they are answered "repeated".
  await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get('retry-after') ?? 1)));
  return post(events);
}
