// The 1:1 plan: one host entry for each backed piece of each guest mapping, in ring order, as the peers do.
// Also what the other policies do on a live context. I4 holds absolutely: no entry is touched that its request does not name.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import type { HostBatch } from '../host/context.ts';
import { HostOp } from '../host/context.ts';
import type { ChangeList } from './changes.ts';
import type { ContextMirror } from './mirror.ts';

/** Is told which change a host refused; it was undone in this context. */
export type RefusedChange = (change: number, errno: number, mirror: ContextMirror) => void;

/** Carries the changes of one segment out, one entry for each piece; one instance serves a planner. */
export class ForwardRun {
  readonly #changes: ChangeList;
  readonly #refused: RefusedChange;
  /** Index in the batch behind the last operation of each change. */
  #batchEnd = new Int32Array(16);
  /** Why the last change that was left out was. */
  #short = 0;

  constructor(changes: ChangeList, refused: RefusedChange) {
    this.#changes = changes;
    this.#refused = refused;
  }

  /** All changes, or the MAPs alone, in as few host calls as refusals allow. */
  run(mirror: ContextMirror, mapsOnly: boolean): void {
    const { count } = this.#changes;
    if (this.#batchEnd.length < count) this.#batchEnd = new Int32Array(count * 2);
    for (let next = 0; next < count && !mirror.isBlocked();) {
      const { batch } = mirror;
      batch.clear();
      const first = next;
      next = this.#fill(mirror, batch, first, mapsOnly);
      if (next === first) {
        if (this.#short === Errno.ENOSPC && relieved(mirror, Errno.ENOSPC)) continue;
        if (mirror.isBlocked()) return;
        this.#refused(next, this.#short, mirror);
        next++;
        continue;
      }
      this.#send(mirror, batch, first);
    }
  }

  /** Maps change `i` alone; 0 or the errno with which nothing is left of it. */
  mapOne(mirror: ContextMirror, i: number): number {
    const { batch, backing } = mirror;
    const { iova, pages, gpa, rights } = this.#changes;
    batch.clear();
    backing.appendPieces(batch, iova[i]!, pages[i]!, gpa[i]!, rights[i]!);
    if (mirror.pages + mirror.waiting.pages + backing.appendedRam > mirror.pageCap) return Errno.ENOMEM;
    if (batch.count > roomFor(mirror) && !(relieved(mirror, Errno.ENOSPC) && batch.count <= roomFor(mirror)))
      return mirror.isBlocked() ? 0 : Errno.ENOSPC;
    let stopped = mirror.apply(batch, 0);
    if (stopped < batch.count && relieved(mirror, batch.errno[stopped]!)) stopped = mirror.apply(batch, stopped);
    // Blocked while room was made: the guest's state stands as it is.
    if (stopped === batch.count || mirror.isBlocked()) return 0;
    const errno = batch.errno[stopped]!;
    mirror.undoMaps(batch, 0, stopped);
    return errno;
  }

  /** Appends changes from `first` on while memory and entries may be had; returns the first one left out. */
  #fill(mirror: ContextMirror, batch: HostBatch, first: number, mapsOnly: boolean): number {
    const { backing, pageCap: cap, entries } = mirror;
    const changes = this.#changes;
    let pages = mirror.pages + mirror.waiting.pages;
    let room = roomFor(mirror);
    let i = first;
    for (; i < changes.count; i++) {
      const iova = changes.iova[i]!;
      const count = changes.pages[i]!;
      const kind = changes.kind[i];
      if (kind === HostOp.unmap) {
        if (!mapsOnly && !entries.isFree(iova, iova + count)) appendUnmap(mirror, batch, iova, count);
      } else if (kind === HostOp.map) {
        const before = batch.count;
        backing.appendPieces(batch, iova, count, changes.gpa[i]!, changes.rights[i]!);
        pages += backing.appendedRam;
        room -= batch.count - before;
        if (pages > cap || room < 0) {
          this.#short = pages > cap ? Errno.ENOMEM : Errno.ENOSPC;
          batch.truncate(before);
          return i;
        }
      }
      this.#batchEnd[i] = batch.count;
    }
    return i;
  }

  /** Sends a batch that holds the changes from `first` on; each refused MAP is undone and reported, the rest goes on. */
  #send(mirror: ContextMirror, batch: HostBatch, first: number): void {
    let change = first;
    for (let from = 0; from < batch.count;) {
      const stopped = mirror.apply(batch, from);
      if (stopped === batch.count) return;
      const errno = batch.errno[stopped]!;
      if (batch.kind[stopped] === HostOp.unmap) {
        mirror.block('UNMAP', errno, batch.iova[stopped]!, batch.pages[stopped]);
        return;
      }
      if (relieved(mirror, errno)) {
        from = stopped;
        continue;
      }
      if (mirror.isBlocked()) return;
      while (this.#batchEnd[change]! <= stopped) change++;
      const start = change === first ? 0 : this.#batchEnd[change - 1]!;
      mirror.undoMaps(batch, start, stopped);
      this.#refused(change, errno, mirror);
      if (mirror.isBlocked()) return;
      from = this.#batchEnd[change]!;
    }
  }
}

/** Appends an unmap; one that continues the operation before is one host call with it (the union of a kick's UNMAPs). */
function appendUnmap(mirror: ContextMirror, batch: HostBatch, iova: number, pages: number): void {
  const last = batch.count - 1;
  if (last >= 0 && batch.kind[last] === HostOp.unmap && iova === batch.iova[last]! + batch.pages[last]!) {
    batch.pages[last]! += pages;
    mirror.tally.callsSaved++;
    return;
  }
  batch.unmap(iova, pages);
}

/** Entries that a MAP may take, when some are promised or kept free; otherwise the host alone knows. */
function roomFor({ budget, waiting, plan }: ContextMirror): number {
  return budget.joins || waiting.size > waiting.revoked || plan.open ? budget.left : Infinity;
}

/** True when the host had no entry left and room could be made. */
function relieved(mirror: ContextMirror, errno: number): boolean {
  if (errno !== Errno.ENOSPC) return false;
  mirror.budget.readAgain();
  return mirror.relieve();
}
