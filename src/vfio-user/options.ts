// Options of a vfio-user server, and their checks. Not here: the server.
import { checkBoolean, checkFunction, checkInteger, checkOptions } from '../base/check.ts';
import { GuestMemory } from '../virtio/memory.ts';

/** One line for whoever runs the server. */
export interface VfioUserLogEntry {
  readonly level: 'info' | 'warning' | 'error';
  /** A sentence without a dot. */
  readonly message: string;
}

/** Options of {@link VfioUserServer}. */
export interface VfioUserServerOptions {
  /** Name of the socket file, at most 107 bytes. */
  readonly path: string;
  /** Gets what the client lets its device reach; one for each function, with nothing in it but what the embedder adds. */
  readonly memory: GuestMemory;
  /** Permission bits of the socket file; default 0o600. */
  readonly mode?: number;
  /** Gets what happens to connections; default nothing. */
  readonly log?: (entry: VfioUserLogEntry) => void;
  /** A client is there and has agreed on a version. */
  readonly onConnect?: () => void;
  /** The client is gone and its memory is removed; `reason` says what it did wrong, undefined when it has left properly. */
  readonly onDisconnect?: (reason: string | undefined) => void;
  /** The function was reset: by its client, or because the client is gone (before its memory is removed). */
  readonly onReset?: (cause: 'client' | 'disconnect') => void;
  /** Most mappings of a client; default 1024 (each keeps a descriptor), at most 65535. */
  readonly maxMaps?: number;
  /** Most bytes of files that a client may have mapped; default 2^43 (8 TiB). */
  readonly maxMappedBytes?: number;
  /**
   * Refuse memory that the client can shrink, which would end this process (SIGBUS) at its next access. Default false: QEMU
   * seals memory-backend-memfd, but memory-backend-file and memory-backend-shm cannot be sealed.
   */
  readonly requireSealed?: boolean;
  /** Whether listening and being connected keep the process running; default true. */
  readonly keepAlive?: boolean;
}

/** Options with the defaults filled in. */
export type ResolvedServerOptions = Required<VfioUserServerOptions>;

const NAMES = [
  'path',
  'memory',
  'mode',
  'log',
  'onConnect',
  'onDisconnect',
  'onReset',
  'maxMaps',
  'maxMappedBytes',
  'requireSealed',
  'keepAlive',
] as const satisfies readonly (keyof VfioUserServerOptions)[];

/** @throws TypeError or RangeError that names the option. */
export function resolveServerOptions(options: VfioUserServerOptions): ResolvedServerOptions {
  checkOptions('options', options, NAMES);
  const { path, memory } = options;
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new TypeError('options.path must be the name of a file');
  }
  if (!(memory instanceof GuestMemory)) throw new TypeError('options.memory must be a GuestMemory');
  const nothing = (): void => undefined;
  return {
    path,
    memory,
    mode: checkInteger('options.mode', options.mode ?? 0o600, 0, 0o777),
    log: checkFunction('options.log', options.log ?? nothing),
    onConnect: checkFunction('options.onConnect', options.onConnect ?? nothing),
    onDisconnect: checkFunction('options.onDisconnect', options.onDisconnect ?? nothing),
    onReset: checkFunction('options.onReset', options.onReset ?? nothing),
    maxMaps: checkInteger('options.maxMaps', options.maxMaps ?? 1024, 1, 65535),
    maxMappedBytes: checkInteger('options.maxMappedBytes', options.maxMappedBytes ?? 2 ** 43, 0, 2 ** 53 - 1),
    requireSealed: checkBoolean('options.requireSealed', options.requireSealed ?? false),
    keepAlive: checkBoolean('options.keepAlive', options.keepAlive ?? true),
  };
}
