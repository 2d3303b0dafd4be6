/** Where the socket of a chat is, for a chat that was opened by its address and not by `start`. */
export function chatSocketPath(chat: {
  workflow_name: string;
  app_id: string;
  chat_id: string;
  user_id: string;
}): string {
  const parts = [chat.workflow_name, chat.app_id, chat.chat_id, chat.user_id];
  return `/ws/${parts.map(encodeURIComponent).join('/')}`;
}

/** Resolves the `websocket_url` of a start answer (a path, or a whole address) and says what the client already has. */
export function socketUrl(websocketUrl: string, pageUrl: string, lastSequence: number): string {
  const url = new URL(websocketUrl, pageUrl);
  if (url.protocol === 'http:') url.protocol = 'ws:';
  if (url.protocol === 'https:') url.protocol = 'wss:';
  url.searchParams.set('last_sequence', String(lastSequence));
  return url.href;
}
