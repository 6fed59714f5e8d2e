// The shape of host entries: turns guest mappings that follow each other in I/O virtual space into as few entries as the
// settings allow. Pure: it knows neither host nor guest tables, and emits an entry as soon as it is complete.
// Unit: 4 KiB page numbers, half-open. An entry consists of whole mappings, so that there are never more entries than mappings.
import { HostRight } from '../host/context.ts';
import { GATHER_ABOVE, WINDOW_PAGES, WINDOW_PAGES_MOST } from './settings.ts';

/** Flag of a stretch beside its rights: its pages can be shown in a virtual window. */
export const GATHERABLE = 8;

const RIGHTS = HostRight.read | HostRight.write;

/** Receives entries; `mappings`: how many an entry carries. */
export interface ShapeSink {
  /** One run of contiguous host virtual pages. */
  mapRun(iova: number, pages: number, va: number, rights: number, mappings: number): void;
  /** Pieces `0..count - 1` of the shaper's columns side by side. */
  gatherPieces(iova: number, pages: number, rights: number, shaper: EntryShaper, count: number): void;
}

/** What the shaper asks of its owner. */
export interface ShapeLimits {
  readonly maxEntryPages: number;
  /** Most pieces of one window; 0 where nothing is gathered. */
  readonly windowPieces: number;
  /** True when entries are short, so that every window of more than one piece is gathered. */
  readonly tight: boolean;
}

/**
 * Collects one stretch: mappings adjacent in I/O virtual space with equal flags. While the stretch is one run of host
 * virtual pages it grows up to the largest entry; otherwise it is kept up to the length of a window.
 */
export class EntryShaper {
  /** The stretch collected so far; empty when `pieces` is 0. */
  start = 0;
  end = 0;
  /** Rights and {@link GATHERABLE}. */
  flags = 0;
  pieces = 0;
  /** Mappings of the stretch. */
  mappings = 0;
  /** First I/O virtual page, first host virtual page and mappings of each piece. */
  readonly pieceStart = new Float64Array(WINDOW_PAGES_MOST + 1);
  readonly pieceVa = new Float64Array(WINDOW_PAGES_MOST + 1);
  readonly #pieceMappings = new Float64Array(WINDOW_PAGES_MOST + 1);
  /** Host virtual page and region behind the last piece: what continues it. */
  #nextVa = -1;
  #region = -1;
  readonly #sink: ShapeSink;
  readonly #limits: ShapeLimits;
  /** A stretch of pieces is complete at this length, and never longer than the second. */
  readonly #window: number;
  readonly #windowMost: number;

  constructor(sink: ShapeSink, limits: ShapeLimits) {
    this.#sink = sink;
    this.#limits = limits;
    // A piece has at least one page: so many pages are never more pieces than a window holds.
    const most = Math.min(limits.maxEntryPages, limits.windowPieces === 0 ? Infinity : limits.windowPieces);
    this.#window = Math.min(WINDOW_PAGES, most);
    this.#windowMost = Math.min(WINDOW_PAGES_MOST, most);
  }

  /** Pages at which a stretch of several pieces is complete. */
  get window(): number {
    return this.#window;
  }

  /** True when a mapping at `iova` with `flags` continues the stretch. */
  continues(iova: number, flags: number): boolean {
    return this.pieces > 0 && iova === this.end && flags === this.flags;
  }

  /** Pages of piece `i`. */
  pagesOf(i: number): number {
    return (i + 1 < this.pieces ? this.pieceStart[i + 1]! : this.end) - this.pieceStart[i]!;
  }

  /** Mappings of pieces `0..count - 1`. */
  mappingsOf(count: number): number {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += this.#pieceMappings[i]!;
    return sum;
  }

  /**
   * Adds a mapping; it begins a stretch when there is none, and must continue the present one otherwise.
   * `region` names the memory region of `va`: two regions never share a run, whatever their addresses.
   */
  append(iova: number, pages: number, va: number, flags: number, region: number): void {
    const extends_ = this.pieces > 0 && va === this.#nextVa && region === this.#region && this.#lastMayGrow(pages);
    if (extends_) {
      // What would reach too far for a window, or is large, grows alone.
      if (this.pieces > 1 && this.#isTooLong(pages)) this.#keepLast();
      this.#pieceMappings[this.pieces - 1]!++;
    } else this.#begin(iova, pages, va, flags);
    this.end = iova + pages;
    this.mappings++;
    this.#nextVa = va + pages;
    this.#region = region;
    if (this.pieces > 1 && this.end - this.start >= this.#window) this.#closeWindow();
  }

  /** Emits the stretch, whole: one entry when it can be gathered or is one run; then it is empty. */
  finish(): void {
    if (this.pieces > 1 && (this.flags & GATHERABLE) !== 0) this.#gather(this.pieces);
    else this.#emit(this.pieces);
    this.forget();
  }

  /** Empties the stretch without emitting anything. */
  forget(): void {
    this.pieces = 0;
    this.mappings = 0;
    this.#nextVa = -1;
  }

  /** True when `pages` more may join the last piece. */
  #lastMayGrow(pages: number): boolean {
    const { maxEntryPages } = this.#limits;
    const last = this.pieces - 1;
    const start = this.pieceStart[last]!;
    let limit = start + maxEntryPages;
    // Where large IOPTEs are possible an entry ends at their edge.
    if ((start - this.pieceVa[last]!) % WINDOW_PAGES === 0) {
      const edge = limit - (limit % WINDOW_PAGES);
      if (edge - start >= this.#window) limit = edge;
    }
    return this.end + pages <= limit;
  }

  /** Begins a new piece, after emitting what can no longer grow. */
  #begin(iova: number, pages: number, va: number, flags: number): void {
    if (this.pieces > 0) {
      const length = this.end - this.start;
      const alone = (this.flags & GATHERABLE) === 0 || (this.pieces === 1 && length >= this.#window);
      if (alone) {
        this.#emit(this.pieces);
        this.forget();
      }
      // A large mapping keeps its large IOPTEs only in an entry of its own; one that reaches too far starts anew.
      else if (this.#isTooLong(pages)) this.#close();
    }
    if (this.pieces === 0) {
      this.start = iova;
      this.flags = flags;
      this.mappings = 0;
    }
    this.pieceStart[this.pieces] = iova;
    this.pieceVa[this.pieces] = va;
    this.#pieceMappings[this.pieces++] = 1;
  }

  /** True when a mapping of `pages` has no place in a window behind what is there. */
  #isTooLong(pages: number): boolean {
    return pages >= this.#window || this.end + pages - this.start > this.#windowMost;
  }

  /** The stretch is as long as a window and not one run. */
  #closeWindow(): void {
    if (this.pieces > this.#gatherAbove) {
      this.#gather(this.pieces);
      this.forget();
    } else {
      this.#keepLast();
    }
  }

  /** All but the last piece are complete, and the last may grow. */
  #keepLast(): void {
    const last = this.pieces - 1;
    if (last > this.#gatherAbove) this.#gather(last);
    else this.#emit(last);
    this.start = this.pieceStart[last]!;
    this.pieceStart[0] = this.start;
    this.pieceVa[0] = this.pieceVa[last]!;
    this.#pieceMappings[0] = this.#pieceMappings[last]!;
    this.mappings = this.#pieceMappings[0];
    this.pieces = 1;
  }

  /** Emits a stretch that cannot grow: gathered when it has pieces enough. */
  #close(): void {
    if (this.pieces > this.#gatherAbove) this.#gather(this.pieces);
    else this.#emit(this.pieces);
    this.forget();
  }

  get #gatherAbove(): number {
    return this.#limits.tight ? 1 : GATHER_ABOVE;
  }

  /** Emits the first `count` pieces, each as an entry. */
  #emit(count: number): void {
    for (let i = 0; i < count; i++) {
      const rights = this.flags & RIGHTS;
      this.#sink.mapRun(this.pieceStart[i]!, this.pagesOf(i), this.pieceVa[i]!, rights, this.#pieceMappings[i]!);
    }
  }

  /** Emits the first `count` pieces as one entry. */
  #gather(count: number): void {
    const end = count < this.pieces ? this.pieceStart[count]! : this.end;
    this.#sink.gatherPieces(this.start, end - this.start, this.flags & RIGHTS, this, count);
  }
}
