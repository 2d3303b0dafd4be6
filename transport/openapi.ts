import { createDocument, type ZodOpenApiPathsObject } from 'zod-openapi';
import type { z } from 'zod';
import { problemSchema } from '../core/contracts/http.ts';
import type { Route } from './route.ts';

/** The OpenAPI 3.1 document of the routes, from the schemas that check them. */
export function describeApi(routes: readonly Route[], version: string): object {
  const paths: ZodOpenApiPathsObject = {};
  for (const route of routes)
    paths[route.path] = { ...paths[route.path], [route.method]: operationOf(route) };
  return createDocument({
    openapi: '3.1.0',
    info: {
      title: 'Mozaiks Runtime',
      version,
      description:
        'Event-driven multi-agent chat with exact token accounting. The WebSocket protocol is described in docs/PROTOCOL.md.',
    },
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
        cookie: { type: 'apiKey', in: 'cookie', name: 'mozaiks_token' },
      },
    },
    paths,
  });
}

function operationOf({
  summary,
  tag,
  input,
  answer,
  mediaType = 'application/json',
  problems,
  isPublic,
}: Route) {
  const { params, query, headers, body } = input.shape;
  const statuses = [...new Set([...(isPublic ? [] : [400, 401, 403]), ...problems, 500])];
  return {
    summary,
    tags: [tag],
    ...(isPublic ? {} : { security: [{ bearer: [] }, { cookie: [] }, {}] }),
    requestParams: {
      ...(isObject(params) ? { path: params } : {}),
      ...(isObject(query) ? { query } : {}),
      ...(isObject(headers) ? { header: headers } : {}),
    },
    ...(body === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: body } } } }),
    responses: {
      '200': { description: 'The answer.', content: { [mediaType]: { schema: answer } } },
      ...Object.fromEntries(
        statuses.map((status) => [
          String(status),
          {
            description: 'A problem (RFC 9457).',
            content: { 'application/problem+json': { schema: problemSchema } },
          },
        ]),
      ),
    },
  };
}

function isObject(schema: unknown): schema is z.ZodObject {
  return typeof schema === 'object' && schema !== null && 'shape' in schema;
}
