// The socket file of a server: made, left in place of a dead one, removed at the end. Not here: connections (connection.ts).
import { lstatSync, unlinkSync } from 'node:fs';
import { Errno, HostError } from '../base/errors.ts';
import type { NativeListener, NativePoll, NativeSocket } from '../host/native-api.ts';
import { NativePollEvent } from '../host/native-api.ts';
import type { NativeFailure } from '../host/native.ts';
import { loadNative } from '../host/native.ts';
import { attempt, errnoOf } from '../host/refusals.ts';
import type { Verdict } from '../host/refusals.ts';

/** Longest name of a socket file in bytes (sockaddr_un.sun_path without its NUL). */
export const MAX_PATH_BYTES = 107;

const BACKLOG = 64;
/** Connections taken before anything else of this process gets its turn. */
const ACCEPTS_PER_TURN = 16;
/** After a connection that could not be taken (no descriptor left), which waits on, the next try. */
const RETRY_MS = 1000;
const ENAMETOOLONG = 36;
const ECONNREFUSED = 111;

/** A socket file that takes connections. */
export class Listener {
  readonly #path: string;
  readonly #native: NativeListener;
  readonly #poll: NativePoll;
  /** Device and number of the file: at the end only our own is removed. */
  readonly #identity: string | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  /**
   * Makes the file with `mode` and calls `connected` for each connection, `failed` when none can be taken.
   * @throws HostError: EADDRINUSE when somebody listens there or another kind of file is there, or with the errno.
   */
  constructor(path: string, mode: number, connected: (socket: NativeSocket) => void, failed: (error: unknown) => void) {
    this.#path = path;
    this.#native = bind(path, mode);
    this.#identity = identityOf(path);
    this.#poll = loadNative().NativePoll.create(this.#native.fd(), () => this.#accept(connected, failed));
    this.#poll.start(NativePollEvent.readable);
  }

  /** Whether listening keeps the process running; true at first. */
  keepAlive(on: boolean): void {
    this.#poll.keepAlive(on);
  }

  /** Stops listening and removes the file, if it is still this one. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#poll.close();
    this.#native.close();
    try {
      if (this.#identity !== undefined && identityOf(this.#path) === this.#identity) unlinkSync(this.#path);
    } catch {
      // A folder that was made read-only keeps the file: whoever listens there next replaces it.
    }
  }

  #accept(connected: (socket: NativeSocket) => void, failed: (error: unknown) => void): void {
    try {
      for (let i = 0; i < ACCEPTS_PER_TURN; i++) {
        const socket = this.#native.accept();
        if (socket === null) return;
        connected(socket);
        if (this.#closed) return;
      }
    } catch (error) {
      if (this.#closed) return;
      this.#poll.stop();
      this.#retry = setTimeout(() => this.#poll.start(NativePollEvent.readable), RETRY_MS);
      failed(error);
    }
  }
}

function bind(path: string, mode: number): NativeListener {
  const { NativeListener } = loadNative();
  const first = (): NativeListener => NativeListener.bind(path, mode, BACKLOG);
  let listener: NativeListener | undefined;
  const errno = errnoOf(() => (listener = first()));
  if (listener !== undefined) return listener;
  if (errno === Errno.EADDRINUSE) removeDead(path);
  return attempt(first, (failure) => bindVerdict(path, failure));
}

/** Removes a socket file on which nobody listens. */
function removeDead(path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return;
  const { NativeSocket } = loadNative();
  if (errnoOf(() => NativeSocket.connect(path).close()) === ECONNREFUSED) unlinkSync(path);
}

function bindVerdict(path: string, { call, errno }: NativeFailure): Verdict {
  if (errno === ENAMETOOLONG) {
    const message = `the name of a socket file may have ${MAX_PATH_BYTES} bytes: use a shorter or a relative one than ${path}`;
    return ['ERR_VIOMMU_HOST_REFUSED', message];
  }
  if (errno === Errno.EADDRINUSE) {
    return ['ERR_VIOMMU_HOST_REFUSED', `${path} is in use: another process listens there, or it is no socket`];
  }
  if (errno === Errno.ENOENT) return ['ERR_VIOMMU_HOST_REFUSED', `there is no folder for ${path}`];
  if (errno === Errno.EACCES) return ['ERR_VIOMMU_HOST_REFUSED', `no permission to make ${path}`];
  return ['ERR_VIOMMU_HOST_REFUSED', `${path} cannot be listened on (${call}: errno ${errno})`];
}

function identityOf(path: string): string | undefined {
  const facts = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  return facts === undefined ? undefined : `${facts.dev}:${facts.ino}`;
}

/** The error of a second `serve`, or one after `close`. */
export function serveError(message: string): HostError {
  return new HostError('ERR_VIOMMU_HOST_CLOSED', message, { errno: 0, syscall: 'listen' });
}
