// A message that came in, and the reply that goes out: fixed buffers with accessors, so that a kick allocates nothing.
// Not here: sockets (connection.ts), meanings. Offsets of fields count from the end of the header.
import { MessageFlag, MessageHeader, RegionAccess } from './abi.ts';

/** Bytes of the buffers that stay; longer messages get one of their own. */
export const KEPT_BYTES = 4096;

/** The descriptors that came with a message; they stay owned by their source. */
export interface Descriptors {
  readonly count: number;
  at(index: number): number;
}

/** No descriptors. */
export const NO_DESCRIPTORS: Descriptors = { count: 0, at: () => -1 };

const DATA = MessageHeader.SIZE + RegionAccess.data;

/** A buffer with views of the lengths that registers have, at the place where region accesses have their data. */
class MessageBuffer {
  readonly #kept = new Uint8Array(KEPT_BYTES);
  readonly #keptView = new DataView(this.#kept.buffer);
  readonly #data: readonly (Uint8Array | undefined)[] = viewsAt(this.#kept, DATA, [1, 2, 4, 8]);
  bytes = this.#kept;
  view = this.#keptView;

  /** Makes room for `length` bytes and keeps the first `used`. */
  reserve(length: number, used: number): void {
    if (length <= this.bytes.length) return;
    const larger = new Uint8Array(length);
    larger.set(this.bytes.subarray(0, used));
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
  }

  /** Back to the buffer that stays. */
  shrink(): void {
    this.bytes = this.#kept;
    this.view = this.#keptView;
  }

  /** `length` bytes behind the fixed part of a region access. */
  data(length: number): Uint8Array {
    const kept = this.bytes === this.#kept ? this.#data[length] : undefined;
    return kept ?? this.bytes.subarray(DATA, DATA + length);
  }
}

function viewsAt(bytes: Uint8Array, at: number, lengths: readonly number[]): (Uint8Array | undefined)[] {
  const views: (Uint8Array | undefined)[] = [];
  for (const length of lengths) views[length] = bytes.subarray(at, at + length);
  return views;
}

/** A message as it came in; one object for all messages of a connection. */
export class Request extends MessageBuffer {
  /** Bytes of the whole message. */
  size = 0;
  descriptors: Descriptors = NO_DESCRIPTORS;

  get id(): number {
    return this.view.getUint16(MessageHeader.id, true);
  }

  get command(): number {
    return this.view.getUint16(MessageHeader.command, true);
  }

  /** Size as the header says it. */
  get declaredSize(): number {
    return this.view.getUint32(MessageHeader.size, true);
  }

  get flags(): number {
    return this.view.getUint32(MessageHeader.flags, true);
  }

  /** errno of an error reply. */
  get error(): number {
    return this.view.getUint32(MessageHeader.error, true);
  }

  /** True for an error reply. */
  get failed(): boolean {
    return (this.flags & MessageFlag.error) !== 0;
  }

  /** Bytes behind the header. */
  get payload(): number {
    return this.size - MessageHeader.SIZE;
  }

  u16(at: number): number {
    return this.view.getUint16(MessageHeader.SIZE + at, true);
  }

  u32(at: number): number {
    return this.view.getUint32(MessageHeader.SIZE + at, true);
  }

  u64(at: number): bigint {
    return this.view.getBigUint64(MessageHeader.SIZE + at, true);
  }

  u8(at: number): number {
    return this.bytes[MessageHeader.SIZE + at]!;
  }

  /** Bytes [from, to) of the payload, not copied. */
  part(from: number, to: number): Uint8Array {
    return this.bytes.subarray(MessageHeader.SIZE + from, MessageHeader.SIZE + to);
  }
}

/** The reply to a request; one object for all replies of a connection. */
export class Reply extends MessageBuffer {
  setU16(at: number, value: number): void {
    this.view.setUint16(MessageHeader.SIZE + at, value, true);
  }

  setU32(at: number, value: number): void {
    this.view.setUint32(MessageHeader.SIZE + at, value, true);
  }

  setU64(at: number, value: bigint): void {
    this.view.setBigUint64(MessageHeader.SIZE + at, value, true);
  }

  /** Copies the first `length` bytes of the request's payload. */
  echo(request: Request, length: number): void {
    const { bytes } = this;
    for (let i = MessageHeader.SIZE; i < MessageHeader.SIZE + length; i++) bytes[i] = request.bytes[i]!;
  }

  /** Writes the header of a reply with `payload` bytes, or of an error reply for a negative errno; bytes of the message. */
  finish(request: Request, payload: number): number {
    const { view } = this;
    const failed = payload < 0;
    const size = MessageHeader.SIZE + (failed ? 0 : payload);
    view.setUint16(MessageHeader.id, request.id, true);
    view.setUint16(MessageHeader.command, request.command, true);
    view.setUint32(MessageHeader.size, size, true);
    view.setUint32(MessageHeader.flags, failed ? MessageFlag.reply | MessageFlag.error : MessageFlag.reply, true);
    view.setUint32(MessageHeader.error, failed ? -payload : 0, true);
    return size;
  }
}
