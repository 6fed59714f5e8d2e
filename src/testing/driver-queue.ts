// Driver side of a split virtqueue laid out in guest memory: builds chains in any framing, publishes and collects them.
// Not here: raw writes (driver-ring.ts), how a request is cut (driver-request.ts). Two paths share the ring: add/poll
// checks everything and allocates; addFast/next costs well under a microsecond and is meant for millions of requests.
import type { GuestMemory } from '../virtio/memory.ts';
import type { CompletedChain, DescriptorPlan, DriverRequest } from './driver-request.ts';
import type { BufferPlace, DriverVirtqueue } from './driver-virtqueue.ts';
import { hex } from '../base/check.ts';
import { Descriptor, DescriptorFlag, needEvent, Ring, RingEntry, RingFlag } from '../virtio/ring-layout.ts';
import { BufferArea } from './buffer-area.ts';
import { planDescriptors } from './driver-request.ts';
import { DriverRing, ringBytes } from './driver-ring.ts';

export type { CompletedChain, DriverRequest } from './driver-request.ts';
export type { RawDescriptor } from './driver-ring.ts';

/** Where a queue lies and how it behaves. */
export interface DriverQueueInit {
  /** Entries, a power of two. */
  readonly size: number;
  /** Guest-physical address, a multiple of 4096, of {@link DriverQueue.byteLength} bytes of RAM. */
  readonly base: bigint;
  /** Bytes for the buffers and indirect tables of add(); default 64 KiB + 256 per entry. */
  readonly bufferBytes?: number;
  /** VIRTIO_F_EVENT_IDX was negotiated. Default false. */
  readonly eventIdx?: boolean;
  /** How addFast frames a request: one ring entry with an indirect table (default), or two direct descriptors. */
  readonly fastFraming?: 'indirect' | 'direct';
}

/** Longest readable and writable part of addFast, in bytes. */
export const FAST_READABLE_BYTES = 96;
export const FAST_WRITABLE_BYTES = 32;

const FAST_TABLE_BYTES = 2 * Descriptor.SIZE;
const FAST_SLOT_BYTES = FAST_TABLE_BYTES + FAST_READABLE_BYTES + FAST_WRITABLE_BYTES;
const FAST_PREFILL = new Uint8Array(FAST_WRITABLE_BYTES).fill(0xa5);

interface Placed extends DescriptorPlan {
  readonly addr: number;
}

interface Outstanding {
  readonly direct: readonly number[];
  readonly placed: readonly Placed[];
  readonly table: { addr: number; bytes: number } | undefined;
}

/** States of a head on the fast path. */
const Slot = { idle: 0, formatted: 1, busy: 2 } as const;

/** Driver side of one split ring. */
export class DriverQueue extends DriverRing implements DriverVirtqueue {
  readonly #eventIdx: boolean;
  readonly #direct: boolean;
  readonly #area: BufferArea;
  readonly #slotsAt: number;
  readonly #free: Uint16Array;
  #freeCount = 0;
  readonly #outstanding = new Map<number, Outstanding>();
  /** Per head: whether its ring descriptor is formatted for the fast path, and the lengths that its table holds. */
  readonly #slot: Uint8Array;
  readonly #slotReadable: Uint16Array;
  readonly #slotWritable: Uint16Array;
  readonly #second: Uint16Array;
  readonly #entry = new Uint8Array(RingEntry.usedSize);
  readonly #entry32 = new Uint32Array(this.#entry.buffer);
  #staged = 0;
  #published = 0;
  #kicked = 0;
  #collected = 0;
  #usedLength = 0;

  /** @throws RangeError naming `size`, `base` or `bufferBytes`, also when there is not enough RAM at `base`. */
  constructor(memory: GuestMemory, init: DriverQueueInit) {
    super(memory, init.size, init.base);
    const { size, base, bufferBytes = defaultBufferBytes(size) } = init;
    if (!memory.isWritableRam(Number(base), DriverQueue.byteLength(size, bufferBytes))) {
      throw new RangeError(
        `base ${hex(base)} must have ${DriverQueue.byteLength(size, bufferBytes)} bytes of RAM (see bufferBytes)`,
      );
    }
    this.#eventIdx = init.eventIdx ?? false;
    this.#direct = init.fastFraming === 'direct';
    this.#slotsAt = this.descAt + ringBytes(size);
    this.#area = new BufferArea(this.#slotsAt + size * FAST_SLOT_BYTES, bufferBytes);
    this.#free = new Uint16Array(size);
    this.#slot = new Uint8Array(size);
    this.#slotReadable = new Uint16Array(size);
    this.#slotWritable = new Uint16Array(size);
    this.#second = new Uint16Array(size);
    this.reset();
  }

  /** Bytes of RAM that a queue takes from its `base` on. */
  static byteLength(size: number, bufferBytes = defaultBufferBytes(size)): number {
    return ringBytes(size) + size * FAST_SLOT_BYTES + bufferBytes;
  }

  /** Descriptors of the ring's table that no chain uses. */
  get freeSlots(): number {
    return this.#freeCount;
  }

  /** Chains added and not collected yet. */
  get outstanding(): number {
    let busy = this.#outstanding.size;
    for (const slot of this.#slot) if (slot === Slot.busy) busy++;
    return busy;
  }

  /** Zeroes the ring and forgets all chains, as a driver does before it sets the queue up again. */
  reset(): void {
    this.clearRing();
    this.#area.clear();
    this.#outstanding.clear();
    this.#slot.fill(Slot.idle);
    this.#freeCount = this.size;
    for (let i = 0; i < this.size; i++) this.#free[i] = this.size - 1 - i;
    this.#staged = this.#published = this.#kicked = this.#collected = 0;
  }

  /**
   * Builds a chain and returns its head; not available until {@link DriverQueue.makeAvailable}. Each descriptor has a
   * buffer of its own, never adjacent to the next one's data unless its length is a multiple of 16.
   * @throws Error when there are no free descriptors or buffer bytes (nothing changed), RangeError for a wrong layout.
   */
  add(request: DriverRequest): number {
    const plans = planDescriptors(request);
    const { indirect = false } = request;
    const directCount = indirect === false ? plans.length : indirect === 'tail' && plans.length > 1 ? 1 : 0;
    const inTable = plans.length - directCount;
    const ringCount = directCount + (inTable > 0 ? 1 : 0);
    if (ringCount > this.#freeCount) throw new Error(`no ${ringCount} free descriptors, ${this.#freeCount} left`);
    const { placed, table } = this.#place(plans, inTable * Descriptor.SIZE);
    const direct: number[] = [];
    for (let i = 0; i < ringCount; i++) direct.push(this.#takeDescriptor());
    direct.forEach((index, i) => {
      this.#slot[index] = Slot.idle;
      const at = this.descAt + index * Descriptor.SIZE;
      if (table !== undefined && i === ringCount - 1) {
        const write = request.indirectTableWriteFlag === true ? DescriptorFlag.write : 0;
        this.putDescriptor(at, table.addr, table.bytes, DescriptorFlag.indirect | write, 0);
      } else {
        this.#putBuffer(at, placed[i]!, direct[i + 1]);
      }
    });
    for (let i = 0; i < inTable; i++) {
      const next = i + 1 < inTable ? i + 1 : undefined;
      this.#putBuffer(table!.addr + i * Descriptor.SIZE, placed[directCount + i]!, next);
    }
    const head = direct[0]!;
    this.#outstanding.set(head, { direct, placed, table });
    return head;
  }

  /** Puts heads into the available ring in this order and makes them visible in one store. */
  makeAvailable(...heads: number[]): void {
    for (const head of heads) this.#stage(head);
    this.publish();
  }

  /** Makes the heads of {@link DriverQueue.addFast} visible in one store. */
  publish(): void {
    this.#published = this.#staged;
    this.setAvailIndex(this.#published);
  }

  /**
   * True when the device wants a kick for what was published since the last call [2.7.10, 2.7.13.4]: used.flags, or
   * avail_event with EVENT_IDX. False when nothing was published since.
   */
  shouldKick(): boolean {
    const from = this.#kicked;
    const to = this.#published;
    this.#kicked = to;
    if (from === to) return false;
    return this.#eventIdx ? needEvent(this.availEvent, to, from) : (this.usedFlags & RingFlag.noNotify) === 0;
  }

  /** With EVENT_IDX: asks for an interrupt at the next used entry that is not collected yet; else clears NO_INTERRUPT. */
  armInterrupt(): void {
    if (this.#eventIdx) this.setUsedEvent(this.#collected);
    else this.setAvailFlags(0);
  }

  /**
   * Collects completed chains in used order and frees them; with EVENT_IDX it arms the next interrupt. The readable part
   * of a chain of addFast is not compared (`readableUnchanged` is true).
   * @throws Error when the device broke the used ring: unknown head, or more entries than chains.
   */
  poll(): CompletedChain[] {
    const completed: CompletedChain[] = [];
    for (let head = this.#take(); head >= 0; head = this.#take()) {
      completed.push(this.#slot[head] === Slot.busy ? this.#finishFast(head) : this.#finish(head));
    }
    if (this.#eventIdx) this.armInterrupt();
    return completed;
  }

  /**
   * Builds a chain of `readable[0..readableLength)` and `writableLength` bytes (prefilled with 0xa5), stages it in the
   * available ring and returns its head; -1 when no descriptor is free. Visible after {@link DriverQueue.publish}.
   * @throws RangeError when a length is 0 or above {@link FAST_READABLE_BYTES} or {@link FAST_WRITABLE_BYTES}.
   */
  addFast(readable: Uint8Array, readableLength: number, writableLength: number): number {
    if (!(readableLength > 0 && readableLength <= FAST_READABLE_BYTES))
      throw new RangeError('readableLength out of range');
    if (!(writableLength > 0 && writableLength <= FAST_WRITABLE_BYTES))
      throw new RangeError('writableLength out of range');
    if (this.#freeCount < (this.#direct ? 2 : 1)) return -1;
    const head = this.#takeDescriptor();
    const slotAt = this.#slotsAt + head * FAST_SLOT_BYTES;
    const readableAt = slotAt + FAST_TABLE_BYTES;
    const writableAt = readableAt + FAST_READABLE_BYTES;
    if (this.#direct) this.#second[head] = this.#takeDescriptor();
    this.#formatSlot(head, slotAt, readableLength, writableLength);
    this.memory.write(readableAt, readable, 0, readableLength);
    this.memory.write(writableAt, FAST_PREFILL, 0, writableLength);
    this.#slot[head] = Slot.busy;
    this.#stage(head);
    return head;
  }

  /**
   * Collects the next completed chain of addFast and frees it: its head, -1 when there is none. Its writable part stays
   * readable through {@link DriverQueue.statusByte} until the next addFast.
   * @throws Error when the device broke the used ring, or when the chain came from add().
   */
  next(): number {
    const head = this.#take();
    if (head < 0) return -1;
    if (this.#slot[head] !== Slot.busy) throw new Error(`head ${head} is not from addFast, collect it with poll`);
    this.#freeFast(head);
    return head;
  }

  /** True when the device has used a chain that is not collected yet. */
  get hasUsed(): boolean {
    return this.usedIndex !== this.#collected;
  }

  /** Length of the used entry that {@link DriverQueue.next} returned last. */
  get usedLength(): number {
    return this.#usedLength;
  }

  /** Byte at `offset` of the writable part of an addFast chain; valid after next() until the next addFast. */
  statusByte(head: number, offset: number): number {
    const at = this.#slotsAt + head * FAST_SLOT_BYTES + FAST_TABLE_BYTES + FAST_READABLE_BYTES + offset;
    this.memory.read(at, this.#entry, 0, 1);
    return this.#entry[0]!;
  }

  /** Ring descriptors of an outstanding chain of add(), in chain order. */
  descriptorsOf(head: number): readonly number[] {
    return this.#outstandingOf(head).direct;
  }

  /** Guest-physical address of the indirect table of an outstanding chain of add(), undefined when it has none. */
  tableOf(head: number): bigint | undefined {
    const table = this.#outstandingOf(head).table;
    return table === undefined ? undefined : BigInt(table.addr);
  }

  /** Buffers of an outstanding chain of add(), in chain order. */
  buffersOf(head: number): readonly BufferPlace[] {
    const { placed } = this.#outstandingOf(head);
    return placed.map(({ addr, bytes, writable }) => ({ gpa: addr, bytes: bytes.length, writable }));
  }

  #outstandingOf(head: number): Outstanding {
    const entry = this.#outstanding.get(head);
    if (entry === undefined) throw new RangeError(`head ${head} is not outstanding`);
    return entry;
  }

  /** Next used head, -1 when none; leaves the entry's length in #usedLength. */
  #take(): number {
    const waiting = (this.usedIndex - this.#collected) & 0xffff;
    if (waiting === 0) return -1;
    if (waiting > this.size) throw new Error(`used index is ${waiting} ahead of a queue of ${this.size}`);
    const position = this.#collected & (this.size - 1);
    this.memory.read(this.usedAt + Ring.entries + position * RingEntry.usedSize, this.#entry, 0, RingEntry.usedSize);
    const head = this.#entry32[0]!;
    if (this.#slot[head] !== Slot.busy && !this.#outstanding.has(head)) {
      throw new Error(`used ring names head ${head}, which is not outstanding`);
    }
    this.#usedLength = this.#entry32[1]!;
    this.#collected = (this.#collected + 1) & 0xffff;
    return head;
  }

  #finish(head: number): CompletedChain {
    const { direct, placed, table } = this.#outstandingOf(head);
    const now = placed.map((buffer) => {
      const bytes = new Uint8Array(buffer.bytes.length);
      this.readBytes(buffer.addr, bytes);
      return bytes;
    });
    const readableUnchanged = placed.every((buffer, i) => buffer.writable || sameBytes(buffer.bytes, now[i]!));
    const writable = joined(now.filter((_, i) => placed[i]!.writable));
    for (const buffer of placed) this.#area.release(buffer.addr, buffer.bytes.length);
    if (table !== undefined) this.#area.release(table.addr, table.bytes);
    for (const index of direct) this.#free[this.#freeCount++] = index;
    this.#outstanding.delete(head);
    return { head, usedLength: this.#usedLength, writable, readableUnchanged };
  }

  #finishFast(head: number): CompletedChain {
    const writable = Uint8Array.from({ length: this.#slotWritable[head]! }, (_, i) => this.statusByte(head, i));
    this.#freeFast(head);
    return { head, usedLength: this.#usedLength, writable, readableUnchanged: true };
  }

  #freeFast(head: number): void {
    if (this.#direct) this.#free[this.#freeCount++] = this.#second[head]!;
    this.#slot[head] = Slot.formatted;
    this.#free[this.#freeCount++] = head;
  }

  /** Writes the descriptors of a fast chain; a table that is still there from the last use is kept as it is. */
  #formatSlot(head: number, slotAt: number, readableLength: number, writableLength: number): void {
    const same = this.#slotReadable[head] === readableLength && this.#slotWritable[head] === writableLength;
    if (!this.#direct && this.#slot[head] === Slot.formatted && same) return;
    this.#slotReadable[head] = readableLength;
    this.#slotWritable[head] = writableLength;
    const ringAt = this.descAt + head * Descriptor.SIZE;
    const readableAt = slotAt + FAST_TABLE_BYTES;
    const writableAt = readableAt + FAST_READABLE_BYTES;
    if (this.#direct) {
      const second = this.#second[head]!;
      this.putDescriptor(ringAt, readableAt, readableLength, DescriptorFlag.next, second);
      const secondAt = this.descAt + second * Descriptor.SIZE;
      this.putDescriptor(secondAt, writableAt, writableLength, DescriptorFlag.write, 0);
    } else {
      this.putDescriptor(ringAt, slotAt, FAST_TABLE_BYTES, DescriptorFlag.indirect, 0);
      this.putDescriptor(slotAt, readableAt, readableLength, DescriptorFlag.next, 1);
      this.putDescriptor(slotAt + Descriptor.SIZE, writableAt, writableLength, DescriptorFlag.write, 0);
    }
  }

  #stage(head: number): void {
    this.setAvailEntry(this.#staged & (this.size - 1), head);
    this.#staged = (this.#staged + 1) & 0xffff;
  }

  #takeDescriptor(): number {
    return this.#free[--this.#freeCount]!;
  }

  #putBuffer(at: number, buffer: Placed, next: number | undefined): void {
    const flags = (next === undefined ? 0 : DescriptorFlag.next) | (buffer.writable ? DescriptorFlag.write : 0);
    this.putDescriptor(at, buffer.addr, buffer.bytes.length, flags, next ?? 0);
  }

  #place(plans: readonly DescriptorPlan[], tableBytes: number): Pick<Outstanding, 'placed' | 'table'> {
    const placed = plans.map((plan): Placed => ({ ...plan, addr: this.#area.take(plan.bytes.length) }));
    const table = tableBytes === 0 ? undefined : { addr: this.#area.take(tableBytes), bytes: tableBytes };
    if (placed.some((buffer) => buffer.addr < 0) || (table !== undefined && table.addr < 0)) {
      for (const buffer of placed) if (buffer.addr >= 0) this.#area.release(buffer.addr, buffer.bytes.length);
      if (table !== undefined && table.addr >= 0) this.#area.release(table.addr, tableBytes);
      throw new Error('no room for the buffers of this chain, give the queue more bufferBytes');
    }
    for (const buffer of placed) this.writeBytes(buffer.addr, buffer.bytes);
    return { placed, table };
  }
}

function defaultBufferBytes(size: number): number {
  return 65536 + size * 256;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
