// The I/O page table of one host context: which physical page a device reaches, and with which IOPTE sizes.
// One row per physically contiguous run of one host entry; not here: entries and limits (type1-context.ts).
// Unit: 4 KiB page numbers; ends exclusive.
import { IntervalTable, NONE } from '../../intervals/table.ts';
import { HostRight } from '../context.ts';
import type { PinList } from './pin-list.ts';
import { splitRow } from './split-row.ts';

/** A stretch that a device reaches: consecutive I/O virtual pages on consecutive physical pages. */
export interface ReachableRun {
  /** First I/O virtual page. */
  readonly iova: number;
  readonly pages: number;
  /** Physical page behind `iova`. */
  readonly physical: number;
  /** {@link HostRight} bits as mapped. */
  readonly rights: number;
}

/** Rows [iova, end) -> (physical page of the first page, rights), and the number of IOPTEs of each size. */
export class IoPageTable {
  readonly #rows = new IntervalTable();
  /** Supported page sizes in 4 KiB pages, ascending. */
  readonly #sizes: readonly number[];
  readonly #counts: Float64Array;
  readonly #readMask: number;
  // Last row found: probing neighbouring pages costs no search.
  #start = 0;
  #end = 0;
  #delta = 0;
  #rights = 0;

  /** `pageSizes`: bit set in bytes, lowest bit >= 4096. `writeOnlyReadable`: a write-only entry can be read too. */
  constructor(pageSizes: bigint, writeOnlyReadable: boolean) {
    this.#sizes = sizesInPages(pageSizes);
    this.#counts = new Float64Array(this.#sizes.length);
    this.#readMask = writeOnlyReadable ? HostRight.read | HostRight.write : HostRight.read;
  }

  /** Number of IOPTEs by size in bytes; sizes without an IOPTE are left out. */
  ioptes(): Map<bigint, number> {
    const counts = new Map<bigint, number>();
    this.#sizes.forEach((size, i) => {
      if (this.#counts[i]! > 0) counts.set(BigInt(size) * 4096n, this.#counts[i]!);
    });
    return counts;
  }

  /** Physical page that the device reaches at `page` when it reads or writes, -1 when it is blocked. */
  physicalPage(page: number, write: boolean): number {
    if (page < this.#start || page >= this.#end) {
      const slot = this.#rows.find(page);
      if (slot === NONE) return -1;
      this.#start = this.#rows.startAt(slot);
      this.#end = this.#rows.endAt(slot);
      this.#delta = this.#rows.valueAt(slot) - this.#start;
      this.#rights = this.#rows.flagsAt(slot);
    }
    return (this.#rights & (write ? HostRight.write : this.#readMask)) === 0 ? -1 : page + this.#delta;
  }

  /** All rows in order, joined where neighbours continue each other with equal rights. */
  runs(): ReachableRun[] {
    const runs: { iova: number; pages: number; physical: number; rights: number }[] = [];
    for (let slot = this.#rows.first(); slot !== NONE; slot = this.#rows.next(slot)) {
      const iova = this.#rows.startAt(slot);
      const pages = this.#rows.endAt(slot) - iova;
      const physical = this.#rows.valueAt(slot);
      const rights = this.#rows.flagsAt(slot);
      const last = runs.at(-1);
      const follows = last !== undefined && last.iova + last.pages === iova && last.physical + last.pages === physical;
      if (follows && last.rights === rights) last.pages += pages;
      else runs.push({ iova, pages, physical, rights });
    }
    return runs;
  }

  /** Maps the runs of `pins` from `iova` on, which must be free; false, and nothing done, when one is not aligned. */
  insert(iova: number, pins: PinList, rights: number): boolean {
    if (!this.#isAligned(iova, pins)) return false;
    this.#forget();
    let at = iova;
    for (let i = 0; i < pins.count; i++) {
      const physical = pins.starts[i]!;
      const end = at + pins.lengths[i]!;
      this.#rows.insert(at, end, physical, rights);
      this.#count(at, end, physical, 1);
      at = end;
    }
    return true;
  }

  /** Removes the rows of [start, end), which must not cut an entry. */
  remove(start: number, end: number): void {
    this.#forget();
    for (let slot = this.#rows.seek(start); slot !== NONE; slot = this.#rows.next(slot)) {
      const first = this.#rows.startAt(slot);
      if (first >= end) break;
      this.#count(first, this.#rows.endAt(slot), this.#rows.valueAt(slot), -1);
    }
    this.#rows.removeRange(start, end);
  }

  /** Appends the physical runs behind [start, end), all of it mapped, to `pins`. */
  collect(start: number, end: number, pins: PinList): void {
    for (let slot = this.#rows.seek(start); slot !== NONE; slot = this.#rows.next(slot)) {
      const first = this.#rows.startAt(slot);
      if (first >= end) return;
      const from = Math.max(first, start);
      pins.add(this.#rows.valueAt(slot) + from - first, Math.min(this.#rows.endAt(slot), end) - from);
    }
  }

  /** Cuts the row over `page` there, so that its parts can be removed apart; only for a table with one page size. */
  split(page: number): void {
    this.#forget();
    splitRow(this.#rows, page);
  }

  #forget(): void {
    this.#start = 0;
    this.#end = 0;
  }

  #isAligned(iova: number, pins: PinList): boolean {
    const unit = this.#sizes[0]!;
    if (unit === 1) return true;
    let at = iova;
    for (let i = 0; i < pins.count; i++) {
      if (at % unit !== 0 || pins.starts[i]! % unit !== 0 || pins.lengths[i]! % unit !== 0) return false;
      at += pins.lengths[i]!;
    }
    return true;
  }

  /** Adds `sign` times the IOPTEs that iommu_map() makes for one run: the largest size that alignment allows. */
  #count(start: number, end: number, physical: number, sign: number): void {
    let level = this.#sizes.length - 1;
    while ((start - physical) % this.#sizes[level]! !== 0) level--;
    // Sizes are nested powers of two: each level takes what its alignment allows and leaves a head and a tail.
    let low = start;
    let high = start;
    for (; level >= 0; level--) {
      const size = this.#sizes[level]!;
      const first = Math.ceil(start / size) * size;
      const last = Math.floor(end / size) * size;
      if (first >= last) continue;
      const inner = high - low;
      this.#counts[level]! += (sign * (last - first - inner)) / size;
      low = first;
      high = last;
    }
  }
}

function sizesInPages(pageSizes: bigint): number[] {
  const sizes: number[] = [];
  for (let size = 4096n; size <= pageSizes; size *= 2n) if ((pageSizes & size) !== 0n) sizes.push(Number(size / 4096n));
  return sizes;
}
