// The ordered table of virtual memory areas of one process: which page shows which page of which backing object.
// Not here: argument checks and address choice (address-space.ts). Unit: 4 KiB page numbers; ends exclusive.
import { IntervalTable, NONE } from '../../intervals/table.ts';
import { Errno } from '../../base/errors.ts';
import type { BackingObject } from './backing-object.ts';
import type { PhysicalMemory } from './physical-memory.ts';
import type { PinList } from './pin-list.ts';

/** Protection bits of a row. */
export const Protection = { none: 0, read: 1, write: 2 } as const;

/** Flag of a row of reserved addresses: anonymous PROT_NONE memory that was never touched, so nothing is behind it. */
const RESERVED = 4;

/**
 * Rows [start, end) -> (delta, protection): virtual page v shows page `v + delta - object.layout.base` of the object
 * whose physical range holds `v + delta`. The delta survives a split, and equal neighbours merge as in the kernel.
 */
export class VirtualMappings {
  readonly #rows = new IntervalTable();
  readonly #memory: PhysicalMemory;
  // Last row found by physicalPage: probing neighbouring pages costs no search.
  #start = 0;
  #end = 0;
  #delta = 0;
  // Last row that seekSource() found. It stays valid while rows only appear on reserved addresses.
  #sourceStart = 0;
  #sourceEnd = 0;
  #sourceDelta = 0;
  // The open run: what is filled and not yet a row, and its end; no run is open at 0.
  #runStart = 0;
  #runEnd = 0;
  #runDelta = 0;
  #runProtection = 0;
  #openEnd = 0;

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** Number of rows (mm->map_count). */
  get size(): number {
    return this.#rows.size;
  }

  /** The object at a virtual page and the page of it that is shown, undefined where nothing is mapped or behind it. */
  find(page: number): { object: BackingObject; page: number; protection: number } | undefined {
    const slot = this.#rows.find(page);
    if (slot === NONE || this.#rows.flagsAt(slot) === RESERVED) return undefined;
    const logical = page + this.#rows.valueAt(slot);
    const object = this.#memory.objectAt(logical)!;
    return { object, page: logical - object.layout.base, protection: this.#rows.flagsAt(slot) };
  }

  /** Physical page shown at a virtual page whatever its protection, -1 where nothing is mapped or behind it. */
  physicalPage(page: number): number {
    if (page < this.#start || page >= this.#end) {
      const slot = this.#rows.find(page);
      if (slot === NONE || this.#rows.flagsAt(slot) === RESERVED) return -1;
      this.#start = this.#rows.startAt(slot);
      this.#end = this.#rows.endAt(slot);
      this.#delta = this.#rows.valueAt(slot);
    }
    const logical = page + this.#delta;
    const { layout } = this.#memory.objectAt(logical)!;
    return layout.physicalPage(logical - layout.base);
  }

  /** {@link Protection} bits of a virtual page, -1 where nothing is mapped. */
  protectionAt(page: number): number {
    const slot = this.#rows.find(page);
    return slot === NONE ? -1 : this.#rows.flagsAt(slot) & ~RESERVED;
  }

  /** True when `page` lies inside a row and cutting the row there would cut a huge page. */
  cutsHugePage(page: number): boolean {
    const slot = this.#rows.find(page);
    if (slot === NONE || this.#rows.startAt(slot) === page || this.#rows.flagsAt(slot) === RESERVED) return false;
    const logical = page + this.#rows.valueAt(slot);
    const { layout, kind } = this.#memory.objectAt(logical)!;
    return kind === 'hugetlb' && (logical - layout.base) % layout.granule !== 0;
  }

  /** True when [start, end) lies inside one row and touches neither of its ends. */
  isStrictlyInside(start: number, end: number): boolean {
    const slot = this.#rows.find(start);
    return slot !== NONE && this.#rows.startAt(slot) < start && this.#rows.endAt(slot) > end;
  }

  /** End of the first row that shares a page with [start, end), -1 when all of it is free. */
  endOfFirstIn(start: number, end: number): number {
    const slot = this.#rows.seek(start);
    return slot === NONE || this.#rows.startAt(slot) >= end ? -1 : this.#rows.endAt(slot);
  }

  /** True when every page of [start, end) is mapped. */
  covers(start: number, end: number): boolean {
    let page = start;
    for (let slot = this.#rows.find(start); slot !== NONE && this.#rows.startAt(slot) <= page;) {
      page = this.#rows.endAt(slot);
      if (page >= end) return true;
      slot = this.#rows.next(slot);
    }
    return false;
  }

  /** Maps [start, end), which must be free, onto an object from its page `offset` on. */
  add(start: number, end: number, object: BackingObject, offset: number, protection: number): void {
    this.#forget();
    object.mappedPages += end - start;
    this.#insertMerged(start, end, object.layout.base + offset - start, protection, !object.staysApart);
  }

  /** Maps PROT_NONE over [start, end), whatever is there. */
  reserve(start: number, end: number): void {
    this.remove(start, end);
    this.#insertMerged(start, end, 0, RESERVED, true);
  }

  /** True when a page of [start, end) is reserved. */
  hasReserved(start: number, end: number): boolean {
    for (let slot = this.#rows.seek(start); slot !== NONE; slot = this.#rows.next(slot)) {
      if (this.#rows.startAt(slot) >= end) return false;
      if (this.#rows.flagsAt(slot) === RESERVED) return true;
    }
    return false;
  }

  /** Finds the row at `page` for {@link sourceObject}, {@link sourceEnd} and {@link alias}; false where nothing is mapped. */
  seekSource(page: number): boolean {
    if (page >= this.#sourceStart && page < this.#sourceEnd) return true;
    const slot = this.#rows.find(page);
    if (slot === NONE || this.#rows.flagsAt(slot) === RESERVED) return false;
    this.#sourceStart = this.#rows.startAt(slot);
    this.#sourceEnd = this.#rows.endAt(slot);
    this.#sourceDelta = this.#rows.valueAt(slot);
    return true;
  }

  /** First page after the row that {@link seekSource} found. */
  get sourceEnd(): number {
    return this.#sourceEnd;
  }

  /** First page of the object behind the row that {@link seekSource} found, as a virtual page of that row. */
  get sourceOrigin(): number {
    return this.sourceObject.layout.base - this.#sourceDelta;
  }

  /** The object behind the row that {@link seekSource} found. */
  get sourceObject(): BackingObject {
    return this.#memory.objectAt(this.#sourceStart + this.#sourceDelta)!;
  }

  /** Maps the file pages behind [va, va + pages), inside the row that {@link seekSource} found, over whatever is there. */
  alias(start: number, pages: number, va: number, protection: number): void {
    const object = this.sourceObject;
    const delta = this.#sourceDelta + va - start;
    this.remove(start, start + pages);
    object.mappedPages += pages;
    this.#insertMerged(start, start + pages, delta, protection, !object.staysApart);
  }

  /**
   * Takes [start, end) out of a reserved row that goes on before and behind it, to be filled by {@link appendRun}; false when
   * it is not so. Until {@link closeRun} nothing else may be called but {@link seekSource} and what it leads to.
   */
  openRun(start: number, end: number): boolean {
    const rows = this.#rows;
    const slot = rows.find(start);
    if (slot === NONE || rows.flagsAt(slot) !== RESERVED) return false;
    const [first, last] = [rows.startAt(slot), rows.endAt(slot)];
    if (first === start || last <= end) return false;
    rows.removeAt(slot);
    rows.insert(first, start, 0, RESERVED);
    rows.insert(end, last, 0, RESERVED);
    this.#runStart = start;
    this.#runEnd = start;
    this.#openEnd = end;
    return true;
  }

  /** {@link alias} at the next page of the open run; `object` is {@link sourceObject}. */
  appendRun(object: BackingObject, pages: number, va: number, protection: number): void {
    const delta = this.#sourceDelta + va - this.#runEnd;
    if (delta !== this.#runDelta || protection !== this.#runProtection || object.staysApart) {
      this.#endRun();
      this.#runDelta = delta;
      this.#runProtection = protection;
    }
    object.mappedPages += pages;
    this.#runEnd += pages;
  }

  /** Reserves again what of the open run was not filled; nothing when none is open. */
  closeRun(): void {
    if (this.#openEnd === 0) return;
    this.#endRun();
    if (this.#runEnd < this.#openEnd) this.#insertMerged(this.#runEnd, this.#openEnd, 0, RESERVED, true);
    this.#openEnd = 0;
  }

  /** Unmaps every page of [start, end); rows that reach outside are cut. */
  remove(start: number, end: number): void {
    this.#forget();
    this.#splitAt(start);
    this.#splitAt(end);
    const gone: BackingObject[] = [];
    for (let slot = this.#rows.seek(start); slot !== NONE; slot = this.#rows.next(slot)) {
      const first = this.#rows.startAt(slot);
      if (first >= end) break;
      if (this.#rows.flagsAt(slot) === RESERVED) continue;
      const object = this.#memory.objectAt(first + this.#rows.valueAt(slot))!;
      object.mappedPages -= this.#rows.endAt(slot) - first;
      if (object.mappedPages === 0 && object.kind === 'anonymous' && !object.pinned) gone.push(object);
    }
    this.#rows.removeRange(start, end);
    for (const object of gone) this.#memory.drop(object);
  }

  /** Changes the protection of [start, end), which must be mapped and not reserved. */
  protect(start: number, end: number, protection: number): void {
    this.#forget();
    this.#splitAt(start);
    this.#splitAt(end);
    const rows: [start: number, end: number, delta: number][] = [];
    for (let slot = this.#rows.seek(start); slot !== NONE && this.#rows.startAt(slot) < end;) {
      rows.push([this.#rows.startAt(slot), this.#rows.endAt(slot), this.#rows.valueAt(slot)]);
      slot = this.#rows.next(slot);
    }
    this.#rows.removeRange(start, end);
    for (const [first, last, delta] of rows) {
      this.#insertMerged(first, last, delta, protection, !this.#memory.objectAt(first + delta)!.staysApart);
    }
  }

  /**
   * Pins `pages` pages from `page` on for a device, page by page in order as the kernel does, into `pins`.
   * Returns 0, EFAULT (nothing mapped, or the protection does not allow it) or ENOMEM (`pins.budget`).
   */
  pin(page: number, pages: number, write: boolean, pins: PinList): number {
    const need = write ? Protection.write : Protection.read;
    const end = page + pages;
    let at = page;
    let slot = this.#rows.find(page);
    while (slot !== NONE && this.#rows.startAt(slot) <= at) {
      if ((this.#rows.flagsAt(slot) & need) === 0) return Errno.EFAULT;
      const stop = Math.min(end, this.#rows.endAt(slot));
      const errno = this.#pinRow(at + this.#rows.valueAt(slot), stop - at, write, pins);
      if (errno !== 0 || stop === end) return errno;
      at = stop;
      slot = this.#rows.next(slot);
    }
    return Errno.EFAULT;
  }

  #pinRow(logical: number, pages: number, write: boolean, pins: PinList): number {
    const object = this.#memory.objectAt(logical)!;
    if (object.kind === 'file' && write && !pins.old) return Errno.EFAULT;
    if (pins.old && object.kind === 'anonymous') return this.#pinAnonymous(object, logical, pages, write, pins);
    if (object.kind === 'pfnmap') {
      if (!pins.deviceMemory) return Errno.EFAULT;
    } else {
      pins.lockedPages += pages;
      if (pins.lockedPages > pins.budget) return Errno.ENOMEM;
    }
    object.pinned = true;
    const { layout } = object;
    const first = logical - layout.base;
    for (let page = first; page < first + pages;) {
      const length = Math.min(layout.runFrom(page), first + pages - page);
      pins.add(layout.physicalPage(page), length);
      page += length;
    }
    return 0;
  }

  /** Anonymous memory on an old kernel: what a device reads of a page that was never written stays the zero page. */
  #pinAnonymous(object: BackingObject, logical: number, pages: number, write: boolean, pins: PinList): number {
    const { layout } = object;
    object.pinned = true;
    for (let page = logical - layout.base; page < logical - layout.base + pages; page++) {
      if (write) object.markWritten(page, 1);
      const isOwn = object.hasOwnPage(page);
      if (isOwn && ++pins.lockedPages > pins.budget) return Errno.ENOMEM;
      pins.add(isOwn ? layout.physicalPage(page) : this.#memory.zeroPage, 1);
    }
    return 0;
  }

  #forget(): void {
    this.#end = 0;
    this.#sourceEnd = 0;
  }

  #endRun(): void {
    if (this.#runEnd > this.#runStart)
      this.#rows.insert(this.#runStart, this.#runEnd, this.#runDelta, this.#runProtection);
    this.#runStart = this.#runEnd;
  }

  /** Inserts a row, with `merges` joined to the neighbours that it continues. */
  #insertMerged(start: number, end: number, delta: number, protection: number, merges: boolean): void {
    const rows = this.#rows;
    let [first, last] = [start, end];
    const before = start === 0 || !merges ? NONE : rows.find(start - 1);
    if (before !== NONE && rows.valueAt(before) === delta && rows.flagsAt(before) === protection) {
      first = rows.startAt(before);
      rows.removeAt(before);
    }
    const after = merges ? rows.find(end) : NONE;
    if (after !== NONE && rows.valueAt(after) === delta && rows.flagsAt(after) === protection) {
      last = rows.endAt(after);
      rows.removeAt(after);
    }
    rows.insert(first, last, delta, protection);
  }

  #splitAt(page: number): void {
    const slot = this.#rows.find(page);
    if (slot === NONE) return;
    const start = this.#rows.startAt(slot);
    if (start === page) return;
    const [end, delta, protection] = [this.#rows.endAt(slot), this.#rows.valueAt(slot), this.#rows.flagsAt(slot)];
    this.#rows.remove(start);
    this.#rows.insert(start, page, delta, protection);
    this.#rows.insert(page, end, delta, protection);
  }
}
