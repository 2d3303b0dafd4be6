// A whole client in one page: starts a chat, sends one message, prints the words as they come and what they cost.
//
//   node docs/examples/watch-chat.mjs "Give me three names for a coffee shop."
//
// MOZAIKS_URL, APP_ID, USER_ID and WORKFLOW say where and who; AUTH_TOKEN is a JWT, when the server asks for one.
import { WebSocket } from 'ws';

const {
  MOZAIKS_URL: server = 'http://127.0.0.1:8000',
  APP_ID: appId = 'demo',
  USER_ID: userId = 'ann',
  WORKFLOW: workflow = 'assistant',
  AUTH_TOKEN: token,
} = process.env;
const message = process.argv[2] ?? 'Explain prepaid wallets in two sentences.';
const authorization = token === undefined ? {} : { authorization: `Bearer ${token}` };

const answer = await fetch(`${server}/api/chats/${appId}/${workflow}/start`, {
  method: 'POST',
  headers: { 'content-type': 'application/json', ...authorization },
  body: JSON.stringify({ user_id: userId, force_new: true }),
});
const chat = await answer.json();
if (!answer.ok) throw new Error(chat.detail);
console.log(`chat ${chat.chat_id}, balance ${chat.remaining_balance}`);

let lastSequence = 0;
let isOver = false;
/** How many characters of each message have been printed. */
const printed = new Map();

connect();

function connect() {
  const url = new URL(`${chat.websocket_url}?last_sequence=${lastSequence}`, server);
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = new WebSocket(url, { headers: authorization });
  // Sent again after a reconnect: the id makes it one message.
  socket.on('open', () =>
    socket.send(
      JSON.stringify({ type: 'user_message', content: message, client_message_id: `${chat.chat_id}-1` }),
    ),
  );
  socket.on('message', (text) => receive(JSON.parse(text), socket));
  socket.on('error', (error) => console.error(`\n${error.message}`));
  socket.on('close', (code) => {
    if (isOver) return;
    if (code >= 4400) throw new Error(`the server closed the socket with ${code}`);
    setTimeout(connect, 500 + 500 * Math.random());
  });
}

function receive(frame, socket) {
  if (frame.seq !== null) {
    if (frame.seq <= lastSequence) return;
    if ((frame.from_seq ?? frame.seq) > lastSequence + 1) {
      socket.send(JSON.stringify({ type: 'resume', last_sequence: lastSequence }));
      return;
    }
    lastSequence = frame.seq;
  }
  const { data } = frame;
  switch (frame.type) {
    case 'chat.select_speaker':
      console.log(`\n--- ${data.agent}`);
      break;
    case 'chat.stream':
      print(data.message_id, data.offset, data.delta);
      break;
    case 'chat.text':
      if (data.role === 'assistant') print(data.message_id, 0, data.content);
      break;
    case 'token_update':
      console.log(
        `\n[token_update #${frame.seq}] +${data.delta.total_tokens} tokens, ` +
          `${data.cumulative.total_tokens} in this chat, balance ${data.remaining_balance}`,
      );
      break;
    case 'chat.error':
      console.log(`\n[${data.error_type}] ${data.message}`);
      break;
    case 'chat.run_complete':
      console.log(`\n${data.result}: ${data.total_turns} turn(s), ${data.totals.total_tokens} tokens`);
      isOver = true;
      socket.close();
      break;
  }
}

/** Prints what is new: `text` begins `offset` characters into its message. */
function print(messageId, offset, text) {
  const done = printed.get(messageId) ?? 0;
  if (offset + text.length <= done) return;
  process.stdout.write(text.slice(done - offset));
  printed.set(messageId, offset + text.length);
}
