// A vfio-user server: one PCI function on one socket file, for one client at a time. Several functions: several servers.
// Not here: the messages (session.ts), the bytes (connection.ts).
import type { NativeSocket } from '../host/native-api.ts';
import { ClientMemory } from './client-memory.ts';
import type { EndReason, Traffic } from './connection.ts';
import { Connection } from './connection.ts';
import { DmaTable } from './dma-table.ts';
import type { PciFunction } from './function.ts';
import { SignalTable } from './interrupts.ts';
import { Listener, serveError } from './listener.ts';
import type { ResolvedServerOptions, VfioUserLogEntry, VfioUserServerOptions } from './options.ts';
import { resolveServerOptions } from './options.ts';
import { Session } from './session.ts';
import { interruptsOff } from './set-irqs.ts';

/** Counters of a {@link VfioUserServer} over all its connections. */
export interface VfioUserStats {
  readonly connected: boolean;
  /** Clients that have come, those that were turned away too. */
  readonly connections: number;
  readonly messages: number;
  /** Connections that ended because the client broke the protocol. */
  readonly badMessages: number;
  /** Requests answered with an errno. */
  readonly refusals: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Bytes of files that are mapped, and mappings of the client (those without a file too), now. */
  readonly mappedBytes: number;
  readonly regions: number;
  /** Interrupts sent, and those for which the client had given no eventfd. */
  readonly interrupts: number;
  readonly lostInterrupts: number;
}

/** Turns that a client gets when the next one is there already. */
const FORMER_TURNS = 64;

/** A server for one function. Nothing that a client does makes a method throw, or reaches another function. */
export class VfioUserServer {
  /** The `interrupts` option of the function: MSI-X, whose table the client keeps. */
  readonly interrupts: { readonly msix: (vector: number) => void };
  /** Memory of the client that is not guest memory here: its mappings without a file. */
  readonly client: Pick<ClientMemory, 'dmaRead' | 'dmaWrite'>;
  readonly #options: ResolvedServerOptions;
  readonly #table: DmaTable;
  readonly #signals = { msix: new SignalTable(), error: new SignalTable() };
  readonly #clientMemory: ClientMemory;
  readonly #traffic: Traffic = { messages: 0, bytesIn: 0, bytesOut: 0 };
  #pci: PciFunction | undefined;
  #listener: Listener | undefined;
  #connection: Connection | undefined;
  #session: Session | undefined;
  #closed = false;
  #connections = 0;
  #badMessages = 0;
  #refusals = 0;

  /** @throws TypeError or RangeError naming the option; nothing is opened before {@link serve}. */
  constructor(options: VfioUserServerOptions) {
    this.#options = resolveServerOptions(options);
    const { memory, maxMaps, maxMappedBytes, requireSealed } = this.#options;
    const limits = { maxMaps, maxBytes: maxMappedBytes, requireSealed };
    this.#table = new DmaTable(memory, limits, (message) => this.#log('warning', message));
    this.#clientMemory = new ClientMemory(this.#table, () => this.#connection?.wake());
    this.client = this.#clientMemory;
    this.interrupts = { msix: (vector) => this.#interrupt(vector) };
  }

  /** Name of the socket file. */
  get path(): string {
    return this.#options.path;
  }

  /**
   * Makes the socket file and serves `pci` to one client at a time; resolves when clients may connect. A file that a dead
   * process left is replaced.
   * @throws HostError when the file cannot be made (EADDRINUSE: somebody listens there), or when this was called before.
   */
  serve(pci: PciFunction): Promise<void> {
    return new Promise((resolve) => {
      if (this.#pci !== undefined || this.#closed) throw serveError('a server serves one function, once');
      const { path, mode, keepAlive } = this.#options;
      this.#listener = new Listener(
        path,
        mode,
        (socket) => this.#accept(socket),
        (error) => this.#log('error', `a client could not be taken: ${text(error)}`),
      );
      this.#listener.keepAlive(keepAlive);
      this.#pci = pci;
      this.#log('info', 'listening');
      resolve();
    });
  }

  /** Counters as of now. */
  stats(): VfioUserStats {
    const { msix } = this.#signals;
    return {
      connected: this.#connection !== undefined,
      connections: this.#connections,
      ...this.#traffic,
      badMessages: this.#badMessages,
      refusals: this.#refusals + (this.#session?.refusals ?? 0),
      mappedBytes: this.#table.mappedBytes,
      regions: this.#table.count,
      interrupts: msix.sent,
      lostInterrupts: msix.lost,
    };
  }

  /** Ends the connection as if the client had left, stops listening and removes the socket file. Twice is no error. */
  close(): Promise<void> {
    this.#closed = true;
    this.#listener?.close();
    this.#listener = undefined;
    if (this.#connection !== undefined) {
      this.#connection.close();
      this.#gone('the server was closed', false);
    }
    return Promise.resolve();
  }

  #accept(socket: NativeSocket): void {
    this.#connections++;
    this.#finishFormer();
    const refusal = this.#refusal();
    if (refusal !== undefined) {
      socket.close();
      this.#log('warning', `a client was turned away: ${refusal}`);
      return;
    }
    this.#table.newClient();
    const session = new Session({
      pci: this.#pci!,
      table: this.#table,
      signals: this.#signals,
      client: this.#clientMemory,
      maxMaps: this.#options.maxMaps,
      onAgreed: () => this.#agreed(),
      onReset: () => this.#call('onReset', () => this.#options.onReset('client')),
    });
    try {
      this.#connection = new Connection(socket, {
        session,
        client: this.#clientMemory,
        traffic: this.#traffic,
        keepAlive: this.#options.keepAlive,
        ended: (reason, guilty) => this.#gone(reason, guilty),
      });
      this.#session = session;
    } catch (error) {
      socket.close();
      this.#log('error', `a client could not be taken: ${text(error)}`);
    }
  }

  /** What the former client sent may not have been looked at yet, nor that it has left. */
  #finishFormer(): void {
    for (let turn = 0; turn < FORMER_TURNS && this.#connection !== undefined; turn++) {
      const { messages } = this.#traffic;
      this.#connection.serve();
      if (this.#traffic.messages === messages) return;
    }
  }

  /** Why no client can be taken now. */
  #refusal(): string | undefined {
    if (this.#closed) return 'the server was closed';
    if (this.#connection !== undefined) return 'another one is connected';
    return this.#table.unmapAll() === 0 ? undefined : 'memory of the former one could not be removed';
  }

  #agreed(): void {
    this.#log('info', 'a client is connected');
    this.#call('onConnect', () => this.#options.onConnect());
  }

  /** What follows the end of a connection: reset, no interrupts, no memory. */
  #gone(reason: EndReason, guilty: boolean): void {
    this.#connection = undefined;
    this.#refusals += this.#session?.refusals ?? 0;
    this.#session = undefined;
    if (guilty) this.#badMessages++;
    this.#log(guilty ? 'error' : 'info', reason ?? 'the client has left');
    this.#clientMemory.end();
    this.#call('reset', () => this.#pci?.reset());
    this.#call('onReset', () => this.#options.onReset('disconnect'));
    this.#call('switching interrupts off', () => interruptsOff(this.#pci, this.#signals));
    this.#call('removing memory', () => void this.#table.unmapAll());
    this.#call('onDisconnect', () => this.#options.onDisconnect(reason));
  }

  #interrupt(vector: number): void {
    this.#call('an interrupt', () => this.#signals.msix.raise(vector));
  }

  /** Runs what is not ours; what it throws is told and goes no further. */
  #call(what: string, run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#log('error', `${what} failed: ${text(error)}`);
    }
  }

  #log(level: VfioUserLogEntry['level'], message: string): void {
    try {
      this.#options.log({ level, message: `${this.#options.path}: ${message}` });
    } catch {
      // A log that fails cannot be told of.
    }
  }
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
