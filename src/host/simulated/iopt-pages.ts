// IoptPages (struct iopt_pages): a stretch of process memory that one or more areas show parts of, in one or several IOAS.
// However many areas show a page, it is pinned once, and a later area gets the page that is pinned, not what the process
// has at that address by then. Not here: the areas (iommufd-context.ts). Unit: 4 KiB pages; `index` counts from `va`.
import { IntervalTable, NONE } from '../../intervals/table.ts';
import type { SimulatedAddressSpace } from './address-space.ts';
import { PinList } from './pin-list.ts';
import { splitRow } from './split-row.ts';

/** Memory behind areas. While a single area shows it nothing is recorded: what that area holds is pinned. */
export class IoptPages {
  readonly va: number;
  /** Pins for writing; a read-only one can never be mapped writeable. */
  readonly writable: boolean;
  readonly #space: SimulatedAddressSpace;
  #shared: SharedPins | undefined;

  constructor(space: SimulatedAddressSpace, va: number, writable: boolean) {
    this.#space = space;
    this.va = va;
    this.writable = writable;
  }

  /** True once a second area may show the memory. */
  get shared(): boolean {
    return this.#shared !== undefined;
  }

  /** Prepares for further areas; the only one so far shows `index` on and holds the runs of `held`, none when not filled. */
  share(index: number, held: PinList): void {
    if (this.#shared !== undefined) return;
    this.#shared = new SharedPins();
    this.#shared.hold(index, held);
  }

  /**
   * Pins what is not pinned of [index, end) and appends the runs of all of it to `pins`, whose lockedPages is then the
   * number of new pins. Returns 0, or EFAULT with nothing pinned.
   */
  fill(index: number, end: number, pins: PinList): number {
    pins.reset(Infinity, false, false);
    const { va, writable } = this;
    if (this.#shared === undefined) return this.#space.pin(va + index, end - index, writable, pins);
    return this.#shared.fill(index, end, pins, (from, to, gap) => this.#space.pin(va + from, to - from, writable, gap));
  }

  /** One area gives [index, end) up; returns the number of pages that are no longer pinned. */
  unfill(index: number, end: number): number {
    return this.#shared === undefined ? end - index : this.#shared.release(index, end);
  }
}

/** Which pages of a shared memory are pinned, by how many areas, and where they lie. */
class SharedPins {
  /** [index, end) -> number of areas that hold it. */
  readonly #holders = new IntervalTable();
  /** [index, end) -> physical page of its first page. */
  readonly #physical = new IntervalTable();
  readonly #gap = new PinList();

  fill(index: number, end: number, pins: PinList, pin: (from: number, to: number, gap: PinList) => number): number {
    const gaps: [index: number, runs: PinList][] = [];
    for (let at = index; at < end;) {
      const slot = this.#holders.seek(at);
      const start = slot === NONE ? end : Math.min(end, this.#holders.startAt(slot));
      if (at < start) {
        const runs = gaps.length === 0 ? this.#gap : new PinList();
        runs.reset(Infinity, false, false);
        const errno = pin(at, start, runs);
        if (errno !== 0) return errno;
        gaps.push([at, runs]);
        for (let i = 0; i < runs.count; i++) pins.add(runs.starts[i]!, runs.lengths[i]!);
        pins.lockedPages += runs.lockedPages;
        at = start;
      } else {
        const stop = Math.min(end, this.#holders.endAt(slot));
        this.#collect(at, stop, pins);
        at = stop;
      }
    }
    for (const [at, runs] of gaps) this.#place(at, runs);
    this.#count(index, end);
    return 0;
  }

  /** Records pages that are pinned already, for one area. */
  hold(index: number, runs: PinList): void {
    const end = this.#place(index, runs);
    if (end > index) this.#count(index, end);
  }

  release(index: number, end: number): number {
    splitRow(this.#holders, index, false);
    splitRow(this.#holders, end, false);
    let gone = 0;
    for (let at = index; at < end;) {
      const slot = this.#holders.find(at);
      const stop = this.#holders.endAt(slot);
      const count = this.#holders.valueAt(slot);
      if (count > 1) this.#holders.setValue(slot, count - 1);
      else {
        this.#holders.remove(at);
        splitRow(this.#physical, at);
        splitRow(this.#physical, stop);
        this.#physical.removeRange(at, stop);
        gone += stop - at;
      }
      at = stop;
    }
    return gone;
  }

  #place(index: number, runs: PinList): number {
    let at = index;
    for (let i = 0; i < runs.count; i++) {
      this.#physical.insert(at, at + runs.lengths[i]!, runs.starts[i]!, 0);
      at += runs.lengths[i]!;
    }
    return at;
  }

  #collect(from: number, to: number, pins: PinList): void {
    for (let slot = this.#physical.find(from); slot !== NONE; slot = this.#physical.next(slot)) {
      const start = this.#physical.startAt(slot);
      if (start >= to) return;
      const first = Math.max(start, from);
      pins.add(this.#physical.valueAt(slot) + first - start, Math.min(this.#physical.endAt(slot), to) - first);
    }
  }

  /** One area more holds [index, end). */
  #count(index: number, end: number): void {
    splitRow(this.#holders, index, false);
    splitRow(this.#holders, end, false);
    for (let at = index; at < end;) {
      const slot = this.#holders.seek(at);
      const start = slot === NONE ? end : Math.min(end, this.#holders.startAt(slot));
      if (at < start) {
        this.#holders.insert(at, start, 1, 0);
        at = start;
      } else {
        at = this.#holders.endAt(slot);
        this.#holders.setValue(slot, this.#holders.valueAt(slot) + 1);
      }
    }
  }
}
