import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import helmet from 'helmet';
import swaggerUi from 'swagger-ui-express';
import type { Logger } from '../core/observability/logging.ts';
import { describeApi } from './openapi.ts';
import { problemOf, ProblemError } from './problem.ts';
import { registerRoutes, type Route } from './route.ts';
import { requireService, type SignIn } from './sign-in.ts';

export type HttpServerOptions = {
  routes: readonly Route[];
  signIn: SignIn;
  answerMetrics: (request: IncomingMessage, response: ServerResponse) => void;
  /** The built ChatUI; when it is not there, `/` says how to build it. */
  uiFolder: string;
  version: string;
  log: Logger;
};

const largestBody = '1mb';

/** The API, its documentation and the ChatUI on one server. Nothing listens yet. */
export function createHttpServer(options: HttpServerOptions): Server {
  const app = express();
  app.disable('x-powered-by');
  app.set('query parser', 'simple');
  app.use(securityHeaders());
  app.use(
    express.json({ limit: largestBody, strict: false, type: ['application/json', 'application/*+json'] }),
  );
  app.use(express.text({ limit: largestBody, type: ['application/x-ndjson', 'application/jsonl'] }));
  registerRoutes(app, options.routes, options.signIn);
  serveDocumentation(app, options);
  app.get('/metrics', (request, response, next) => {
    options.signIn
      .identify(request)
      .then((identity) => {
        requireService(identity, 'Metrics are for services');
        options.answerMetrics(request, response);
      }, next)
      .catch(next);
  });
  refuseOtherMethods(app, options.routes);
  serveUi(app, options.uiFolder);
  app.use(answerProblem(options.log));
  return createServer(app);
}

/** Everything comes from this server: no foreign scripts, styles, frames or connections. */
function securityHeaders(): ReturnType<typeof helmet> {
  return helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        'default-src': ["'self'"],
        'script-src': ["'self'"],
        'style-src': ["'self'"],
        'img-src': ["'self'", 'data:'],
        'connect-src': ["'self'"],
        'object-src': ["'none'"],
        'base-uri': ["'none'"],
        'form-action': ["'self'"],
        'frame-ancestors': ["'none'"],
      },
    },
    strictTransportSecurity: false,
  });
}

function serveDocumentation(app: Express, { routes, version }: HttpServerOptions): void {
  const document = describeApi(routes, version);
  app.get('/openapi.json', (_request, response) => {
    response.json(document);
  });
  // Swagger UI brings its own inline styles; its scripts are files of ours.
  const allowInlineStyles: RequestHandler = (_request, response, next) => {
    response.setHeader(
      'content-security-policy',
      "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    );
    next();
  };
  app.use(
    '/docs',
    allowInlineStyles,
    swaggerUi.serve,
    swaggerUi.setup(document, { customSiteTitle: 'Mozaiks Runtime API' }),
  );
}

/** A path that exists, asked with another method, is not "not found". */
function refuseOtherMethods(app: Express, routes: readonly Route[]): void {
  const methods = new Map<string, string[]>();
  for (const { path, method } of routes)
    methods.set(path, [...(methods.get(path) ?? []), method.toUpperCase()]);
  for (const [path, allowed] of methods)
    app.all(path.replaceAll(/\{(\w+)\}/g, ':$1'), (_request, response, next) => {
      response.setHeader('allow', allowed.join(', '));
      next(new ProblemError(405, 'method_not_allowed', `Use ${allowed.join(' or ')} here.`));
    });
}

const apiPath = /^\/(api|ws|metrics|openapi\.json)(\/|$)/;

function serveUi(app: Express, folder: string): void {
  const index = join(folder, 'index.html');
  // File names under assets/ hold a hash of their content.
  app.use('/assets', express.static(join(folder, 'assets'), { immutable: true, maxAge: '1y', index: false }));
  app.use(express.static(folder, { index: false }));
  app.get('/{*page}', (request, response, next) => {
    if (apiPath.test(request.path))
      next(new ProblemError(404, 'not_found', `There is nothing at ${request.path}.`));
    // Named below its root: a whole path that leads through a folder like `.checkouts` is taken for a hidden file.
    else if (existsSync(index))
      response.sendFile('index.html', { root: folder, headers: { 'cache-control': 'no-cache' } });
    else next(new ProblemError(404, 'ui_not_built', 'The ChatUI is not built. Run npm run build.'));
  });
  app.use((request, _response, next) => {
    next(new ProblemError(404, 'not_found', `There is nothing at ${request.path}.`));
  });
}

function answerProblem(log: Logger): ErrorRequestHandler {
  return (error: unknown, request, response, next) => {
    const { problem, retryAfterSec } = problemOf(error);
    if (problem.status >= 500)
      log.error({ err: error, method: request.method, path: request.path }, 'a request failed');
    if (response.headersSent) {
      next(error);
      return;
    }
    if (retryAfterSec !== undefined) response.setHeader('retry-after', String(retryAfterSec));
    response.status(problem.status).type('application/problem+json').send(JSON.stringify(problem));
  };
}
