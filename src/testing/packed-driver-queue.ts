// Driver side of a packed virtqueue laid out in guest memory: builds chains in any framing, publishes and collects them.
// Not here: raw writes (packed-driver-ring.ts), how a request is cut (driver-request.ts). A chain is named by its buffer id
// and takes its places in the ring when it is made available. A place is a position and a wrap counter.
import type { GuestMemory } from '../virtio/memory.ts';
import type { BufferPlace, DriverVirtqueue } from './driver-virtqueue.ts';
import type { CompletedChain, DescriptorPlan, DriverRequest } from './driver-request.ts';
import { hex } from '../base/check.ts';
import {
  availableBits,
  EVENT_WRAP_BIT,
  EventFlag,
  isUsed,
  PackedDescriptor,
  PackedFlag,
  packedNeedEvent,
} from '../virtio/packed-layout.ts';
import { BufferArea } from './buffer-area.ts';
import { planDescriptors } from './driver-request.ts';
import { PackedDriverRing, packedRingBytes } from './packed-driver-ring.ts';

export type { RawPackedDescriptor } from './packed-driver-ring.ts';

/** Where a packed queue lies and how it behaves. */
export interface PackedDriverQueueInit {
  /** Descriptors, 1 to 32768; need not be a power of two. */
  readonly size: number;
  /** Guest-physical address, a multiple of 4096, of {@link PackedDriverQueue.byteLength} bytes of RAM. */
  readonly base: bigint;
  /** Bytes for the buffers and indirect tables; default 64 KiB + 256 per descriptor. */
  readonly bufferBytes?: number;
  /** VIRTIO_F_EVENT_IDX was negotiated. Default false. */
  readonly eventIdx?: boolean;
}

interface Placed extends DescriptorPlan {
  readonly addr: number;
}

interface Outstanding {
  /** Buffers that stand in the ring itself; those behind them are in the table. */
  readonly direct: number;
  readonly placed: readonly Placed[];
  readonly table: { readonly addr: number; readonly bytes: number } | undefined;
  readonly tableFlags: number;
  /** Descriptors of the ring, in chain order; empty until the chain is made available. */
  positions: readonly number[];
}

/** Driver side of one packed ring. */
export class PackedDriverQueue extends PackedDriverRing implements DriverVirtqueue {
  readonly #eventIdx: boolean;
  readonly #area: BufferArea;
  readonly #outstanding = new Map<number, Outstanding>();
  #freeIds: number[] = [];
  #freeCount = 0;
  #position = 0;
  #wrap = 1;
  #usedPosition = 0;
  #usedWrap = 1;
  /** Places published since shouldKick() was last asked, and where they begin. */
  #unkicked = 0;
  #kickPosition = 0;
  #kickWrap = 1;

  /** @throws RangeError naming `size`, `base` or `bufferBytes`, also when there is not enough RAM at `base`. */
  constructor(memory: GuestMemory, init: PackedDriverQueueInit) {
    super(memory, init.size, init.base);
    const { size, base, bufferBytes = defaultBufferBytes(size) } = init;
    const bytes = PackedDriverQueue.byteLength(size, bufferBytes);
    if (!memory.isWritableRam(Number(base), bytes)) {
      throw new RangeError(`base ${hex(base)} must have ${bytes} bytes of RAM (see bufferBytes)`);
    }
    this.#eventIdx = init.eventIdx ?? false;
    this.#area = new BufferArea(this.ringAt + packedRingBytes(size), bufferBytes);
    this.reset();
  }

  /** Bytes of RAM that a queue takes from its `base` on. */
  static byteLength(size: number, bufferBytes = defaultBufferBytes(size)): number {
    return packedRingBytes(size) + bufferBytes;
  }

  get freeSlots(): number {
    return this.#freeCount;
  }

  /** Chains added and not collected yet. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  reset(): void {
    this.clearRing();
    this.#area.clear();
    this.#outstanding.clear();
    this.#freeIds = Array.from({ length: this.size }, (_, i) => this.size - 1 - i);
    this.#freeCount = this.size;
    this.#position = this.#usedPosition = this.#kickPosition = 0;
    this.#wrap = this.#usedWrap = this.#kickWrap = 1;
    this.#unkicked = 0;
  }

  /**
   * Builds a chain and returns its buffer id; not in the ring until {@link PackedDriverQueue.makeAvailable}.
   * @throws Error when there are no free descriptors or buffer bytes (nothing changed), RangeError for a wrong layout.
   */
  add(request: DriverRequest): number {
    const plans = planDescriptors(request);
    const { indirect = false } = request;
    const direct = indirect === false ? plans.length : indirect === 'tail' && plans.length > 1 ? 1 : 0;
    const inTable = plans.length - direct;
    const count = direct + (inTable > 0 ? 1 : 0);
    if (count > this.#freeCount) throw new Error(`no ${count} free descriptors, ${this.#freeCount} left`);
    const buffers = this.#place(plans, inTable * PackedDescriptor.SIZE);
    const write = request.indirectTableWriteFlag === true ? PackedFlag.write : 0;
    const chain = { ...buffers, direct, tableFlags: PackedFlag.indirect | write, positions: [] };
    // [2.8.7] descriptors of a table follow each other without NEXT, and only WRITE counts.
    buffers.placed.slice(direct).forEach((buffer, i) => {
      const gpa = BigInt(buffers.table!.addr + i * PackedDescriptor.SIZE);
      this.writeDescriptorAt(gpa, { ...ofBuffer(buffer), id: 0 });
    });
    const id = this.#freeIds.pop()!;
    this.#freeCount -= count;
    this.#outstanding.set(id, chain);
    return id;
  }

  /** Puts chains into the ring in this order; the flags of the very first descriptor come last and show all of them. */
  makeAvailable(...heads: number[]): void {
    const first = this.#position;
    let firstFlags = -1;
    for (const id of heads) {
      const chain = this.#outstandingOf(id);
      const positions: number[] = [];
      const last = chain.direct - (chain.table === undefined ? 1 : 0);
      for (let i = 0; i <= last; i++) {
        const { addr, len, flags } =
          i < chain.direct ? ofBuffer(chain.placed[i]!) : { ...ofTable(chain.table!), flags: chain.tableFlags };
        const shown = flags | (i < last ? PackedFlag.next : 0) | availableBits(this.#wrap);
        const deferred = firstFlags < 0;
        if (deferred) firstFlags = shown;
        const position = this.#position;
        this.writeDescriptor(position, { addr, len, id, flags: deferred ? this.flagsAt(position) : shown });
        positions.push(position);
        this.#advance();
      }
      chain.positions = positions;
    }
    if (firstFlags >= 0) this.setFlagsAt(first, firstFlags);
  }

  /** [2.8.10] as the device's event suppression says; with EVENT_IDX it may name one place. */
  shouldKick(): boolean {
    const count = this.#unkicked;
    const [position, wrap] = [this.#kickPosition, this.#kickWrap];
    this.#unkicked = 0;
    this.#kickPosition = this.#position;
    this.#kickWrap = this.#wrap;
    if (count === 0) return false;
    const { offWrap, flags } = this.deviceEvent;
    if ((flags & EventFlag.MASK) !== EventFlag.desc || !this.#eventIdx) {
      return (flags & EventFlag.MASK) !== EventFlag.disable;
    }
    return count >= this.size || packedNeedEvent(offWrap, position, wrap, count, this.size);
  }

  armInterrupt(): void {
    const offWrap = this.#usedPosition | (this.#usedWrap === 0 ? 0 : EVENT_WRAP_BIT);
    if (this.#eventIdx) this.setDriverEvent(offWrap, EventFlag.desc);
    else this.setDriverEvent(0, EventFlag.enable);
  }

  /**
   * Collects completed chains in the order of their use and frees them; with EVENT_IDX it arms the next interrupt.
   * @throws Error when the device broke the ring: a used descriptor that names no outstanding chain.
   */
  poll(): CompletedChain[] {
    const completed: CompletedChain[] = [];
    while (isUsed(this.flagsAt(this.#usedPosition), this.#usedWrap)) {
      const { id, len, flags } = this.readDescriptor(this.#usedPosition);
      const chain = this.#outstanding.get(id);
      if (chain === undefined || chain.positions.length === 0) {
        throw new Error(`a used descriptor names id ${id}, which is not outstanding`);
      }
      this.#usedPosition += chain.positions.length;
      if (this.#usedPosition >= this.size) {
        this.#usedPosition -= this.size;
        this.#usedWrap ^= 1;
      }
      // [2.8.4] without WRITE the length means nothing.
      completed.push(this.#finish(id, chain, (flags & PackedFlag.write) === 0 ? 0 : len));
    }
    if (this.#eventIdx) this.armInterrupt();
    return completed;
  }

  buffersOf(head: number): readonly BufferPlace[] {
    const { placed } = this.#outstandingOf(head);
    return placed.map(({ addr, bytes, writable }) => ({ gpa: addr, bytes: bytes.length, writable }));
  }

  /** Positions in the ring of an outstanding chain, in chain order; empty before it is made available. */
  descriptorsOf(head: number): readonly number[] {
    return this.#outstandingOf(head).positions;
  }

  /** Guest-physical address of the indirect table of an outstanding chain, undefined when it has none. */
  tableOf(head: number): bigint | undefined {
    const { table } = this.#outstandingOf(head);
    return table === undefined ? undefined : BigInt(table.addr);
  }

  #outstandingOf(id: number): Outstanding {
    const chain = this.#outstanding.get(id);
    if (chain === undefined) throw new RangeError(`id ${id} is not outstanding`);
    return chain;
  }

  #advance(): void {
    this.#unkicked++;
    if (++this.#position < this.size) return;
    this.#position = 0;
    this.#wrap ^= 1;
  }

  #finish(id: number, { placed, table, positions }: Outstanding, usedLength: number): CompletedChain {
    const now = placed.map((buffer) => {
      const bytes = new Uint8Array(buffer.bytes.length);
      this.readBytes(buffer.addr, bytes);
      return bytes;
    });
    const readableUnchanged = placed.every(
      ({ writable, bytes }, i) => writable || bytes.every((byte, k) => byte === now[i]![k]),
    );
    const writable = Uint8Array.from(now.filter((_, i) => placed[i]!.writable).flatMap((bytes) => [...bytes]));
    for (const buffer of placed) this.#area.release(buffer.addr, buffer.bytes.length);
    if (table !== undefined) this.#area.release(table.addr, table.bytes);
    this.#outstanding.delete(id);
    this.#freeIds.push(id);
    this.#freeCount += positions.length;
    return { head: id, usedLength, writable, readableUnchanged };
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

function ofBuffer({ addr, bytes, writable }: Placed): { addr: bigint; len: number; flags: number } {
  return { addr: BigInt(addr), len: bytes.length, flags: writable ? PackedFlag.write : 0 };
}

function ofTable({ addr, bytes }: { readonly addr: number; readonly bytes: number }): { addr: bigint; len: number } {
  return { addr: BigInt(addr), len: bytes };
}

function defaultBufferBytes(size: number): number {
  return 65536 + size * 256;
}
