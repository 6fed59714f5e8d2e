// A session without a socket: messages go straight to it, so that tests say what they send and what comes back.
// Not here: framing (connection.test.ts has real sockets).
import { Command, MessageFlag, MessageHeader } from '../../src/vfio-user/abi.ts';
import { ClientMemory } from '../../src/vfio-user/client-memory.ts';
import type { DmaLimits } from '../../src/vfio-user/dma-table.ts';
import { DmaTable } from '../../src/vfio-user/dma-table.ts';
import type { PciFunction } from '../../src/vfio-user/function.ts';
import { SignalTable } from '../../src/vfio-user/interrupts.ts';
import { Reply, Request } from '../../src/vfio-user/message.ts';
import { Session } from '../../src/vfio-user/session.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import { message } from './client.ts';
import { QEMU_CAPABILITIES, version } from './payloads.ts';

/** A function that notes what is done to it; BAR 0 has 16 KiB, BAR 2 4 KiB; reads give the low byte of each offset. */
export class NotedFunction implements PciFunction {
  readonly bars = [
    { index: 0, size: 16384 },
    { index: 2, size: 4096 },
  ];
  readonly vectors: number;
  readonly log: string[] = [];

  constructor(vectors = 3) {
    this.vectors = vectors;
  }

  readConfigBytes(offset: number, into: Uint8Array): void {
    this.#fill('config', offset, into);
  }

  writeConfigBytes(offset: number, bytes: Uint8Array): void {
    this.log.push(`write config ${offset} ${[...bytes].join(' ')}`);
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    this.#fill(`bar ${bar}`, offset, into);
  }

  writeBar(bar: number, offset: number, bytes: Uint8Array): void {
    this.log.push(`write bar ${bar} ${offset} ${[...bytes].join(' ')}`);
  }

  reset(): void {
    this.log.push('reset');
  }

  #fill(what: string, offset: number, into: Uint8Array): void {
    this.log.push(`read ${what} ${offset} ${into.length}`);
    for (let i = 0; i < into.length; i++) into[i] = offset + i;
  }
}

/** An answer; `none` for a request without a reply. */
export type Answer = 'none' | { readonly errno: number; readonly payload: Uint8Array };

/** A session and everything around it. */
export class Talk {
  readonly pci = new NotedFunction();
  readonly memory = new GuestMemory();
  readonly notices: string[] = [];
  readonly table: DmaTable;
  readonly client: ClientMemory;
  readonly signals = { msix: new SignalTable(), error: new SignalTable() };
  readonly session: Session;
  resets = 0;
  agreed = 0;
  woken = 0;
  readonly request = new Request();
  readonly reply = new Reply();
  #id = 100;

  constructor(limits: Partial<DmaLimits> = {}) {
    const all = { maxMaps: 4096, maxBytes: 2 ** 43, requireSealed: false, ...limits };
    this.table = new DmaTable(this.memory, all, (notice) => this.notices.push(notice));
    this.client = new ClientMemory(this.table, () => this.woken++);
    this.session = new Session({
      pci: this.pci,
      table: this.table,
      signals: this.signals,
      client: this.client,
      maxMaps: all.maxMaps,
      onAgreed: () => this.agreed++,
      onReset: () => this.resets++,
    });
  }

  /** A talk that is past VERSION. */
  static begun(limits: Partial<DmaLimits> = {}): Talk {
    const talk = new Talk(limits);
    talk.ask(Command.version, version(0, 0, QEMU_CAPABILITIES));
    return talk;
  }

  /** Hands a message over. @throws ProtocolError as the session does. */
  ask(command: number, payload?: Uint8Array, fds: readonly number[] = [], flags: number = MessageFlag.command): Answer {
    const id = this.#id++;
    return this.give(message({ id, command, flags, ...(payload === undefined ? {} : { payload }) }), fds);
  }

  /** Hands the bytes of a message over. */
  give(bytes: Uint8Array, fds: readonly number[] = []): Answer {
    const { request, reply } = this;
    request.reserve(bytes.length, 0);
    request.bytes.set(bytes);
    request.size = bytes.length;
    request.descriptors = { count: fds.length, at: (index) => fds[index] ?? -1 };
    try {
      const length = this.session.handle(request, reply);
      if (length === 0) return 'none';
      const failed = (reply.view.getUint32(MessageHeader.flags, true) & MessageFlag.error) !== 0;
      const errno = failed ? reply.view.getUint32(MessageHeader.error, true) : 0;
      return { errno, payload: reply.bytes.slice(MessageHeader.SIZE, length) };
    } finally {
      request.shrink();
    }
  }

  /** errno of a request, -1 without a reply. */
  errno(command: number, payload?: Uint8Array, fds?: readonly number[]): number {
    const answer = this.ask(command, payload, fds);
    return answer === 'none' ? -1 : answer.errno;
  }

  /** Payload of the reply to a request that must go well. */
  payload(command: number, payload?: Uint8Array, fds?: readonly number[]): Uint8Array {
    const answer = this.ask(command, payload, fds);
    if (answer === 'none' || answer.errno !== 0) throw new Error(`refused: ${JSON.stringify(answer)}`);
    return answer.payload;
  }
}
