// A host that only counts: entries, map calls and IOPTEs, with the limit of a type1 container and nothing behind it.
// Not a simulation of the kernel (src/host/simulated): no memory is pinned and no address is checked, so that the plan for
// tens of millions of guest mappings is counted in seconds. A live run compares the two.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../../base/errors.ts';
import type { HostBatch, HostContext, HostLimits } from '../../host/context.ts';
import { HostOp } from '../../host/context.ts';
import { IntervalTable, NONE } from '../../intervals/table.ts';

/** Pages of the large IOPTE that is counted: 2 MiB. */
export const LARGE_PAGES = 512;

/** A container that counts. */
export class CountingContext implements HostContext {
  readonly name = 'counted';
  readonly flavour = 'type1';
  readonly limits: HostLimits;
  /** Map and gather operations, refused ones included; unmap operations. */
  mapCalls = 0;
  unmapCalls = 0;
  /** Most entries that were live at a time. */
  entriesPeak = 0;
  /** Pages of all live entries. */
  pages = 0;
  /**
   * 2 MiB stretches of all live entries where I/O virtual and host virtual addresses are congruent and whole aligned: each
   * is one large IOPTE when the memory behind it is a huge page, and 512 small ones otherwise.
   */
  largeStretches = 0;
  /** Live entries; value = large stretches of the entry. */
  readonly #live = new IntervalTable();

  constructor(limits: HostLimits) {
    this.limits = limits;
  }

  /** Live entries. */
  get entries(): number {
    return this.#live.size;
  }

  buildWindows(batch: HostBatch, from: number): number {
    let pieces = 0;
    for (let i = from; i < batch.count; i++) {
      if (batch.kind[i] !== HostOp.gather) continue;
      pieces += batch.pieces[i]!;
      if (pieces > this.limits.windowPieces) {
        batch.window.fill(0, from, i);
        batch.errno[i] = Errno.ENOMEM;
        return i;
      }
      batch.window[i] = 1;
    }
    return batch.count;
  }

  dropWindows(batch: HostBatch): void {
    batch.window.fill(0, 0, batch.count);
  }

  apply(batch: HostBatch, from: number): number {
    for (let i = from; i < batch.count; i++) {
      const errno = batch.kind[i] === HostOp.unmap ? this.#unmap(batch, i) : this.#map(batch, i);
      batch.errno[i] = errno;
      if (errno !== 0) return i;
    }
    return batch.count;
  }

  unmapAll(): number {
    this.#live.clear();
    this.pages = this.largeStretches = 0;
    return 0;
  }

  entriesLeft(): number {
    return this.limits.entryLimit - this.entries;
  }

  clearBusMaster(): number {
    return 0;
  }

  resetDevices(): number {
    return 0;
  }

  close(): void {
    this.unmapAll();
  }

  #map(batch: HostBatch, i: number): number {
    this.mapCalls++;
    const iova = batch.iova[i]!;
    const pages = batch.pages[i]!;
    const gathered = batch.kind[i] === HostOp.gather;
    if (gathered && batch.window[i] === 0) return Errno.EINVAL;
    if (this.entries >= this.limits.entryLimit) return Errno.ENOSPC;
    const large = gathered ? largeOfPieces(batch, i) : largeStretchesOf(iova, pages, batch.va[i]!);
    if (!this.#live.insert(iova, iova + pages, large, 0)) return Errno.EEXIST;
    this.pages += pages;
    this.largeStretches += large;
    if (this.entries > this.entriesPeak) this.entriesPeak = this.entries;
    return 0;
  }

  #unmap(batch: HostBatch, i: number): number {
    this.unmapCalls++;
    const live = this.#live;
    const start = batch.iova[i]!;
    const end = start + batch.pages[i]!;
    if (live.splits(start, end)) return Errno.EINVAL;
    for (let slot = live.seek(start); slot !== NONE && live.startAt(slot) < end; slot = live.next(slot)) {
      this.pages -= live.endAt(slot) - live.startAt(slot);
      this.largeStretches -= live.valueAt(slot);
    }
    live.removeRange(start, end);
    return 0;
  }
}

function largeOfPieces(batch: HostBatch, i: number): number {
  const first = batch.va[i]!;
  let iova = batch.iova[i]!;
  let large = 0;
  for (let k = first; k < first + batch.pieces[i]!; k++) {
    large += largeStretchesOf(iova, batch.piecePages[k]!, batch.pieceVa[k]!);
    iova += batch.piecePages[k]!;
  }
  return large;
}

/** Aligned 2 MiB stretches of a run, when both addresses are congruent. */
function largeStretchesOf(iova: number, pages: number, va: number): number {
  if (pages < LARGE_PAGES || (iova - va) % LARGE_PAGES !== 0) return 0;
  const first = Math.ceil(iova / LARGE_PAGES);
  const end = Math.floor((iova + pages) / LARGE_PAGES);
  return Math.max(0, end - first);
}
