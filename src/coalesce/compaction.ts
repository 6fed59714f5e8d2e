// Puts entries together that were made apart: neighbours on contiguous memory become one, scattered ones stand in a window.
// For contexts that can do no DMA; on a live one (policy `lossy`) each replaced group is a window, counted and told.
// Unit: 4 KiB page numbers, half-open.
import { HOST_MMIO, HostBatch, HostOp, HostRight } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { GATHERED, JOINED, NOTE_JOINED } from './host-entries.ts';
import type { ContextMirror } from './mirror.ts';
import { appendWhole, remaindersOf } from './remainder.ts';
import { revoke } from './revocation.ts';
import { WINDOW_PAGES } from './settings.ts';
import type { ShapeSink } from './shaper.ts';
import { EntryShaper, GATHERABLE } from './shaper.ts';
import { shapeLimits, stretchFlags } from './stretch.ts';
import { Disturbance } from './tally.ts';

const RIGHTS = HostRight.read | HostRight.write;

/** Groups are sent to the host after this many operations. */
const CHUNK = 256;

/** Replaces groups of entries by one each, wherever that makes fewer. The context may be blocked afterwards. */
export function compact(mirror: ContextMirror): void {
  mirror.tally.compactions++;
  new Compaction(mirror).run();
}

/** An entry that is to be replaced, so that it can be made again. */
interface Replaced {
  readonly start: number;
  readonly end: number;
  readonly va: number;
  readonly flags: number;
}

class Compaction implements ShapeSink {
  readonly #mirror: ContextMirror;
  readonly #batch = new HostBatch();
  readonly #shaper: EntryShaper;
  /** The entries that the groups of the batch replace. */
  readonly #replaced: Replaced[] = [];

  constructor(mirror: ContextMirror) {
    this.#mirror = mirror;
    this.#shaper = new EntryShaper(
      this,
      shapeLimits(mirror, () => true),
    );
  }

  run(): void {
    const mirror = this.#mirror;
    const { table } = mirror.entries;
    // By key, since the table changes on the way.
    for (let slot = table.first(); slot !== NONE && mirror.mappings !== undefined;) {
      const end = table.endAt(slot);
      this.#feed(slot);
      if (this.#batch.count >= CHUNK) this.#send();
      slot = table.seek(end);
    }
    if (mirror.mappings === undefined) return;
    this.#shaper.finish();
    this.#send();
  }

  mapRun(iova: number, pages: number, va: number, rights: number): void {
    if (!this.#replaces(iova, iova + pages)) return;
    this.#appendJoin(iova, pages, va, rights);
  }

  gatherPieces(iova: number, pages: number, rights: number, shaper: EntryShaper, count: number): void {
    const batch = this.#batch;
    if (batch.pieceCount > 0 && batch.pieceCount + count > this.#mirror.context.limits.windowPieces) this.#send();
    if (!this.#replaces(iova, iova + pages)) return;
    batch.unmap(iova, pages);
    batch.gather(iova, pages, rights);
    for (let i = 0; i < count; i++) batch.piece(shaper.pieceVa[i]!, shaper.pagesOf(i));
  }

  /** Hands the entry in `slot` to the shaper: whole when it is one run, mapping by mapping when it stands in a window. */
  #feed(slot: number): void {
    const { entries, backing, mappings, plan } = this.#mirror;
    const shaper = this.#shaper;
    const [start, end, flags] = [entries.table.startAt(slot), entries.table.endAt(slot), entries.table.flagsAt(slot)];
    if ((flags & HOST_MMIO) !== 0 || mappings === undefined || !this.#carriesWhole(start, end)) {
      shaper.finish();
      return;
    }
    const whole = (flags & GATHERED) === 0;
    // A window that is full, or nearly, stays as it is: walking its mappings would gain nothing.
    if (!whole && end - start >= WINDOW_PAGES - 64) {
      shaper.finish();
      return;
    }
    mappings.walkRange(start, end, (iova, pages, gpa, rights) => {
      if (!backing.locate(gpa, pages, rights)) return true;
      const kind = stretchFlags(this.#mirror, backing.foundFlags);
      if (!shaper.continues(iova, kind) || plan.isEdge(iova)) shaper.finish();
      shaper.append(iova, whole ? end - start : pages, backing.foundVa, kind, backing.region);
      return !whole;
    });
  }

  /** True when the entry consists of whole mappings: a piece of one must stay what it is. */
  #carriesWhole(start: number, end: number): boolean {
    const { mappings } = this.#mirror;
    if (mappings?.locate(start) !== true || mappings.found.start !== start) return false;
    return mappings.locate(end - 1) && mappings.found.end === end;
  }

  /** True when [start, end) is made of two live entries or more, none of which reaches out of it. */
  #replaces(start: number, end: number): boolean {
    const { table } = this.#mirror.entries;
    const first = table.find(start);
    const last = table.find(end - 1);
    if (first === NONE || last === NONE || first === last) return false;
    if (table.startAt(first) !== start || table.endAt(last) !== end) return false;
    for (let slot = first; slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) {
      const [from, to] = [table.startAt(slot), table.endAt(slot)];
      this.#replaced.push({ start: from, end: to, va: table.valueAt(slot), flags: table.flagsAt(slot) });
    }
    return true;
  }

  /** Replaces the groups in the batch, all windows built before; a group that the host refuses goes back to what it was. */
  #send(): void {
    const mirror = this.#mirror;
    const batch = this.#batch;
    if (batch.count === 0) return;
    if (mirror.context.buildWindows(batch, 0) < batch.count) this.#dropGathers();
    const live = !mirror.undisturbed;
    const disturbance = new Disturbance(mirror.settings, mirror.contexts);
    if (live) disturbance.begin();
    this.#apply();
    if (live) this.#tell(disturbance.end());
    mirror.context.dropWindows(batch);
    batch.clear();
    this.#replaced.length = 0;
  }

  /** Windows cannot be built: what joins without one is done all the same. */
  #dropGathers(): void {
    const batch = this.#batch;
    const joins: number[][] = [];
    for (let i = 0; i < batch.count; i++) {
      if (batch.kind[i] === HostOp.map) joins.push([batch.iova[i]!, batch.pages[i]!, batch.va[i]!, batch.rights[i]!]);
    }
    batch.clear();
    for (const [iova, pages, va, rights] of joins) this.#appendJoin(iova!, pages!, va!, rights!);
  }

  #appendJoin(iova: number, pages: number, va: number, rights: number): void {
    const batch = this.#batch;
    batch.unmap(iova, pages);
    batch.map(iova, pages, va, rights);
    batch.note[batch.count - 1] = NOTE_JOINED;
  }

  #apply(): void {
    const mirror = this.#mirror;
    const batch = this.#batch;
    for (let from = 0; from < batch.count && !mirror.isBlocked();) {
      const stopped = mirror.apply(batch, from);
      if (stopped === batch.count) return;
      if (batch.kind[stopped] === HostOp.unmap) {
        mirror.block('UNMAP', batch.errno[stopped]!, batch.iova[stopped]!, batch.pages[stopped]);
        return;
      }
      this.#restore(batch.iova[stopped]!, batch.iova[stopped]! + batch.pages[stopped]!);
      from = stopped + 1;
    }
  }

  /** Makes the entries of [start, end) again as they were; what the host refuses even so waits, or is revoked. */
  #restore(start: number, end: number): void {
    const mirror = this.#mirror;
    for (const entry of this.#replaced) {
      if (entry.start < start || entry.end > end || mirror.isBlocked()) continue;
      if ((entry.flags & GATHERED) === 0 ? this.#remap(entry) : this.#regather(entry)) continue;
      this.#putAside(entry);
    }
  }

  #remap({ start, end, va, flags }: Replaced): boolean {
    const single = new HostBatch(1);
    single.map(start, end - start, va, flags & RIGHTS);
    if ((flags & JOINED) !== 0) single.note[0] = NOTE_JOINED;
    return this.#mirror.apply(single, 0) === 1;
  }

  #regather({ start, end }: Replaced): boolean {
    const { context } = this.#mirror;
    const single = new HostBatch(1);
    for (const rest of remaindersOf(this.#mirror, start, end, undefined)) appendWhole(single, rest);
    const done = context.buildWindows(single, 0) === single.count && this.#mirror.apply(single, 0) === single.count;
    context.dropWindows(single);
    return done;
  }

  #putAside({ start, end, flags }: Replaced): void {
    const mirror = this.#mirror;
    const several = (flags & (JOINED | GATHERED)) !== 0;
    const gatherable = (flags & GATHERED) !== 0 ? GATHERABLE : 0;
    if (mirror.undisturbed) mirror.waiting.add(start, end, (flags & RIGHTS) | gatherable, several);
    else revoke(mirror, start, end, (flags & RIGHTS) | gatherable, several);
  }

  #tell(ms: number | undefined): void {
    const mirror = this.#mirror;
    const batch = this.#batch;
    for (let i = 0; i < batch.count; i++) {
      if (batch.kind[i] !== HostOp.unmap) continue;
      if (ms === undefined) {
        mirror.tally.stalls++;
        continue;
      }
      mirror.tally.windows++;
      mirror.tally.longestWindow = Math.max(mirror.tally.longestWindow, ms);
      mirror.observer.window(mirror, 'compaction', batch.iova[i]!, batch.pages[i]!, ms);
    }
  }
}
