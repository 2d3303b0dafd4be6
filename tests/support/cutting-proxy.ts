import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { z } from 'zod';

export type CuttingProxy = {
  /** A MongoDB address that leads through the proxy. */
  readonly uri: string;
  /**
   * The next answers to this command (any, when none is named) are lost: the server has done what was asked, and the
   * connection breaks before it can say so.
   */
  loseAnswers: (count: number, command?: string) => void;
  /** Answers lost so far. */
  readonly lost: number;
  stop: () => Promise<void>;
};

/** A TCP proxy in front of a mongod, which loses answers on request. */
export async function startCuttingProxy(mongodUri: string): Promise<CuttingProxy> {
  const target = new URL(mongodUri);
  const sockets = new Set<Socket>();
  let plan: { command: string | undefined; left: number } = { command: undefined, left: 0 };
  let lost = 0;

  const server = createServer((client) => {
    const mongod = connect(Number(target.port), target.hostname);
    let isDoomed = false;
    for (const socket of [client, mongod]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        mongod.destroy();
      });
    }
    client.on(
      'data',
      cutMessages((message) => {
        if (plan.left > 0 && isCommand(message, plan.command)) {
          plan.left -= 1;
          isDoomed = true;
        }
        mongod.write(message);
      }),
    );
    mongod.on('data', (answer) => {
      if (isDoomed) {
        lost += 1;
        client.destroy();
      } else client.write(answer);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = z.object({ port: z.int() }).parse(server.address());
  let stopped: Promise<void> | undefined;
  return {
    uri: `mongodb://127.0.0.1:${port}/?directConnection=true`,
    loseAnswers: (left, command) => {
      plan = { command, left };
    },
    get lost() {
      return lost;
    },
    stop: () =>
      (stopped ??= (async () => {
        const closed = once(server, 'close');
        server.close();
        for (const socket of sockets) socket.destroy();
        await closed;
      })()),
  };
}

/** Collects bytes until a message of the wire protocol is whole: its length stands in its first four bytes. */
function cutMessages(take: (message: Buffer) => void): (chunk: Buffer) => void {
  let pending = Buffer.alloc(0);
  return (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= 4 && pending.length >= pending.readInt32LE(0)) {
      const length = pending.readInt32LE(0);
      take(pending.subarray(0, length));
      pending = pending.subarray(length);
    }
  };
}

/** Of OP_MSG (2013): after header, flags and section kind comes a BSON document, whose first key is the command. */
function isCommand(message: Buffer, wanted: string | undefined): boolean {
  const nameAt = 16 + 4 + 1 + 4 + 1;
  if (message.length <= nameAt || message.readInt32LE(12) !== 2013) return false;
  const command = message.toString('utf8', nameAt, message.indexOf(0, nameAt));
  // What the driver asks for itself is let through: a lost heartbeat is a different fault.
  return wanted === undefined
    ? !['hello', 'ping', 'isMaster', 'endSessions'].includes(command)
    : command === wanted;
}
