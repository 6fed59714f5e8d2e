// What a passed-through endpoint reaches, compared with what the guest gave it at that moment: never more (I1, I3), and
// not less where nothing touches it (I2, I4). Works on runs of pages. Unit: 4 KiB page numbers, ends exclusive.
// Times are those of engine.ts: `at` requests have been answered; what may have been carried out beyond counts as either.
import type { ReachableRun } from '../../src/host/simulated.ts';
import type { GuestEndpoint, Mapping, Target } from './engine.ts';
import { FOREVER, indexFrom } from './engine.ts';
import type { Backing } from './layout.ts';
import { GPA_FIRST } from './setup.ts';

/** Mappings of bypass for one context: at the end of the step, and those that memory took away in the step. */
export interface BypassMaps {
  readonly maps: readonly Mapping[];
  readonly gone: readonly Mapping[];
}

/** The step's memory: before and after; the same object unless the step changes memory. */
export interface Memories {
  readonly before: Backing;
  readonly after: Backing;
}

const NOTHING: readonly Mapping[] = [];

function liveOf(target: Target, bypass: BypassMaps): readonly Mapping[] {
  return target === 'bypass' ? bypass.maps : target === 'blocked' ? NOTHING : target.maps;
}

function goneOf(target: Target, bypass: BypassMaps): readonly Mapping[] {
  return target === 'bypass' ? bypass.gone : target === 'blocked' ? NOTHING : target.gone;
}

function gives(backing: Backing, gpa: number, flags: number, physical: number, rights: number): boolean {
  const at = gpa - GPA_FIRST;
  return backing.physical[at] === physical && (rights & ~(flags & backing.rights[at]!)) === 0;
}

/** I1: the first page of `runs` that `endpoint` must not reach (so) when `at` requests are answered, -1 without one. */
export function foreignPage(
  runs: readonly ReachableRun[],
  endpoint: GuestEndpoint,
  bypass: BypassMaps,
  memory: Memories,
  at: number,
): number {
  for (const run of runs) {
    const end = run.iova + run.pages;
    for (let page = run.iova; page < end;) {
      const reached = givenUntil(run, page, end, endpoint, bypass, memory, at);
      if (reached === page) return page;
      page = reached;
    }
  }
  return -1;
}

/** First page of [page, end) that no mapping gives as the run has it; `page` itself when there is none for it. */
function givenUntil(
  run: ReachableRun,
  page: number,
  end: number,
  endpoint: GuestEndpoint,
  bypass: BypassMaps,
  memory: Memories,
  at: number,
): number {
  for (const { target, from, until } of endpoint.presences) {
    if (until < at) continue;
    const live = liveOf(target, bypass);
    const found = live[indexFrom(live, page)];
    if (found !== undefined && found.start <= page && meet(found, from, until, at)) {
      const reached = follow(run, page, end, found, memory);
      if (reached > page) return reached;
    }
    for (const map of goneOf(target, bypass)) {
      if (map.start > page || map.end <= page || !meet(map, from, until, at)) continue;
      const reached = follow(run, page, end, map, memory);
      if (reached > page) return reached;
    }
  }
  return page;
}

/** True when there is a moment from `at` on at which the mapping was there and the endpoint was attached. */
function meet(map: Mapping, from: number, until: number, at: number): boolean {
  return Math.max(map.from, from, at) <= Math.min(map.until, until);
}

function follow(run: ReachableRun, page: number, end: number, map: Mapping, { before, after }: Memories): number {
  const last = Math.min(end, map.end);
  const toGpa = map.target - map.start;
  const toPhysical = run.physical - run.iova;
  let at = page;
  while (at < last) {
    const physical = at + toPhysical;
    if (
      !gives(after, at + toGpa, map.flags, physical, run.rights) &&
      (before === after || !gives(before, at + toGpa, map.flags, physical, run.rights))
    )
      break;
    at++;
  }
  return at;
}

/**
 * I2 and I4: pages that `target` gave before `at` requests were answered, that no request of the step touches afterwards,
 * and that `runs` do not show with the right page and rights; appended to `missing` as [start, end) pairs.
 */
export function missingPages(
  runs: readonly ReachableRun[],
  target: Target,
  bypass: BypassMaps,
  memory: Memories,
  at: number,
  missing: number[],
): void {
  let r = 0;
  for (const map of liveOf(target, bypass)) {
    if (map.from > at || map.until !== FOREVER) continue;
    const toGpa = map.target - map.start - GPA_FIRST;
    for (let page = map.start; page < map.end; page++) {
      const physical = memory.after.physical[page + toGpa] ?? -1;
      if (physical < 0) continue;
      const rights = map.flags & memory.after.rights[page + toGpa]!;
      // What memory changes in this step is due at its end only.
      if (rights === 0 || (memory.before !== memory.after && memory.before.physical[page + toGpa] !== physical))
        continue;
      while (r < runs.length && runs[r]!.iova + runs[r]!.pages <= page) r++;
      const run = runs[r];
      const there =
        run !== undefined && run.iova <= page && run.physical + (page - run.iova) === physical && run.rights === rights;
      if (there) continue;
      const last = missing.length - 1;
      if (last > 0 && missing[last] === page) missing[last] = page + 1;
      else missing.push(page, page + 1);
    }
  }
}

/** True when every page of the [start, end) pairs lies in one of the ranges. */
export function covered(pairs: readonly number[], ranges: readonly (readonly [number, number])[]): boolean {
  for (let i = 0; i < pairs.length; i += 2) {
    let page = pairs[i]!;
    while (page < pairs[i + 1]!) {
      const next = ranges.find(([start, end]) => start <= page && page < end);
      if (next === undefined) return false;
      page = next[1];
    }
  }
  return true;
}

/** True when a pair shares a page with [start, end). */
export function meets(pairs: readonly number[], start: number, end: number): boolean {
  for (let i = 0; i < pairs.length; i += 2) if (pairs[i]! < end && start < pairs[i + 1]!) return true;
  return false;
}
