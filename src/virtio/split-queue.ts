// Device side of one split virtqueue [2.7]: available ring in, used ring out, notification suppression both ways.
// Not here: what a descriptor chain may look like (split-walk.ts), when a queue may run (device.ts).
// Ring indices count modulo 2^16; areas are guest-physical byte addresses. The index words are accessed by Atomics, so an
// entry is always in memory before the index that covers it.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import type { Virtqueue } from './virtqueue.ts';
import { U32_MAX } from '../base/check.ts';
import { isQueueSize, needEvent, Ring, RingAlign, RingEntry, RingFlag, Descriptor } from './ring-layout.ts';
import { SplitWalker } from './split-walk.ts';
import { PopResult } from './virtqueue.ts';

/** What the driver wrote about a queue; nothing of it is trusted. */
export interface QueueSetup {
  /** Entries. */
  readonly size: number;
  /** Guest-physical addresses of descriptor table, available ring (driver area) and used ring (device area). */
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
}

/** Ring features that were negotiated. */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

/** A split virtqueue. States: idle (after construction and reset), started, started and broken. */
export class SplitQueue implements Virtqueue {
  readonly index: number;
  readonly maxSize: number;
  readonly #memory: RingMemory;
  readonly #walker: SplitWalker;
  /** Chains in flight per head: popped and not pushed. A driver that offers one head twice gets it back twice. */
  readonly #inFlight: Uint16Array;
  #inFlightTotal = 0;
  #size: number;
  #desc = 0;
  #avail = 0;
  #used = 0;
  #indirect = false;
  #eventIdx = false;
  #ready = false;
  #broken = false;
  #flagsWritten = false;
  #nextAvail = 0;
  #nextUsed = 0;
  #publishedUsed = 0;

  /** Makes an idle queue number `index` of at most `maxSize` entries (a power of two) in `memory`. */
  constructor(index: number, maxSize: number, memory: RingMemory) {
    if (!isQueueSize(maxSize, maxSize))
      throw new RangeError(`maxSize must be a power of two in [1, 32768], got ${maxSize}`);
    this.index = index;
    this.maxSize = maxSize;
    this.#size = maxSize;
    this.#memory = memory;
    this.#walker = new SplitWalker(memory);
    this.#inFlight = new Uint16Array(maxSize);
  }

  get size(): number {
    return this.#size;
  }

  get ready(): boolean {
    return this.#ready;
  }

  /** True when the ring was found damaged; only {@link SplitQueue.reset} ends it. */
  get broken(): boolean {
    return this.#broken;
  }

  /**
   * Starts the queue at index 0 of both rings. Values that cannot work (size no power of two or above `maxSize`, an area
   * misaligned or outside RAM) make a broken queue, never an exception.
   */
  start(setup: QueueSetup, features: RingFeatures): void {
    this.reset();
    this.#ready = true;
    this.#indirect = features.indirect;
    this.#eventIdx = features.eventIdx;
    this.#broken = !isQueueSize(setup.size, this.maxSize);
    if (this.#broken) return;
    this.#size = setup.size;
    this.#desc = Number(setup.desc);
    this.#avail = Number(setup.avail);
    this.#used = Number(setup.used);
    this.#broken = !this.#areasUsable();
  }

  /** Forgets everything: setup, position, chains in flight. Nothing is written to guest memory. */
  reset(): void {
    this.#ready = false;
    this.#broken = false;
    this.#flagsWritten = false;
    this.#size = this.maxSize;
    this.#inFlight.fill(0);
    this.#inFlightTotal = 0;
    this.#nextAvail = 0;
    this.#nextUsed = 0;
    this.#publishedUsed = 0;
  }

  pop(chain: DescriptorChain): number {
    if (!this.#ready) return PopResult.empty;
    if (this.#broken) return PopResult.broken;
    const available = this.available();
    if (available === 0) return PopResult.empty;
    // [2.7] at most `size` chains can be queued: one that is in flight, or done but not told yet, still holds its descriptor.
    const held = this.#inFlightTotal + ((this.#nextUsed - this.#publishedUsed) & 0xffff);
    if (available > this.#size || held >= this.#size) return this.#break();
    const position = this.#nextAvail & (this.#size - 1);
    const head = this.#memory.readU16(this.#avail + Ring.entries + position * RingEntry.availSize);
    if (head < 0 || head >= this.#size) return this.#break();
    if (!this.#walker.walk(chain, this.#desc, this.#size, head, this.#indirect)) return this.#break();
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    this.#inFlight[head]!++;
    this.#inFlightTotal++;
    return PopResult.chain;
  }

  available(): number {
    if (!this.#ready) return 0;
    const idx = this.#broken ? -1 : this.#memory.loadU16(this.#avail + Ring.idx);
    // A ring that cannot be read counts as overfull, so that a model that asks first still pops and learns that it is broken.
    return idx < 0 ? this.#size + 1 : (idx - this.#nextAvail) & 0xffff;
  }

  push(head: number, length: number): void {
    if (!((this.#inFlight[head] ?? 0) > 0)) return;
    this.#inFlight[head]!--;
    this.#inFlightTotal--;
    const position = this.#nextUsed & (this.#size - 1);
    if (
      !this.#memory.writeWords2(
        this.#used + Ring.entries + position * RingEntry.usedSize,
        head,
        Math.min(length, U32_MAX),
      )
    ) {
      this.#broken = true;
      return;
    }
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  publish(): boolean {
    const from = this.#publishedUsed;
    const to = this.#nextUsed;
    if (from === to) return false;
    this.#publishedUsed = to;
    if (!this.#memory.storeU16(this.#used + Ring.idx, to)) {
      this.#broken = true;
      return false;
    }
    // The store above is sequentially consistent, so a driver that set its wish before it looked at idx is seen here.
    if (this.#eventIdx) {
      const event = this.#memory.loadU16(this.#avail + Ring.entries + this.#size * RingEntry.availSize);
      return event >= 0 && needEvent(event, to, from);
    }
    const flags = this.#memory.loadU16(this.#avail + Ring.flags);
    return flags >= 0 && (flags & RingFlag.noInterrupt) === 0;
  }

  armNotification(): boolean {
    if (!this.#ready || this.#broken) return false;
    if (this.#eventIdx) {
      // [2.7.10.1] with EVENT_IDX the device MUST set flags to 0 and says by avail_event where the next kick is wanted.
      if (!this.#flagsWritten) this.#writeFlags(0);
      this.#store(this.#used + Ring.entries + this.#size * RingEntry.usedSize, this.#nextAvail);
    } else {
      this.#writeFlags(0);
    }
    return this.available() > 0;
  }

  /** Tells the driver that no kicks are needed for now, as far as the negotiated features can say so (used.flags 1). */
  suppressNotification(): void {
    if (!this.#ready || this.#broken || this.#eventIdx) return;
    this.#writeFlags(RingFlag.noNotify);
  }

  #writeFlags(flags: number): void {
    this.#flagsWritten = true;
    this.#store(this.#used + Ring.flags, flags);
  }

  #store(gpa: number, value: number): void {
    if (!this.#memory.storeU16(gpa, value)) this.#broken = true;
  }

  #break(): number {
    this.#broken = true;
    return PopResult.broken;
  }

  #areasUsable(): boolean {
    const event = this.#eventIdx ? 2 : 0;
    return (
      this.#desc % RingAlign.desc === 0 &&
      this.#avail % RingAlign.avail === 0 &&
      this.#used % RingAlign.used === 0 &&
      this.#memory.isRam(this.#desc, this.#size * Descriptor.SIZE) &&
      this.#memory.isRam(this.#avail, Ring.entries + this.#size * RingEntry.availSize + event) &&
      this.#memory.isWritableRam(this.#used, Ring.entries + this.#size * RingEntry.usedSize + event)
    );
  }
}
