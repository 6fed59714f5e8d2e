// Which guest-physical pages have host virtual memory behind them: the only source of host addresses in a plan.
// Unit: 4 KiB page numbers, half-open. Regions never merge: every region edge is a hard barrier for host entries.
import type { HostBatch } from '../host/context.ts';
import { HOST_MMIO, HostRight } from '../host/context.ts';
import { IntervalTable, NONE } from '../intervals/table.ts';

const RIGHTS = HostRight.read | HostRight.write;

/** Flag of a region: its pages can be shown in a virtual window (file pages of 4 KiB, writable mappings allowed). */
export const REGION_GATHERABLE = 8;

/** Guest-physical memory that host contexts can be given. */
export class Backing {
  /** Guest-physical pages -> first host virtual page; flags = rights and {@link HOST_MMIO}. */
  readonly table = new IntervalTable();
  /** Pages of RAM among those of the last {@link appendPieces}. */
  appendedRam = 0;
  // The region of the last piece: mappings come in runs, and most lie in one region.
  #start = 0;
  #end = 0;
  #va = 0;
  #flags = 0;
  /** Host virtual page of what {@link locate} found, and the rights, HOST_MMIO and REGION_GATHERABLE that hold there. */
  foundVa = 0;
  foundFlags = 0;
  /** First guest-physical page of the region of the last piece. */
  get region(): number {
    return this.#start;
  }

  /** Pages of RAM, the measure of the cap on installed memory. */
  ramPages = 0;
  /** Regions of device registers. */
  mmioRegions = 0;

  /** Adds a region of `pages` pages at guest-physical page `gpa`, host virtual page `va`; the regions are disjoint. */
  add(gpa: number, pages: number, va: number, flags: number): void {
    if (!this.table.insert(gpa, gpa + pages, va, flags)) throw new Error('backing regions overlap');
    if ((flags & HOST_MMIO) === 0) this.ramPages += pages;
    else this.mmioRegions++;
  }

  /** Removes the region that starts at guest-physical page `gpa`. */
  remove(gpa: number): void {
    const slot = this.table.find(gpa);
    if (slot === NONE) throw new Error('no such backing region');
    if ((this.table.flagsAt(slot) & HOST_MMIO) === 0) {
      this.ramPages -= this.table.endAt(slot) - this.table.startAt(slot);
    } else this.mmioRegions--;
    this.table.remove(gpa);
    this.#end = 0;
  }

  /** The rights that a piece of a region gives when the guest asks for `rights`; 0: nothing to install. */
  rightsOf(slot: number, rights: number): number {
    return this.table.flagsAt(slot) & rights & RIGHTS;
  }

  /**
   * Finds where guest-physical [gpa, gpa + pages) lies with `rights`: {@link foundVa}, {@link foundFlags} and
   * {@link region}. False when it is not wholly inside one region.
   */
  locate(gpa: number, pages: number, rights: number): boolean {
    if (gpa < this.#start || gpa + pages > this.#end) {
      const slot = this.table.find(gpa);
      if (slot === NONE || this.table.endAt(slot) < gpa + pages) return false;
      this.#remember(slot);
    }
    this.foundVa = this.#va + (gpa - this.#start);
    const granted = this.#flags & rights & RIGHTS;
    this.foundFlags = granted === 0 ? 0 : granted | (this.#flags & ~RIGHTS);
    return true;
  }

  /** Pages of RAM in guest-physical [gpa, gpa + pages) that a mapping with `rights` would install. */
  ramPagesIn(gpa: number, pages: number, rights: number): number {
    const { table } = this;
    const end = gpa + pages;
    let sum = 0;
    for (let slot = table.seek(gpa); slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) {
      if ((table.flagsAt(slot) & HOST_MMIO) !== 0 || this.rightsOf(slot, rights) === 0) continue;
      sum += Math.min(table.endAt(slot), end) - Math.max(table.startAt(slot), gpa);
    }
    return sum;
  }

  /**
   * Appends to `batch` one map operation for each backed piece of the mapping [iova, iova + pages) -> gpa;
   * returns how many. Space without memory is left out: it is installed when memory comes (see iommu/memory-link.ts).
   */
  appendPieces(batch: HostBatch, iova: number, pages: number, gpa: number, rights: number): number {
    const end = gpa + pages;
    if (gpa < this.#start || end > this.#end) return this.#appendSlowly(batch, iova, pages, gpa, rights);
    const granted = this.#flags & rights & RIGHTS;
    const mmio = this.#flags & HOST_MMIO;
    this.appendedRam = granted === 0 || mmio !== 0 ? 0 : pages;
    if (granted === 0) return 0;
    batch.map(iova, pages, this.#va + (gpa - this.#start), granted | mmio);
    return 1;
  }

  #remember(slot: number): void {
    this.#start = this.table.startAt(slot);
    this.#end = this.table.endAt(slot);
    this.#va = this.table.valueAt(slot);
    this.#flags = this.table.flagsAt(slot);
  }

  #appendSlowly(batch: HostBatch, iova: number, pages: number, gpa: number, rights: number): number {
    const { table } = this;
    const end = gpa + pages;
    this.appendedRam = 0;
    let pieces = 0;
    for (let slot = table.seek(gpa); slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) {
      this.#remember(slot);
      const granted = this.rightsOf(slot, rights);
      if (granted === 0) continue;
      const mmio = table.flagsAt(slot) & HOST_MMIO;
      const start = table.startAt(slot);
      const from = start > gpa ? start : gpa;
      const to = Math.min(table.endAt(slot), end);
      if (mmio === 0) this.appendedRam += to - from;
      batch.map(iova + (from - gpa), to - from, table.valueAt(slot) + (from - start), granted | mmio);
      pieces++;
    }
    return pieces;
  }
}
