// The changes of one segment of one domain, kept as columns in ring order; grown by doubling up to the length of a queue.
// Their ranges are disjoint: the device commits before two could meet.
// Unit: 4 KiB page numbers, half-open.
import { HostOp } from '../host/context.ts';
import { IntervalTable, NONE } from '../intervals/table.ts';

/** Kind of a change that was a MAP and has been refused. */
export const REFUSED = 0;

/** Collected changes. */
export class ChangeList {
  count = 0;
  /** MAPs among them, refused ones included. */
  maps = 0;
  /** {@link HostOp} map or unmap, or {@link REFUSED}. */
  kind = new Uint8Array(16);
  rights = new Uint8Array(16);
  token = new Int32Array(16);
  iova = new Float64Array(16);
  pages = new Float64Array(16);
  gpa = new Float64Array(16);
  /** Hull of the ranges: nearly every question is answered by it. */
  #low = Infinity;
  #high = 0;
  /** The ranges of the first `#indexed` changes; value = index. */
  readonly #index = new IntervalTable();
  #indexed = 0;

  map(token: number, iova: number, pages: number, gpa: number, rights: number): void {
    const i = this.#append(HostOp.map, token, iova, pages);
    this.gpa[i] = gpa;
    this.rights[i] = rights;
    this.maps++;
  }

  unmap(token: number, iova: number, pages: number): void {
    this.#append(HostOp.unmap, token, iova, pages);
  }

  /** True when [iova, iova + pages) meets a change. */
  touches(iova: number, pages: number): boolean {
    if (this.count === 0 || iova >= this.#high || iova + pages <= this.#low) return false;
    this.#fillIndex();
    return !this.#index.isFree(iova, iova + pages);
  }

  /** Index of the change that holds page `iova`, or NONE. */
  indexAt(iova: number): number {
    this.#fillIndex();
    const slot = this.#index.find(iova);
    return slot === NONE ? NONE : this.#index.valueAt(slot);
  }

  clear(): void {
    this.count = 0;
    this.maps = 0;
    this.#low = Infinity;
    this.#high = 0;
    if (this.#indexed > 0) this.#index.clear();
    this.#indexed = 0;
  }

  #fillIndex(): void {
    for (; this.#indexed < this.count; this.#indexed++) {
      const start = this.iova[this.#indexed]!;
      this.#index.insert(start, start + this.pages[this.#indexed]!, this.#indexed, 0);
    }
  }

  #append(kind: number, token: number, iova: number, pages: number): number {
    const i = this.count++;
    if (i === this.kind.length) this.#grow(i * 2);
    this.kind[i] = kind;
    this.token[i] = token;
    this.iova[i] = iova;
    this.pages[i] = pages;
    if (iova < this.#low) this.#low = iova;
    if (iova + pages > this.#high) this.#high = iova + pages;
    return i;
  }

  #grow(capacity: number): void {
    const grown = <T extends Uint8Array | Int32Array | Float64Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.kind = grown(new Uint8Array(capacity), this.kind);
    this.rights = grown(new Uint8Array(capacity), this.rights);
    this.token = grown(new Int32Array(capacity), this.token);
    this.iova = grown(new Float64Array(capacity), this.iova);
    this.pages = grown(new Float64Array(capacity), this.pages);
    this.gpa = grown(new Float64Array(capacity), this.gpa);
  }
}
