// What a host context can be told to mirror: the mappings of a guest domain, or all of guest memory (bypass).
// A source lists host operations chunk by chunk, so that a switch needs no copy of the whole list.
// Unit: 4 KiB page numbers, half-open.
import type { HostBatch } from '../host/context.ts';
import { HOST_MMIO, HostRight } from '../host/context.ts';
import type { IntervalTable } from '../intervals/table.ts';
import { NONE } from '../intervals/table.ts';
import type { Backing } from './backing.ts';

/** Something that a context can mirror; two sources are the same target when they are the same object. */
export interface MirrorSource {
  readonly kind: 'domain' | 'bypass';
  /** Walks host operations from the start; `sink` gets each (iova, pages, gpa, rights) and returns false to stop. */
  walk(sink: PieceSink): void;
}

/** A source made of guest mappings. */
export interface MappingSource extends MirrorSource {
  readonly kind: 'domain';
  /** Number of mappings. */
  readonly size: number;
  /** Walks the mappings that begin inside [start, end), in order; the table must not change meanwhile. */
  walkRange(start: number, end: number, sink: PieceSink): void;
  /** Finds the mapping that holds page `iova` and keeps it in {@link found}; false when there is none. */
  locate(iova: number): boolean;
  readonly found: { readonly start: number; readonly end: number; readonly gpa: number; readonly rights: number };
}

/** Receives one mapping of a source in pages; false stops the walk. */
export type PieceSink = (iova: number, pages: number, gpa: number, rights: number) => boolean;

const RIGHTS = HostRight.read | HostRight.write;

/** The guest mappings of a domain; `granulePages` 4 KiB pages per key of the table (>= 1). */
export class DomainSource implements MappingSource {
  readonly kind = 'domain';
  readonly found = { start: 0, end: 0, gpa: 0, rights: 0 };
  readonly #table: IntervalTable;
  readonly #granulePages: number;

  constructor(table: IntervalTable, granulePages: number) {
    this.#table = table;
    this.#granulePages = granulePages;
  }

  get size(): number {
    return this.#table.size;
  }

  walk(sink: PieceSink): void {
    this.#walkFrom(this.#table.first(), Infinity, sink);
  }

  walkRange(start: number, end: number, sink: PieceSink): void {
    const key = start / this.#granulePages;
    let slot = this.#table.seek(Math.ceil(key));
    if (slot !== NONE && this.#table.startAt(slot) < key) slot = this.#table.next(slot);
    this.#walkFrom(slot, end, sink);
  }

  locate(iova: number): boolean {
    const table = this.#table;
    const unit = this.#granulePages;
    const slot = table.find(Math.floor(iova / unit));
    if (slot === NONE) return false;
    const { found } = this;
    found.start = table.startAt(slot) * unit;
    found.end = table.endAt(slot) * unit;
    found.gpa = table.valueAt(slot) * unit;
    found.rights = table.flagsAt(slot) & RIGHTS;
    return true;
  }

  #walkFrom(first: number, end: number, sink: PieceSink): void {
    const table = this.#table;
    const unit = this.#granulePages;
    for (let slot = first; slot !== NONE; slot = table.next(slot)) {
      const start = table.startAt(slot);
      if (start * unit >= end) return;
      const pages = (table.endAt(slot) - start) * unit;
      // MAP flags READ and WRITE have the values of HostRight (checked by a test).
      if (!sink(start * unit, pages, table.valueAt(slot) * unit, table.flagsAt(slot) & RIGHTS)) return;
    }
  }
}

/** Pages [start, end). */
export interface PageRange {
  readonly start: number;
  readonly end: number;
}

/** All backed guest memory at IOVA = GPA, except `holes`: sorted, disjoint; one of length 0 only cuts an entry in two. */
export class BypassSource implements MirrorSource {
  readonly kind = 'bypass';
  /** Whether device registers are shown too. */
  readonly mmio: boolean;
  readonly #backing: Backing;
  readonly #holes: readonly PageRange[];

  constructor(backing: Backing, holes: readonly PageRange[], mmio: boolean) {
    this.#backing = backing;
    this.#holes = holes;
    this.mmio = mmio;
  }

  /** True when this source shows the same as one with these arguments. */
  shows(holes: readonly PageRange[], mmio: boolean): boolean {
    const own = this.#holes;
    return (
      mmio === this.mmio &&
      own.length === holes.length &&
      own.every(({ start, end }, i) => start === holes[i]!.start && end === holes[i]!.end)
    );
  }

  walk(sink: PieceSink): void {
    const { table } = this.#backing;
    for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
      if (!this.mmio && (table.flagsAt(slot) & HOST_MMIO) !== 0) continue;
      let start = table.startAt(slot);
      const end = table.endAt(slot);
      for (const hole of this.#holes) {
        if (hole.end <= start) continue;
        if (hole.start >= end) break;
        if (hole.start > start && !sink(start, hole.start - start, start, RIGHTS)) return;
        start = hole.end;
      }
      if (start < end && !sink(start, end - start, start, RIGHTS)) return;
    }
  }
}

/** Number of entries and of RAM pages that installing `source` takes; counting stops above `most` entries. */
export function measure(
  source: MirrorSource,
  backing: Backing,
  scratch: HostBatch,
  most: number,
): { entries: number; pages: number } {
  let entries = 0;
  let pages = 0;
  source.walk((iova, count, gpa, rights) => {
    scratch.clear();
    entries += backing.appendPieces(scratch, iova, count, gpa, rights);
    pages += backing.ramPagesIn(gpa, count, rights);
    return entries <= most;
  });
  return { entries, pages };
}
