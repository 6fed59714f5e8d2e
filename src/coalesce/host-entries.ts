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
/**
 * Bits of {@link HostBatch.note} of an unmap that takes pages out of entries (HostLimits.cuts): it may; what it leaves
 * before its first page, behind its last one, still shows several guest mappings.
 */
export const NOTE_CUTS = 2;
export const NOTE_JOINED_BEFORE = 4;
export const NOTE_JOINED_BEHIND = 8;

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
      const note = batch.note[i]!;
      if ((note & NOTE_CUTS) !== 0) {
        this.#cutAt(iova, (note & NOTE_JOINED_BEFORE) !== 0, true);
        this.#cutAt(end, true, (note & NOTE_JOINED_BEHIND) !== 0);
      }
      this.#remove(iova, end);
      return;
    }
    let flags = batch.rights[i]!;
    if (kind === HostOp.gather) {
      flags |= GATHERED;
      this.gathersMade++;
    } else if (batch.note[i] === NOTE_JOINED) {
      flags |= JOINED;
      this.joinsMade++;
    }
    this.#add(iova, end, batch.va[i]!, flags);
  }

  /** True when there is no entry inside [start, end). */
  isFree(start: number, end: number): boolean {
    return this.table.isFree(start, end);
  }

  clear(): void {
    this.table.clear();
    this.pages = this.joined = this.gathered = 0;
  }

  #add(start: number, end: number, va: number, flags: number): void {
    if (!this.table.insert(start, end, va, flags)) throw new Error('host entries overlap');
    if ((flags & HOST_MMIO) === 0) this.pages += end - start;
    if ((flags & JOINED) !== 0) this.joined++;
    if ((flags & GATHERED) !== 0) {
      this.gathered++;
    }
  }

  /** The entry over `page`, if there is one, becomes two; a part of a joined one that is not `several` is joined no more. */
  #cutAt(page: number, severalBefore: boolean, severalBehind: boolean): void {
    const { table } = this;
    const slot = table.find(page);
    if (slot === NONE || table.startAt(slot) === page) return;
    const [start, end, va, flags] = [table.startAt(slot), table.endAt(slot), table.valueAt(slot), table.flagsAt(slot)];
    this.#forget(slot);
    table.removeAt(slot);
    this.#add(start, page, va, severalBefore ? flags : flags & ~JOINED);
    this.#add(page, end, va + (page - start), severalBehind ? flags : flags & ~JOINED);
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
