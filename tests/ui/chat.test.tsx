import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { act, render, screen, waitFor, within } from '@testing-library/react';
import { userEvent, type UserEvent } from '@testing-library/user-event';
import { createApiClient } from '../../ChatUI/src/api/api-client.ts';
import { App } from '../../ChatUI/src/app.tsx';
import { resumeBoundary, runComplete, serverFrame, tokenUpdate } from './server-frame.ts';
import { ScriptedApi, type AskedRequest } from './scripted-api.ts';
import { ScriptedSocket } from './scripted-socket.ts';

let api: ScriptedApi;
let user: UserEvent;

beforeEach(() => {
  api = new ScriptedApi();
  user = userEvent.setup();
  ScriptedSocket.opened = [];
  localStorage.clear();
  window.history.replaceState(null, '', '/?app_id=acme&user_id=ann');
  api.answer('GET /api/workflows', {
    workflows: [
      {
        workflow_name: 'support_desk',
        display_name: 'Support desk',
        description: 'Answers questions about orders.',
        icon: 'headset',
        suggestions: ['Where is my order?'],
        pattern: 'default',
        agents: [{ name: 'planner', description: 'plans' }],
        model: 'gpt-4o-mini',
      },
    ],
  });
  fillWallet(1000);
  api.answer('GET /api/chats/acme/support_desk?user_id=ann', { chats: [] });
  api.answer('POST /api/chats/acme/support_desk/start', {
    success: true,
    chat_id: 'chat-1',
    workflow_name: 'support_desk',
    app_id: 'acme',
    user_id: 'ann',
    websocket_url: '/ws/support_desk/acme/chat-1/ann',
    remaining_balance: 1000,
    reused: false,
  });
});

afterEach(() => {
  window.location.hash = '';
});

function fillWallet(balance: number): void {
  const path = '/api/tokens/ann/balance?app_id=acme';
  api.answer(`GET ${path}`, { balance, held: 0, available: balance, unit: 'tokens' });
}

function openPage(hash = ''): void {
  window.location.hash = hash;
  render(<App api={createApiClient(api.fetch)} WebSocket={ScriptedSocket} storage={localStorage} />);
}

async function latestSocket(count = 1): Promise<ScriptedSocket> {
  await waitFor(() => expect(ScriptedSocket.opened).toHaveLength(count));
  const socket = ScriptedSocket.opened.at(-1);
  if (socket === undefined) throw new Error('no socket was opened');
  return socket;
}

/** An open chat, connected and with nothing in it. */
async function openChat(): Promise<ScriptedSocket> {
  openPage('#/chat/support_desk/chat-1');
  const socket = await latestSocket();
  act(() => socket.accept());
  socket.deliver(resumeBoundary());
  await screen.findByRole('textbox', { name: 'Message' });
  // The page asks for the balance when it opens, and again once the replay is over.
  const isBalance = ({ path }: AskedRequest): boolean => path.includes('/balance');
  await waitFor(() => expect(api.asked.filter(isBalance)).toHaveLength(2));
  return socket;
}

const runStart = serverFrame('chat.run_start', { run_id: 'run-1', workflow_name: 'support_desk' }, 1);
const speaker = serverFrame('chat.select_speaker', { agent: 'planner' }, 2);
const piece = (offset: number, delta: string) =>
  serverFrame('chat.stream', { message_id: 'message-1', agent: 'planner', offset, delta });

describe('beginning', () => {
  test('a person chooses a workflow, writes, and the chat is started with that message', async () => {
    openPage();
    await user.click(await screen.findByRole('link', { name: 'Support desk' }));
    await user.type(await screen.findByRole('textbox', { name: 'Message' }), 'Where is it?');
    await user.click(screen.getByRole('button', { name: 'Send' }));
    const socket = await latestSocket();
    expect(socket.url.pathname).toBe('/ws/support_desk/acme/chat-1/ann');
    expect(socket.url.searchParams.get('last_sequence')).toBe('0');
    expect(window.location.hash).toBe('#/chat/support_desk/chat-1');
    act(() => socket.accept());
    expect(socket.sent).toMatchObject([{ type: 'user_message', content: 'Where is it?' }]);
    expect(within(screen.getByRole('log')).getByText('Where is it?')).toBeTruthy();
    expect(api.asked.find(({ method }) => method === 'POST')?.body).toMatchObject({
      user_id: 'ann',
      force_new: true,
    });
  });

  test('a suggestion begins a chat with one click', async () => {
    openPage('#/chat/support_desk');
    await user.click(await screen.findByRole('button', { name: 'Where is my order?' }));
    const socket = await latestSocket();
    act(() => socket.accept());
    expect(socket.sent).toMatchObject([{ type: 'user_message', content: 'Where is my order?' }]);
  });

  test('a refused start says why and keeps what was written', async () => {
    api.answer(
      'POST /api/chats/acme/support_desk/start',
      {
        type: 'about:blank',
        title: 'Payment Required',
        status: 402,
        code: 'insufficient_tokens',
        detail: 'The wallet holds 3 tokens and 500 are needed.',
        scope: 'wallet',
      },
      402,
    );
    openPage('#/chat/support_desk');
    const box = await screen.findByRole('textbox', { name: 'Message' });
    await user.type(box, 'Hello{Enter}');
    expect((await screen.findByRole('alert')).textContent).toContain('500 are needed');
    expect(screen.getByDisplayValue('Hello')).toBe(box);
  });

  test('a server that cannot be reached is told, and asked again on request', async () => {
    const { fetch } = api;
    let isReachable = false;
    const flaky: typeof fetch = (...request) => {
      if (!isReachable) throw new TypeError('Failed to fetch');
      return fetch(...request);
    };
    render(<App api={createApiClient(flaky)} WebSocket={ScriptedSocket} storage={localStorage} />);
    expect((await screen.findByRole('alert')).textContent).toContain('cannot be reached');
    isReachable = true;
    await user.click(screen.getByRole('button', { name: 'Try again' }));
    expect(await screen.findByRole('link', { name: 'Support desk' })).toBeTruthy();
  });
});

describe('an open chat', () => {
  test('its address is enough to come back to it, from the first frame on', async () => {
    const socket = await openChat();
    expect(socket.url.pathname).toBe('/ws/support_desk/acme/chat-1/ann');
    expect(socket.url.searchParams.get('last_sequence')).toBe('0');
    expect(socket.sent).toEqual([]);
  });

  test('an answer can be read while it is written', async () => {
    const socket = await openChat();
    socket.deliver(runStart, speaker);
    expect(await screen.findByRole('status', { name: 'Thinking' })).toBeTruthy();
    socket.deliver(piece(0, 'It is '), piece(6, '**on its'));
    const answer = await screen.findByRole('article', { name: 'planner' });
    expect(answer.getAttribute('aria-busy')).toBe('true');
    expect(screen.queryByRole('status', { name: 'Thinking' })).toBeNull();
    const content = 'It is **on its way**';
    socket.deliver(
      serverFrame('chat.text', { message_id: 'message-1', agent: 'planner', content, role: 'assistant' }, 3),
    );
    expect((await within(answer).findByText('on its way')).tagName).toBe('STRONG');
    expect(answer.getAttribute('aria-busy')).toBe('false');
  });

  test('HTML in an answer is text, and a picture is not fetched before it is asked for', async () => {
    const socket = await openChat();
    const content = 'See <script>alert(1)</script> ![a cat](https://example.com/cat.png)';
    socket.deliver(
      serverFrame('chat.text', { message_id: 'message-1', agent: 'planner', content, role: 'assistant' }, 1),
    );
    const answer = await screen.findByRole('article', { name: 'planner' });
    expect((await within(answer).findByRole('link', { name: 'a cat' })).getAttribute('href')).toBe(
      'https://example.com/cat.png',
    );
    expect(answer.querySelector('script, img')).toBeNull();
  });

  test('Enter sends, Shift+Enter makes a new line, and an empty message cannot be sent', async () => {
    const socket = await openChat();
    await user.type(
      screen.getByRole('textbox', { name: 'Message' }),
      '{Enter}One{Shift>}{Enter}{/Shift}Two{Enter}',
    );
    expect(socket.sent).toMatchObject([{ type: 'user_message', content: 'One\nTwo' }]);
    expect(screen.getByRole('textbox', { name: 'Message' })).toHaveProperty('value', '');
    expect(screen.getByRole('button', { name: 'Send' })).toHaveProperty('disabled', true);
  });

  test('Stop asks the server to cancel, and Send is back when the run has ended', async () => {
    const socket = await openChat();
    socket.deliver(runStart);
    await user.click(await screen.findByRole('button', { name: 'Stop' }));
    expect(socket.sent).toEqual([{ type: 'cancel' }]);
    socket.deliver(runComplete(2, 'stopped'));
    expect(await screen.findByText(/^Stopped/)).toBeTruthy();
    expect(screen.getByRole('button', { name: 'Send' })).toBeTruthy();
  });

  test("an agent's question is answered in the same place", async () => {
    const socket = await openChat();
    socket.deliver(
      runStart,
      serverFrame(
        'chat.input_request',
        {
          request_id: 'question-1',
          prompt: 'Which colour?',
          agent: 'planner',
          password: false,
          expires_at: '2036-01-05T11:00:00.000Z',
        },
        2,
      ),
    );
    expect(await screen.findByText(/Which colour/)).toBeTruthy();
    await user.type(screen.getByRole('textbox', { name: 'Message' }), 'Blue{Enter}');
    expect(socket.sent).toEqual([
      { type: 'user_input_response', input_request_id: 'question-1', user_input: 'Blue' },
    ]);
  });

  test('an error says what happened and what to do', async () => {
    const socket = await openChat();
    const message = 'The provider is overloaded.';
    socket.deliver(
      serverFrame('chat.error', { error_type: 'provider_error', message, details: {}, retryable: true }, 1),
    );
    const alert = await screen.findByRole('alert');
    expect(alert.textContent).toContain(message);
    expect(alert.textContent).toContain('Send your message again');
  });
});

describe('money', () => {
  test('the wallet and the meter move with every token_update', async () => {
    const socket = await openChat();
    const wallet = screen.getByRole('status', { name: 'Wallet balance' });
    const meter = screen.getByRole('region', { name: 'Token meter' });
    const walletValue = () => wallet.querySelector('data')?.value;
    await waitFor(() => expect(walletValue()).toBe('1000'));
    socket.deliver(tokenUpdate(1, { total: 120, balance: 880, cost: 0.00021 }));
    await waitFor(() => expect(walletValue()).toBe('880'));
    expect(wallet.textContent).toContain('880 tokens');
    // The figures count up to where they are going, and stand in the table of agents as well.
    expect(await within(meter).findAllByText('120')).not.toHaveLength(0);
    expect(await within(meter).findAllByText('$0.000210')).not.toHaveLength(0);
    socket.deliver(tokenUpdate(2, { total: 1300, balance: -20, cost: 0.5 }));
    await waitFor(() => expect(walletValue()).toBe('-20'));
    expect(await within(meter).findAllByText('1,300')).not.toHaveLength(0);
  });

  test('the wallet keeps its last number when the chat is left', async () => {
    const socket = await openChat();
    socket.deliver(tokenUpdate(1, { balance: 880 }));
    expect(await screen.findByText('880')).toBeTruthy();
    fillWallet(870);
    await user.click(screen.getByRole('link', { name: /all workflows/ }));
    const wallet = await screen.findByRole('status', { name: 'Wallet balance' });
    expect(['880', '870']).toContain(wallet.querySelector('data')?.value);
    await waitFor(() => expect(wallet.querySelector('data')?.value).toBe('870'));
  });

  test('out of funds is told, and gone once the wallet was filled', async () => {
    fillWallet(0);
    const socket = await openChat();
    socket.deliver(
      serverFrame('token_exhausted', { remaining_balance: 0, scope: 'wallet', blocked_until: null }, 1),
    );
    expect(await screen.findByText('The wallet is used up')).toBeTruthy();
    fillWallet(500);
    await user.click(screen.getByRole('button', { name: 'Check again' }));
    await waitFor(() => expect(screen.queryByText('The wallet is used up')).toBeNull());
  });
});

describe('a lost connection', () => {
  test('is told, and what is written meanwhile is sent when it is back', async () => {
    const socket = await openChat();
    socket.deliver(runStart, runComplete(2));
    await screen.findByText(/^Done/);
    act(() => socket.breakOff());
    expect(await screen.findByRole('status', { name: 'Connection' })).toBeTruthy();
    await user.type(screen.getByRole('textbox', { name: 'Message' }), 'Still there?{Enter}');
    expect(screen.getByText('Waits for the connection')).toBeTruthy();
    await user.click(screen.getByRole('button', { name: 'Try now' }));
    const next = await latestSocket(2);
    expect(next.url.searchParams.get('last_sequence')).toBe('2');
    act(() => next.accept());
    expect(next.sent).toMatchObject([{ type: 'user_message', content: 'Still there?' }]);
    expect(screen.queryByRole('status', { name: 'Connection' })).toBeNull();
  });

  test('that the server wants says why and waits for the user', async () => {
    const socket = await openChat();
    act(() => socket.breakOff(4404));
    expect((await screen.findByRole('alert')).textContent).toContain('does not exist');
    expect(screen.getByRole('textbox', { name: 'Message' })).toHaveProperty('disabled', true);
    expect(ScriptedSocket.opened).toHaveLength(1);
  });
});

describe('around the chat', () => {
  test('the settings say who the user is, refuse what no server accepts, and change the chats', async () => {
    // The document of these tests has no modal dialogs.
    Object.defineProperty(HTMLDialogElement.prototype, 'showModal', {
      configurable: true,
      value(this: HTMLDialogElement) {
        this.open = true;
      },
    });
    await openChat();
    await user.click(screen.getByRole('button', { name: 'Settings' }));
    const dialog = await screen.findByRole('dialog', { name: 'Settings' });
    const name = within(dialog).getByRole('textbox', { name: /^User/ });
    expect(name).toHaveProperty('value', 'ann');
    await user.clear(name);
    await user.type(name, '$ne');
    await user.click(within(dialog).getByRole('button', { name: 'Save' }));
    expect(name.getAttribute('aria-invalid')).toBe('true');
    await user.clear(name);
    await user.type(name, 'bob');
    api.answer('GET /api/tokens/bob/balance?app_id=acme', {
      balance: 77,
      held: 0,
      available: 77,
      unit: 'tokens',
    });
    await user.click(within(dialog).getByRole('button', { name: 'Save' }));
    expect(await screen.findByText('77')).toBeTruthy();
    expect(screen.queryByRole('dialog')).toBeNull();
    expect(window.location.search).toBe('');
    expect(JSON.parse(localStorage.getItem('mozaiks.identity') ?? '')).toEqual({
      app_id: 'acme',
      user_id: 'bob',
    });
  });

  test('the inspector lists the frames with their sequence, newest first, and shows one whole', async () => {
    const socket = await openChat();
    socket.deliver(runStart, speaker);
    await user.click(screen.getByRole('button', { name: 'Inspector' }));
    const inspector = await screen.findByRole('region', { name: 'Inspector' });
    await within(inspector).findByText('chat.select_speaker');
    const rows = within(inspector).getAllByRole('listitem');
    expect(rows.map((row) => row.textContent)).toEqual([
      expect.stringContaining('2chat.select_speaker'),
      expect.stringContaining('1chat.run_start'),
      expect.stringContaining('·chat.resume_boundary'),
    ]);
    await user.type(within(inspector).getByRole('searchbox', { name: 'Filter by type' }), 'run_');
    expect(within(inspector).getAllByRole('listitem')).toHaveLength(1);
  });

  test('earlier chats of the workflow are listed and the open one is marked', async () => {
    api.answer('GET /api/chats/acme/support_desk?user_id=ann', {
      chats: ['chat-1', 'chat-0'].map((chat_id) => ({
        chat_id,
        workflow_name: 'support_desk',
        status: 'completed',
        created_at: '2026-01-05T10:00:00.000Z',
        last_updated_at: '2026-01-05T10:00:00.000Z',
        last_sequence: 9,
        total_tokens: 1200,
      })),
    });
    await openChat();
    const list = screen.getByRole('navigation', { name: 'Chats' });
    const links = await within(list).findAllByRole('link', { name: /1,200 tokens/ });
    expect(links.map((link) => link.getAttribute('href'))).toEqual([
      '#/chat/support_desk/chat-1',
      '#/chat/support_desk/chat-0',
    ]);
    expect(links.map((link) => link.getAttribute('aria-current'))).toEqual(['page', null]);
  });
});
