// The areas of one IOAS (struct iopt_area): which part of which memory each I/O virtual range shows.
// Not here: what may be mapped and what is pinned (iommufd-context.ts, iopt-pages.ts). Unit: 4 KiB pages, ends exclusive.
import type { IntervalTable } from '../../intervals/table.ts';
import { NONE } from '../../intervals/table.ts';
import type { IoptPages } from './iopt-pages.ts';

/** What an area shows: pages `index` and following of `pages`. */
export interface AreaSource {
  readonly pages: IoptPages;
  readonly index: number;
}

/** A part of an area. */
export interface AreaSlice extends AreaSource {
  /** The whole area that it is a part of. */
  readonly area: { readonly start: number; readonly end: number; readonly index: number };
  /** Pages of the part. */
  readonly length: number;
}

/** Areas over a table of ranges, which others may read but not change. */
export class AreaTable {
  /** [iova, end) -> (unused, rights). */
  readonly #ranges: IntervalTable;
  readonly #sources = new Map<number, AreaSource>();

  constructor(ranges: IntervalTable) {
    this.#ranges = ranges;
  }

  /** What the area that starts at `iova` shows. */
  sourceOf(iova: number): AreaSource {
    return this.#sources.get(iova)!;
  }

  /** Records an area whose range is in the table of ranges. */
  add(iova: number, source: AreaSource): void {
    this.#sources.set(iova, source);
  }

  /** Removes the area that starts at `iova`. */
  remove(iova: number): void {
    this.#ranges.remove(iova);
    this.#sources.delete(iova);
  }

  /** The first area that ends behind `page`, when it starts below `limit`. */
  firstFrom(page: number, limit: number): { readonly start: number; readonly end: number } | undefined {
    const slot = this.#ranges.seek(page);
    if (slot === NONE || this.#ranges.startAt(slot) >= limit) return undefined;
    return { start: this.#ranges.startAt(slot), end: this.#ranges.endAt(slot) };
  }

  /** True when an area covers `page`. */
  covers(page: number): boolean {
    return this.#ranges.find(page) !== NONE;
  }

  /** Visits the areas that start below `limit` in ascending order until `visit` returns false; it must not change them. */
  each(limit: number, visit: (start: number, end: number, rights: number) => boolean): void {
    for (let slot = this.#ranges.first(); slot !== NONE; slot = this.#ranges.next(slot)) {
      const start = this.#ranges.startAt(slot);
      if (start >= limit || !visit(start, this.#ranges.endAt(slot), this.#ranges.flagsAt(slot))) return;
    }
  }

  /** The area that a cut at `page` would make two, undefined when there is none. */
  over(page: number): { readonly start: number; readonly end: number; readonly rights: number } | undefined {
    const slot = this.#ranges.find(page);
    if (slot === NONE || this.#ranges.startAt(slot) === page) return undefined;
    return {
      start: this.#ranges.startAt(slot),
      end: this.#ranges.endAt(slot),
      rights: this.#ranges.flagsAt(slot),
    };
  }

  /** The parts of areas that cover [iova, end) without a gap (iopt_get_pages), undefined when there is one. */
  slices(iova: number, end: number): AreaSlice[] | undefined {
    const slices: AreaSlice[] = [];
    for (let at = iova; at < end;) {
      const slot = this.#ranges.find(at);
      if (slot === NONE) return undefined;
      const [start, stop] = [this.#ranges.startAt(slot), this.#ranges.endAt(slot)];
      const { pages, index } = this.sourceOf(start);
      const length = Math.min(end, stop) - at;
      slices.push({ pages, index: index + at - start, length, area: { start, end: stop, index } });
      at += length;
    }
    return slices;
  }
}
