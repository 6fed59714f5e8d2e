// The live host entries of one context, as the host was told: what each maps, and how it came about.
// The guest mappings that an entry carries are those of the mirrored domain inside its range.
// Unit: 4 KiB page numbers, half-open.
import type { HostBatch } from '../host/context.ts';
import { HOST_MMIO, HostOp } from '../host/context.ts';
import { IntervalTable, NONE } from '../intervals/table.ts';

/** Flags of an entry beside its rights and HOST_MMIO. */
export const JOINED = 16;
export const GATHERED = 32;
/** {@link HostBatch.note} of a map that joins several guest mappings. */
export const NOTE_JOINED = 1;

/** Host entries; value = host virtual page, meaningless for a gathered one. */
export class HostEntries {
  readonly table = new IntervalTable();
  /** RAM pages of all entries. */
  pages = 0;
  /** Live entries that join contiguous mappings, and those that stand on a window. */
  joined = 0;
  gathered = 0;
  /** Entries of each kind that were ever made. */
  joinsMade = 0;
  gathersMade = 0;

  get size(): number {
    return this.table.size;
  }

  /** Records that operation `i` of `batch` was done. */
  record(batch: HostBatch, i: number): void {
    const iova = batch.iova[i]!;
    const end = iova + batch.pages[i]!;
    const kind = batch.kind[i]!;
    if (kind === HostOp.unmap) {
      this.#remove(iova, end);
      return;
    }
    let flags = batch.rights[i]!;
    if (kind === HostOp.gather) {
      flags |= GATHERED;
      this.gathered++;
      this.gathersMade++;
    } else if (batch.note[i] === NOTE_JOINED) {
      flags |= JOINED;
      this.joined++;
      this.joinsMade++;
    }
    if (!this.table.insert(iova, end, batch.va[i]!, flags)) throw new Error('host entries overlap');
    if ((flags & HOST_MMIO) === 0) this.pages += end - iova;
  }

  /** True when there is no entry inside [start, end). */
  isFree(start: number, end: number): boolean {
    return this.table.isFree(start, end);
  }

  clear(): void {
    this.table.clear();
    this.pages = this.joined = this.gathered = 0;
  }

  #remove(start: number, end: number): void {
    const { table } = this;
    const first = table.seek(start);
    if (first !== NONE && table.startAt(first) === start && table.endAt(first) === end) {
      this.#forget(first);
      table.removeAt(first);
      return;
    }
    for (let slot = first; slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) this.#forget(slot);
    if (table.removeRange(start, end) < 0) throw new Error('host entries cut');
  }

  #forget(slot: number): void {
    const flags = this.table.flagsAt(slot);
    if ((flags & HOST_MMIO) === 0) this.pages -= this.table.endAt(slot) - this.table.startAt(slot);
    if ((flags & JOINED) !== 0) this.joined--;
    if ((flags & GATHERED) !== 0) this.gathered--;
  }
}
