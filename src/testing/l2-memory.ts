// RAM of a nested guest (L2) and where its pages lie in the memory of the guest that runs it (L1).
// L2 RAM is guest-physical [0, 3 GiB) and from 4 GiB on, which is also its IOVA in L1's virtio-iommu (VFIO maps L2 RAM at
// its L2 address). Page numbers are 4 KiB; ranges {start, pages} and {gpa, size} are counts, so ends are EXCLUSIVE.
import type { PageRun, RunCursor } from './run-cursor.ts';
import { checkOneOf, checkOptions, U32_MAX, checkInteger } from '../base/check.ts';
import { Random } from './random.ts';
import { PAGE_BYTES } from './run-cursor.ts';
import { placeMixed, placeRuns, placeScattered } from './l2-patterns.ts';

/**
 * How L1 backs L2's RAM:
 * `contiguous` one physical block; `mix90`, `mix75` that share (percent) of the 2 MiB windows are huge pages, the rest
 * 4 KiB pages in runs of 4 on average; `mean8` 4 KiB pages in runs of 8 on average; `scattered` no two neighbours
 * physically contiguous.
 */
export type L2Pattern = 'contiguous' | 'mix90' | 'mix75' | 'mean8' | 'scattered';

/** Size of the pages that L1 gives to L2. */
export type L2PageSize = '4k' | '2m';

/** What {@link l2Layout} needs. */
export interface L2LayoutOptions {
  /** Bytes of L2 RAM: a multiple of the page size, at most {@link MAX_L2_BYTES}. */
  readonly bytes: bigint | number;
  readonly pattern: L2Pattern;
  readonly page: L2PageSize;
  /** Seed of everything random, an integer in [0, 2^32-1]; the same seed gives the same layout. Default 1. */
  readonly seed?: number;
}

/** A range of guest-physical memory in bytes. */
export interface MemoryRange {
  readonly gpa: bigint;
  readonly size: bigint;
}

/** Largest L2 RAM in bytes: for 4 KiB patterns 64 GiB (one table entry per page), otherwise 1 TiB. */
export const MAX_L2_BYTES = { paged4k: 0x10_0000_0000n, other: 0x100_0000_0000n } as const;

/** Low L1 memory, in bytes, that stays with L1's kernel and its driver rings: L2 pages never lie there. */
export const L1_OWN_BYTES = 0x400_0000n;

/** All patterns. */
export const L2_PATTERNS: readonly L2Pattern[] = ['contiguous', 'mix90', 'mix75', 'mean8', 'scattered'];
const PAGE_SIZES: readonly L2PageSize[] = ['4k', '2m'];
const PAGES_PER_2M = 512;

/** L2's hole between its low RAM and 4 GiB, in pages. */
const L2_LOW_PAGES = 0xc_0000;
const L2_HIGH_PAGE = 0x10_0000;
/** L1 has RAM in [0, 2 GiB) and from 4 GiB on. */
const L1_LOW_END_PAGE = 0x8_0000;
const L1_HIGH_PAGE = 0x10_0000;
const L1_OWN_PAGES = Number(L1_OWN_BYTES) / PAGE_BYTES;
const L1_LOW_PAGES = L1_LOW_END_PAGE - L1_OWN_PAGES;

/** The L2 page with number `index` when the hole at 3-4 GiB is left out. */
export function l2PageAt(index: number): number {
  return index < L2_LOW_PAGES ? index : index - L2_LOW_PAGES + L2_HIGH_PAGE;
}

/** L2's RAM and its place in L1. */
export class L2Layout {
  /** L2 guest-physical RAM, ascending; its sum is exactly the asked size. */
  readonly l2RamRanges: readonly MemoryRange[];
  /** L1 guest-physical RAM that holds {@link L1_OWN_BYTES} for L1 itself and all L2 pages, ascending. */
  readonly l1RamRanges: readonly MemoryRange[];
  /** Pages of 4 KiB. */
  readonly pages: number;
  /** Pages of 4 KiB per unit: 1 or 512. */
  readonly unitPages: number;
  /**
   * First L1 page of each unit, in L2 order without the hole; undefined when L2 is one block from {@link firstPhysPage} on.
   */
  readonly unitPhysPages: Uint32Array | undefined;
  /** L1 page of L2's first page. */
  readonly firstPhysPage: number;

  /** Use {@link l2Layout}. `slots` are the units' places in the L1 pool, in units of `unitPages`. */
  constructor(pages: number, unitPages: number, slots: Uint32Array | undefined, poolPages: number) {
    this.pages = pages;
    this.unitPages = unitPages;
    this.l2RamRanges = ranges(0, pages, L2_LOW_PAGES, L2_HIGH_PAGE);
    if (slots === undefined) {
      this.unitPhysPages = undefined;
      this.firstPhysPage = L1_HIGH_PAGE;
      this.l1RamRanges = [range(0, L1_OWN_PAGES), range(L1_HIGH_PAGE, pages)];
    } else {
      for (let i = 0; i < slots.length; i++) slots[i] = poolPage(slots[i]! * unitPages);
      this.unitPhysPages = slots;
      this.firstPhysPage = slots[0]!;
      this.l1RamRanges = ranges(0, L1_OWN_PAGES + poolPages, L1_LOW_END_PAGE, L1_HIGH_PAGE);
    }
  }

  /** L1 page that backs the L2 page `l2Page` (which is also its IOVA page); -1 when L2 has no RAM there. */
  physPageOf(l2Page: number): number {
    let index = l2Page;
    if (l2Page >= L2_LOW_PAGES) index = l2Page < L2_HIGH_PAGE ? this.pages : l2Page - L2_HIGH_PAGE + L2_LOW_PAGES;
    if (!(index >= 0 && index < this.pages)) return -1;
    if (this.unitPhysPages === undefined) return this.firstPhysPage + index;
    return this.unitPhysPages[Math.floor(index / this.unitPages)]! + (index % this.unitPages);
  }

  /**
   * A cursor over the maximal runs that are contiguous in L2 and in L1, in L2 order; none crosses L2's hole.
   * Any number of cursors may be open.
   */
  runs(): RunCursor {
    const units = this.unitPhysPages;
    return units === undefined ? new BlockCursor(this) : new UnitCursor(units, this.unitPages);
  }
}

/**
 * Lays out L2's RAM in L1.
 * @throws RangeError naming `bytes` (0, not a multiple of the page size, above {@link MAX_L2_BYTES}), `page` (a pattern of
 * mixed or short runs needs '4k'), `pattern` or `seed`; TypeError for a value of a wrong type or an unknown option.
 */
export function l2Layout(options: L2LayoutOptions): L2Layout {
  checkOptions('options', options, ['bytes', 'pattern', 'page', 'seed']);
  const pattern = checkOneOf('pattern', options.pattern, L2_PATTERNS);
  const page = checkOneOf('page', options.page, PAGE_SIZES);
  const seed = checkInteger('seed', options.seed ?? 1, 0, U32_MAX);
  if (page !== '4k' && pattern !== 'contiguous' && pattern !== 'scattered') {
    throw new RangeError(`page must be 4k for the pattern ${pattern}, got ${page}`);
  }
  const unitPages = page === '4k' ? 1 : PAGES_PER_2M;
  const limit = page === '4k' && pattern !== 'contiguous' ? MAX_L2_BYTES.paged4k : MAX_L2_BYTES.other;
  const pages = checkBytes(options.bytes, unitPages * PAGE_BYTES, limit) / PAGE_BYTES;
  const random = new Random(seed);
  if (pattern === 'contiguous') return new L2Layout(pages, unitPages, undefined, 0);
  if (pattern === 'scattered') {
    return new L2Layout(pages, unitPages, placeScattered(pages / unitPages, random), pages);
  }
  const placed =
    pattern === 'mean8'
      ? placeRuns(pages, L2_LOW_PAGES, 8, random)
      : placeMixed(pages, L2_LOW_PAGES, pattern === 'mix90' ? 90 : 75, 4, random);
  return new L2Layout(pages, unitPages, placed.slots, placed.poolPages);
}

function checkBytes(bytes: unknown, unit: number, limit: bigint): number {
  if (typeof bytes !== 'bigint' && typeof bytes !== 'number') throw new TypeError('bytes must be a bigint or a number');
  if (bytes <= 0 || bytes > limit)
    throw new RangeError(`bytes must be in [${unit}, ${limit.toString()}], got ${String(bytes)}`);
  const value = Number(bytes);
  if (value % unit !== 0) throw new RangeError(`bytes must be a multiple of ${unit}, got ${String(bytes)}`);
  return value;
}

/** L1 page of a place in the pool: low memory behind L1's own first, then from 4 GiB on. */
function poolPage(place: number): number {
  return place < L1_LOW_PAGES ? L1_OWN_PAGES + place : L1_HIGH_PAGE + place - L1_LOW_PAGES;
}

function range(page: number, pages: number): MemoryRange {
  return { gpa: BigInt(page) * BigInt(PAGE_BYTES), size: BigInt(pages) * BigInt(PAGE_BYTES) };
}

function ranges(start: number, pages: number, lowEnd: number, highStart: number): readonly MemoryRange[] {
  if (start + pages <= lowEnd) return [range(start, pages)];
  return [range(start, lowEnd - start), range(highStart, start + pages - lowEnd)];
}

class BlockCursor implements RunCursor {
  readonly #layout: L2Layout;
  #done = 0;

  constructor(layout: L2Layout) {
    this.#layout = layout;
  }

  next(run: PageRun): boolean {
    const { pages, firstPhysPage } = this.#layout;
    if (this.#done === pages) return false;
    const low = this.#done === 0;
    run.iovaPage = low ? 0 : L2_HIGH_PAGE;
    run.physPage = firstPhysPage + this.#done;
    run.pages = low ? Math.min(pages, L2_LOW_PAGES) : pages - L2_LOW_PAGES;
    this.#done += run.pages;
    return true;
  }
}

class UnitCursor implements RunCursor {
  readonly #units: Uint32Array;
  readonly #unitPages: number;
  readonly #lowUnits: number;
  #unit = 0;

  constructor(units: Uint32Array, unitPages: number) {
    this.#units = units;
    this.#unitPages = unitPages;
    this.#lowUnits = L2_LOW_PAGES / unitPages;
  }

  next(run: PageRun): boolean {
    const units = this.#units;
    const first = this.#unit;
    if (first >= units.length) return false;
    const step = this.#unitPages;
    const end = first < this.#lowUnits ? Math.min(this.#lowUnits, units.length) : units.length;
    let last = first;
    while (last + 1 < end && units[last + 1] === units[last]! + step) last++;
    run.iovaPage = first < this.#lowUnits ? first * step : L2_HIGH_PAGE + (first - this.#lowUnits) * step;
    run.physPage = units[first]!;
    run.pages = (last - first + 1) * step;
    this.#unit = last + 1;
    return true;
  }
}
