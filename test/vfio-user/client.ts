// A vfio-user client for tests: the part of a VMM, over a real socket. It sends whatever it is told to.
// Not here: what is right to send (driver.ts has the flow of a VMM).
import { MessageFlag, MessageHeader } from '../../src/vfio-user/abi.ts';
import type { NativePoll, NativeSocket } from '../../src/host/native-api.ts';
import { loadNative } from '../../src/host/native.ts';

/** A reply: errno 0, or an error and no payload. */
export interface ClientReply {
  readonly errno: number;
  readonly payload: Uint8Array;
}

/** A command of the server. */
export interface ServerCommand {
  readonly id: number;
  readonly command: number;
  readonly payload: Uint8Array;
}

/** The bytes of a message. */
export function message(init: {
  readonly id: number;
  readonly command: number;
  readonly payload?: Uint8Array;
  readonly flags?: number;
  readonly size?: number;
  readonly errno?: number;
}): Uint8Array {
  const { id, command, payload = new Uint8Array(0), flags = 0, errno = 0 } = init;
  const bytes = new Uint8Array(MessageHeader.SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(MessageHeader.id, id, true);
  view.setUint16(MessageHeader.command, command, true);
  view.setUint32(MessageHeader.size, init.size ?? bytes.length, true);
  view.setUint32(MessageHeader.flags, flags, true);
  view.setUint32(MessageHeader.error, errno, true);
  bytes.set(payload, MessageHeader.SIZE);
  return bytes;
}

/** A connected client. */
export class Client {
  readonly #socket: NativeSocket;
  readonly #poll: NativePoll;
  readonly #waiting = new Map<number, (reply: ClientReply | undefined) => void>();
  readonly #outgoing: { bytes: Uint8Array; fds: Int32Array | undefined }[] = [];
  #bytes = new Uint8Array(65536);
  #have = 0;
  #id = 0;
  #closed = false;
  readonly #end: Promise<void>;
  #ended!: () => void;
  /** Gets the commands of the server; default: they are left unanswered. */
  onCommand: (command: ServerCommand) => void = () => undefined;
  /** Every message of the server in order, as `reply ID` or `command ID`. */
  readonly order: string[] = [];

  constructor(path: string) {
    const { NativeSocket, NativePoll } = loadNative();
    this.#socket = NativeSocket.connect(path);
    this.#end = new Promise((resolve) => (this.#ended = resolve));
    this.#poll = NativePoll.create(this.#socket.fd(), () => this.#ready());
    this.#poll.start(1);
  }

  /** True when the server has ended the connection, or this side has. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Resolves when the connection is over. */
  get end(): Promise<void> {
    return this.#end;
  }

  /** Sends bytes as they are. */
  send(bytes: Uint8Array, fds?: readonly number[]): void {
    if (this.#closed) return;
    this.#outgoing.push({ bytes, fds: fds === undefined ? undefined : Int32Array.from(fds) });
    this.#flush();
  }

  /** Sends a command and waits for the reply; undefined when the connection ended instead. */
  request(command: number, payload?: Uint8Array, fds?: readonly number[], flags = 0): Promise<ClientReply | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    const id = this.#id++ & 0xffff;
    const reply = new Promise<ClientReply | undefined>((resolve) => {
      if ((flags & MessageFlag.noReply) !== 0) resolve(undefined);
      else this.#waiting.set(id, resolve);
    });
    this.send(message({ id, command, flags, ...(payload === undefined ? {} : { payload }) }), fds);
    return reply;
  }

  /** Answers a command of the server. */
  answer(command: ServerCommand, payload: Uint8Array, errno = 0): void {
    const flags = MessageFlag.reply | (errno === 0 ? 0 : MessageFlag.error);
    this.send(message({ id: command.id, command: command.command, payload, flags, errno }));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll.close();
    this.#socket.close();
    for (const resolve of this.#waiting.values()) resolve(undefined);
    this.#waiting.clear();
    this.#ended();
  }

  #flush(): void {
    try {
      while (this.#outgoing.length > 0) {
        const first = this.#outgoing[0]!;
        const sent = this.#socket.send(first.bytes, 0, first.bytes.length, first.fds);
        if (sent < 0) break;
        first.fds = undefined;
        first.bytes = first.bytes.subarray(sent);
        if (first.bytes.length === 0) this.#outgoing.shift();
      }
      this.#poll.start(this.#outgoing.length > 0 ? 3 : 1);
    } catch {
      // The server has hung up; what it sent before is still read.
      this.#outgoing.length = 0;
      this.#poll.start(1);
    }
  }

  #ready(): void {
    this.#flush();
    try {
      for (;;) {
        if (this.#have === this.#bytes.length) this.#grow();
        const count = this.#socket.receive(this.#bytes, this.#have, this.#bytes.length, 16);
        if (count < 0) return;
        if (count === 0) {
          this.close();
          return;
        }
        this.#have += count;
        this.#take();
        if (this.#closed) return;
      }
    } catch {
      this.close();
    }
  }

  #grow(): void {
    const larger = new Uint8Array(2 * this.#bytes.length);
    larger.set(this.#bytes);
    this.#bytes = larger;
  }

  #take(): void {
    let at = 0;
    const view = new DataView(this.#bytes.buffer);
    while (this.#have - at >= MessageHeader.SIZE) {
      const size = view.getUint32(at + MessageHeader.size, true);
      if (this.#have - at < size) break;
      const id = view.getUint16(at + MessageHeader.id, true);
      const flags = view.getUint32(at + MessageHeader.flags, true);
      const payload = this.#bytes.slice(at + MessageHeader.SIZE, at + size);
      if ((flags & MessageFlag.type) === MessageFlag.reply) {
        this.order.push(`reply ${id}`);
        const errno = (flags & MessageFlag.error) !== 0 ? view.getUint32(at + MessageHeader.error, true) : 0;
        this.#waiting.get(id)?.({ errno, payload });
        this.#waiting.delete(id);
      } else {
        this.order.push(`command ${id}`);
        this.onCommand({ id, command: view.getUint16(at + MessageHeader.command, true), payload });
      }
      at += size;
    }
    this.#bytes.copyWithin(0, at, this.#have);
    this.#have -= at;
  }
}
