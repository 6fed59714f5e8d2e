// Sends planned entries to the host, and goes back to one entry for each mapping where the host refuses.
// Not here: which entries are wanted (install.ts, shaper.ts).
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import { HOST_MMIO, HostBatch, HostOp } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { NOTE_JOINED } from './host-entries.ts';
import type { ContextMirror } from './mirror.ts';
import type { EntryShaper, ShapeSink } from './shaper.ts';

/** Decides what becomes of a mapping that the host refused. */
export interface Refusals {
  /** The mapping that starts at page `iova` is refused alone: true. It was answered already: false. */
  refuse(iova: number, errno: number): boolean;
}

/** Nothing can be refused any more: everything was answered. */
export const ALL_ANSWERED: Refusals = { refuse: () => false };

/** The batch of one context on its way to the host. */
export class EntrySender implements ShapeSink {
  /** Errno of an installation that failed although its mapping was answered; 0 while all is well. */
  failed = 0;
  /** First page and pages of the mapping that failed. */
  failedAt = NONE;
  failedPages = 0;
  refusals: Refusals = ALL_ANSWERED;
  /** True while flushing would change the guest's table under a walk over it: the next time does it. */
  held = false;
  /** RAM pages of the batch, and entries in it that join mappings. */
  pages = 0;
  joins = 0;
  readonly #mirror: ContextMirror;
  readonly #batch = new HostBatch();
  readonly #single = new HostBatch(16);
  /** Mappings of each operation of the batch, where they are several. */
  #mappings = new Float64Array(64);
  #sending = false;

  constructor(mirror: ContextMirror) {
    this.#mirror = mirror;
  }

  /** Operations that were not sent yet. */
  get count(): number {
    return this.#batch.count;
  }

  /** Forgets what was not sent: the context has another source now. */
  forget(): void {
    this.failed = 0;
    if (!this.#sending) this.#discard();
  }

  /** Blocks the context because of the failure that {@link failed} holds. */
  blockFailed(operation: string): void {
    const errno = this.failed;
    this.failed = 0;
    this.#discard();
    this.#mirror.block(operation, errno, this.failedAt, this.failedPages);
  }

  /** One entry for each backed piece of a mapping. */
  addPlain(iova: number, pages: number, gpa: number, rights: number): void {
    const { backing } = this.#mirror;
    backing.appendPieces(this.#batch, iova, pages, gpa, rights);
    this.pages += backing.appendedRam;
  }

  /** One entry for a run of contiguous host virtual pages that shows `mappings` guest mappings. */
  mapRun(iova: number, pages: number, va: number, rights: number, mappings: number): void {
    const batch = this.#batch;
    batch.map(iova, pages, va, rights);
    this.pages += pages;
    if (mappings === 1) return;
    batch.note[batch.count - 1] = NOTE_JOINED;
    this.#noteMappings(mappings);
  }

  /** One entry for the first `count` pieces of a shaper. */
  gatherPieces(iova: number, pages: number, rights: number, shaper: EntryShaper, count: number): void {
    const batch = this.#batch;
    const { windowPieces } = this.#mirror.context.limits;
    // Not from inside a walk over the guest's table, from which a refusal would remove a mapping.
    if (!this.held && batch.pieceCount > 0 && batch.pieceCount + count > windowPieces) this.flush();
    batch.gather(iova, pages, rights);
    this.pages += pages;
    for (let i = 0; i < count; i++) batch.piece(shaper.pieceVa[i]!, shaper.pagesOf(i));
    this.#noteMappings(shaper.mappingsOf(count));
  }

  #noteMappings(count: number): void {
    const i = this.#batch.count - 1;
    if (i >= this.#mappings.length) {
      const columns = new Float64Array(i * 2);
      columns.set(this.#mappings);
      this.#mappings = columns;
    }
    this.#mappings[i] = count;
    this.joins++;
  }

  #discard(): void {
    this.#batch.clear();
    this.pages = 0;
    this.joins = 0;
  }

  /** Takes the operations at the end of the batch that lie inside [start, end) out of it. */
  drop(start: number, end: number): void {
    const batch = this.#batch;
    while (batch.count > 0) {
      const last = batch.count - 1;
      if (batch.iova[last]! < start || batch.iova[last]! + batch.pages[last]! > end) return;
      if ((batch.rights[last]! & HOST_MMIO) === 0) this.pages -= batch.pages[last]!;
      batch.truncate(last);
    }
  }

  /** Sends the batch to the host; false when something that was answered could not be installed. */
  flush(): boolean {
    const batch = this.#batch;
    const mirror = this.#mirror;
    if (batch.count === 0) return this.failed === 0;
    if (batch.pieceCount > 0) mirror.context.buildWindows(batch, 0); // a gather without its window is refused below
    this.#sending = true;
    for (let from = 0; from < batch.count && this.failed === 0 && !mirror.isBlocked();) {
      const stopped = mirror.apply(batch, from);
      this.#countMade(from, stopped);
      if (stopped === batch.count) break;
      from = this.#refused(stopped);
    }
    this.#sending = false;
    if (batch.pieceCount > 0) mirror.context.dropWindows(batch);
    this.#discard();
    return this.failed === 0;
  }

  #countMade(from: number, to: number): void {
    const batch = this.#batch;
    for (let i = from; i < to; i++) {
      const joins = batch.kind[i] === HostOp.gather || batch.note[i] === NOTE_JOINED;
      if (joins) this.#mirror.tally.callsSaved += this.#mappings[i]! - 1;
    }
  }

  /** Operation `i` was refused: makes room, or goes on mapping by mapping. Returns the index to go on from. */
  #refused(i: number): number {
    const batch = this.#batch;
    const mirror = this.#mirror;
    const errno = batch.errno[i]!;
    const start = batch.iova[i]!;
    const end = start + batch.pages[i]!;
    const single = batch.kind[i] === HostOp.map && batch.note[i] !== NOTE_JOINED;
    if (single || errno === Errno.ENOSPC) {
      if (errno === Errno.ENOSPC) mirror.budget.readAgain();
      if (errno === Errno.ENOSPC && mirror.relieve()) return i;
      if (mirror.isBlocked()) return batch.count;
      if (single) return this.#refuseMapping(start, errno, i + 1);
    }
    if (batch.kind[i] === HostOp.gather && this.#gatherAlone(i)) return i + 1;
    mirror.tally.failedInstalls++;
    this.#oneByOne(start, end);
    return i + 1;
  }

  /** A gather whose window is not there, because all windows together were too many, is tried alone. */
  #gatherAlone(i: number): boolean {
    const batch = this.#batch;
    const single = this.#single;
    if (batch.window[i] !== 0) return false;
    single.clear();
    single.gather(batch.iova[i]!, batch.pages[i]!, batch.rights[i]!);
    const first = batch.va[i]!;
    for (let k = first; k < first + batch.pieces[i]!; k++) single.piece(batch.pieceVa[k]!, batch.piecePages[k]!);
    const { context } = this.#mirror;
    const done = context.buildWindows(single, 0) === 1 && this.#mirror.apply(single, 0) === 1;
    context.dropWindows(single);
    if (done) this.#mirror.tally.callsSaved += this.#mappings[i]! - 1;
    return done;
  }

  /** Maps [start, end), which one entry could not show, with one entry for each mapping. */
  #oneByOne(start: number, end: number): void {
    const mirror = this.#mirror;
    const { mappings } = mirror;
    const single = this.#single;
    for (let page = start; page < end && this.failed === 0 && !mirror.isBlocked();) {
      if (mappings?.locate(page) !== true) return;
      const { start: first, end: next, gpa, rights } = mappings.found;
      single.clear();
      mirror.backing.appendPieces(single, first, next - first, gpa, rights);
      let stopped = mirror.apply(single, 0);
      if (stopped < single.count && single.errno[stopped] === Errno.ENOSPC && mirror.relieve()) {
        stopped = mirror.apply(single, stopped);
      }
      if (mirror.isBlocked()) return;
      if (stopped < single.count) {
        const errno = single.errno[stopped]!;
        mirror.undoMaps(single, 0, stopped);
        if (!this.refusals.refuse(first, errno)) this.fail(first, next - first, errno);
      }
      page = next;
    }
  }

  /** The mapping that holds page `iova` is refused; its other pieces go. Returns the first operation behind it. */
  #refuseMapping(iova: number, errno: number, after: number): number {
    const mirror = this.#mirror;
    const batch = this.#batch;
    if (mirror.mappings?.locate(iova) !== true) {
      this.fail(iova, batch.pages[after - 1]!, errno);
      return after;
    }
    const { start, end } = mirror.mappings.found;
    let next = after;
    while (next < batch.count && batch.iova[next]! >= start && batch.iova[next]! < end) next++;
    mirror.unmapRange(start, end - start);
    if (!mirror.isBlocked() && !this.refusals.refuse(start, errno)) this.fail(start, end - start, errno);
    return next;
  }

  /** Notes that [iova, iova + pages), which was answered, could not be installed. */
  fail(iova: number, pages: number, errno: number): void {
    this.failed = errno;
    this.failedAt = iova;
    this.failedPages = pages;
    this.#mirror.tally.failedInstalls++;
  }
}
