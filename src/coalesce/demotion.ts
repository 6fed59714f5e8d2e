// Takes entries apart of which the guest unmapped a part: the entry goes, and what is left of it is mapped again in the
// same host call, in size classes. On a live context that opens a window, which is counted and told; on a quiet one
// nothing is mapped before it wakes. Access is never kept: what has no room is revoked, and comes back first.
// Unit: 4 KiB page numbers, half-open.
import { HostBatch } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import type { ContextMirror } from './mirror.ts';
import type { Gone, Remainder } from './remainder.ts';
import { appendClasses, appendRuns, appendWhole, entryAt, remaindersOf } from './remainder.ts';
import { mapOne, revoke } from './revocation.ts';
import { Disturbance } from './tally.ts';

interface Apart {
  readonly start: number;
  readonly end: number;
  readonly rest: readonly Remainder[];
}

/** Takes the entries that start at pages `starts` apart; the context may be blocked afterwards. */
export function takeApart(mirror: ContextMirror, starts: readonly number[], gone?: Gone): void {
  const list: Apart[] = [];
  for (const start of starts) {
    const entry = entryAt(mirror, start);
    if (entry !== undefined) list.push({ ...entry, rest: remaindersOf(mirror, entry.start, entry.end, gone) });
  }
  mirror.tally.demotions += list.length;
  if (mirror.undisturbed) dropAndWait(mirror, list);
  else remap(mirror, list, gone === undefined ? 'demotion' : 'memory');
}

/** Nobody looks: the entries go, what is left of them waits. */
function dropAndWait(mirror: ContextMirror, list: readonly Apart[]): void {
  const batch = new HostBatch(16);
  for (const { start, end } of list) batch.unmap(start, end - start);
  const stopped = mirror.apply(batch, 0);
  if (stopped < batch.count) {
    mirror.block('UNMAP', batch.errno[stopped]!, batch.iova[stopped]!, batch.pages[stopped]);
    return;
  }
  mirror.budget.relieved(list.length);
  for (const { rest } of list) {
    for (const part of rest) {
      const several = part.mappings.length > 1;
      mirror.waiting.add(part.start, part.end, part.flags, several);
      if (mirror.budget.taken <= mirror.budget.limit) continue;
      mirror.waiting.take(mirror.waiting.startingAt(part.start));
      revoke(mirror, part.start, part.end, part.flags, several);
    }
  }
}

/** Live: unmap and map again in one host call, with the windows built before. */
function remap(mirror: ContextMirror, list: readonly Apart[], reason: 'demotion' | 'memory'): void {
  const batch = new HostBatch(16);
  for (const { start, end } of list) batch.unmap(start, end - start);
  shape(mirror, batch, list);
  const disturbance = new Disturbance(mirror.settings, mirror.contexts);
  disturbance.begin();
  run(mirror, batch, list.length);
  mirror.context.dropWindows(batch);
  if (!mirror.isBlocked()) {
    mirror.budget.relieved(list.length);
    for (const { rest } of list) for (const part of rest) revokeMissing(mirror, part);
  }
  const ms = disturbance.end();
  if (mirror.isBlocked()) return;
  for (const apart of list) if (apart.rest.length > 0) tellWindow(mirror, reason, apart, ms);
}

/** Chooses how finely the remainders are cut: in classes while entries abound, else as few entries as possible. */
function shape(mirror: ContextMirror, batch: HostBatch, list: readonly Apart[]): void {
  const unmaps = batch.count;
  const { budget, entries, context } = mirror;
  const room = budget.limit - (entries.size - unmaps);
  const rests = list.flatMap((apart) => apart.rest);
  const fits = (append: (batch: HostBatch, rest: Remainder) => number, reserve: number): boolean => {
    batch.truncate(unmaps);
    for (const rest of rests) append(batch, rest);
    return batch.count - unmaps + reserve <= room && context.buildWindows(batch, unmaps) === batch.count;
  };
  if (fits(appendClasses, budget.lowWater) || fits(appendWhole, 0) || fits(appendRuns, 0)) return;
  // As many whole parts as there is room for; what is missing is revoked.
  batch.truncate(unmaps);
  for (const rest of rests) {
    const before = batch.count;
    appendWhole(batch, rest);
    if (batch.count - unmaps > room) batch.truncate(before);
  }
  context.buildWindows(batch, unmaps);
}

/** Sends the batch; the first `unmaps` operations must succeed, a map that is refused leaves its part out. */
function run(mirror: ContextMirror, batch: HostBatch, unmaps: number): void {
  for (let from = 0; from < batch.count;) {
    const stopped = mirror.apply(batch, from);
    if (stopped === batch.count) return;
    if (stopped < unmaps) {
      mirror.block('UNMAP', batch.errno[stopped]!, batch.iova[stopped]!, batch.pages[stopped]);
      return;
    }
    from = stopped + 1;
  }
}

function tellWindow(mirror: ContextMirror, reason: 'demotion' | 'memory', apart: Apart, ms: number | undefined): void {
  const { tally } = mirror;
  if (ms === undefined) {
    tally.stalls++;
    return;
  }
  tally.windows++;
  tally.longestWindow = Math.max(tally.longestWindow, ms);
  mirror.observer.window(mirror, reason, apart.start, apart.end - apart.start, ms);
}

/** Mappings of `part` that no entry shows are tried once more one by one, and then revoked. */
function revokeMissing(mirror: ContextMirror, part: Remainder): void {
  const { table } = mirror.entries;
  let from = NONE;
  let count = 0;
  const close = (end: number): void => {
    if (from !== NONE) revoke(mirror, from, end, part.flags, count > 1);
    from = NONE;
    count = 0;
  };
  for (const { start, end, va } of part.mappings) {
    if (!table.isFree(start, end) || mapOne(mirror, start, end, va, part.flags)) {
      close(start);
      continue;
    }
    if (from === NONE) from = start;
    count++;
  }
  close(part.end);
}
