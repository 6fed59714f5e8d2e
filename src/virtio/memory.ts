// Guest memory: RAM, ROM and MMIO regions anywhere below 2^53, and access to them by guest-physical address.
// Not here: what devices do with it. Ranges are gpa + size, end exclusive; bigint at registration, numbers on access.
// Assumes a little-endian host: ring indices are read in place as native u16 (checked when the file is loaded).
import type { MemoryObserver, MemoryRegion, MmioRegionInit, RamRegionInit } from './memory-types.ts';
import type { RegionEntry } from './region-entry.ts';
import { hex } from '../base/check.ts';
import { checkMmioRegion, checkRamRegion, movedEntry, PAGE, ramEntry } from './region-entry.ts';
import type { RamInPlace, RamWindow } from './ram-window.ts';
import { WindowTable } from './window-table.ts';

export type { RamWindow } from './ram-window.ts';
export type {
  FileSeal,
  MemoryObserver,
  MemoryRegion,
  MmioAccess,
  MmioRegionInit,
  RamRegionInit,
  RegionFile,
  RingMemory,
} from './memory-types.ts';

const LITTLE_ENDIAN_HOST = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/**
 * The guest-physical address space of one virtual machine. Access methods never throw for any address; they throw a
 * RangeError when the host-side array is too short.
 */
export class GuestMemory implements RamInPlace {
  readonly #table = new WindowTable();
  #entries: readonly RegionEntry[] = [];
  /** Made when it is asked for. */
  #regions: readonly MemoryRegion[] | undefined;
  #observers: readonly MemoryObserver[] = [];
  #changing = false;
  #generation = 0;

  constructor() {
    if (!LITTLE_ENDIAN_HOST) throw new Error('virtio rings are accessed in place, which needs a little-endian host');
  }

  /** Regions sorted by gpa; a new frozen array after every change. */
  get regions(): readonly MemoryRegion[] {
    this.#regions ??= Object.freeze(this.#entries.map((entry) => entry.region));
    return this.#regions;
  }

  /** Increments with every change of regions. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Adds RAM or ROM and tells the observers.
   * @throws TypeError or RangeError on overlap, misalignment or an end above 2^53; what an observer throws. Nothing is changed then.
   */
  addRegion(init: RamRegionInit): MemoryRegion {
    this.#checkIdle();
    checkRamRegion(init);
    this.#checkFree('init.gpa', init.gpa, init.size, undefined);
    return this.#replace(undefined, ramEntry(init));
  }

  /** Adds an MMIO region and tells the observers; errors as {@link GuestMemory.addRegion}. */
  addMmio(init: MmioRegionInit): MemoryRegion {
    this.#checkIdle();
    const entry = checkMmioRegion(init);
    this.#checkFree('init.gpa', init.gpa, init.size, undefined);
    return this.#replace(undefined, entry);
  }

  /**
   * Removes a region after telling the observers.
   * @throws TypeError when `region` is not (or no longer) a region of this memory; what an observer throws, nothing is changed then.
   */
  removeRegion(region: MemoryRegion): void {
    this.#checkIdle();
    this.#replace(this.#entryOf(region), undefined);
  }

  /**
   * Moves an MMIO region (a BAR) to `gpa`, tells the observers of both places and returns the new region object; the same
   * one when it lies there already.
   * @throws TypeError when it is not an MMIO region of this memory, RangeError when the new place is misaligned or taken;
   * what an observer throws. Nothing is changed then.
   */
  moveMmio(region: MemoryRegion, gpa: bigint): MemoryRegion {
    this.#checkIdle();
    const entry = this.#entryOf(region);
    if (region.kind !== 'mmio') throw new TypeError('region must be an MMIO region');
    if (gpa === region.gpa) return region; // nobody loses access for a move to where it is
    const moved = movedEntry(entry, gpa);
    this.#checkFree('gpa', gpa, region.size, entry);
    return this.#replace(entry, moved);
  }

  /**
   * Zero-fills RAM that the guest gave back (balloon, virtio-mem, free-page reporting); whole pages of 4096 bytes.
   * @throws RangeError when the range is not wholly writable RAM, or with code `ERR_VIOMMU_DISCARD_REFUSED` when an
   * observer objects; nothing is changed then.
   */
  discardRange(gpa: bigint, size: bigint): void {
    this.#checkIdle();
    if (typeof gpa !== 'bigint') throw new TypeError('gpa must be a bigint');
    if (typeof size !== 'bigint') throw new TypeError('size must be a bigint');
    if (gpa < 0n || gpa % PAGE !== 0n) throw new RangeError('gpa must be a multiple of 4096');
    if (size <= 0n || size % PAGE !== 0n) throw new RangeError('size must be a positive multiple of 4096');
    if (!this.isWritableRam(Number(gpa), Number(size))) {
      throw new RangeError(`gpa ${hex(gpa)} and size ${hex(size)} must name writable RAM`);
    }
    this.#changing = true;
    try {
      for (const observer of this.#observers) {
        const reason = observer.discarding?.(gpa, size);
        if (reason === undefined) continue;
        const error = new RangeError(`range at ${hex(gpa)} cannot be discarded: ${reason}`);
        throw Object.assign(error, { code: 'ERR_VIOMMU_DISCARD_REFUSED' as const });
      }
    } finally {
      this.#changing = false;
    }
    this.#table.uncheckedZero(Number(gpa), Number(size));
  }

  /** Subscribes to changes and returns the function that ends it. Regions already there are not told: read `regions`. */
  observe(observer: MemoryObserver): () => void {
    if (
      typeof observer !== 'object' ||
      typeof observer.added !== 'function' ||
      typeof observer.removing !== 'function'
    ) {
      throw new TypeError('observer must be an object with added and removing');
    }
    const row: MemoryObserver = {
      removing: (region) => observer.removing(region),
      added: (region) => observer.added(region),
      discarding: (gpa, size) => observer.discarding?.(gpa, size),
    };
    this.#observers = [...this.#observers, row];
    return () => {
      this.#observers = this.#observers.filter((other) => other !== row);
    };
  }

  /** True when [gpa, gpa+length) is wholly RAM or ROM (length 0: true). */
  isRam(gpa: number, length: number): boolean {
    return this.#table.covers(gpa, length, false);
  }

  /** True when [gpa, gpa+length) is wholly RAM that devices may write (length 0: true). */
  isWritableRam(gpa: number, length: number): boolean {
    return this.#table.covers(gpa, length, true);
  }

  /**
   * The window of RAM that holds `gpa`, for queues that read in place. It is the guest's memory only until
   * {@link GuestMemory.generation} changes.
   */
  windowAt(gpa: number): RamWindow {
    return this.#table.find(gpa);
  }

  /** Copies `length` bytes to `into[offset..]`; false, and nothing promised about `into`, when any byte is not RAM. */
  read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    checkRoom('into', into, offset, length);
    return this.#table.read(gpa, into, offset, length);
  }

  /** Writes `from[offset..offset+length)`; checks the whole range first: false and nothing written when any byte is not writable RAM. */
  write(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    checkRoom('from', from, offset, length);
    return this.#table.write(gpa, from, offset, length);
  }

  /** Atomic load of a little-endian u16; -1 when outside RAM or misaligned. */
  loadU16(gpa: number): number {
    return this.#table.loadU16(gpa);
  }

  /** Plain load of a little-endian u16; -1 when outside RAM or misaligned. */
  readU16(gpa: number): number {
    return this.#table.readU16(gpa);
  }

  /** Copies `count` little-endian u32 to `into[0..]`; false, and nothing read, when misaligned or not in one RAM window. */
  readWords(gpa: number, into: Uint32Array, count: number): boolean {
    return this.#table.readWords(gpa, into, count);
  }

  /** Plain store of a little-endian u32; false, and nothing written, when misaligned or not writable RAM. */
  writeWord(gpa: number, value: number): boolean {
    return this.#table.writeWord(gpa, value);
  }

  /** Plain store of two little-endian u32 in a row, both or (false) none, as {@link GuestMemory.writeWord}. */
  writeWords2(gpa: number, first: number, second: number): boolean {
    return this.#table.writeWords2(gpa, first, second);
  }

  /** Atomic store of a little-endian u16; false when outside writable RAM or misaligned. */
  storeU16(gpa: number, value: number): boolean {
    return this.#table.storeU16(gpa, value);
  }

  /**
   * Read by an emulated device: as {@link GuestMemory.read}, and MMIO regions answer through their access handlers.
   * The range may cross regions; false before any handler ran when a byte can not be reached.
   */
  dmaRead(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    checkRoom('into', into, offset, length);
    return this.#table.dmaRead(gpa, into, offset, length);
  }

  /** True when `dmaRead` (or `dmaWrite` with `write`) would reach every byte of [gpa, gpa+length). */
  dmaReachable(gpa: number, length: number, write: boolean): boolean {
    return this.#table.coversDma(gpa, length, write);
  }

  /** Write by an emulated device, reaching MMIO handlers as `dmaRead`; false and nothing written when a byte can not be reached. */
  dmaWrite(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    checkRoom('from', from, offset, length);
    return this.#table.dmaWrite(gpa, from, offset, length);
  }

  #checkIdle(): void {
    if (this.#changing) throw new Error('guest memory must not be changed from inside an observer');
  }

  #checkFree(name: string, gpa: bigint, size: bigint, except: RegionEntry | undefined): void {
    const others = except === undefined ? this.#entries : this.#entries.filter((entry) => entry !== except);
    const at = placeOf(others, Number(gpa));
    const before = others[at - 1];
    const clash = before !== undefined && before.end > Number(gpa) ? before : others[at];
    if (clash !== undefined && clash.start < Number(gpa + size)) {
      throw new RangeError(
        `${name} ${hex(gpa)} with size ${hex(size)} overlaps the region at ${hex(clash.region.gpa)}`,
      );
    }
  }

  #entryOf(region: MemoryRegion): RegionEntry {
    const entry = this.#entries.find((candidate) => candidate.region === region);
    if (entry === undefined) throw new TypeError('region must be a region of this memory');
    return entry;
  }

  /** Takes `from` out, puts `to` in and tells the observers; all or nothing. Returns the region that is there now. */
  #replace(from: RegionEntry | undefined, to: RegionEntry | undefined): MemoryRegion {
    const before = this.#entries;
    const undo: (() => void)[] = [];
    this.#changing = true;
    try {
      if (from !== undefined) this.#tell('removing', from.region, undo);
      const after = before.filter((entry) => entry !== from);
      if (to !== undefined) after.splice(placeOf(after, to.start), 0, to);
      this.#assign(after);
      undo.push(() => this.#assign(before));
      if (to !== undefined) this.#tell('added', to.region, undo);
    } catch (error) {
      throw rolledBack(error, undo);
    } finally {
      this.#changing = false;
    }
    return (to ?? from)!.region;
  }

  #tell(what: 'removing' | 'added', region: MemoryRegion, undo: (() => void)[]): void {
    const opposite = what === 'added' ? 'removing' : 'added';
    for (const observer of this.#observers) {
      observer[what](region);
      undo.push(() => observer[opposite](region));
    }
  }

  #assign(entries: readonly RegionEntry[]): void {
    this.#entries = entries;
    this.#regions = undefined;
    this.#table.assign(windowsOf(entries));
    this.#generation++;
  }
}

/** All windows in order. A loop: with thousands of regions `flatMap` takes several times longer. */
function windowsOf(entries: readonly RegionEntry[]): RamWindow[] {
  const windows: RamWindow[] = [];
  for (const entry of entries) for (const window of entry.windows) windows.push(window);
  return windows;
}

/** Index of the first of sorted `entries` that starts at `start` or behind it. */
function placeOf(entries: readonly RegionEntry[], start: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (entries[middle]!.start < start) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Runs the undo steps backwards and returns what to throw: the first error, or all when undoing failed as well. */
function rolledBack(error: unknown, undo: (() => void)[]): unknown {
  const errors = [error];
  for (const step of undo.reverse()) {
    try {
      step();
    } catch (undoError) {
      errors.push(undoError);
    }
  }
  return errors.length === 1
    ? error
    : new AggregateError(errors, 'a change of guest memory failed and so did undoing it');
}

function checkRoom(name: string, bytes: Uint8Array, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= bytes.length)) {
    throw new RangeError(`${name} must hold ${length} bytes at ${offset}, it has ${bytes.length}`);
  }
}
