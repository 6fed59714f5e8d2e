// The physically contiguous runs of one pinned range, in order; reused for every map. Unit: 4 KiB pages.

/** Result of pinning: run i is `lengths[i]` pages at physical page `starts[i]`; neighbours are merged. */
export class PinList {
  count = 0;
  starts: Float64Array = new Float64Array(16);
  lengths: Float64Array = new Float64Array(16);
  /** Pages that count as locked memory; device memory does not. */
  lockedPages = 0;
  /** Most pages that may be locked by this request (RLIMIT_MEMLOCK less what is locked already). */
  budget = Infinity;
  /**
   * What older kernels do, as 6.1: pages of file-system files may be pinned for writing (before 6.5), and an anonymous page
   * that nobody has written is pinned for reading as the zero page, which is not locked memory (before 6.2).
   */
  old = false;
  /** Whether device memory may be pinned (type1; iommufd refuses it with EFAULT). */
  deviceMemory = true;

  /** Empties the list for a new request. */
  reset(budget: number, old: boolean, deviceMemory = true): void {
    this.count = 0;
    this.lockedPages = 0;
    this.budget = budget;
    this.old = old;
    this.deviceMemory = deviceMemory;
  }

  /** Appends a run, joined to the last one when it follows it in physical memory. */
  add(start: number, length: number): void {
    const last = this.count - 1;
    const next = last >= 0 ? this.starts[last]! + this.lengths[last]! : -1;
    if (next === start) {
      this.lengths[last]! += length;
      return;
    }
    if (this.count === this.starts.length) {
      this.starts = doubled(this.starts);
      this.lengths = doubled(this.lengths);
    }
    this.starts[this.count] = start;
    this.lengths[this.count] = length;
    this.count++;
  }
}

function doubled(column: Float64Array): Float64Array {
  const larger = new Float64Array(column.length * 2);
  larger.set(column);
  return larger;
}
