// Device side of one packed virtqueue [2.8]: one ring that carries available descriptors in and used descriptors out,
// and the two event suppression structures. Not here: what a list may look like (packed-walk.ts), when a queue may run
// (device.ts). VIRTIO_F_IN_ORDER is not offered, so every buffer has a used descriptor of its own.
// A place in the ring is a position and a wrap counter; areas are guest-physical byte addresses. The flags of a list's
// first descriptor are accessed by Atomics: what stands behind them is in memory before they are.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import type { QueueSetup, RingFeatures } from './split-queue.ts';
import type { Virtqueue } from './virtqueue.ts';
import { U32_MAX } from '../base/check.ts';
import {
  EVENT_WRAP_BIT,
  EventFlag,
  EventSuppress,
  isAvailable,
  MAX_PACKED_SIZE,
  PackedAlign,
  PackedDescriptor,
  PackedFlag,
  packedNeedEvent,
  usedBits,
} from './packed-layout.ts';
import { PackedWalker } from './packed-walk.ts';
import { isQueueSize } from './ring-layout.ts';
import { PopResult } from './virtqueue.ts';

/** A packed virtqueue. States: idle (after construction and reset), started, started and broken. */
export class PackedQueue implements Virtqueue {
  readonly index: number;
  readonly maxSize: number;
  readonly #memory: RingMemory;
  readonly #walker: PackedWalker;
  /** Ring descriptors of the chain in flight per buffer id; 0: not in flight. */
  readonly #taken: Uint16Array;
  /** Ring descriptors of all chains popped and not pushed. */
  #takenTotal = 0;
  #size: number;
  #ring = 0;
  #driverEvent = 0;
  #deviceEvent = 0;
  #indirect = false;
  #eventIdx = false;
  #ready = false;
  #broken = false;
  #deviceFlags = -1;
  #position = 0;
  #wrap = 1;
  #usedPosition = 0;
  #usedWrap = 1;
  /** Used descriptors written whose first one has no flags yet: places they span, where they begin, and those flags. */
  #staged = 0;
  #stagedPosition = 0;
  #stagedWrap = 1;
  #stagedFlags = 0;

  /** Makes an idle queue number `index` of at most `maxSize` entries (a power of two) in `memory`. */
  constructor(index: number, maxSize: number, memory: RingMemory) {
    if (!isQueueSize(maxSize, maxSize))
      throw new RangeError(`maxSize must be a power of two in [1, 32768], got ${maxSize}`);
    this.index = index;
    this.maxSize = maxSize;
    this.#size = maxSize;
    this.#memory = memory;
    this.#walker = new PackedWalker(memory);
    this.#taken = new Uint16Array(maxSize);
  }

  get size(): number {
    return this.#size;
  }

  get ready(): boolean {
    return this.#ready;
  }

  /** True when the ring was found damaged; only {@link PackedQueue.reset} ends it. */
  get broken(): boolean {
    return this.#broken;
  }

  /**
   * Starts the queue at position 0 with both wrap counters 1. `desc` is the descriptor ring, `avail` the driver's and `used`
   * the device's event suppression. [2.8.10.1] the size need not be a power of two. Values that cannot work (size 0 or above
   * `maxSize`, an area misaligned or outside RAM) make a broken queue, never an exception.
   */
  start(setup: QueueSetup, features: RingFeatures): void {
    this.reset();
    this.#ready = true;
    this.#indirect = features.indirect;
    this.#eventIdx = features.eventIdx;
    const { size } = setup;
    this.#broken = !(Number.isInteger(size) && size >= 1 && size <= this.maxSize && size <= MAX_PACKED_SIZE);
    if (this.#broken) return;
    this.#size = size;
    this.#ring = Number(setup.desc);
    this.#driverEvent = Number(setup.avail);
    this.#deviceEvent = Number(setup.used);
    this.#broken = !this.#areasUsable();
  }

  /** Forgets everything: setup, position, chains in flight. Nothing is written to guest memory. */
  reset(): void {
    this.#ready = false;
    this.#broken = false;
    this.#deviceFlags = -1;
    this.#size = this.maxSize;
    this.#taken.fill(0);
    this.#takenTotal = 0;
    this.#position = 0;
    this.#wrap = 1;
    this.#usedPosition = 0;
    this.#usedWrap = 1;
    this.#staged = 0;
  }

  pop(chain: DescriptorChain): number {
    if (!this.#ready) return PopResult.empty;
    if (this.#broken) return PopResult.broken;
    const flags = this.#memory.loadU16(this.#ring + this.#position * PackedDescriptor.SIZE + PackedDescriptor.flags);
    if (flags < 0) return this.#break();
    if (!isAvailable(flags, this.#wrap)) return PopResult.empty;
    // [2.8.15] places in flight, or used and not told yet, are not the driver's to fill: more than the ring has is damage.
    const room = this.#size - this.#takenTotal - this.#staged;
    const walker = this.#walker;
    const count =
      room <= 0
        ? 0
        : walker.walk(chain, this.#ring, this.#size, this.#position, this.#wrap, flags, room, this.#indirect);
    if (count === 0) return this.#break();
    // A ring of n descriptors holds n buffers at most: ids lie below n, and none is in flight twice.
    const { id } = walker;
    if (id >= this.#size || this.#taken[id] !== 0) return this.#break();
    chain.head = id;
    this.#taken[id] = count;
    this.#takenTotal += count;
    this.#position += count;
    if (this.#position >= this.#size) {
      this.#position -= this.#size;
      this.#wrap ^= 1;
    }
    return PopResult.chain;
  }

  /** As {@link Virtqueue.available}; looks at the flags of the ring, at most once per descriptor. */
  available(): number {
    if (!this.#ready) return 0;
    if (this.#broken) return this.#size + 1;
    let chains = 0;
    let position = this.#position;
    let wrap = this.#wrap;
    let first = true;
    for (let seen = 0; seen < this.#size; seen++) {
      const flags = this.#memory.loadU16(this.#ring + position * PackedDescriptor.SIZE + PackedDescriptor.flags);
      if (flags < 0) return this.#size + 1;
      if (!isAvailable(flags, wrap)) break;
      if (first) chains++;
      first = (flags & PackedFlag.next) === 0;
      if (++position === this.#size) {
        position = 0;
        wrap ^= 1;
      }
    }
    return chains;
  }

  push(head: number, length: number): void {
    const count = this.#taken[head] ?? 0;
    if (count === 0) return;
    this.#taken[head] = 0;
    this.#takenTotal -= count;
    const at = this.#ring + this.#usedPosition * PackedDescriptor.SIZE;
    // [2.8.3, 2.8.4] in a used descriptor WRITE says that data was written, and only then the length counts.
    const flags = usedBits(this.#usedWrap) | (length > 0 ? PackedFlag.write : 0);
    const bytes = Math.min(length, U32_MAX);
    const written =
      this.#staged === 0
        ? this.#stageFirst(at, head, bytes, flags)
        : this.#memory.writeWords2(at + PackedDescriptor.len, bytes, (head | (flags << 16)) >>> 0);
    if (!written) {
      this.#broken = true;
      return;
    }
    this.#staged += count;
    this.#usedPosition += count;
    if (this.#usedPosition >= this.#size) {
      this.#usedPosition -= this.#size;
      this.#usedWrap ^= 1;
    }
  }

  publish(): boolean {
    const count = this.#staged;
    if (count === 0) return false;
    this.#staged = 0;
    const at = this.#ring + this.#stagedPosition * PackedDescriptor.SIZE;
    // D-RING-8: never touched again after this store: the next place written lies behind it.
    if (!this.#memory.storeU16(at + PackedDescriptor.flags, this.#stagedFlags)) {
      this.#broken = true;
      return false;
    }
    // The store above is sequentially consistent, so a driver that set its wish before it looked at the ring is seen here.
    const flags = this.#memory.loadU16(this.#driverEvent + EventSuppress.flags) & EventFlag.MASK;
    if (flags === EventFlag.disable) return false;
    // The reserved value 3, and `desc` without its feature, ask for nothing known: a notification too many does no harm.
    if (flags !== EventFlag.desc || !this.#eventIdx) return true;
    const event = this.#memory.loadU16(this.#driverEvent + EventSuppress.offWrap);
    return packedNeedEvent(event & 0xffff, this.#stagedPosition, this.#stagedWrap, count, this.#size);
  }

  armNotification(): boolean {
    if (!this.#ready || this.#broken) return false;
    if (this.#eventIdx) {
      const offWrap = this.#position | (this.#wrap === 0 ? 0 : EVENT_WRAP_BIT);
      this.#store(this.#deviceEvent + EventSuppress.offWrap, offWrap);
      this.#writeFlags(EventFlag.desc);
    } else {
      this.#writeFlags(EventFlag.enable);
    }
    const flags = this.#memory.loadU16(this.#ring + this.#position * PackedDescriptor.SIZE + PackedDescriptor.flags);
    return flags < 0 || isAvailable(flags, this.#wrap);
  }

  /** Tells the driver that no kicks are needed for now. */
  suppressNotification(): void {
    if (this.#ready && !this.#broken) this.#writeFlags(EventFlag.disable);
  }

  /** All of a batch's first used descriptor but its flags, whose store makes the batch visible. */
  #stageFirst(at: number, head: number, bytes: number, flags: number): boolean {
    this.#stagedPosition = this.#usedPosition;
    this.#stagedWrap = this.#usedWrap;
    this.#stagedFlags = flags;
    return (
      this.#memory.writeWord(at + PackedDescriptor.len, bytes) && this.#memory.storeU16(at + PackedDescriptor.id, head)
    );
  }

  #writeFlags(flags: number): void {
    if (this.#deviceFlags === flags) return;
    this.#deviceFlags = flags;
    this.#store(this.#deviceEvent + EventSuppress.flags, flags);
  }

  #store(gpa: number, value: number): void {
    if (!this.#memory.storeU16(gpa, value)) this.#broken = true;
  }

  #break(): number {
    this.#broken = true;
    return PopResult.broken;
  }

  #areasUsable(): boolean {
    return (
      this.#ring % PackedAlign.ring === 0 &&
      this.#driverEvent % PackedAlign.event === 0 &&
      this.#deviceEvent % PackedAlign.event === 0 &&
      this.#memory.isWritableRam(this.#ring, this.#size * PackedDescriptor.SIZE) &&
      this.#memory.isRam(this.#driverEvent, EventSuppress.SIZE) &&
      this.#memory.isWritableRam(this.#deviceEvent, EventSuppress.SIZE)
    );
  }
}
