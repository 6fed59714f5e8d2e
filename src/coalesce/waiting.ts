// Stretches of I/O virtual space that the guest was given and that no host entry shows: planned on a quiet context,
// or revoked for want of room. Each becomes one host entry when it is installed.
// Unit: 4 KiB page numbers, half-open. A stretch consists of whole guest mappings, adjacent, with equal flags.
import { IntervalTable, NONE } from '../intervals/table.ts';

/** Flag of a stretch whose access was taken away, beside its rights and GATHERABLE. */
export const REVOKED = 16;

/** Values of a stretch: whether it carries one mapping or more. */
const SINGLE = 1;
const SEVERAL = 2;

/** The stretches of one context that wait to be installed. */
export class WaitingStretches {
  readonly table = new IntervalTable();
  /** Pages of all stretches, and of those that were revoked. */
  pages = 0;
  revokedPages = 0;
  /** Stretches that were revoked, and those that carry more than one mapping. */
  revoked = 0;
  several = 0;

  get size(): number {
    return this.table.size;
  }

  /** Adds a stretch; it must be free. */
  add(start: number, end: number, flags: number, several: boolean): void {
    if (!this.table.insert(start, end, several ? SEVERAL : SINGLE, flags)) throw new Error('waiting stretches overlap');
    this.#count(end - start, flags, several ? SEVERAL : SINGLE, 1);
  }

  /** Takes out the stretch in `slot`. */
  take(slot: number): void {
    const { table } = this;
    this.#count(table.endAt(slot) - table.startAt(slot), table.flagsAt(slot), table.valueAt(slot), -1);
    table.removeAt(slot);
  }

  /** Slot of the stretch that ends at `page`, or NONE. */
  endingAt(page: number): number {
    const slot = page === 0 ? NONE : this.table.find(page - 1);
    return slot !== NONE && this.table.endAt(slot) === page ? slot : NONE;
  }

  /** Slot of the stretch that starts at `page`, or NONE. */
  startingAt(page: number): number {
    const slot = this.table.find(page);
    return slot !== NONE && this.table.startAt(slot) === page ? slot : NONE;
  }

  /** True when the stretch in `slot` carries more than one mapping. */
  isSeveral(slot: number): boolean {
    return this.table.valueAt(slot) === SEVERAL;
  }

  /**
   * Takes [start, end) out of all stretches; what is left of one keeps its flags. `endOfMapping` gives the end of the
   * mapping that holds a page.
   */
  subtract(start: number, end: number, endOfMapping: (page: number) => number): void {
    const { table } = this;
    for (let slot = table.seek(start); slot !== NONE && table.startAt(slot) < end; slot = table.seek(start)) {
      const from = table.startAt(slot);
      const to = table.endAt(slot);
      const flags = table.flagsAt(slot);
      this.take(slot);
      if (from < start) this.add(from, start, flags, endOfMapping(from) < start);
      if (to > end) this.add(end, to, flags, endOfMapping(end) < to);
      if (to >= end) return;
    }
  }

  clear(): void {
    this.table.clear();
    this.pages = this.revokedPages = this.revoked = this.several = 0;
  }

  #count(pages: number, flags: number, value: number, sign: number): void {
    this.pages += sign * pages;
    if (value === SEVERAL) this.several += sign;
    if ((flags & REVOKED) === 0) return;
    this.revoked += sign;
    this.revokedPages += sign * pages;
  }
}
