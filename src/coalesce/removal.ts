// Takes I/O virtual ranges away from a context: entries that lie wholly inside their union go in as few host calls as
// possible; an entry that carries more than the union is cut where the host can do that (cut.ts), else taken apart
// (demotion.ts).
// Unit: 4 KiB page numbers, half-open. The guest's table has lost the mappings already: what is left in it stays mapped.
import { HostBatch } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { cutOut } from './cut.ts';
import { takeApart } from './demotion.ts';
import type { ContextMirror } from './mirror.ts';
import type { Gone } from './remainder.ts';

/** A growing list of ranges, sorted on demand and merged where they touch. */
export class RangeColumns {
  count = 0;
  start = new Float64Array(16);
  end = new Float64Array(16);

  clear(): void {
    this.count = 0;
  }

  /** Adds [start, end); one that continues the last is merged with it. */
  add(start: number, end: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.end[last] === start) {
      this.end[last] = end;
      return;
    }
    if (this.count === this.start.length) this.#grow();
    this.start[this.count] = start;
    this.end[this.count++] = end;
  }

  /** Sorts and merges; nothing is done when the ranges ascend already. */
  normalise(): void {
    if (this.#ascends()) return;
    const order = Array.from({ length: this.count }, (_, i) => i).sort((a, b) => this.start[a]! - this.start[b]!);
    const [start, end] = [this.start.slice(), this.end.slice()];
    this.clear();
    for (const i of order) this.add(start[i]!, end[i]!);
  }

  #ascends(): boolean {
    for (let i = 1; i < this.count; i++) if (this.start[i]! < this.end[i - 1]!) return false;
    return true;
  }

  #grow(): void {
    const [start, end] = [this.start, this.end];
    this.start = new Float64Array(this.count * 2);
    this.end = new Float64Array(this.count * 2);
    this.start.set(start);
    this.end.set(end);
  }
}

/** Removes ranges from contexts; one instance serves a planner, its lists are reused. */
export class Removal {
  readonly ranges = new RangeColumns();
  /** UNMAPs that the ranges stand for: as many calls as a 1:1 plan makes. */
  unmaps = 0;
  readonly #batch = new HostBatch();
  /** First pages of entries that reach out of the union. */
  readonly #cut: number[] = [];

  /**
   * Takes {@link ranges}, which are normalised, away from `mirror`, which may be blocked afterwards. `gone` names mappings
   * that go although the guest's table has them.
   */
  apply(mirror: ContextMirror, gone?: Gone): void {
    const { ranges } = this;
    for (let i = 0; i < ranges.count && (mirror.waiting.size > 0 || mirror.plan.open); i++) {
      mirror.plan.withdraw(ranges.start[i]!, ranges.end[i]!);
    }
    if (mirror.entries.size === 0) return;
    if (mirror.context.limits.cuts === true) {
      this.#cutOut(mirror, gone);
      return;
    }
    this.#collect(mirror);
    if (!this.#remove(mirror)) return;
    if (this.#cut.length > 0) takeApart(mirror, this.#cut, gone);
  }

  #cutOut(mirror: ContextMirror, gone: Gone | undefined): void {
    const { tally } = mirror;
    const before = tally.unmapCalls;
    cutOut(mirror, this.#batch, this.ranges, gone);
    tally.callsSaved += Math.max(0, this.unmaps - (tally.unmapCalls - before));
  }

  /** One unmap for each longest span of entries that are wholly inside the union; the others are listed in `#cut`. */
  #collect(mirror: ContextMirror): void {
    const { ranges } = this;
    const { table } = mirror.entries;
    const batch = this.#batch;
    batch.clear();
    this.#cut.length = 0;
    for (let i = 0, slot = NONE, known = false; i < ranges.count; i++) {
      const end = ranges.end[i]!;
      if (!known || (slot !== NONE && table.endAt(slot) <= ranges.start[i]!)) slot = table.seek(ranges.start[i]!);
      known = true;
      let spanned = false;
      for (; slot !== NONE && table.startAt(slot) < end; slot = table.next(slot)) {
        const from = table.startAt(slot);
        const to = table.endAt(slot);
        if (from < ranges.start[i]! || to > end) {
          if (this.#cut.at(-1) !== from) this.#cut.push(from);
          spanned = false;
          if (to >= end) break; // the next range may meet it too
          continue;
        }
        const last = batch.count - 1;
        // Between the last span and this entry lies no other one: one call takes both.
        if (last >= 0 && (spanned || this.#nothingBetween(mirror, batch.iova[last]! + batch.pages[last]!, from))) {
          batch.pages[last] = to - batch.iova[last]!;
        } else batch.unmap(from, to - from);
        spanned = true;
      }
    }
    mirror.tally.callsSaved += Math.max(0, this.unmaps - batch.count - this.#cut.length);
  }

  #nothingBetween(mirror: ContextMirror, end: number, start: number): boolean {
    return end === start || mirror.entries.isFree(end, start);
  }

  #remove(mirror: ContextMirror): boolean {
    const batch = this.#batch;
    if (batch.count === 0) return true;
    const entriesBefore = mirror.entries.size;
    const stopped = mirror.apply(batch, 0);
    if (stopped < batch.count) {
      mirror.block('UNMAP', batch.errno[stopped]!, batch.iova[stopped]!, batch.pages[stopped]);
      return false;
    }
    mirror.budget.relieved(entriesBefore - mirror.entries.size);
    return true;
  }
}
