// One connection: bytes of the socket into messages, replies into bytes. Never waits: what cannot be sent yet is kept, and
// nothing more is read meanwhile, so that a client which does not read its replies costs one reply.
// Not here: what messages mean (session.ts), listening (listener.ts).
import type { NativePoll, NativeSocket } from '../host/native-api.ts';
import { NativePollEvent } from '../host/native-api.ts';
import { loadNative, nativeFailure } from '../host/native.ts';
import { commandName, MAX_DESCRIPTORS, MAX_MESSAGE, MessageHeader } from './abi.ts';
import type { ClientMemory } from './client-memory.ts';
import type { Descriptors } from './message.ts';
import { Reply, Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';
import type { Session } from './session.ts';
import { VersionRefusal } from './version.ts';

/** Messages handled, and milliseconds taken, before other functions of the process get their turn. */
const MESSAGES_PER_TURN = 16;
const TURN_MS = 2;

/** Why a connection is over: `undefined` when the client has closed it between two messages. */
export type EndReason = string | undefined;

/** Counters of all connections of a server. */
export interface Traffic {
  messages: number;
  bytesIn: number;
  bytesOut: number;
}

/** What a connection needs of its server. */
export interface ConnectionParts {
  readonly session: Session;
  readonly client: ClientMemory;
  readonly traffic: Traffic;
  /** Whether being connected keeps the process running. */
  readonly keepAlive: boolean;
  /** Called once, when the connection is over; the socket is closed already. `guilty`: not because the client left. */
  readonly ended: (reason: EndReason, guilty: boolean) => void;
}

/** A connected client. */
export class Connection implements Descriptors {
  readonly #socket: NativeSocket;
  readonly #poll: NativePoll;
  readonly #parts: ConnectionParts;
  readonly #request = new Request();
  readonly #reply = new Reply();
  /** Bytes of the request that are there, and that are needed before something can be done. */
  #have = 0;
  #need: number = MessageHeader.SIZE;
  /** What is to be sent: [from, to) of `bytes`. */
  #unsent: Uint8Array | undefined;
  #unsentFrom = 0;
  #unsentTo = 0;
  /** Descriptors of the message. */
  #descriptors = 0;
  /** What the poll waits for. */
  #watched = 0;
  #over = false;
  #busy = false;

  /** Takes over `socket`. */
  constructor(socket: NativeSocket, parts: ConnectionParts) {
    this.#socket = socket;
    this.#parts = parts;
    this.#request.descriptors = this;
    this.#poll = loadNative().NativePoll.create(socket.fd(), (events) => this.serve(events));
    this.#poll.keepAlive(parts.keepAlive);
    this.#watch(NativePollEvent.readable);
  }

  /** Number of descriptors of the message. */
  get count(): number {
    return this.#descriptors;
  }

  at(index: number): number {
    return this.#socket.descriptor(index);
  }

  /** Has {@link serve} called soon, to send what the client memory has. */
  wake(): void {
    // With a message half read or a reply half sent its turn comes anyway, and a socket with room would be told of for ever.
    if (this.#over || this.#have > 0 || this.#unsent !== undefined) return;
    this.#watch(NativePollEvent.readable | NativePollEvent.writable);
  }

  /** Ends the connection; `ended` is not called. */
  close(): void {
    this.#over = true;
    this.#poll.close();
    this.#socket.close();
  }

  /** Does what there is to do now. A second call from inside does nothing. */
  serve(events: number = NativePollEvent.readable): void {
    if (this.#over || this.#busy) return;
    this.#busy = true;
    try {
      this.#turn();
      if (events < 0) this.#finish(-events);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#busy = false;
    }
  }

  /** The socket has an error and is waited for no more: reads what the client sent before, and with it that it is gone. */
  #finish(errno: number): void {
    const { traffic } = this.#parts;
    for (let before = -1; !this.#over && traffic.messages > before;) {
      before = traffic.messages;
      this.#turn();
    }
    if (!this.#over) throw new ProtocolError(`waiting failed (errno ${errno})`);
  }

  #watch(events: number): void {
    if (events === this.#watched) return;
    this.#watched = events;
    this.#poll.start(events);
  }

  #turn(): void {
    if (!this.#flush()) return;
    const end = performance.now() + TURN_MS;
    for (let i = 0; i < MESSAGES_PER_TURN && (i === 0 || performance.now() < end); i++) {
      if (!this.#receive()) {
        if (this.#over) return;
        if (this.#have === 0) this.#sendRequests();
        else this.#watch(NativePollEvent.readable);
        return;
      }
      if (!this.#answer()) return;
    }
  }

  /** Reads on: true when a message is whole, false when there is no more at the moment. */
  #receive(): boolean {
    const request = this.#request;
    while (this.#have < this.#need) {
      const count = this.#socket.receive(request.bytes, this.#have, this.#need, MAX_DESCRIPTORS);
      if (count < 0) return false;
      if (count === 0) {
        this.#hangUp();
        return false;
      }
      this.#have += count;
      if (this.#have === this.#need && this.#need === MessageHeader.SIZE) this.#readSize();
    }
    request.size = this.#have;
    this.#descriptors = this.#socket.descriptors();
    return true;
  }

  #readSize(): void {
    const size = this.#request.declaredSize;
    if (size < MessageHeader.SIZE || size > MAX_MESSAGE) throw new ProtocolError(`a message of ${size} bytes`);
    this.#request.reserve(size, MessageHeader.SIZE);
    this.#need = size;
  }

  /** Handles the message and sends the reply; false when that has to wait. */
  #answer(): boolean {
    const { session, traffic } = this.#parts;
    traffic.messages++;
    traffic.bytesIn += this.#have;
    const length = session.handle(this.#request, this.#reply);
    // An observer of what the message did may have closed the connection.
    if (this.#over) return false;
    if (this.#descriptors > 0) this.#socket.dropDescriptors();
    this.#have = 0;
    this.#need = MessageHeader.SIZE;
    this.#request.shrink();
    if (length === 0) return true;
    const { bytes } = this.#reply;
    this.#reply.shrink();
    return this.#send(bytes, length);
  }

  /** Sends a message; false when a part of it has to wait. */
  #send(bytes: Uint8Array, length: number): boolean {
    const sent = this.#socket.send(bytes, 0, length);
    if (sent > 0) this.#parts.traffic.bytesOut += sent;
    if (sent === length) return true;
    this.#unsent = bytes;
    this.#unsentFrom = Math.max(sent, 0);
    this.#unsentTo = length;
    this.#watch(NativePollEvent.writable);
    return false;
  }

  /** Sends what had to wait; true when nothing is left, and reading may go on. */
  #flush(): boolean {
    if (this.#unsent === undefined) return true;
    while (this.#unsentFrom < this.#unsentTo) {
      const sent = this.#socket.send(this.#unsent, this.#unsentFrom, this.#unsentTo);
      if (sent < 0) return false;
      this.#parts.traffic.bytesOut += sent;
      this.#unsentFrom += sent;
    }
    this.#unsent = undefined;
    this.#watch(NativePollEvent.readable);
    return true;
  }

  /** Nothing was asked of us that is not answered: now our own requests may go. */
  #sendRequests(): void {
    this.#watch(NativePollEvent.readable);
    const { client } = this.#parts;
    for (let next = client.takeMessage(); next !== undefined; next = client.takeMessage()) {
      if (!this.#send(next, next.length)) return;
    }
  }

  #fail(error: unknown): void {
    if (error instanceof VersionRefusal) this.#refuseVersion(error.errno);
    const failure = nativeFailure(error);
    if (failure !== undefined) {
      if (HANG_UPS.has(failure.errno)) this.#hangUp();
      else this.#end(describeFailure(failure.call, failure.errno));
    } else if (error instanceof ProtocolError) {
      const where =
        this.#have < MessageHeader.SIZE ? '' : ` (${commandName(this.#request.command)}, id ${this.#request.id})`;
      this.#end(`the client broke the protocol: ${error.message}${where}`);
    } else {
      this.#end(
        `a message made this process fail: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
      );
    }
  }

  /** Best effort: the client that waits for an answer learns why there is none. */
  #refuseVersion(errno: number): void {
    try {
      this.#socket.send(this.#reply.bytes, 0, this.#reply.finish(this.#request, -errno));
    } catch {
      // It is gone already.
    }
  }

  #hangUp(): void {
    this.#end(this.#have === 0 ? undefined : `the client left after ${this.#have} bytes of a message`);
  }

  #end(reason: EndReason): void {
    if (this.#over) return;
    this.close();
    this.#parts.ended(reason, reason !== undefined);
  }
}

const EPIPE = 32;
const ECONNRESET = 104;
/** The client is gone, with or without data that it did not read. */
const HANG_UPS: ReadonlySet<number> = new Set([EPIPE, ECONNRESET]);
const EMSGSIZE = 90;

function describeFailure(call: string, errno: number): string {
  if (errno === EMSGSIZE)
    return `the client broke the protocol: more than ${MAX_DESCRIPTORS} descriptors, or none left here`;
  return `${call} failed (errno ${errno})`;
}
