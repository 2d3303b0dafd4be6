import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { type Envelope, envelopeSchema } from '../../core/contracts/agent-events.ts';
import { chatSessionSchema } from '../../core/contracts/documents.ts';
import { balanceSchema, ledgerPageSchema } from '../../core/contracts/http.ts';
import { serverFrames } from '../../core/contracts/frames.ts';
import { readAg2V1Event } from '../../core/events/ag2-v1-dialect.ts';
import { projectRoot } from '../../infra/project-root.ts';
import { eventually } from '../support/eventually.ts';
import { pythonVenv } from '../support/python-venv.ts';
import { agentOf, type CompletionRequest, type ScriptStep } from '../support/scripted-provider-step.ts';
import {
  type BilledCompletion,
  type ScriptedProvider,
  type ScriptedProviderOptions,
  startScriptedProvider,
} from '../support/scripted-provider.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { createTemporaryFolder } from '../support/temporary-folder.ts';

/** Real AG2 programs with the bridge, a real server, and a provider whose bill is the judge. */
const venv = await pythonVenv('ag2-bridge-venv', ['autogen==0.14.1', 'ag2==1.2.1', 'openai==3.54.0']);
const python = 'python' in venv ? venv.python : '';
const describeBridge = 'python' in venv ? describe : describe.skip;
const bridgeFolder = join(projectRoot(), 'infra', 'ag2-bridge');
const programFolder = join(projectRoot(), 'tests', 'fixtures', 'ag2-bridge-programs');
const startBalance = 1_000_000;

let server: TestServer;
let folder: { path: string; remove: () => Promise<void> };
let chatNumber = 0;
let chatId: string;
const userId = () => `user-of-${chatId}`;
/** Providers and processes of single tests; they end with the test, however it ends. */
let own: (() => Promise<void>)[] = [];

beforeEach(() => {
  chatNumber += 1;
  chatId = `bridge-${chatNumber}`;
});
afterEach(async () => {
  for (const stop of own.toReversed()) await stop();
  own = [];
});

async function startProvider(answer?: ScriptedProviderOptions['answer']): Promise<ScriptedProvider> {
  const provider = await startScriptedProvider(answer === undefined ? {} : { answer });
  own.push(() => provider.stop());
  return provider;
}

type Program = { facts: Record<string, unknown>; code: number | null; output: string };
type RunningProgram = { ended: Promise<Program> };

/** Starts a program of the fixtures folder; it may say facts as lines of JSON. */
function startProgram(
  program: string,
  provider: ScriptedProvider,
  { args = [], env = {} }: { args?: string[]; env?: Record<string, string> } = {},
): RunningProgram {
  const child = spawn(python, [join(programFolder, program), ...args], {
    cwd: folder.path,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      HOME: folder.path,
      PYTHONPATH: bridgeFolder,
      PYTHONDONTWRITEBYTECODE: '1',
      MOZAIKS_URL: server.url,
      PROVIDER: provider.baseUrl,
      CHAT_ID: chatId,
      USER_ID: userId(),
      FOLDER: folder.path,
      ...env,
    },
  });
  own.push(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  });
  const ended = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]).then(
    ([stdout, stderr]) => ({
      facts: Object.assign({}, ...stdout.split('\n').flatMap(readFact)),
      code: child.exitCode,
      output: `${stdout}\n${stderr}`,
    }),
  );
  return { ended };
}

function readFact(line: string): object[] {
  if (!line.startsWith('{')) return [];
  return [z.record(z.string(), z.unknown()).parse(JSON.parse(line))];
}

async function runProgram(...options: Parameters<typeof startProgram>): Promise<Program> {
  const program = await startProgram(...options).ended;
  if (program.code !== 0) throw new Error(`${options[0]} ended with ${program.code}:\n${program.output}`);
  return program;
}

async function read<Shape extends z.ZodType>(path: string, shape: Shape): Promise<z.infer<Shape>> {
  const { status, body, text: said } = await server.get(path);
  if (status !== 200) throw new Error(`${path} answers ${status}: ${said}`);
  return shape.parse(body);
}
const readSession = (id = chatId) => read(`/api/sessions/${id}`, chatSessionSchema);
const framesSchema = z.object({ events: z.array(z.union(Object.values(serverFrames))) });
const readFrames = async (id = chatId) =>
  (await read(`/api/sessions/${id}/events?after=0&limit=1000`, framesSchema)).events;

/** The bill under the names that the server uses. */
function billedAgent({ agent = '' }: BilledCompletion): string {
  const names: Record<string, string> = {
    in: '_speaker_selection',
    guardrail: '_guardrail:rudeness',
    'Summarize the takeaway from': '_summary',
  };
  return names[agent] ?? agent;
}

type Judged = { id?: string; bill?: (line: BilledCompletion) => boolean; unaccounted?: number };

/** The session, the wallet and the ledger hold exactly what the provider billed, in total and for each agent. */
async function expectExactlyBilled(
  provider: ScriptedProvider,
  { id = chatId, bill = () => true, unaccounted = 0 }: Judged = {},
) {
  const { calls: _, ...totals } = provider.totals(bill);
  const session = await readSession(id);
  const { tokens } = session.real_time_tracking;
  expect(tokens).toMatchObject({
    ...totals,
    unaccounted_turns: unaccounted,
    unverifiable: false,
    usage_mismatch: false,
  });
  const byAgent = new Map<string, number>();
  for (const line of provider.bill.filter(bill))
    byAgent.set(billedAgent(line), (byAgent.get(billedAgent(line)) ?? 0) + line.total_tokens);
  expect(Object.fromEntries(tokens.by_agent.map((each) => [each.agent, each.total_tokens]))).toEqual(
    Object.fromEntries([...byAgent].filter(([, count]) => count > 0)),
  );
  const wallet = await read(`/api/tokens/${session.user_id}/balance?app_id=acme`, balanceSchema);
  expect(wallet.balance).toBe(startBalance - totals.total_tokens);
  const { entries } = await read(`/api/sessions/${id}/ledger`, ledgerPageSchema);
  expect(entries.reduce((sum, entry) => sum - entry.amount, 0)).toBe(totals.total_tokens);
  return { session, entries };
}

/** How each run of the chat ended: every run that began must have ended exactly once. */
async function runResults(id = chatId): Promise<string[]> {
  const frames = await readFrames(id);
  const begun = frames.flatMap((frame) => (frame.type === 'chat.run_start' ? [frame.data.run_id] : []));
  const ended = frames.flatMap((frame) => (frame.type === 'chat.run_complete' ? [frame.data] : []));
  expect(ended.map(({ run_id }) => run_id).toSorted()).toEqual(begun.toSorted());
  return ended.map(({ result }) => result);
}

const toolNames = ({ tools }: CompletionRequest): string[] =>
  z
    .array(z.object({ function: z.object({ name: z.string() }) }))
    .parse(tools ?? [])
    .map((tool) => tool.function.name);

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = z.object({ port: z.int() }).parse(probe.address());
  probe.close();
  await once(probe, 'close');
  return port;
}

type DoorAnswer =
  | 'take'
  | 'hang up'
  | 'take and hang up'
  | { status: number; headers?: Record<string, string>; body?: string };

/** The door alone: remembers every envelope that it takes, and misbehaves as told. */
async function startDoor(
  answer: (envelopes: Envelope[]) => DoorAnswer = () => 'take',
): Promise<{ url: string; envelopes: Envelope[] }> {
  const envelopes: Envelope[] = [];
  const door = createHttpServer((request, response) => {
    void text(request).then((body) => {
      const posted = z.array(envelopeSchema).parse(JSON.parse(body));
      const how = answer(posted);
      if (how === 'take' || how === 'take and hang up') envelopes.push(...posted);
      if (how === 'hang up' || how === 'take and hang up') return response.destroy();
      if (how !== 'take') return response.writeHead(how.status, how.headers).end(how.body ?? '{}');
      const results = posted.map(({ event }) => ({ uuid: event.content.uuid ?? null, outcome: 'recorded' }));
      return response.end(JSON.stringify({ results, recorded: results.length, repeated: 0, refused: 0 }));
    });
  }).listen(0, '127.0.0.1');
  await once(door, 'listening');
  own.push(async () => {
    door.close();
    door.closeAllConnections();
    await once(door, 'close');
  });
  const { port } = z.object({ port: z.int() }).parse(door.address());
  return { url: `http://127.0.0.1:${port}`, envelopes };
}

/** A second node of the same runtime, on the same database. */
async function startSecondServer(port: number): Promise<void> {
  const second = await startTestServer({ database: server.database, environment: { PORT: String(port) } });
  own.push(() => second.stop());
}

const textOf = ({ messages }: CompletionRequest) => messages.map(({ content }) => String(content)).join('\n');
const isAfterTool = ({ messages }: CompletionRequest) => messages.at(-1)?.role === 'tool';

/** The planner asks the researcher, who looks outside; everything after that is talk. */
function v1Answer(): (request: CompletionRequest) => ScriptStep {
  let calls = 0;
  return (request) => {
    if (request.model === 'broken-model') return { error: { status: 400, message: 'no such model' } };
    const tool = toolNames(request).find((name) => name === 'look_outside' || name === 'task_researcher');
    calls += 1;
    if (tool === undefined || calls > 3 || isAfterTool(request)) return {};
    return { toolCalls: [{ name: tool, arguments: { city: 'Lima', objective: 'Find the record.' } }] };
  };
}

describeBridge('the AG2 bridge', () => {
  beforeAll(async () => {
    folder = await createTemporaryFolder();
    server = await startTestServer();
  });
  afterAll(async () => {
    await server.stop();
    await folder.remove();
  });

  test("a group chat's tokens are counted to the last one, and the program sees what it would see without", async () => {
    const provider = await startProvider((request) =>
      request.tools && !isAfterTool(request)
        ? { toolCalls: [{ name: 'look_outside', arguments: { city: 'Lima' } }] }
        : { usage: { prompt_tokens_details: { cached_tokens: 3 } } },
    );
    const { facts, output } = await runProgram('round_robin.py', provider);
    const { session } = await expectExactlyBilled(provider);
    expect(session.status).toBe('completed');
    expect(facts).toMatchObject({ undelivered: 0, run_ids: [expect.any(String)] });
    expect(facts['types']).toEqual(expect.arrayContaining(['text', 'tool_call', 'run_completion']));
    expect(output).not.toContain('mozaiks');
    expect(await runResults()).toEqual(['success']);
    const types = (await readFrames()).map(({ type }) => type);
    expect(types).toEqual(
      expect.arrayContaining(['chat.select_speaker', 'chat.text', 'chat.tool_call', 'chat.tool_response']),
    );
    expect(types).not.toContain('chat.error');
  });

  test('speaker selection, guardrails and the summary are counted, each under a name of its own', async () => {
    const names = ['planner', 'researcher', 'writer'];
    let turn = 0;
    const provider = await startProvider((request) => {
      const said = textOf(request);
      if (said.includes('select the next role')) return { reply: names[(turn += 1) % names.length] ?? '' };
      if (said.includes('You are a guardrail'))
        return { reply: '{"activated": false, "justification": "fine"}' };
      return {};
    });
    await runProgram('auto.py', provider);
    const { session } = await expectExactlyBilled(provider);
    const shares = session.real_time_tracking.tokens.by_agent.map(({ agent }) => agent);
    expect(shares).toEqual(expect.arrayContaining(['_speaker_selection', '_guardrail:rudeness', '_summary']));
    expect(await runResults()).toEqual(['success']);
  });

  test('agents that hand off by model get a new client before every reply, and nothing is lost', async () => {
    const handedOff = new Set<string>();
    const provider = await startProvider((request) => {
      const agent = agentOf(request) ?? '';
      const names = toolNames(request);
      const name = names[0];
      if (name === undefined || handedOff.has(agent)) return {};
      handedOff.add(agent);
      return { toolCalls: [{ name, arguments: {} }] };
    });
    await runProgram('handoffs.py', provider);
    expect(provider.bill.length).toBeGreaterThan(4);
    const { entries } = await expectExactlyBilled(provider);
    expect(entries).toHaveLength(provider.bill.length);
    expect(await runResults()).toEqual(['success']);
    expect((await readFrames()).filter(({ type }) => type === 'chat.handoff').length).toBeGreaterThan(2);
  });

  test('completions from a cache cost nothing, and agents that are used again are not counted again', async () => {
    const provider = await startProvider();
    const { facts } = await runProgram('cache.py', provider);
    const { session } = await expectExactlyBilled(provider);
    const total = z.object({ 'gpt-4o-mini': z.object({ total_tokens: z.int() }) }).parse(facts['total']);
    const own = session.real_time_tracking.tokens.by_agent.find(({ agent }) => agent === 'planner');
    expect(total['gpt-4o-mini'].total_tokens).toBeGreaterThan(own?.total_tokens ?? 0);
    expect(await runResults()).toEqual(['success', 'success', 'success']);
  });

  test('counters that the program clears half way go on being counted', async () => {
    const provider = await startProvider();
    const { facts } = await runProgram('cleared.py', provider);
    const { session } = await expectExactlyBilled(provider);
    const left = z.object({ 'gpt-4o-mini': z.object({ total_tokens: z.int() }) }).parse(facts['planner']);
    const own = session.real_time_tracking.tokens.by_agent.find(({ agent }) => agent === 'planner');
    expect(left['gpt-4o-mini'].total_tokens).toBeLessThan(own?.total_tokens ?? 0);
  });

  test.each([
    ['cancel', 'CancelledError', 'stopped', 'completed'],
    ['fail', 'LookupError', 'error', 'failed'],
  ])(
    'a run that its program leaves (%s) asks no model any more, and what was under way is counted',
    async (way, error, result, status) => {
      const provider = await startProvider({ delayMs: 300 });
      const { facts } = await runProgram('cancelled.py', provider, { args: [way] });
      expect(facts).toMatchObject({ error });
      const calls = provider.bill.length;
      expect(calls).toBeGreaterThan(1);
      expect(calls).toBeLessThan(5);
      const { session } = await expectExactlyBilled(provider);
      expect(session.status).toBe(status);
      expect(await runResults()).toEqual([result]);
      const errors = (await readFrames()).filter(({ type }) => type === 'chat.error');
      expect(errors).toHaveLength(way === 'fail' ? 1 : 0);
    },
  );

  test("two runs at once in one process do not mix, and a third one beside them is nobody's", async () => {
    const turns = new Map<string, number>();
    const provider = await startProvider((request) => {
      const said = textOf(request);
      if (!said.includes('select the next role')) return { delayMs: 5 };
      const prefix = /\b([abc])_planner/.exec(said)?.[1] ?? '';
      const turn = (turns.get(prefix) ?? 0) + 1;
      turns.set(prefix, turn);
      return { reply: `${prefix}_${['planner', 'writer', 'critic'][turn % 3]}`, delayMs: 5 };
    });
    await runProgram('two_runs.py', provider);
    for (const [suffix, model] of Object.entries({ '-a': 'gpt-4o-mini', '-b': 'gpt-4o' }))
      await expectExactlyBilled(provider, { id: `${chatId}${suffix}`, bill: (line) => line.model === model });
    expect(provider.totals(({ model }) => model === 'gpt-4').calls).toBeGreaterThan(2);
    expect(await runResults(`${chatId}-a`)).toEqual(['success']);
    expect(await runResults(`${chatId}-b`)).toEqual(['success']);
  });

  test('streamed replies are counted; one that breaks off is shown as far as it came, and as unaccounted', async () => {
    const provider = await startProvider();
    const { facts } = await runProgram('streaming.py', provider);
    expect(facts['pieces']).toBeGreaterThan(50);
    expect(provider.bill.every(({ stream }) => stream)).toBe(true);
    await expectExactlyBilled(provider);

    chatId = `${chatId}-broken`;
    let calls = 0;
    const breaking = await startProvider(() => ((calls += 1) === 3 ? { failAfterChunks: 10 } : {}));
    await runProgram('streaming.py', breaking);
    await expectExactlyBilled(breaking, { bill: (line) => line.usage_reported, unaccounted: 1 });
    expect(breaking.totals((line) => !line.usage_reported).total_tokens).toBeGreaterThan(0);
    expect(await runResults()).toEqual(['error']);
    const texts = (await readFrames()).flatMap((frame) => (frame.type === 'chat.text' ? [frame.data] : []));
    expect(texts.filter(({ partial }) => partial === true)).toHaveLength(1);
  });

  test('events wait while the server is away, and arrive when it is there', async () => {
    const provider = await startProvider();
    const port = await freePort();
    const program = startProgram('round_robin.py', provider, {
      env: { MOZAIKS_URL: `http://127.0.0.1:${port}` },
    });
    await provider.untilBilled(8);
    await new Promise((resolve) => setTimeout(resolve, 500));
    await startSecondServer(port);
    expect(await program.ended).toMatchObject({ code: 0, facts: { undelivered: 0 } });
    await expectExactlyBilled(provider);
    expect(await runResults()).toEqual(['success']);
  });

  test('what a killed process could not deliver is delivered from its spool, as often as one likes', async () => {
    const provider = await startProvider();
    const spool = join(folder.path, `${chatId}.spool`);
    const nowhere = `http://127.0.0.1:${await freePort()}`;
    const killed = await startProgram('killed.py', provider, { env: { SPOOL: spool, MOZAIKS_URL: nowhere } })
      .ended;
    expect(killed.code).toBeNull();
    const lines = await readFile(spool, 'utf8');
    expect(lines.split('\n').length).toBeGreaterThan(15);
    for (const _ of ['once', 'again']) {
      await writeFile(spool, `${lines}{"v":1,"dialect":"ag2-cl`);
      const redelivery = spawn(python, [join(bridgeFolder, 'mozaiks_bridge.py'), 'redeliver', spool], {
        env: { PATH: process.env['PATH'], MOZAIKS_URL: server.url, PYTHONDONTWRITEBYTECODE: '1' },
      });
      const [said] = await Promise.all([text(redelivery.stdout), once(redelivery, 'close')]);
      expect(redelivery.exitCode).toBe(0);
      expect(said).toContain('delivered');
      expect((await stat(spool)).size).toBe(0);
      await expectExactlyBilled(provider);
      expect(await runResults()).toEqual(['success']);
    }
  });

  test('a full spool drops texts and says so, but no usage', async () => {
    const provider = await startProvider();
    const port = await freePort();
    const program = startProgram('full_spool.py', provider, {
      env: { MOZAIKS_URL: `http://127.0.0.1:${port}` },
    });
    await provider.untilBilled(11);
    await new Promise((resolve) => setTimeout(resolve, 500));
    await startSecondServer(port);
    const { facts, output, code } = await program.ended;
    expect({ facts, code }).toEqual({ facts: { chatted: true, undelivered: 0 }, code: 0 });
    expect(output).toContain('the spool is full');
    await expectExactlyBilled(provider);
    expect(await runResults()).toEqual(['success']);
  });

  test('a person is answered for by the program, if it likes', async () => {
    const provider = await startProvider();
    await runProgram('human.py', provider, { args: ['program'] });
    await expectExactlyBilled(provider);
    const frames = await readFrames();
    const said = frames.flatMap((frame) => (frame.type === 'chat.text' ? [frame.data] : []));
    expect(said.filter(({ content }) => content === 'Shorter, please.').map(({ role }) => role)).toContain(
      'user',
    );
    const asked = frames.flatMap((frame) =>
      frame.type === 'chat.input_request' ? [frame.data.request_id] : [],
    );
    const closed = frames.flatMap((frame) =>
      frame.type === 'chat.input_ack' ? [frame.data.request_id] : [],
    );
    expect(asked.length).toBeGreaterThan(0);
    expect(closed).toEqual(asked);
  });

  test.each(['tasks', 'threads'])('a person answers in the chat, to a run in %s', async (kind) => {
    const provider = await startProvider();
    const program = startProgram('human.py', provider, { args: [kind] });
    const answered = new Set<string>();
    const questions = async () =>
      (await readFrames()).flatMap((frame) => (frame.type === 'chat.input_request' ? [frame.data] : []));
    for (const answer of ['Shorter, please.', 'exit']) {
      const question = await eventually(
        async () => {
          const open = (await questions()).find(({ request_id }) => !answered.has(request_id));
          if (open === undefined) throw new Error('nobody was asked');
          return open;
        },
        { timeoutMs: 20_000 },
      );
      expect(question.agent).toBe('reviewer');
      answered.add(question.request_id);
      const { status } = await server.post(`/api/sessions/${chatId}/inputs/${question.request_id}`, {
        user_input: answer,
      });
      expect(status).toBe(200);
    }
    expect(await program.ended).toMatchObject({ code: 0, facts: { done: true } });
    await expectExactlyBilled(provider);
    const texts = (await readFrames()).flatMap((frame) => (frame.type === 'chat.text' ? [frame.data] : []));
    expect(texts.some(({ content, role }) => content === 'Shorter, please.' && role === 'user')).toBe(true);
    expect(await runResults()).toEqual(['success']);
  });

  test('when the money is used up, the next model call is not made', async () => {
    const provider = await startProvider();
    const owner = { app_id: 'acme' };
    await server.post(
      `/api/tokens/${userId()}/consume`,
      { ...owner, amount: startBalance - 100, reason: 'spent elsewhere' },
      { 'idempotency-key': `spend-${chatId}` },
    );
    const { facts } = await runProgram('stopped.py', provider);
    expect(facts).toMatchObject({ scope: 'wallet' });
    const { tokens } = (await readSession()).real_time_tracking;
    expect(tokens.total_tokens).toBe(provider.totals().total_tokens);
    // The call that crossed the line was the last one.
    const beforeLast = provider.bill.slice(0, -1).reduce((sum, line) => sum + line.total_tokens, 0);
    expect(beforeLast).toBeLessThan(100);
    expect(tokens.total_tokens).toBeGreaterThanOrEqual(100);
    expect(await runResults()).toEqual(['out_of_funds']);
    expect((await readSession()).status).toBe('paused');
  });

  test('agents without a group are counted too: nested chats, async tools, calls that fail', async () => {
    const provider = await startProvider((request) => {
      if (request.model === 'broken-model') return { error: { status: 400, message: 'no such model' } };
      return toolNames(request).includes('ask_expert') && !isAfterTool(request)
        ? { toolCalls: [{ name: 'ask_expert', arguments: { question: 'Rain?' } }] }
        : {};
    });
    const { facts } = await runProgram('two_agents.py', provider);
    expect(facts).toMatchObject({ done: true, error: expect.any(String) });
    // What an agent says without asking a model of its own is marked (`llm: false`); the server counts it as a turn.
    await expectExactlyBilled(provider);
    expect(provider.bill.map(({ agent }) => agent)).toEqual(expect.arrayContaining(['inner', 'expert']));
    expect((await runResults()).toSorted()).toEqual(['error', 'success', 'success']);
  });

  test('order and number survive a server that refuses, stumbles and forgets to answer', async () => {
    const provider = await startProvider();
    let requests = 0;
    const door = await startDoor((envelopes) => {
      requests += 1;
      if (requests === 1) return { status: 503, headers: { 'retry-after': '1' } };
      if (requests === 2) return 'hang up';
      if (requests === 3) return { status: 200, body: 'no json' };
      return envelopes.length > 3 ? { status: 413 } : requests % 5 === 0 ? 'take and hang up' : 'take';
    });
    const { facts } = await runProgram('round_robin.py', provider, { env: { MOZAIKS_URL: door.url } });
    expect(facts).toMatchObject({ undelivered: 0 });
    const unique = [...new Map(door.envelopes.map((each) => [each.event.content.uuid, each])).values()];
    expect(unique.length).toBeLessThan(door.envelopes.length);
    expect(unique.map(({ seq }) => seq)).toEqual(unique.map((_, index) => index + 1));
    expect(requests).toBeGreaterThan(10);
  });

  test('AG2 1.x: each call is told of once, sub-agents by their own names, and each run has one end', async () => {
    const provider = await startProvider(v1Answer());
    const door = await startDoor();
    const { facts } = await runProgram('v1.py', provider, { env: { MOZAIKS_URL: door.url } });
    expect(facts).toMatchObject({ runs: 3, undelivered: 0, failure: expect.any(String) });

    const usages = door.envelopes.flatMap((envelope) => {
      const reading = readAg2V1Event(envelope);
      expect(reading ?? {}).not.toHaveProperty('refused');
      return reading !== null && 'usage' in reading ? [{ agent: envelope.agent, ...reading.usage }] : [];
    });
    const { bill } = provider;
    expect(new Set(bill.map(({ agent }) => agent))).toEqual(new Set(['planner', 'researcher', 'writer']));
    for (const agent of new Set(bill.map((line) => line.agent))) {
      const told = usages.filter((usage) => usage.agent === agent);
      const billed = bill.filter((line) => line.agent === agent);
      expect(told.map((usage) => usage.prompt_tokens + usage.completion_tokens)).toEqual(
        billed.map((line) => line.total_tokens),
      );
    }
    const ends = door.envelopes.filter(({ event }) => event.type === 'run_completion');
    expect(ends.map(({ event }) => event.content['result'])).toEqual([
      'success',
      'success',
      'success',
      'error',
    ]);
    for (const { run_id } of ends) {
      const ofRun = door.envelopes.filter((envelope) => envelope.run_id === run_id);
      expect(ofRun.map(({ seq }) => seq)).toEqual(ofRun.map((_, index) => index + 1));
      expect(ofRun.at(-1)?.event.type).toBe('run_completion');
    }
  });

  test('AG2 1.x: the session, the wallet and the ledger hold exactly the bill', async () => {
    const provider = await startProvider(v1Answer());
    await runProgram('v1.py', provider);
    await expectExactlyBilled(provider);
    expect((await runResults()).toSorted()).toEqual(['error', 'success', 'success', 'success']);
  });

  test.each(['ag2-round-robin.py', 'ag2-v1.py'])(
    'the example %s of the documentation runs',
    async (example) => {
      const provider = await startProvider();
      const { output } = await runProgram(join('..', '..', '..', 'docs', 'examples', example), provider, {
        env: { OPENAI_API_KEY: 'sk-test', OPENAI_BASE_URL: provider.baseUrl },
      });
      expect(output).toContain(
        example === 'ag2-v1.py' ? '0 events undelivered' : `${provider.totals().total_tokens} tokens`,
      );
    },
  );
});
