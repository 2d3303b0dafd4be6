// The model's chat template (ChatML), built from tokens and not from text: a person who writes "<|im_end|>" gets these
// letters, and never ends a message in the system's name.

const defaultSystem = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face';
// Dropping one message each turn would change the beginning of every prompt, and nothing kept from the last one could
// be used again.
const messagesDroppedAtOnce = 4;

/** The tokens of the whole prompt, at most `limit`: of a long chat the oldest messages are left out, never the system's. */
export function promptTokens(model, messages, limit) {
  const special = (text) => model.tokenize(text, true);
  const plain = (text) => model.tokenize(text, false);
  const start = special('<|im_start|>');
  const end = [...special('<|im_end|>'), ...plain('\n')];
  const render = ({ role, content }) => [...start, ...plain(`${roleName(role)}\n${content}`), ...end];
  const opening = [...start, ...plain('assistant\n')];

  const isSystem = ({ role }) => roleName(role) === 'system';
  const systemMessages = messages.filter(isSystem);
  const system = (
    systemMessages.length > 0 ? systemMessages : [{ role: 'system', content: defaultSystem }]
  ).flatMap(render);
  const chat = messages.filter((message) => !isSystem(message)).map(render);

  // A system message longer than half of the room keeps its beginning, where its point usually is.
  const keptSystem =
    system.length <= limit / 2 ? system : [...system.slice(0, Math.floor(limit / 2) - end.length), ...end];
  const room = limit - keptSystem.length - opening.length;
  const kept = newestWithin(chat, room).flat();
  // One message longer than all the room keeps its end.
  return [...keptSystem, ...kept.slice(Math.max(0, kept.length - room)), ...opening];
}

function newestWithin(chat, room) {
  let dropped = 0;
  let size = chat.reduce((sum, tokens) => sum + tokens.length, 0);
  while (size > room && dropped < chat.length - 1) {
    for (let count = 0; count < messagesDroppedAtOnce && dropped < chat.length - 1; count += 1) {
      size -= chat[dropped].length;
      dropped += 1;
    }
  }
  return chat.slice(dropped);
}

function roleName(role) {
  switch (role) {
    case 'developer':
      return 'system';
    case 'tool':
      return 'user';
    default:
      return role;
  }
}
