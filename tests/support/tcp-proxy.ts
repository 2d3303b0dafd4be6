import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import type { FaultRandom } from './fault-random.ts';

/** Stands between two programs and does to their connections what networks do. */
export type TcpProxy = {
  readonly port: number;
  /** What shall go wrong from now on; nothing, when left out. */
  disturb: (fault?: ProxyFault) => void;
  /** Replies that were lost so far. */
  lostReplies: () => number;
  stop: () => Promise<void>;
};

export type ProxyFault = {
  readonly probability: number;
  readonly kinds: readonly LostReply[];
  /** Of these requests only: a request is what one side sends at a time. */
  readonly when?: (request: Buffer) => boolean;
};

/**
 * The request has always arrived. The connection ends before the first byte of the reply or in the middle of it; or
 * nothing more comes and the connection stays open, as behind a firewall that has forgotten it.
 */
export type LostReply = 'cut_before' | 'cut_within' | 'swallowed';

export async function startTcpProxy(targetPort: number, random: FaultRandom): Promise<TcpProxy> {
  let fault: ProxyFault | undefined;
  let lostReplies = 0;
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(targetPort, '127.0.0.1');
    let doom: LostReply | undefined;
    const end = () => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) {
      socket.setNoDelay(true);
      sockets.add(socket);
      socket.once('close', () => {
        sockets.delete(socket);
        end();
      });
      socket.once('error', end);
    }
    near.on('data', (request: Buffer) => {
      if (fault !== undefined && (fault.when?.(request) ?? true) && random.chance(fault.probability))
        doom ??= random.pick(fault.kinds);
      far.write(request);
    });
    let isSwallowing = false;
    far.on('data', (reply: Buffer) => {
      if (isSwallowing) return;
      if (doom === undefined) {
        near.write(reply);
        return;
      }
      lostReplies += 1;
      switch (doom) {
        case 'cut_before':
          end();
          return;
        case 'cut_within':
          near.write(reply.subarray(0, random.between(1, reply.length - 1)), end);
          return;
        case 'swallowed':
          isSwallowing = true;
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    disturb: (next) => {
      fault = next;
    },
    lostReplies: () => lostReplies,
    async stop() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}
