import type { ClientSession, MongoClient } from 'mongodb';
import type { Logger } from '../observability/logging.ts';
import type { Collections } from './collections.ts';

/**
 * The one database session a node writes through. A process killed in mid-transaction leaves the transaction open on
 * the server, and its locks stall every other node for up to a minute. So the session's id is kept in `Nodes`: the
 * next start of this node, and any other node once the lease ended, ends that session at once. The same fence keeps a
 * node that was only asleep from committing after others went on.
 */
export type NodeSession = {
  readonly nodeId: string;
  readonly session: ClientSession;
  stop: () => Promise<void>;
};

const leaseMs = 10_000;
const renewMs = 2_500;

export async function openNodeSession(
  client: MongoClient,
  nodes: Collections['nodes'],
  nodeId: string,
  log: Logger,
  onNodeGone: (nodeId: string) => void,
): Promise<NodeSession> {
  const session = client.startSession();
  const startedAt = new Date();
  const lsid = session.id;
  if (lsid === undefined)
    throw new TypeError('the driver gave a session without an id, so it cannot be fenced');
  await endSessionsOf(client, nodes, { _id: nodeId });
  const renew = async () => {
    const lease_until = new Date(Date.now() + leaseMs);
    await nodes.updateOne(
      { _id: nodeId },
      { $set: { lsid, lease_until, started_at: startedAt } },
      { upsert: true },
    );
    const ended = await endSessionsOf(client, nodes, {
      _id: { $ne: nodeId },
      lease_until: { $lt: new Date() },
    });
    for (const node of ended) {
      log.warn({ node }, 'a node stopped renewing its lease; its database session was ended');
      onNodeGone(node);
    }
  };
  await renew();
  let renewal: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    renewal = renew().catch((cause: unknown) =>
      log.warn({ err: cause, nodeId }, 'the lease of this node was not renewed'),
    );
  }, renewMs);
  timer.unref();
  let stopped: Promise<void> | undefined;
  return {
    nodeId,
    session,
    stop: () =>
      (stopped ??= (async () => {
        clearInterval(timer);
        await renewal;
        await nodes.deleteOne({ _id: nodeId });
        await session.endSession();
      })()),
  };
}

async function endSessionsOf(
  client: MongoClient,
  nodes: Collections['nodes'],
  filter: Parameters<Collections['nodes']['find']>[0],
): Promise<string[]> {
  const found = await nodes.find(filter).toArray();
  if (found.length === 0) return [];
  await client.db('admin').command({ killSessions: found.map(({ lsid }) => lsid) });
  await nodes.deleteMany({ _id: { $in: found.map(({ _id }) => _id) }, lease_until: { $lt: new Date() } });
  return found.map(({ _id }) => _id);
}
