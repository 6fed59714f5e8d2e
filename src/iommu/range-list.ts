// A small sorted list of disjoint ranges of granule numbers (reserved regions), searched without allocation.
// Half-open [start, end).

/** Sorted, disjoint ranges with a kind each; immutable. */
export class RangeList {
  static readonly EMPTY = new RangeList([]);
  readonly length: number;
  readonly #start: Float64Array;
  readonly #end: Float64Array;
  readonly #kind: Uint8Array;

  constructor(ranges: readonly { readonly start: number; readonly end: number; readonly kind: number }[]) {
    const sorted = [...ranges].sort((a, b) => a.start - b.start);
    this.length = sorted.length;
    this.#start = Float64Array.from(sorted, (range) => range.start);
    this.#end = Float64Array.from(sorted, (range) => range.end);
    this.#kind = Uint8Array.from(sorted, (range) => range.kind);
  }

  startAt(i: number): number {
    return this.#start[i]!;
  }

  endAt(i: number): number {
    return this.#end[i]!;
  }

  kindAt(i: number): number {
    return this.#kind[i]!;
  }

  /** Index of the first range with end > key: the one that holds key, or the next one; `length` if there is none. */
  seek(key: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#end[middle]! > key) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** True when each range of this list lies inside one range of `other`, whatever the kinds; O(n log m). */
  isInside(other: RangeList): boolean {
    for (let i = 0; i < this.length; i++) {
      const k = other.seek(this.#start[i]!);
      if (k === other.length || other.startAt(k) > this.#start[i]! || other.endAt(k) < this.#end[i]!) return false;
    }
    return true;
  }

  /** True when [start, end) meets a range. */
  meets(start: number, end: number): boolean {
    if (this.length === 0) return false;
    const i = this.seek(start);
    return i < this.length && this.#start[i]! < end;
  }
}
