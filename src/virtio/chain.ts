// One descriptor chain taken from a ring, as a list of segments in private memory, and access to the buffers it names.
// Not here: reading descriptors (split-walk.ts). A descriptor is never read again: only the copy made here is used.
// Offsets count bytes of the readable or of the writable part; totals may pass 2^32 and stay exact numbers.
import type { RingMemory } from './memory-types.ts';

/** A chain starts with room for this many segments per direction and grows by doubling, up to twice the queue size. */
const INITIAL_SEGMENTS = 8;

/**
 * Segments of one direction, in chain order, with a cursor so that reading on costs no walk from the start.
 * [2.7.4.1] D-RING-2: MUST NOT assume an arrangement of descriptors: only offsets within the whole part count.
 */
class SegmentList {
  count = 0;
  total = 0;
  addr = new Float64Array(INITIAL_SEGMENTS);
  length = new Float64Array(INITIAL_SEGMENTS);
  #cursor = 0;
  #cursorStart = 0;

  clear(): void {
    this.count = 0;
    this.total = 0;
    this.#cursor = 0;
    this.#cursorStart = 0;
  }

  /** Moves `length` bytes between `bytes[0..]` and the part from `at` on; the caller has checked at + length <= total. */
  transfer(memory: RingMemory, at: number, bytes: Uint8Array, length: number, write: boolean): number {
    this.#seek(at);
    let segment = this.#cursor;
    let skip = at - this.#cursorStart;
    let done = 0;
    while (done < length) {
      const piece = Math.min(length - done, this.length[segment]! - skip);
      const gpa = this.addr[segment]! + skip;
      const ok = write ? memory.write(gpa, bytes, done, piece) : memory.read(gpa, bytes, done, piece);
      if (!ok) return done;
      done += piece;
      segment++;
      skip = 0;
    }
    return done;
  }

  /** Address of byte `at` when `length` bytes from there on lie in one segment, else -1; at + length <= total. */
  addressOf(at: number, length: number): number {
    this.#seek(at);
    const skip = at - this.#cursorStart;
    return skip + length <= this.length[this.#cursor]! ? this.addr[this.#cursor]! + skip : -1;
  }

  /** Doubles the room. */
  grow(): void {
    const { addr, length } = this;
    this.addr = new Float64Array(addr.length * 2);
    this.length = new Float64Array(addr.length * 2);
    this.addr.set(addr);
    this.length.set(length);
  }

  #seek(at: number): void {
    if (at < this.#cursorStart) {
      this.#cursor = 0;
      this.#cursorStart = 0;
    }
    while (this.#cursor < this.count - 1 && at >= this.#cursorStart + this.length[this.#cursor]!) {
      this.#cursorStart += this.length[this.#cursor]!;
      this.#cursor++;
    }
  }
}

const NO_MEMORY: RingMemory = {
  isRam: () => false,
  isWritableRam: () => false,
  read: () => false,
  write: () => false,
  loadU16: () => -1,
  readU16: () => -1,
  readWords: () => false,
  writeWord: () => false,
  writeWords2: () => false,
  storeU16: () => false,
};

/** One popped chain; an instance is reused for every pop and valid until the next one. */
export class DescriptorChain {
  /** Head to give back to {@link Virtqueue.push}. */
  head = 0;
  /** A readable descriptor follows a writable one (DRV-RING-1): give the chain back unwritten, with length 0. */
  malformed = false;
  readonly #readable = new SegmentList();
  readonly #writable = new SegmentList();
  #memory = NO_MEMORY;

  /** Bytes of the device-readable part. */
  get readableLength(): number {
    return this.#readable.total;
  }

  /** Bytes of the device-writable part. */
  get writableLength(): number {
    return this.#writable.total;
  }

  /** Empties the chain for a new pop; for queue implementations. */
  begin(memory: RingMemory, head: number): void {
    this.head = head;
    this.malformed = false;
    this.#memory = memory;
    this.#readable.clear();
    this.#writable.clear();
  }

  /** Appends a device-readable buffer that the queue has checked, `length` > 0; for queue implementations. */
  appendReadable(addr: number, length: number): void {
    // [2.7.4.2] driver MUST place device-writable descriptors after the device-readable ones.
    if (this.#writable.count > 0) this.malformed = true;
    const list = this.#readable;
    const i = list.count;
    if (i === list.addr.length) list.grow();
    list.addr[i] = addr;
    list.length[i] = length;
    list.count = i + 1;
    list.total += length;
  }

  /** Appends a device-writable buffer that the queue has checked, `length` > 0; for queue implementations. */
  appendWritable(addr: number, length: number): void {
    // Not shared with the above: a call that is not inlined makes an object of an address above 2^31.
    const list = this.#writable;
    const i = list.count;
    if (i === list.addr.length) list.grow();
    list.addr[i] = addr;
    list.length[i] = length;
    list.count = i + 1;
    list.total += length;
  }

  /**
   * Copies up to `length` bytes of the readable part from `at` on into `into[0..]`; returns the bytes copied, fewer only at
   * the end of the part (or when memory went away since the pop). Call once per byte: guest memory changes under us.
   * @throws RangeError when `into` is shorter than what is to be copied.
   */
  copyReadable(at: number, into: Uint8Array, length: number): number {
    const bytes = Math.min(length, this.#readable.total - at);
    return at >= 0 && bytes > 0 ? this.#readable.transfer(this.#memory, at, into, bytes, false) : 0;
  }

  /**
   * Guest-physical address of the first `length` bytes of the readable part, for one who reads them in place at once; -1
   * when they lie in several descriptors or there are not as many. The queue has checked that they are RAM.
   */
  readableAddress(length: number): number {
    const list = this.#readable;
    return length > 0 && length <= list.total && length <= list.length[0]! ? list.addr[0]! : -1;
  }

  /**
   * Guest-physical address of the `length` bytes at offset `at` of the writable part, so that a reply can be written after
   * the next pop; -1 when they lie in several descriptors or outside the part. The queue has checked that they are RAM.
   */
  writableAddress(at: number, length: number): number {
    const list = this.#writable;
    if (at < 0 || at + length > list.total) return -1;
    return at + length <= list.length[0]! ? list.addr[0]! + at : list.addressOf(at, length);
  }

  /** {@link writableAddress} into `into[index]`: a result above 2^31 would be an object for each request. */
  writableAddressInto(at: number, length: number, into: Float64Array, index: number): void {
    const list = this.#writable;
    const first = at >= 0 && at + length <= list.total && at + length <= list.length[0]!;
    into[index] = first ? list.addr[0]! + at : this.writableAddress(at, length);
  }

  /**
   * Writes `bytes[0..length)` at offset `at` of the writable part; returns `length`, or 0 with nothing written when it does
   * not fit wholly. Fewer when memory went away since the pop. D-RING-1: device-readable memory is out of reach.
   * @throws RangeError when `bytes` is shorter than `length`.
   */
  write(at: number, bytes: Uint8Array, length: number): number {
    if (at < 0 || at + length > this.#writable.total) return 0;
    return this.#writable.transfer(this.#memory, at, bytes, length, true);
  }
}
