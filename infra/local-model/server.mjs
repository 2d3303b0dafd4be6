// A process of its own that speaks the OpenAI API for one small model. It is plain JavaScript, because it runs from the
// source folder with packages that are installed elsewhere (its parent says where). Its parent sends one message to
// begin, gets one back when requests may come, and this process ends with its parent.
import { timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { setPriority } from 'node:os';
import { pathToFileURL } from 'node:url';
import { ApiError } from './api-error.mjs';
import { createAnswer, sendJson } from './completion-answer.mjs';
import { completionRequestSchema } from './completion-request.mjs';
import { loadGenerator } from './generation.mjs';
import { createTurnQueue } from './turn-queue.mjs';

const bodyLimitBytes = 4 * 1024 * 1024;

process.on('disconnect', () => process.exit(0));
// Ctrl-C is for the parent, which still wants its last answers.
process.on('SIGINT', () => undefined);

process.once('message', (settings) => {
  begin(settings).catch((error) => {
    // The parent reads our last words and says them.
    console.error(error);
    process.exit(1);
  });
});

async function begin(settings) {
  try {
    // The server next door has people waiting at its socket.
    setPriority(10);
  } catch {
    // Some systems forbid it. Then not.
  }
  const port = await serve(settings);
  process.send({ port });
}

async function serve({ llamaEntry, modelFile, modelId, apiKey, waitingLimit, port }) {
  const generate = await loadGenerator(await import(pathToFileURL(llamaEntry).href), modelFile);
  const queue = createTurnQueue(waitingLimit);
  const startedAt = Math.floor(Date.now() / 1000);
  const modelBody = { id: modelId, object: 'model', created: startedAt, owned_by: 'local' };

  const complete = async (request, response) => {
    const parsed = parseRequest(await readBody(request), modelId);
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const answer = createAnswer(parsed, response, modelId);
    try {
      const result = await queue.run(gone.signal, () => generate(parsed, gone.signal, answer.write));
      answer.end(result);
    } catch (error) {
      if (gone.signal.aborted) return;
      answer.fail(asApiError(error));
    }
  };

  const route = async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    if (pathname === '/health') return sendJson(response, 200, { status: 'ok' });
    if (!isAllowed(request.headers.authorization, apiKey))
      throw new ApiError(401, 'invalid_api_key', 'The API key is not the one of this server');
    if (request.method === 'GET' && pathname === '/v1/models')
      return sendJson(response, 200, { object: 'list', data: [modelBody] });
    if (request.method === 'GET' && pathname === `/v1/models/${modelId}`)
      return sendJson(response, 200, modelBody);
    if (request.method === 'POST' && pathname === '/v1/chat/completions') return complete(request, response);
    throw new ApiError(404, 'not_found', `${request.method} ${pathname} does not exist here`);
  };

  const server = createServer((request, response) => {
    route(request, response).catch((error) => {
      const answer = asApiError(error);
      if (response.headersSent) response.destroy();
      else
        sendJson(
          response,
          answer.status,
          answer.toBody(),
          answer.status === 429 ? { 'retry-after': '2' } : {},
        );
    });
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server.address().port));
  });
}

async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > bodyLimitBytes) throw new ApiError(413, 'too_large', 'The request is larger than 4 MiB');
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new ApiError(400, 'invalid_json', 'The request body is not JSON');
  }
}

function parseRequest(body, modelId) {
  const parsed = completionRequestSchema.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const param = issue.path.join('.') || null;
    throw new ApiError(400, 'invalid_value', `${param ?? 'body'}: ${issue.message}`, param);
  }
  if (parsed.data.model !== modelId)
    throw new ApiError(
      404,
      'model_not_found',
      `There is no model ${parsed.data.model} here, only ${modelId}`,
      'model',
    );
  return parsed.data;
}

function isAllowed(authorization = '', apiKey) {
  const given = Buffer.from(authorization);
  const wanted = Buffer.from(`Bearer ${apiKey}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

function asApiError(error) {
  return error instanceof ApiError ? error : new ApiError(500, 'generation_failed', String(error.message));
}
