import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { eventsAnswerSchema } from '../../core/contracts/http.ts';
import { startTestServer, type TestServer } from '../support/start-server.ts';
import { usageEnvelope } from '../support/usage-envelope.ts';

/** Agents that run elsewhere hear of a cancel with the answer to their next events. */
let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.stop());

const post = async (seq: number, run_id: string) =>
  eventsAnswerSchema.parse(
    (
      await server.post('/api/events', [
        usageEnvelope('remote', [{ completion_tokens: seq * 10 }], { seq, run_id }),
      ])
    ).body,
  ).results[0];

it('a cancel from the chat stops the remote run that is under way, and no other', async () => {
  expect(await post(1, 'run-1')).not.toHaveProperty('stop');
  const socket = await server.connect({ websocket_url: '/ws/ag2/acme/remote/ann' });
  socket.send({ type: 'cancel' });
  socket.send({ type: 'cancel' });
  await socket.settled();
  expect(await post(2, 'run-1')).toMatchObject({ outcome: 'recorded', stop: true, scope: 'cancelled' });
  expect(await post(1, 'run-2')).not.toHaveProperty('stop');
});
