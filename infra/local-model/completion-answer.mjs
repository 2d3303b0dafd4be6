import { randomUUID } from 'node:crypto';

/** The two ways to answer: all at once, or piece by piece as server-sent events. */
export function createAnswer(request, response, modelId) {
  const head = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: modelId };
  return request.stream === true ? streamed(head, request, response) : whole(head, response);
}

function whole(head, response) {
  let content = '';
  return {
    write: (text) => {
      content += text;
    },
    end: ({ finishReason, usage }) => {
      const message = { role: 'assistant', content, refusal: null };
      sendJson(response, 200, {
        ...head,
        object: 'chat.completion',
        choices: [{ index: 0, message, logprobs: null, finish_reason: finishReason }],
        usage: usageBody(usage),
      });
    },
    fail: (error) => sendJson(response, error.status, error.toBody()),
  };
}

function streamed(head, request, response) {
  const withUsage = request.stream_options?.include_usage === true;
  const send = (data) => response.write(`data: ${JSON.stringify(data)}\n\n`);
  const chunk = (choices, usage = null) => ({
    ...head,
    object: 'chat.completion.chunk',
    choices,
    ...(withUsage ? { usage } : {}),
  });
  const choice = (delta, finishReason = null) => [
    { index: 0, delta, logprobs: null, finish_reason: finishReason },
  ];
  // As late as possible: until the first piece a failure can still be told by its status.
  const begin = () => {
    if (response.headersSent) return;
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    send(chunk(choice({ role: 'assistant', content: '' })));
  };
  return {
    write: (text) => {
      if (text === '') return;
      begin();
      send(chunk(choice({ content: text })));
    },
    end: ({ finishReason, usage }) => {
      begin();
      send(chunk(choice({}, finishReason)));
      if (withUsage) send(chunk([], usageBody(usage)));
      response.end('data: [DONE]\n\n');
    },
    fail: (error) => {
      if (!response.headersSent) return sendJson(response, error.status, error.toBody());
      send(error.toBody());
      response.end();
    },
  };
}

export function sendJson(response, status, body, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
}

function usageBody({ prompt, cached, completion }) {
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
    completion_tokens_details: { reasoning_tokens: 0 },
  };
}
