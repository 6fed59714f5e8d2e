// Policy `forward`: one host entry for each backed piece of each guest mapping, as the peers do.
// I4 holds absolutely, since no entry is ever touched that its own request does not name.
// Unit: 4 KiB page numbers.
import { Errno } from '../base/errors.ts';
import type { HostBatch } from '../host/context.ts';
import { HostOp } from '../host/context.ts';
import { IntervalTable } from '../intervals/table.ts';
import type { ContextMirror } from './mirror.ts';
import type { Planner, RefusalSink } from './planner.ts';

/** Changes of one segment, kept as columns; grown by doubling up to the length of a queue. */
export class ForwardPlanner implements Planner {
  pending = 0;
  /** Hull of the ranges that the segment changed so far: nearly every question is answered by it. */
  #low = Infinity;
  #high = 0;
  /** The ranges themselves, of the first `#indexed` changes; disjoint, since the caller commits before they could meet. */
  readonly #touched = new IntervalTable();
  #indexed = 0;
  #kind = new Uint8Array(16);
  #rights = new Uint8Array(16);
  #token = new Int32Array(16);
  #iova = new Float64Array(16);
  #pages = new Float64Array(16);
  #gpa = new Float64Array(16);
  /** Index in the batch behind the last operation of each change. */
  #batchEnd = new Int32Array(16);

  map(token: number, iova: number, pages: number, gpa: number, rights: number): void {
    const i = this.#append(HostOp.map, token, iova, pages);
    this.#gpa[i] = gpa;
    this.#rights[i] = rights;
  }

  unmap(token: number, iova: number, pages: number): void {
    this.#append(HostOp.unmap, token, iova, pages);
  }

  touches(iova: number, pages: number): boolean {
    if (this.pending === 0 || iova >= this.#high || iova + pages <= this.#low) return false;
    for (; this.#indexed < this.pending; this.#indexed++) {
      const start = this.#iova[this.#indexed]!;
      this.#touched.insert(start, start + this.#pages[this.#indexed]!, 0, 0);
    }
    return !this.#touched.isFree(iova, iova + pages);
  }

  commit(mirrors: readonly ContextMirror[], sink: RefusalSink): void {
    if (this.pending === 0) return;
    if (mirrors.length === 1) this.#commitOne(mirrors[0]!, sink);
    else this.#commitAll(mirrors, sink);
    this.pending = 0;
    this.#low = Infinity;
    this.#high = 0;
    if (this.#indexed > 0) this.#touched.clear();
    this.#indexed = 0;
  }

  /** One context: all changes in as few host calls as refusals allow. */
  #commitOne(mirror: ContextMirror, sink: RefusalSink): void {
    let next = 0;
    while (next < this.pending && mirror.source !== undefined) {
      const { batch } = mirror;
      batch.clear();
      const first = next;
      next = this.#fill(mirror, batch, first);
      if (next === first) {
        sink.mapRefused(this.#token[next]!, Errno.ENOMEM, mirror); // over the cap on installed memory
        next++;
        continue;
      }
      this.#run(mirror, batch, first, sink);
    }
  }

  /** Appends changes from `first` on until the cap on installed pages is reached; returns the first one left out. */
  #fill(mirror: ContextMirror, batch: HostBatch, first: number): number {
    const { backing, pageCap: cap } = mirror;
    let pages = mirror.pages;
    let i = first;
    for (; i < this.pending; i++) {
      const iova = this.#iova[i]!;
      const count = this.#pages[i]!;
      if (this.#kind[i] === HostOp.unmap) {
        if (!mirror.entries.isFree(iova, iova + count)) batch.unmap(iova, count);
      } else {
        const before = batch.count;
        backing.appendPieces(batch, iova, count, this.#gpa[i]!, this.#rights[i]!);
        pages += backing.appendedRam;
        if (pages > cap) {
          batch.count = before;
          return i;
        }
      }
      this.#batchEnd[i] = batch.count;
    }
    return i;
  }

  /** Applies a batch that holds the changes from `first` on; each refused MAP is undone and reported, the rest goes on. */
  #run(mirror: ContextMirror, batch: HostBatch, first: number, sink: RefusalSink): void {
    let from = 0;
    let change = first;
    while (from < batch.count) {
      const stopped = mirror.apply(batch, from);
      if (stopped === batch.count) return;
      const errno = batch.errno[stopped]!;
      if (batch.kind[stopped] === HostOp.unmap) {
        mirror.block('UNMAP', errno, batch.iova[stopped]!);
        return;
      }
      while (this.#batchEnd[change]! <= stopped) change++;
      const start = change === first ? 0 : this.#batchEnd[change - 1]!;
      mirror.undoMaps(batch, start, stopped);
      sink.mapRefused(this.#token[change]!, errno, mirror);
      if (mirror.source === undefined) return;
      from = this.#batchEnd[change]!;
    }
  }

  /** Several contexts: change by change, so that a refusal in one frees its place in the others before the next. */
  #commitAll(mirrors: readonly ContextMirror[], sink: RefusalSink): void {
    for (let i = 0; i < this.pending; i++) {
      const iova = this.#iova[i]!;
      const pages = this.#pages[i]!;
      for (let m = 0; m < mirrors.length; m++) {
        const mirror = mirrors[m]!;
        if (mirror.source === undefined) continue;
        if (this.#kind[i] === HostOp.unmap) {
          mirror.unmapRange(iova, pages);
          continue;
        }
        const errno = this.#mapOne(mirror, i);
        if (errno === 0) continue;
        for (let k = 0; k < m; k++) if (mirrors[k]!.source !== undefined) mirrors[k]!.unmapRange(iova, pages);
        sink.mapRefused(this.#token[i]!, errno, mirror);
        break;
      }
    }
  }

  #mapOne(mirror: ContextMirror, i: number): number {
    const { batch, backing } = mirror;
    const pages = backing.ramPagesIn(this.#gpa[i]!, this.#pages[i]!, this.#rights[i]!);
    if (mirror.pages + pages > mirror.pageCap) return Errno.ENOMEM;
    batch.clear();
    backing.appendPieces(batch, this.#iova[i]!, this.#pages[i]!, this.#gpa[i]!, this.#rights[i]!);
    const stopped = mirror.apply(batch, 0);
    if (stopped === batch.count) return 0;
    const errno = batch.errno[stopped]!;
    mirror.undoMaps(batch, 0, stopped);
    return errno;
  }

  #append(kind: number, token: number, iova: number, pages: number): number {
    const i = this.pending++;
    if (i === this.#kind.length) this.#grow(i * 2);
    this.#kind[i] = kind;
    this.#token[i] = token;
    this.#iova[i] = iova;
    this.#pages[i] = pages;
    if (iova < this.#low) this.#low = iova;
    if (iova + pages > this.#high) this.#high = iova + pages;
    return i;
  }

  #grow(capacity: number): void {
    const grown = <T extends Uint8Array | Int32Array | Float64Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#kind = grown(new Uint8Array(capacity), this.#kind);
    this.#rights = grown(new Uint8Array(capacity), this.#rights);
    this.#token = grown(new Int32Array(capacity), this.#token);
    this.#iova = grown(new Float64Array(capacity), this.#iova);
    this.#pages = grown(new Float64Array(capacity), this.#pages);
    this.#gpa = grown(new Float64Array(capacity), this.#gpa);
    this.#batchEnd = grown(new Int32Array(capacity), this.#batchEnd);
  }
}
