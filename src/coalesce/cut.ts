// Takes ranges away from a context whose host cuts entries (HostLimits.cuts): exactly the ranges go. What is left of an entry
// stays as it is: it is reachable all the while, so that no window opens, and it is not mapped or pinned again.
// Device registers are never cut: an entry of them shows one piece of one guest mapping, which goes whole.
// Where the host refuses a cut all the same, the entry is taken apart as on any other host (demotion.ts).
// Unit: 4 KiB page numbers, half-open. The guest's table has lost the mappings already: what is left in it stays mapped.
import type { HostBatch } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { takeApart } from './demotion.ts';
import { NOTE_CUTS, NOTE_JOINED_BEFORE, NOTE_JOINED_BEHIND } from './host-entries.ts';
import type { ContextMirror } from './mirror.ts';
import type { RangeColumns } from './removal.ts';
import type { Gone } from './remainder.ts';

/**
 * Unmaps `ranges`, which are normalised, with one call for each longest span of them whose gaps hold no entry. `batch` is
 * overwritten. The context may be blocked afterwards.
 */
export function cutOut(mirror: ContextMirror, batch: HostBatch, ranges: RangeColumns, gone: Gone | undefined): void {
  const before = mirror.entries.size;
  for (let first = 0; first < ranges.count;) {
    batch.clear();
    appendSpans(mirror, batch, ranges, first);
    const stopped = mirror.apply(batch, 0);
    if (stopped === batch.count) break;
    const end = batch.iova[stopped]! + batch.pages[stopped]!;
    if (!removeWhole(mirror, batch, stopped, gone)) return;
    while (first < ranges.count && ranges.start[first]! < end) first++;
  }
  mirror.budget.relieved(Math.max(0, before - mirror.entries.size));
}

/** Appends what entries show of the ranges from `first` on. */
function appendSpans(mirror: ContextMirror, batch: HostBatch, ranges: RangeColumns, first: number): void {
  const { table } = mirror.entries;
  let slot = table.seek(ranges.start[first]!);
  for (let i = first; i < ranges.count && slot !== NONE; i++) {
    const start = ranges.start[i]!;
    const end = ranges.end[i]!;
    if (table.endAt(slot) <= start) slot = table.seek(start);
    let spanned = false;
    for (; slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) {
      appendPiece(mirror, batch, slot, start, end, spanned);
      if (table.endAt(slot) > end) break; // the next range may meet it too
      spanned = true;
    }
  }
}

/** Appends what the entry in `slot` shows of [start, end); `spanned`: it is the next one of the same range. */
function appendPiece(
  mirror: ContextMirror,
  batch: HostBatch,
  slot: number,
  start: number,
  end: number,
  spanned: boolean,
): void {
  const { table } = mirror.entries;
  const entryStart = table.startAt(slot);
  const entryEnd = table.endAt(slot);
  const from = Math.max(entryStart, start);
  const to = Math.min(entryEnd, end);
  let last = batch.count - 1;
  const cutBefore = last < 0 ? 0 : batch.iova[last]! + batch.pages[last]!;
  // Between the last span and this piece lies no entry: one call takes both.
  if (last >= 0 && (spanned || mirror.entries.isFree(cutBefore, from))) batch.pages[last] = to - batch.iova[last]!;
  else {
    batch.unmap(from, to - from);
    last++;
    // An earlier span may have been cut out of the same entry.
    const left = Math.max(entryStart, cutBefore);
    if (left < from)
      batch.note[last] = NOTE_CUTS | (showsSeveral(mirror, left, from, from - 1) ? NOTE_JOINED_BEFORE : 0);
  }
  if (to < entryEnd) batch.note[last]! |= NOTE_CUTS | (showsSeveral(mirror, to, entryEnd, to) ? NOTE_JOINED_BEHIND : 0);
}

/**
 * True when [start, end), a part of an entry that is left, shows several guest mappings: when the one that holds `page`, its
 * first or last page, does not fill it. Holes that other ranges cut there count with the part until they are cut.
 */
function showsSeveral({ mappings }: ContextMirror, start: number, end: number, page: number): boolean {
  return mappings?.locate(page) === true && (mappings.found.start > start || mappings.found.end < end);
}

/** The host refused unmap `i`: what it names goes in whole entries. False when the context is blocked. */
function removeWhole(mirror: ContextMirror, batch: HostBatch, i: number, gone: Gone | undefined): boolean {
  const { table } = mirror.entries;
  const start = batch.iova[i]!;
  const end = start + batch.pages[i]!;
  if ((batch.note[i]! & NOTE_CUTS) === 0) {
    mirror.block('UNMAP', batch.errno[i]!, start, end - start);
    return false;
  }
  const cut: number[] = [];
  let [from, to] = [start, end];
  const first = table.find(start);
  if (first !== NONE && table.startAt(first) < start) {
    cut.push(table.startAt(first));
    from = table.endAt(first);
  }
  const last = table.find(end - 1);
  if (last !== NONE && table.endAt(last) > end) {
    if (last !== first || cut.length === 0) cut.push(table.startAt(last));
    to = table.startAt(last);
  }
  if (from < to) mirror.unmapRange(from, to - from);
  if (!mirror.isBlocked()) takeApart(mirror, cut, gone);
  return !mirror.isBlocked();
}
