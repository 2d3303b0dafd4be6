import { parseArgs } from 'node:util';
import { scriptStepSchema } from './scripted-provider-step.ts';
import { startScriptedProvider } from './scripted-provider.ts';

/**
 * The scripted provider as a process of its own, for servers and clients in other processes. Prints one JSON line
 * with its addresses; then `GET /bill` answers `{bill, totals, script_problems}`, `POST /script` takes an array of
 * steps (`null`: answer everything again) and `POST /release` ends all stalls.
 *
 *     node dist/tests/support/scripted-provider-main.js --port 9100 --answer '{"chunks": 50}'
 */
const { values } = parseArgs({
  options: {
    port: { type: 'string', default: process.env['PORT'] ?? '0' },
    host: { type: 'string', default: process.env['HOST'] ?? '127.0.0.1' },
    /** A step, as JSON, that every completion is answered with while there is no script. */
    answer: { type: 'string', default: '{}' },
    'chunks-per-write': { type: 'string' },
  },
});
const chunksPerWrite = values['chunks-per-write'];

const provider = await startScriptedProvider({
  port: Number(values.port),
  host: values.host,
  answer: scriptStepSchema.parse(JSON.parse(values.answer)),
  ...(chunksPerWrite !== undefined && { chunksPerWrite: Number(chunksPerWrite) }),
});
console.log(JSON.stringify({ url: provider.url, base_url: provider.baseUrl }));

const stop = () => void provider.stop();
process.once('SIGTERM', stop);
process.once('SIGINT', stop);
