// Where others ask `virtio-iommu serve` how it is: JSON on a Unix socket, Prometheus text on a loopback port.
// Not here: what they are told (serve-report.ts). Both only answer; nothing that they read changes anything.
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo, Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import { CliError } from './errors.ts';
import type { LoopbackPort } from './serve-values.ts';

/** Something that listens. */
export interface Listening {
  /** Path or URL. */
  readonly place: string;
  close(): Promise<void>;
}

/** Clients at a time; each is answered at once. */
const MAX_CLIENTS = 16;
/** Milliseconds that a client has to take its answer. */
const PATIENCE = 5000;

/**
 * Gives each client of a Unix socket one document and ends the connection. The socket is for its owner alone.
 * @throws CliError when the path is taken.
 */
export async function serveDocument(path: string, document: () => string): Promise<Listening> {
  await clearSocket(path);
  const clients = new Set<Socket>();
  const server = createServer((socket) => {
    clients.add(socket);
    // Not an idle time: a client that keeps talking has no more of it.
    const patience = setTimeout(() => socket.destroy(), PATIENCE);
    socket.on('close', () => {
      clearTimeout(patience);
      clients.delete(socket);
    });
    socket.on('error', () => socket.destroy());
    socket.resume(); // what a client says does not matter
    socket.end(`${document()}\n`);
  });
  server.maxConnections = MAX_CLIENTS;
  await listening(server, () => server.listen(path), path);
  chmodSync(path, 0o600);
  return { place: path, close: () => closing(server, () => clients.forEach((socket) => socket.destroy())) };
}

/** Serves `GET /metrics` on a loopback port. @throws CliError when the port is taken. */
export async function serveMetrics({ host, port }: LoopbackPort, metrics: () => string): Promise<Listening> {
  const server = createHttpServer({ connectionsCheckingInterval: 1000 }, (request, response) => {
    const known = request.url === '/metrics';
    const status = !known ? 404 : request.method === 'GET' ? 200 : 405;
    const type = status === 200 ? 'text/plain; version=0.0.4; charset=utf-8' : 'text/plain; charset=utf-8';
    response.writeHead(status, { 'content-type': type, connection: 'close' });
    response.end(status === 200 ? metrics() : `${status}\n`);
  });
  server.maxConnections = MAX_CLIENTS;
  server.requestTimeout = PATIENCE;
  server.headersTimeout = PATIENCE;
  const name = host.includes(':') ? `[${host}]` : host;
  await listening(server, () => server.listen(port, host), `${name}:${port}`);
  const place = `http://${name}:${(server.address() as AddressInfo).port}/metrics`;
  return { place, close: () => closing(server, () => server.closeAllConnections()) };
}

function listening(server: Server, start: () => void, place: string): Promise<void> {
  return new Promise((done, failed) => {
    server.once('error', (error) => failed(new CliError(`${place}: ${error.message}`, 1)));
    server.once('listening', () => {
      server.removeAllListeners('error');
      // A connection that cannot be accepted (no descriptors left) is the client's loss.
      server.on('error', () => undefined);
      done();
    });
    start();
  });
}

function closing(server: Server, drop: () => void): Promise<void> {
  return new Promise((done) => {
    server.close(() => done());
    drop();
  });
}

/** Removes a socket that nobody listens on any more. @throws CliError when somebody does, or when it is something else. */
async function clearSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new CliError(`${path} exists and is not a socket`, 1);
  if (await answers(path)) throw new CliError(`${path}: another process listens there`, 1);
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((done) => {
    const probe = connect(path);
    const end = (alive: boolean): void => {
      probe.destroy();
      done(alive);
    };
    probe.once('connect', () => end(true));
    // Only this error says that nobody listens; another kind of socket, a full queue or one of somebody else is in use.
    probe.once('error', (error: NodeJS.ErrnoException) => end(error.code !== 'ECONNREFUSED'));
  });
}
