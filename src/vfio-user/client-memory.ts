// Memory of the client that has no file behind it: DMA_READ and DMA_WRITE, which we send and the client answers.
// Not here: memory with a file, which is guest memory of this process (dma-table.ts). Ranges are address + length in bytes.
import { checkBigint, checkInteger, hex, U64_MAX } from '../base/check.ts';
import { Errno, HostError } from '../base/errors.ts';
import { Command, DmaAccess, MAX_TRANSFER, MessageHeader } from './abi.ts';
import type { DmaTable } from './dma-table.ts';
import type { Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';
import type { Agreement } from './version.ts';

/** A request of ours that waits to be sent or answered. */
interface Pending {
  readonly command: number;
  readonly message: Uint8Array;
  readonly count: number;
  readonly done: (request: Request) => void;
  readonly failed: (error: Error) => void;
}

const IDS = 65536;
const ECONNRESET = 104;
/** Messages of one call that are under way at a time. */
const PIECES = 32;
/** Most bytes that one call moves. */
const MAX_BYTES = 2 ** 30;

/** Moves bytes from and to what a client has mapped. The same object for all clients of a server, one after the other. */
export class ClientMemory {
  readonly #table: DmaTable;
  readonly #wake: () => void;
  readonly #waiting: Pending[] = [];
  readonly #sent = new Map<number, Pending>();
  #agreed: Agreement | undefined;
  #nextId = 0;

  /** `wake` has the connection ask for {@link takeMessage} when it may send. */
  constructor(table: DmaTable, wake: () => void) {
    this.#table = table;
    this.#wake = wake;
  }

  /**
   * Reads `length` bytes at `address` of the client.
   * @throws TypeError or RangeError for wrong arguments. The promise is rejected with a HostError: EFAULT for what is not
   * mapped or not readable, the client's errno, ECONNRESET when there is no client (any more).
   */
  async dmaRead(address: bigint, length: number): Promise<Uint8Array> {
    checkInteger('length', length, 0, MAX_BYTES);
    this.#check('VFIO_USER_DMA_READ', address, length, false);
    const bytes = new Uint8Array(length);
    await this.#inPieces(Command.dmaRead, length, (from, to) =>
      this.#read(address + BigInt(from), bytes.subarray(from, to)),
    );
    return bytes;
  }

  /** Writes `bytes` at `address` of the client; errors as {@link dmaRead}. `bytes` must not change until it is done. */
  async dmaWrite(address: bigint, bytes: Uint8Array): Promise<void> {
    if (!(bytes instanceof Uint8Array)) throw new TypeError('bytes must be a Uint8Array');
    checkInteger('bytes.length', bytes.length, 0, MAX_BYTES);
    this.#check('VFIO_USER_DMA_WRITE', address, bytes.length, true);
    await this.#inPieces(Command.dmaWrite, bytes.length, (from, to) =>
      this.#write(address + BigInt(from), bytes.subarray(from, to)),
    );
  }

  /** A client is there. */
  begin(agreed: Agreement): void {
    this.#agreed = agreed;
  }

  /** The client is gone: what waits fails. */
  end(): void {
    this.#agreed = undefined;
    const pending = [...this.#sent.values(), ...this.#waiting.splice(0)];
    this.#sent.clear();
    for (const each of pending) each.failed(gone(each.command));
  }

  /** Requests that wait to be sent, or were sent and not answered. */
  get outstanding(): number {
    return this.#waiting.length + this.#sent.size;
  }

  /** True when {@link takeMessage} has one. */
  get hasMessage(): boolean {
    return this.#waiting.length > 0 && this.#sent.size < IDS;
  }

  /** The next message to send, which from now on waits for its reply. */
  takeMessage(): Uint8Array | undefined {
    if (!this.hasMessage) return undefined;
    const pending = this.#waiting.shift()!;
    while (this.#sent.has(this.#nextId)) this.#nextId = (this.#nextId + 1) % IDS;
    new DataView(pending.message.buffer).setUint16(MessageHeader.id, this.#nextId, true);
    this.#sent.set(this.#nextId, pending);
    this.#nextId = (this.#nextId + 1) % IDS;
    return pending.message;
  }

  /** A reply of the client. @throws ProtocolError when nothing waits for it, or when it is not what was asked for. */
  take(request: Request): void {
    const pending = this.#sent.get(request.id);
    if (pending?.command !== request.command) {
      throw new ProtocolError('a reply to nothing that was asked');
    }
    if (request.failed) {
      this.#sent.delete(request.id);
      pending.failed(refused(pending.command, request.error));
      return;
    }
    const expected = pending.command === Command.dmaRead ? DmaAccess.SIZE + pending.count : 0;
    if (request.payload < expected) throw new ProtocolError(`a reply with ${request.payload} bytes of ${expected}`);
    this.#sent.delete(request.id);
    pending.done(request);
  }

  #check(syscall: string, address: bigint, length: number, write: boolean): void {
    checkBigint('address', address, 0n, U64_MAX - BigInt(length));
    if (this.#agreed === undefined) throw gone(write ? Command.dmaWrite : Command.dmaRead);
    if (this.#table.allows(Number(address), Number(address) + length, write)) return;
    const message = `the client has not mapped ${hex(address)} to ${hex(address + BigInt(length))} for this`;
    throw new HostError('ERR_VIOMMU_HOST_REFUSED', message, { errno: Errno.EFAULT, syscall });
  }

  async #inPieces(command: number, length: number, move: (from: number, to: number) => Promise<void>): Promise<void> {
    const agreed = this.#agreed;
    const step = Math.min(agreed?.clientTransfer ?? MAX_TRANSFER, MAX_TRANSFER);
    for (let from = 0; from < length; from += step * PIECES) {
      const end = Math.min(from + step * PIECES, length);
      const moves: Promise<void>[] = [];
      for (let at = from; at < end; at += step) moves.push(move(at, Math.min(at + step, end)));
      this.#wake();
      await Promise.all(moves);
      // Another client may be there by now: what is left was never asked of it.
      if (end < length && this.#agreed !== agreed) throw gone(command);
    }
  }

  #read(address: bigint, into: Uint8Array): Promise<void> {
    const message = header(Command.dmaRead, address, into.length, 0);
    return this.#ask(Command.dmaRead, message, into.length, (request) => {
      into.set(request.part(DmaAccess.data, DmaAccess.data + into.length));
    });
  }

  #write(address: bigint, bytes: Uint8Array): Promise<void> {
    const message = header(Command.dmaWrite, address, bytes.length, bytes.length);
    message.set(bytes, MessageHeader.SIZE + DmaAccess.data);
    return this.#ask(Command.dmaWrite, message, bytes.length, () => undefined);
  }

  #ask(command: number, message: Uint8Array, count: number, take: (request: Request) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (request: Request): void => {
        take(request);
        resolve();
      };
      this.#waiting.push({ command, message, count, done, failed: reject });
    });
  }
}

/** A request of ours, with room for `data` bytes. */
function header(command: number, address: bigint, count: number, data: number): Uint8Array {
  const message = new Uint8Array(MessageHeader.SIZE + DmaAccess.SIZE + data);
  const view = new DataView(message.buffer);
  view.setUint16(MessageHeader.command, command, true);
  view.setUint32(MessageHeader.size, message.length, true);
  view.setBigUint64(MessageHeader.SIZE + DmaAccess.address, address, true);
  view.setBigUint64(MessageHeader.SIZE + DmaAccess.count, BigInt(count), true);
  return message;
}

function syscallOf(command: number): string {
  return command === Command.dmaRead ? 'VFIO_USER_DMA_READ' : 'VFIO_USER_DMA_WRITE';
}

function gone(command: number): HostError {
  const detail = { errno: ECONNRESET, syscall: syscallOf(command) };
  return new HostError('ERR_VIOMMU_HOST_CLOSED', 'there is no client', detail);
}

function refused(command: number, errno: number): HostError {
  const detail = { errno, syscall: syscallOf(command) };
  return new HostError('ERR_VIOMMU_HOST_REFUSED', `the client refused it (errno ${errno})`, detail);
}
