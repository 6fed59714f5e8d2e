// A domain as the Linux driver keeps it (struct viommu_domain): its id and its tree of mappings, by which it knows what an
// UNMAP will remove. Units: 4 KiB pages, ends EXCLUSIVE.
import { IntervalTable, NONE } from '../intervals/table.ts';

/** One domain of the guest. */
export class GuestDomain {
  readonly id: number;
  /** [iova, end) -> first guest-physical page; flags = MAP flags. */
  readonly mappings = new IntervalTable();

  constructor(id: number) {
    this.id = id;
  }

  /** Records what a MAP maps. @throws RangeError naming `iovaPage` when something is mapped there. */
  add(iovaPage: number, pages: number, physPage: number, flags: number): void {
    if (this.mappings.insert(iovaPage, iovaPage + pages, physPage, flags)) return;
    throw new RangeError(`iovaPage ${iovaPage}: a part of the ${pages} pages is mapped in domain ${this.id}`);
  }

  /**
   * viommu_del_mappings(): removes every mapping that meets the range, whole, up to the first one that starts before it.
   * Returns the pages of all of them, which may be more or fewer than were asked for.
   */
  remove(iovaPage: number, pages: number): number {
    let removed = 0;
    for (let slot = this.mappings.seek(iovaPage); slot !== NONE; slot = this.mappings.seek(iovaPage)) {
      const start = this.mappings.startAt(slot);
      if (start < iovaPage || start >= iovaPage + pages) break;
      removed += this.mappings.endAt(slot) - start;
      this.mappings.remove(start);
    }
    return removed;
  }
}

/** The ids of domains: the lowest free one is taken (ida_alloc_range). */
export class DomainIds {
  readonly #first: number;
  readonly #taken = new Set<number>();

  constructor(first: number) {
    this.#first = first;
  }

  take(): number {
    let id = this.#first;
    while (this.#taken.has(id)) id++;
    this.#taken.add(id);
    return id;
  }

  free(id: number): void {
    this.#taken.delete(id);
  }
}
