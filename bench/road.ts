import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { readWorkflows } from '../core/orchestration/workflow-catalog.ts';
import { projectRoot } from '../infra/project-root.ts';
import { startServerProcess } from '../tests/e2e/server-process.ts';
import { testCacheDir } from '../tests/support/cache-dir.ts';
import { createTemporaryFolder } from '../tests/support/temporary-folder.ts';
import type { BenchContext, Benchmark } from './benchmark.ts';
import { chat } from './chat-client.ts';
import { type Conversations, latenciesSchema } from './conversation.ts';
import { ask, compiled, cpuMs, measuredNodeArguments } from './measured-process.ts';
import { percentile, sum } from './statistics.ts';

/** Different names, so that the provider's bill tells who asked. */
const ourModel = 'gpt-4o-mini';
const bareModel = 'gpt-4o';
const chunks = 50;
const warmUpTurns = 450;

type Variant = {
  name: string;
  title: string;
  workflow: string;
  chats: number;
  messagesPerChat: number;
  rounds: number;
  /** Undefined: the whole answer in one write, as fast as a provider can be. */
  chunksPerWrite?: number;
};

const variants: readonly Variant[] = [
  { name: 'road', title: 'one agent', workflow: 'assistant', chats: 1, messagesPerChat: 30, rounds: 10 },
  {
    name: 'road_agents',
    title: 'three agents in turn',
    workflow: 'brainstorm',
    chats: 1,
    messagesPerChat: 10,
    rounds: 10,
  },
  {
    name: 'road_chunks',
    title: 'one agent, each chunk in a write of its own',
    workflow: 'assistant',
    chats: 1,
    messagesPerChat: 30,
    rounds: 6,
    chunksPerWrite: 1,
  },
  {
    name: 'road_parallel',
    title: 'one agent, 16 chats at once',
    workflow: 'assistant',
    chats: 16,
    messagesPerChat: 8,
    rounds: 4,
  },
];

export const road: Benchmark = {
  name: 'road',
  title: "The whole road of an agent's turn, beside the bare SDK",
  explanation: `One turn: a user's message goes in by WebSocket, is stored, the agent is asked over HTTP and streams ${chunks} chunks, its words go out while they are said, its text, usage, ledger line, wallet and session are committed in transactions (\`w: majority, j: true\`), and the run's last frame has reached the client. Beside it: the same conversation through the bare \`openai\` SDK, which only reads the stream. Both ask the same scripted provider, which answers at once, and take turns in one run. CPU is user and system time of all threads of the server process, opening the chats and sockets included; mongod, the provider and the clients are processes of their own and are not in it.`,
  async run(bench) {
    for (const variant of variants) await measure(variant, bench);
  },
};

async function measure(variant: Variant, bench: BenchContext): Promise<void> {
  const { name, title, workflow, chats, messagesPerChat, rounds } = variant;
  const agents = (await readWorkflows(join(projectRoot(), 'workflows'))).get(workflow)?.agents ?? [];
  const conversations: Conversations = { agents: agents.map(known), chats, messagesPerChat };
  const turnsPerRound = chats * messagesPerChat * agents.length;
  const leftovers: (() => Promise<unknown>)[] = [];
  try {
    const provider = await startProvider(variant, leftovers);
    const bareSdk = startBareSdk(provider, leftovers);
    const server = await startServer(provider, bench.profileFolder, leftovers);
    let users = 0;
    const throughServer = async () => {
      const before = await cpuMs(server.child);
      const outcomes = await Promise.all(
        Array.from({ length: chats }, () => {
          users += 1;
          return chat(server.url, workflow, `user-${users}`, { messagesPerChat });
        }),
      );
      return {
        cpuMs: (await cpuMs(server.child)) - before,
        latenciesMs: outcomes.flatMap(({ latenciesMs }) => latenciesMs),
        tokens: sum(outcomes.map(({ tokens }) => tokens)),
        frames: sum(outcomes.map(({ frames }) => frames)),
      };
    };
    const throughSdk = async () => {
      const before = await cpuMs(bareSdk);
      const { latenciesMs } = await ask(bareSdk, conversations, latenciesSchema);
      return { cpuMs: (await cpuMs(bareSdk)) - before, latenciesMs };
    };
    const ours: Awaited<ReturnType<typeof throughServer>>[] = [];
    const theirs: Awaited<ReturnType<typeof throughSdk>>[] = [];
    let warmUpTokens = 0;
    // By then both sides are compiled: their costs no longer fall.
    for (let turns = 0; turns < warmUpTurns; turns += turnsPerRound) {
      warmUpTokens += (await throughServer()).tokens;
      await throughSdk();
    }
    for (let round = 0; round < rounds; round += 1) {
      ours.push(await throughServer());
      theirs.push(await throughSdk());
    }
    await expectExactBill(provider, warmUpTokens + sum(ours.map(({ tokens }) => tokens)));

    const turns = rounds * turnsPerRound;
    const cpuOf = (side: readonly { cpuMs: number }[]) => sum(side.map((round) => round.cpuMs)) / turns;
    const latencyOf = (side: readonly { latenciesMs: number[] }[]) => {
      const all = side.flatMap(({ latenciesMs }) => latenciesMs);
      return `${percentile(all, 0.5).toFixed(1)} ms p50, ${percentile(all, 0.95).toFixed(1)} ms p95`;
    };
    const roundRatios = ours
      .map((round, index) => round.cpuMs / (theirs[index]?.cpuMs ?? Number.NaN))
      .toSorted((a, b) => a - b);
    bench.say(
      `${title}: ${turns} turns in ${rounds} rounds, ${sum(ours.map(({ frames }) => frames))} frames received`,
    );
    bench.say(
      `  CPU a turn       ours ${cpuOf(ours).toFixed(2)} ms, bare SDK ${cpuOf(theirs).toFixed(2)} ms`,
    );
    bench.say(
      `  ratio by round   ${roundRatios.at(0)?.toFixed(2)} to ${roundRatios.at(-1)?.toFixed(2)}, median ${percentile(roundRatios, 0.5).toFixed(2)}`,
    );
    bench.say(`  a message takes  ours ${latencyOf(ours)}; bare SDK ${latencyOf(theirs)}`);
    bench.ratio({ name, ours: cpuOf(ours), theirs: cpuOf(theirs), unit: 'ms', other: 'the bare SDK' });
  } finally {
    for (const putAway of leftovers.toReversed()) await putAway();
  }
}

function known({
  name,
  system_message,
  temperature,
  max_tokens,
}: Conversations['agents'][number]): Conversations['agents'][number] {
  return {
    name,
    system_message,
    ...(temperature === undefined ? {} : { temperature }),
    ...(max_tokens === undefined ? {} : { max_tokens }),
  };
}

type Provider = { baseUrl: string; url: string };
type Leftovers = (() => Promise<unknown>)[];

async function startProvider({ chunksPerWrite }: Variant, leftovers: Leftovers): Promise<Provider> {
  const child = spawn(
    process.execPath,
    [
      compiled('../tests/support/scripted-provider-main.js'),
      '--answer',
      JSON.stringify({ chunks }),
      ...(chunksPerWrite === undefined ? [] : ['--chunks-per-write', String(chunksPerWrite)]),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  leftovers.push(() => end(child));
  for await (const line of createInterface(child.stdout)) {
    const { url, base_url } = z.object({ url: z.string(), base_url: z.string() }).parse(JSON.parse(line));
    return { url, baseUrl: base_url };
  }
  throw new Error('the scripted provider ended before it was ready');
}

function startBareSdk({ baseUrl }: Provider, leftovers: Leftovers): ChildProcess {
  const child = spawn(
    process.execPath,
    [...measuredNodeArguments(undefined), compiled('bare-sdk-main.js'), baseUrl, bareModel],
    { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  leftovers.push(() => end(child));
  return child;
}

async function startServer(
  { baseUrl }: Provider,
  profileFolder: string | undefined,
  leftovers: Leftovers,
): Promise<{ url: string; child: ChildProcess }> {
  const folder = await createTemporaryFolder();
  leftovers.push(folder.remove);
  const server = await startServerProcess({
    program: compiled('../infra/main.js'),
    nodeArguments: measuredNodeArguments(profileFolder),
    hasChannel: true,
    environment: {
      PORT: '0',
      DATA_DIR: folder.path,
      CACHE_DIR: testCacheDir(),
      OPENAI_BASE_URL: baseUrl,
      DEFAULT_LLM_MODEL: ourModel,
      WALLET_START_BALANCE: '1000000000000',
      LOG_LEVEL: 'info',
    },
  });
  leftovers.push(server.stop);
  return server;
}

/** A fast server that counts wrongly would be worth nothing. */
async function expectExactBill({ url }: Provider, counted: number): Promise<void> {
  const billSchema = z.object({
    bill: z.array(z.object({ model: z.string(), total_tokens: z.number() })),
  });
  const { bill } = billSchema.parse(await (await fetch(`${url}/bill`)).json());
  const billed = sum(bill.filter(({ model }) => model === ourModel).map(({ total_tokens }) => total_tokens));
  if (billed !== counted) throw new Error(`the provider billed ${billed} tokens, ${counted} were counted`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill();
  await exited;
}
