export type Route =
  | { page: 'workflows' }
  | { page: 'new_chat'; workflowName: string }
  | { page: 'chat'; workflowName: string; chatId: string };

/** The page lives in the address's hash, so that any static server can serve it and a reload finds its chat again. */
export function parseRoute(hash: string): Route {
  const [page, workflowName, chatId] = hash.replace(/^#\/?/, '').split('/').map(decodePart);
  if (page !== 'chat' || !workflowName) return { page: 'workflows' };
  return chatId ? { page: 'chat', workflowName, chatId } : { page: 'new_chat', workflowName };
}

export function formatRoute(route: Route): string {
  switch (route.page) {
    case 'workflows':
      return '#/';
    case 'new_chat':
      return `#/chat/${encodeURIComponent(route.workflowName)}`;
    case 'chat':
      return `#/chat/${encodeURIComponent(route.workflowName)}/${encodeURIComponent(route.chatId)}`;
  }
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
