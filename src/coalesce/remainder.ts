// What is left of host entries after the guest unmapped parts of them, and the entries that can show it.
// Unit: 4 KiB page numbers, half-open.
import type { HostBatch } from '../host/context.ts';
import { HostRight } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { NOTE_JOINED } from './host-entries.ts';
import type { ContextMirror } from './mirror.ts';
import { WINDOW_PAGES_MOST } from './settings.ts';
import { GATHERABLE } from './shaper.ts';
import { stretchFlags } from './stretch.ts';

const RIGHTS = HostRight.read | HostRight.write;

/** True for a mapping that goes although the guest's table still has it (its memory is being removed). */
export type Gone = (gpa: number, pages: number) => boolean;

/** One guest mapping that an entry carried. */
export interface Carried {
  readonly start: number;
  readonly end: number;
  readonly va: number;
  readonly region: number;
}

/** A stretch that is left of an entry: whole mappings, adjacent. */
export interface Remainder {
  readonly start: number;
  end: number;
  /** Rights and GATHERABLE. */
  readonly flags: number;
  readonly mappings: Carried[];
  /** True when the entry went on before `start`, or behind `end`: a class block that reaches out there is not whole. */
  readonly cutBefore: boolean;
  cutBehind: boolean;
}

/** What is left of the entry [start, end) once the guest's table lost its part, in order. */
export function remaindersOf(mirror: ContextMirror, start: number, end: number, gone: Gone | undefined): Remainder[] {
  const { backing, mappings } = mirror;
  const list: Remainder[] = [];
  let last: Remainder | undefined;
  mappings?.walkRange(start, end, (iova, pages, gpa, rights) => {
    if (gone?.(gpa, pages) === true || !backing.locate(gpa, pages, rights)) return true;
    const carried = { start: iova, end: iova + pages, va: backing.foundVa, region: backing.region };
    if (last?.end === iova) {
      last.mappings.push(carried);
      last.end = carried.end;
      return true;
    }
    if (last !== undefined) last.cutBehind = true;
    const flags = stretchFlags(mirror, backing.foundFlags);
    last = { start: iova, end: carried.end, flags, mappings: [carried], cutBefore: iova > start, cutBehind: false };
    list.push(last);
    return true;
  });
  if (last !== undefined) last.cutBehind = last.end < end;
  return list;
}

/**
 * Appends entries for a remainder in size classes (1, 8, 64, 512… pages, aligned): the largest whole blocks, so that the
 * next partial UNMAP takes only a small one apart. Returns the number of entries.
 */
export function appendClasses(batch: HostBatch, rest: Remainder): number {
  const { mappings } = rest;
  const before = batch.count;
  for (let i = 0; i < mappings.length;) {
    const block = blockEnd(rest, mappings[i]!.start);
    let next = i + 1;
    while (next < mappings.length && mappings[next]!.start < block) next++;
    appendGroup(batch, rest, i, next);
    i = next;
  }
  return batch.count - before;
}

/** Appends one entry for a remainder; more where a window cannot show it. Returns the number of entries. */
export function appendWhole(batch: HostBatch, rest: Remainder): number {
  const before = batch.count;
  appendGroup(batch, rest, 0, rest.mappings.length);
  return batch.count - before;
}

/** Appends one entry for each run of contiguous host virtual pages. Returns the number of entries. */
export function appendRuns(batch: HostBatch, rest: Remainder): number {
  const before = batch.count;
  runsOf(rest, 0, rest.mappings.length, (from, to) => appendRun(batch, rest, from, to));
  return batch.count - before;
}

/** End of the largest class block around `page` from which nothing was taken. */
function blockEnd(rest: Remainder, page: number): number {
  let end = page + 1;
  for (let size = 8; size <= 2 ** 45; size *= 8) {
    const from = page - (page % size);
    if (rest.cutBefore && from < rest.start) break;
    if (rest.cutBehind && from + size > rest.end) break;
    end = from + size;
    if (from <= rest.start && end >= rest.end) break;
  }
  return end;
}

function appendGroup(batch: HostBatch, rest: Remainder, from: number, to: number): void {
  const { mappings } = rest;
  const pages = mappings[to - 1]!.end - mappings[from]!.start;
  let runs = 0;
  runsOf(rest, from, to, () => {
    runs++;
  });
  if (runs === 1 || (rest.flags & GATHERABLE) === 0 || pages > WINDOW_PAGES_MOST) {
    runsOf(rest, from, to, (first, next) => appendRun(batch, rest, first, next));
    return;
  }
  batch.gather(mappings[from]!.start, pages, rest.flags & RIGHTS);
  runsOf(rest, from, to, (first, next) => {
    batch.piece(mappings[first]!.va, mappings[next - 1]!.end - mappings[first]!.start);
  });
}

function appendRun(batch: HostBatch, rest: Remainder, from: number, to: number): void {
  const first = rest.mappings[from]!;
  batch.map(first.start, rest.mappings[to - 1]!.end - first.start, first.va, rest.flags & RIGHTS);
  if (to - from > 1) batch.note[batch.count - 1] = NOTE_JOINED;
}

/** Calls `run` with the bounds of each run of contiguous host virtual pages among mappings `from`..`to - 1`. */
function runsOf({ mappings }: Remainder, from: number, to: number, run: (from: number, to: number) => void): void {
  let first = from;
  for (let i = from + 1; i <= to; i++) {
    const [before, here] = [mappings[i - 1]!, mappings[i]];
    const goes = i < to && here?.va === before.va + (before.end - before.start) && here.region === before.region;
    if (goes) continue;
    run(first, i);
    first = i;
  }
}

/** Bounds of the entry that starts at page `start`; undefined when it is gone. */
export function entryAt(mirror: ContextMirror, start: number): { start: number; end: number } | undefined {
  const { table } = mirror.entries;
  const slot = table.find(start);
  return slot === NONE ? undefined : { start: table.startAt(slot), end: table.endAt(slot) };
}
