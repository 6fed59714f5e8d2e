// Holes in L2's memory: an L2 VMM leaves out what its VFIO could not map, the reserved regions of the passed device.
// Units: 4 KiB pages; holes are half-open, sorted, disjoint.
import type { ReservedRegion } from '../../base/reserved.ts';
import type { PageRun, RunCursor } from '../run-cursor.ts';
import { PAGE_BYTES } from '../run-cursor.ts';

/** A range of pages that L2 has no memory in. */
export interface PageHole {
  readonly start: number;
  readonly end: number;
}

/** The holes that reserved regions (normalised: page-aligned, sorted, disjoint) leave in L2's memory. */
export function holesOf(reserved: readonly ReservedRegion[]): PageHole[] {
  return reserved.map((region) => ({
    start: Number(region.start / BigInt(PAGE_BYTES)),
    end: Number((region.end + 1n) / BigInt(PAGE_BYTES)),
  }));
}

/** True when the page lies in a hole; O(log n). */
export function inHole(holes: readonly PageHole[], page: number): boolean {
  let low = 0;
  let high = holes.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holes[middle]!.end > page) high = middle;
    else low = middle + 1;
  }
  return low < holes.length && holes[low]!.start <= page;
}

/** The first page, a multiple of `pages`, from which on `pages` pages are free of holes. */
export function freePages(holes: readonly PageHole[], pages: number): number {
  let page = 0;
  for (const { start, end } of holes) {
    if (start >= page + pages) break;
    page = Math.ceil(end / pages) * pages;
  }
  return page;
}

/** The runs of `inner` without the pages in holes. */
export function runsAround(inner: RunCursor, holes: readonly PageHole[]): RunCursor {
  return holes.length === 0 ? inner : new CutCursor(inner, holes);
}

class CutCursor implements RunCursor {
  readonly #inner: RunCursor;
  readonly #holes: readonly PageHole[];
  readonly #rest: PageRun = { iovaPage: 0, physPage: 0, pages: 0 };

  constructor(inner: RunCursor, holes: readonly PageHole[]) {
    this.#inner = inner;
    this.#holes = holes;
  }

  next(run: PageRun): boolean {
    for (;;) {
      if (this.#rest.pages === 0 && !this.#inner.next(this.#rest)) return false;
      const { iovaPage, pages } = this.#rest;
      const hole = this.#holes.find(({ end }) => end > iovaPage);
      if (hole !== undefined && hole.start <= iovaPage) {
        this.#take(Math.min(pages, hole.end - iovaPage));
        continue;
      }
      run.iovaPage = iovaPage;
      run.physPage = this.#rest.physPage;
      run.pages = hole === undefined ? pages : Math.min(pages, hole.start - iovaPage);
      this.#take(run.pages);
      return true;
    }
  }

  #take(pages: number): void {
    this.#rest.iovaPage += pages;
    this.#rest.physPage += pages;
    this.#rest.pages -= pages;
  }
}
