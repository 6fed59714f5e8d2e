// Device side of one split virtqueue [2.7]: available ring in, used ring out, notification suppression both ways.
// Not here: what a descriptor chain may look like (split-walk.ts), when a queue may run (device.ts).
// Ring indices count modulo 2^16; areas are guest-physical byte addresses. Index words are stored and newly seen ones loaded
// by Atomics, so an entry is always in memory before the index that covers it. Rings are accessed in place while each lies in
// one window of memory.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import type { RamInPlace, RamWindow } from './ram-window.ts';
import type { Virtqueue } from './virtqueue.ts';
import { U32_MAX } from '../base/check.ts';
import { inPlace, NO_WINDOW } from './ram-window.ts';
import { isQueueSize, needEvent, Ring, RingAlign, RingEntry, RingFlag, Descriptor } from './ring-layout.ts';
import { SplitWalker } from './split-walk.ts';
import { PopResult } from './virtqueue.ts';

// An own constant is folded into the code, an imported one is loaded and checked at each use.
const NONE = NO_WINDOW;
const { empty: EMPTY, chain: CHAIN, broken: BROKEN } = PopResult;
const { flags: FLAGS, idx: IDX, entries: ENTRIES } = Ring;
const { availSize: AVAIL_SIZE, usedSize: USED_SIZE } = RingEntry;
const LENGTH_MAX = U32_MAX;

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
  /** The same memory, when it can show rings in place. */
  readonly #direct: RamInPlace | undefined;
  /** Generation of the memory in which the rings were looked up. */
  #generation = -1;
  /** Available ring as words of its window, with the index of its first one; empty when it is not in one window. */
  #availWords = NO_WINDOW.words;
  #availAt = 0;
  /** Used ring, in the same way. */
  #usedLongs = NO_WINDOW.longs;
  #usedAt = 0;
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
  /** Available index that was last read atomically: entries before it are there to be read. */
  #acquired = -1;

  /** Makes an idle queue number `index` of at most `maxSize` entries (a power of two) in `memory`. */
  constructor(index: number, maxSize: number, memory: RingMemory) {
    if (!isQueueSize(maxSize, maxSize))
      throw new RangeError(`maxSize must be a power of two in [1, 32768], got ${maxSize}`);
    this.index = index;
    this.maxSize = maxSize;
    this.#size = maxSize;
    this.#memory = memory;
    this.#direct = inPlace(memory);
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
    if (!this.#broken) this.#bind();
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
    this.#acquired = -1;
  }

  pop(chain: DescriptorChain): number {
    if (!this.#ready) return EMPTY;
    if (this.#broken) return BROKEN;
    const idx = this.#nextIndex();
    if (idx === this.#nextAvail) return EMPTY;
    // [2.7] at most `size` chains can be queued: one that is in flight, or done but not told yet, still holds its descriptor.
    const held = this.#inFlightTotal + ((this.#nextUsed - this.#publishedUsed) & 0xffff);
    const available = (idx - this.#nextAvail) & 0xffff;
    if (idx < 0 || available > this.#size || held >= this.#size) return this.#break();
    const head = this.#headAt(this.#nextAvail & (this.#size - 1));
    if (head < 0 || head >= this.#size || !this.#walker.walk(chain, head)) return this.#break();
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    this.#inFlight[head]!++;
    this.#inFlightTotal++;
    return CHAIN;
  }

  available(): number {
    if (!this.#ready) return 0;
    const idx = this.#broken ? -1 : this.#availIndex();
    // A ring that cannot be read counts as overfull, so that a model that asks first still pops and learns that it is broken.
    return idx < 0 ? this.#size + 1 : (idx - this.#nextAvail) & 0xffff;
  }

  push(head: number, length: number): void {
    if (!((this.#inFlight[head] ?? 0) > 0)) return;
    this.#inFlight[head]!--;
    this.#inFlightTotal--;
    const entry = ENTRIES + (this.#nextUsed & (this.#size - 1)) * USED_SIZE;
    const bytes = length > LENGTH_MAX ? LENGTH_MAX : length;
    const longs = this.#usedLongs;
    if (longs.length > 0 && this.#current()) {
      const at = this.#usedAt + (entry >>> 2);
      longs[at] = head;
      longs[at + 1] = bytes;
    } else if (
      !this.#memory.writeWord(this.#used + entry, head) ||
      !this.#memory.writeWord(this.#used + entry + 4, bytes)
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
    // [2.7.8] D-RING-4: the entries and their lengths stand before the index that shows them.
    if (!this.#memory.storeU16(this.#used + IDX, to)) {
      this.#broken = true;
      return false;
    }
    // The store above is sequentially consistent, so a driver that set its wish before it looked at idx is seen here.
    if (this.#eventIdx) {
      const event = this.#memory.loadU16(this.#avail + ENTRIES + this.#size * AVAIL_SIZE);
      return event >= 0 && needEvent(event, to, from);
    }
    const flags = this.#memory.loadU16(this.#avail + FLAGS);
    return flags >= 0 && (flags & RingFlag.noInterrupt) === 0;
  }

  armNotification(): boolean {
    if (!this.#ready || this.#broken) return false;
    if (this.#eventIdx) {
      // [2.7.10.2] D-RING-7: with EVENT_IDX MUST set flags to 0; avail_event says where the next kick is wanted.
      if (!this.#flagsWritten) this.#writeFlags(0);
      this.#store(this.#used + ENTRIES + this.#size * USED_SIZE, this.#nextAvail);
    } else {
      this.#writeFlags(0);
    }
    return this.available() > 0;
  }

  /** Tells the driver that no kicks are needed for now, if the features can say so (D-RING-7: used.flags is 0 or 1). */
  suppressNotification(): void {
    if (!this.#ready || this.#broken || this.#eventIdx) return;
    this.#writeFlags(RingFlag.noNotify);
  }

  /** The available index by an atomic load, -1 when it cannot be read. */
  #availIndex(): number {
    this.#acquired = this.#memory.loadU16(this.#avail + IDX);
    return this.#acquired;
  }

  /**
   * The available index for the next pop, -1 when it cannot be read. A plain read that finds nothing new needs no order: the
   * entries before this index were ordered when it was first seen, and an index that is missed is found by
   * armNotification. An atomic read costs 7 ns, and the index stays the same for most of a kick.
   */
  #nextIndex(): number {
    if (this.#direct !== undefined && this.#direct.generation !== this.#generation) this.#bind();
    const words = this.#availWords;
    if (words.length === 0) return this.#availIndex();
    const seen = words[this.#availAt + IDX / 2]!;
    return seen === this.#acquired ? seen : this.#availIndex();
  }

  /** Head in the available ring, -1 when it cannot be read; the index was read right before. */
  #headAt(position: number): number {
    const words = this.#availWords;
    if (words.length > 0) return words[this.#availAt + ENTRIES / 2 + position]!;
    return this.#memory.readU16(this.#avail + ENTRIES + position * AVAIL_SIZE);
  }

  /** False when regions have changed since the rings were looked up. */
  #current(): boolean {
    return this.#direct?.generation === this.#generation;
  }

  /** Looks up where the rings are. */
  #bind(): void {
    const event = this.#eventIdx ? 2 : 0;
    this.#walker.bind(this.#desc, this.#size, this.#indirect);
    const avail = this.#windowOf(this.#avail, ENTRIES + this.#size * AVAIL_SIZE + event);
    this.#availWords = avail.words;
    this.#availAt = (this.#avail - avail.start) >>> 1;
    const used = this.#windowOf(this.#used, ENTRIES + this.#size * USED_SIZE + event);
    this.#usedLongs = used.writable ? used.longs : NONE.longs;
    this.#usedAt = (this.#used - used.start) >>> 2;
    this.#generation = this.#direct?.generation ?? 0;
  }

  /** The window of RAM that holds all of an area, or none. */
  #windowOf(area: number, bytes: number): RamWindow {
    const window = this.#direct?.windowAt(area) ?? NONE;
    return bytes <= window.end - area ? window : NONE;
  }

  #writeFlags(flags: number): void {
    this.#flagsWritten = true;
    this.#store(this.#used + FLAGS, flags);
  }

  #store(gpa: number, value: number): void {
    if (!this.#memory.storeU16(gpa, value)) this.#broken = true;
  }

  #break(): number {
    this.#broken = true;
    return BROKEN;
  }

  #areasUsable(): boolean {
    const event = this.#eventIdx ? 2 : 0;
    return (
      this.#desc % RingAlign.desc === 0 &&
      this.#avail % RingAlign.avail === 0 &&
      this.#used % RingAlign.used === 0 &&
      this.#memory.isRam(this.#desc, this.#size * Descriptor.SIZE) &&
      this.#memory.isRam(this.#avail, ENTRIES + this.#size * AVAIL_SIZE + event) &&
      this.#memory.isWritableRam(this.#used, ENTRIES + this.#size * USED_SIZE + event)
    );
  }
}
