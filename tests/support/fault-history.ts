import { addCounts, type TokenCounts, zeroCounts } from '../../core/usage/token-counts.ts';
import type { Envelope } from '../../core/contracts/agent-events.ts';
import { type FaultRandom, faultRandom } from './fault-random.ts';

/**
 * What agents did in many chats at once, and the exact bill for it. Clients count cumulatively and restart, some sum
 * up at the end, some send nothing but totals; texts, tool results and events of unknown types lie between. The bill
 * is added up while the calls are made up: it knows nothing of marks, growth or the order of delivery.
 */
export type FaultEvent = {
  readonly uuid: string;
  readonly chat_id: string;
  /** The envelope as JSON. */
  readonly json: string;
};

export type FaultCredit = {
  readonly app_id: string;
  readonly user_id: string;
  readonly amount: number;
  readonly key: string;
};

export type ChatBill = {
  readonly chat_id: string;
  readonly app_id: string;
  readonly user_id: string;
  counts: TokenCounts;
  readonly byAgent: Map<string, TokenCounts>;
  readonly byModel: Map<string, TokenCounts>;
  /** Texts that agents said. */
  agentTurns: number;
  /** Tools that worked. */
  toolCalls: number;
};

export type FaultHistory = {
  /** In the order they happened. */
  readonly events: readonly FaultEvent[];
  readonly credits: readonly FaultCredit[];
  readonly bills: ReadonlyMap<string, ChatBill>;
};

export type FaultHistoryOptions = {
  readonly seed: number;
  readonly events: number;
  /** Events of one chat, about. */
  readonly chatLength?: number;
  /** Chats that share a wallet, about. */
  readonly chatsPerUser?: number;
  /** Distinguishes the chats of histories in one database. */
  readonly name?: string;
};

const models = ['gpt-4o-mini', 'gpt-4.1', 'org/unpriced.model-7b'];

type Client = {
  readonly agent: string;
  readonly name: string;
  readonly totalsOnly: boolean;
  epoch: number;
  actual: Map<string, TokenCounts>;
  /** Completions that came from the client's own cache: in `total`, never billed. */
  cached: Map<string, TokenCounts>;
};

type Chat = {
  readonly bill: ChatBill;
  readonly agents: readonly string[];
  readonly runs: number;
  remaining: number;
  run: number;
  seq: number;
  clients: Client[];
};

export function makeFaultHistory({
  seed,
  events: wanted,
  chatLength = 100,
  chatsPerUser = 3,
  name = 'c',
}: FaultHistoryOptions): FaultHistory {
  const random = faultRandom(seed);
  const chatCount = Math.max(1, Math.round(wanted / chatLength));
  const userCount = Math.max(1, Math.round(chatCount / chatsPerUser));
  const chats = Array.from({ length: chatCount }, (_, index): Chat => {
    const user = index % userCount;
    return {
      bill: {
        chat_id: `${name}${seed}-${index}`,
        app_id: user % 2 === 0 ? 'acme' : 'globex',
        user_id: `${name}${seed}-user-${user}`,
        counts: zeroCounts(),
        byAgent: new Map(),
        byModel: new Map(),
        agentTurns: 0,
        toolCalls: 0,
      },
      // A chat in ten has so many clients that their marks do not all fit into its document.
      agents: Array.from(
        { length: index % 10 === 9 ? 14 : random.between(2, 4) },
        (_each, n) => `agent-${n}`,
      ),
      runs: random.between(1, 3),
      remaining: Math.floor(wanted / chatCount) + (index < wanted % chatCount ? 1 : 0),
      run: 0,
      seq: 0,
      clients: [],
    };
  });
  const events: FaultEvent[] = [];
  const open = [...chats];
  while (open.length > 0) {
    const chat = random.pick(open);
    for (const made of playTurn(chat, random)) {
      if (chat.remaining === 0) break;
      chat.remaining -= 1;
      made.settle();
      events.push({ uuid: made.uuid, chat_id: chat.bill.chat_id, json: JSON.stringify(made.envelope) });
    }
    if (chat.remaining === 0) open.splice(open.indexOf(chat), 1);
  }
  const owners = [...new Map(chats.map(({ bill }) => [bill.user_id, bill])).values()];
  const credits = owners.flatMap(({ app_id, user_id }) =>
    Array.from({ length: random.between(1, 3) }, (_, index) => ({
      app_id,
      user_id,
      amount: random.between(1, 1_000_000),
      key: `credit-${user_id}-${index}`,
    })),
  );
  return { events, credits, bills: new Map(chats.map(({ bill }) => [bill.chat_id, bill])) };
}

/** `settle` puts what the event stands for on the bill: an event that is never sent costs nothing. */
type Made = { uuid: string; envelope: Envelope; settle: () => void };

function* playTurn(chat: Chat, random: FaultRandom): Generator<Made> {
  const turnsOfRun = Math.ceil((chat.remaining + chat.seq) / chat.runs);
  if (chat.clients.length === 0) openClients(chat, random);
  const client = random.pick(chat.clients);
  if (random.chance(0.04)) restart(client);
  if (!client.totalsOnly && random.chance(0.05))
    // No call was made yet by this reading of the counters: that is no reset.
    yield summary(chat, client, { mode: 'both', nothingYet: true });
  if (random.chance(0.25)) yield* tool(chat, client, random);
  if (random.chance(0.05)) yield event(chat, client.agent, 'group_manager_note', { note: 'hm' });
  yield text(chat, client);
  yield* call(chat, client, random);
  if (chat.run < chat.runs - 1 && chat.seq > turnsOfRun * (chat.run + 1)) {
    for (const each of chat.clients) if (!each.totalsOnly) yield summary(chat, each, { mode: 'total' });
    yield event(chat, null, 'run_completion', { result: 'success', reason: 'done' });
    chat.run += 1;
    chat.clients = [];
  }
}

function openClients(chat: Chat, random: FaultRandom): void {
  chat.clients = chat.agents.map((agent, index) => ({
    agent,
    name: `client-${index}`,
    totalsOnly: random.chance(0.1),
    epoch: 0,
    actual: new Map(),
    cached: new Map(),
  }));
}

function restart(client: Client): void {
  client.epoch += 1;
  client.actual = new Map();
  client.cached = new Map();
}

/** One call of a model, and the summary that its client sends then. */
function* call(chat: Chat, client: Client, random: FaultRandom): Generator<Made> {
  const model = random.pick(models);
  const prompt = random.between(0, 4000);
  const completion = random.between(prompt === 0 ? 1 : 0, 1000);
  const counts: TokenCounts = {
    prompt_tokens: BigInt(prompt),
    completion_tokens: BigInt(completion),
    cached_tokens: BigInt(random.between(0, prompt)),
    cache_write_tokens: 0n,
    reasoning_tokens: BigInt(random.between(0, completion)),
  };
  raise(client.actual, model, counts);
  if (random.chance(0.2) && !client.totalsOnly) raise(client.cached, model, counts);
  const made = summary(chat, client, { mode: client.totalsOnly ? 'total' : 'both' });
  yield {
    ...made,
    settle: () => {
      const { bill } = chat;
      bill.counts = addCounts(bill.counts, counts);
      raise(bill.byAgent, client.agent, counts);
      raise(bill.byModel, model, counts);
    },
  };
}

function summary(
  chat: Chat,
  client: Client,
  { mode, nothingYet = false }: { mode: 'both' | 'total'; nothingYet?: boolean },
): Made {
  const total = new Map(client.actual);
  for (const [model, counts] of client.cached) raise(total, model, counts);
  return event(
    chat,
    client.agent,
    'usage_summary',
    {
      mode,
      actual: { usages: client.totalsOnly || nothingYet ? null : usages(client.actual), total_cost: 0.5 },
      total: { usages: nothingYet ? null : usages(total), total_cost: 0.5 },
    },
    { agent: client.agent, client: client.name, epoch: client.epoch },
  );
}

function usages(counts: Map<string, TokenCounts>) {
  return [...counts].map(([model, each]) => ({
    model,
    prompt_tokens: Number(each.prompt_tokens),
    completion_tokens: Number(each.completion_tokens),
    cached_tokens: Number(each.cached_tokens),
    reasoning_tokens: Number(each.reasoning_tokens),
    cost: 0.25,
  }));
}

function text(chat: Chat, client: Client): Made {
  const made = event(chat, client.agent, 'text', { content: 'Fine.', sender: client.agent });
  return {
    ...made,
    settle: () => {
      chat.bill.agentTurns += 1;
    },
  };
}

function* tool(chat: Chat, client: Client, random: FaultRandom): Generator<Made> {
  const works = random.chance(0.8);
  const made = event(chat, client.agent, 'executed_function', {
    func_name: 'look_up',
    content: 'found',
    is_exec_success: works,
  });
  yield {
    ...made,
    settle: () => {
      if (works) chat.bill.toolCalls += 1;
    },
  };
}

function event(
  chat: Chat,
  agent: string | null,
  type: string,
  content: Record<string, unknown>,
  meter: Envelope['meter'] = null,
): Made {
  const { chat_id, app_id, user_id } = chat.bill;
  chat.seq += 1;
  const uuid = `${chat_id}-e${chat.seq}`;
  return {
    uuid,
    envelope: {
      v: 1,
      dialect: 'ag2-classic/0.14.1',
      app_id,
      user_id,
      workflow_name: 'remote',
      chat_id,
      run_id: `run-${chat.run}`,
      seq: chat.seq,
      ts: new Date().toISOString(),
      agent,
      meter,
      event: { type, content: { uuid, ...content } },
    },
    settle: () => undefined,
  };
}

function raise(totals: Map<string, TokenCounts>, key: string, counts: TokenCounts): void {
  totals.set(key, addCounts(totals.get(key) ?? zeroCounts(), counts));
}
