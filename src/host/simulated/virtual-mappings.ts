// The ordered table of virtual memory areas of one process: which page shows which page of which backing object.
// Not here: argument checks and address choice (address-space.ts). Unit: 4 KiB page numbers; ends exclusive.
import { IntervalTable, NONE } from '../../intervals/table.ts';
import { Errno } from '../../base/errors.ts';
import type { BackingObject } from './backing-object.ts';
import type { PhysicalMemory } from './physical-memory.ts';
import type { PinList } from './pin-list.ts';

/** Protection bits of a row. */
export const Protection = { none: 0, read: 1, write: 2 } as const;

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

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** Number of rows (mm->map_count). */
  get size(): number {
    return this.#rows.size;
  }

  /** The object at a virtual page and the page of it that is shown, undefined where nothing is mapped. */
  find(page: number): { object: BackingObject; page: number; protection: number } | undefined {
    const slot = this.#rows.find(page);
    if (slot === NONE) return undefined;
    const logical = page + this.#rows.valueAt(slot);
    const object = this.#memory.objectAt(logical)!;
    return { object, page: logical - object.layout.base, protection: this.#rows.flagsAt(slot) };
  }

  /** Physical page shown at a virtual page whatever its protection, -1 where nothing is mapped. */
  physicalPage(page: number): number {
    if (page < this.#start || page >= this.#end) {
      const slot = this.#rows.find(page);
      if (slot === NONE) return -1;
      this.#start = this.#rows.startAt(slot);
      this.#end = this.#rows.endAt(slot);
      this.#delta = this.#rows.valueAt(slot);
    }
    const logical = page + this.#delta;
    const { layout } = this.#memory.objectAt(logical)!;
    return layout.physicalPage(logical - layout.base);
  }

  /** True when `page` lies inside a row and cutting the row there would cut a huge page. */
  cutsHugePage(page: number): boolean {
    const slot = this.#rows.find(page);
    if (slot === NONE || this.#rows.startAt(slot) === page) return false;
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
    this.#end = 0;
    object.mappedPages += end - start;
    this.#insertMerged(start, end, object.layout.base + offset - start, protection);
  }

  /** Unmaps every page of [start, end); rows that reach outside are cut. */
  remove(start: number, end: number): void {
    this.#end = 0;
    this.#splitAt(start);
    this.#splitAt(end);
    const gone: BackingObject[] = [];
    for (let slot = this.#rows.seek(start); slot !== NONE; slot = this.#rows.next(slot)) {
      const first = this.#rows.startAt(slot);
      if (first >= end) break;
      const object = this.#memory.objectAt(first + this.#rows.valueAt(slot))!;
      object.mappedPages -= this.#rows.endAt(slot) - first;
      if (object.mappedPages === 0 && object.kind === 'anonymous' && !object.pinned) gone.push(object);
    }
    this.#rows.removeRange(start, end);
    for (const object of gone) this.#memory.drop(object);
  }

  /** Changes the protection of [start, end), which must be mapped. */
  protect(start: number, end: number, protection: number): void {
    this.#end = 0;
    this.#splitAt(start);
    this.#splitAt(end);
    const rows: [start: number, end: number, delta: number][] = [];
    for (let slot = this.#rows.seek(start); slot !== NONE && this.#rows.startAt(slot) < end;) {
      rows.push([this.#rows.startAt(slot), this.#rows.endAt(slot), this.#rows.valueAt(slot)]);
      slot = this.#rows.next(slot);
    }
    this.#rows.removeRange(start, end);
    for (const [first, last, delta] of rows) this.#insertMerged(first, last, delta, protection);
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
    if (object.kind === 'file' && write && !pins.fileWrites) return Errno.EFAULT;
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

  #insertMerged(start: number, end: number, delta: number, protection: number): void {
    let [first, last] = [start, end];
    const before = start === 0 ? NONE : this.#rows.find(start - 1);
    if (before !== NONE && this.#rows.valueAt(before) === delta && this.#rows.flagsAt(before) === protection) {
      first = this.#rows.startAt(before);
      this.#rows.remove(first);
    }
    const after = this.#rows.find(end);
    if (after !== NONE && this.#rows.valueAt(after) === delta && this.#rows.flagsAt(after) === protection) {
      last = this.#rows.endAt(after);
      this.#rows.remove(end);
    }
    this.#rows.insert(first, last, delta, protection);
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
