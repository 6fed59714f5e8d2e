// Access that was taken away for want of room: it is told, counted as an open window, and given back first when entries
// come free. A stretch that the host keeps refusing is not tried with every request.
// Unit: 4 KiB page numbers, half-open.
import { HostBatch, HostRight } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import type { ContextMirror } from './mirror.ts';
import type { Remainder } from './remainder.ts';
import { appendRuns, appendWhole, remaindersOf } from './remainder.ts';
import { GATHERABLE } from './shaper.ts';
import { REVOKED } from './waiting.ts';

const RIGHTS = HostRight.read | HostRight.write;

/** Marks [start, end), which stands in no entry, as revoked. */
export function revoke(mirror: ContextMirror, start: number, end: number, flags: number, several: boolean): void {
  mirror.waiting.add(start, end, (flags & (RIGHTS | GATHERABLE)) | REVOKED, several);
  mirror.tally.windows++;
  mirror.observer.window(mirror, 'revoked', start, end - start, undefined);
}

/** One planned stretch beside the range [start, end), which was cut out of it, is revoked: there is no entry for both. */
export function revokeOneOf(mirror: ContextMirror, start: number, end: number): void {
  const { waiting } = mirror;
  for (const slot of [waiting.startingAt(end), waiting.endingAt(start)]) {
    if (slot === NONE || (waiting.table.flagsAt(slot) & REVOKED) !== 0) continue;
    const [from, to, flags] = [waiting.table.startAt(slot), waiting.table.endAt(slot), waiting.table.flagsAt(slot)];
    const several = waiting.isSeveral(slot);
    waiting.take(slot);
    revoke(mirror, from, to, flags, several);
    return;
  }
}

/** Gives revoked stretches of a live context back while there is room; ends at the first that the host still refuses. */
export function reinstallRevoked(mirror: ContextMirror): void {
  const { waiting, budget } = mirror;
  let page = 0;
  while (waiting.revoked > 0 && budget.limit > mirror.entries.size && mirror.mappings !== undefined) {
    const slot = waiting.table.seek(page);
    if (slot === NONE) return;
    const [start, end] = [waiting.table.startAt(slot), waiting.table.endAt(slot)];
    page = end;
    if ((waiting.table.flagsAt(slot) & REVOKED) === 0) continue;
    const several = waiting.isSeveral(slot);
    const flags = waiting.table.flagsAt(slot);
    waiting.take(slot);
    const rests = remaindersOf(mirror, start, end, undefined);
    if (rests.every((rest) => install(mirror, rest, appendWhole) || install(mirror, rest, appendRuns))) continue;
    if (mirror.isBlocked()) return;
    const partly = rests.map((rest) => installEach(mirror, rest, flags));
    if (partly.includes(false) || !several) return;
  }
}

/** Maps each mapping of `rest` that no entry shows while there is room; what stays without is revoked as before. */
function installEach(mirror: ContextMirror, rest: Remainder, flags: number): boolean {
  const { table } = mirror.entries;
  let whole = true;
  let from = NONE;
  let count = 0;
  const close = (end: number): void => {
    if (from !== NONE) mirror.waiting.add(from, end, flags, count > 1);
    from = NONE;
    count = 0;
  };
  for (const { start, end, va } of rest.mappings) {
    const shown = !table.isFree(start, end) || (whole && mapOne(mirror, start, end, va, rest.flags));
    if (mirror.isBlocked()) return false;
    if (shown) {
      close(start);
      continue;
    }
    whole = false;
    if (from === NONE) from = start;
    count++;
  }
  close(rest.end);
  return whole;
}

/** Maps one mapping, when there is an entry for it. */
export function mapOne(mirror: ContextMirror, start: number, end: number, va: number, flags: number): boolean {
  if (mirror.entries.size >= mirror.budget.limit) return false;
  const batch = new HostBatch(1);
  batch.map(start, end - start, va, flags & RIGHTS);
  return mirror.apply(batch, 0) === 1;
}

/** Installs a remainder in the given shape, or nothing of it. */
function install(
  mirror: ContextMirror,
  rest: Remainder,
  append: (batch: HostBatch, rest: Remainder) => number,
): boolean {
  if (mirror.isBlocked()) return false;
  const batch = new HostBatch(16);
  append(batch, rest);
  if (batch.count > mirror.budget.limit - mirror.entries.size) return false;
  const built = mirror.context.buildWindows(batch, 0) === batch.count;
  const stopped = built ? mirror.apply(batch, 0) : 0;
  mirror.context.dropWindows(batch);
  if (built && stopped === batch.count) return true;
  for (let i = 0; i < stopped && !mirror.isBlocked(); i++) mirror.unmapRange(batch.iova[i]!, batch.pages[i]!);
  return false;
}
