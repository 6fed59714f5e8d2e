// The lookup table of guest memory: sorted windows, each one JS buffer or one MMIO region, and byte access through them.
// Not here: regions, observers, argument checks of registration (memory.ts).
// Addresses are numbers (bytes) below 2^53; ranges are [start, end), end exclusive. A length may make `gpa + length` pass 2^53,
// so lengths are compared with what is left of a window and never added to an address first.
import { NO_WINDOW, RamWindow } from './ram-window.ts';

/** Longest copy done by a byte loop: below it a loop beats `set(subarray())`, which makes a view object per call. */
const LOOP_COPY_BYTES = 128;

/** Longest window, see ram-window.ts. */
const WINDOW_BYTES = 2 ** 30;

// An own constant is folded into the code, an imported one is loaded and checked at each use.
const NONE = NO_WINDOW;

/** Sorted, disjoint windows; lookup is O(log n) with a last-hit cache and allocates nothing. */
export class WindowTable {
  #windows: readonly RamWindow[] = [];
  /** The window found last, or one that holds nothing. */
  #last = NO_WINDOW;

  /** Replaces all windows; they must be sorted by start and disjoint. */
  assign(windows: readonly RamWindow[]): void {
    this.#windows = windows;
    this.#last = NO_WINDOW;
  }

  /** The window that holds `gpa`, {@link NO_WINDOW} when none does (also for NaN, negative and huge values). */
  find(gpa: number): RamWindow {
    const last = this.#last;
    return gpa >= last.start && gpa < last.end ? last : this.#search(gpa);
  }

  /** True when [gpa, gpa+length) is wholly RAM; `writable`: RAM that is not read-only. Length 0: true. */
  covers(gpa: number, length: number, writable: boolean): boolean {
    const window = this.find(gpa);
    if (length <= window.end - gpa) return length === 0 || (writable ? window.writable : window.ram);
    return this.#coversSlowly(gpa, length, writable);
  }

  #coversSlowly(gpa: number, length: number, writable: boolean): boolean {
    let at = gpa;
    let left = length;
    while (left > 0) {
      const window = this.find(at);
      if (!(writable ? window.writable : window.ram)) return false;
      left -= window.end - at;
      at = window.end;
    }
    return true;
  }

  /** Like {@link WindowTable.covers}, but MMIO regions with access handlers count as well. */
  coversDma(gpa: number, length: number, write: boolean): boolean {
    let at = gpa;
    let left = length;
    while (left > 0) {
      const window = this.find(at);
      if (!(write ? window.writable : window.ram) && window.access === undefined) return false;
      left -= window.end - at;
      at = window.end;
    }
    return true;
  }

  /** Copies [gpa, gpa+length) to `into[offset..]`; false when a byte is not RAM, `into` is then partly filled. */
  read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    let done = 0;
    while (done < length) {
      const at = gpa + done;
      const window = this.find(at);
      if (!window.ram) return false;
      const bytes = Math.min(length - done, window.end - at);
      copy(window.bytes, at - window.start, into, offset + done, bytes);
      done += bytes;
    }
    return true;
  }

  /** Writes `from[offset..offset+length)` at `gpa`; checks the whole range first and writes nothing when it fails. */
  write(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    if (!this.covers(gpa, length, true)) return false;
    let done = 0;
    while (done < length) {
      const at = gpa + done;
      const window = this.find(at);
      const bytes = Math.min(length - done, window.end - at);
      copy(from, offset + done, window.bytes, at - window.start, bytes);
      done += bytes;
    }
    return true;
  }

  /** Sets [gpa, gpa+length) to zero; the caller has checked {@link WindowTable.covers}. */
  uncheckedZero(gpa: number, length: number): void {
    let done = 0;
    while (done < length) {
      const at = gpa + done;
      const window = this.find(at);
      const bytes = Math.min(length - done, window.end - at);
      window.bytes.fill(0, at - window.start, at - window.start + bytes);
      done += bytes;
    }
  }

  /** Atomic u16 load; -1 when `gpa` is odd or not RAM. */
  loadU16(gpa: number): number {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    return window.ram && (offset & 1) === 0 ? Atomics.load(window.words, offset >>> 1) : -1;
  }

  /** Atomic u16 store; false when `gpa` is odd or not writable RAM. */
  storeU16(gpa: number, value: number): boolean {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    if (!window.writable || (offset & 1) !== 0) return false;
    Atomics.store(window.words, offset >>> 1, value);
    return true;
  }

  /** Plain load of a little-endian u16; -1 when `gpa` is odd or not RAM. */
  readU16(gpa: number): number {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    return window.ram && (offset & 1) === 0 ? window.words[offset >>> 1]! : -1;
  }

  /** Copies `count` u32 to `into[0..]`; false, and nothing read, when `gpa` is no multiple of 4 or a byte is outside one RAM window. */
  readWords(gpa: number, into: Uint32Array, count: number): boolean {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    if (!window.ram || count * 4 > window.end - gpa || (offset & 3) !== 0) return false;
    const { longs } = window;
    const from = offset >>> 2;
    for (let i = 0; i < count; i++) into[i] = longs[from + i]!;
    return true;
  }

  /** Stores one u32; false, and nothing written, when `gpa` is no multiple of 4 or not in writable RAM. */
  writeWord(gpa: number, value: number): boolean {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    if (!window.writable || (offset & 3) !== 0) return false;
    window.longs[offset >>> 2] = value;
    return true;
  }

  /** Stores two u32 in a row, both or (false) none. */
  writeWords2(gpa: number, first: number, second: number): boolean {
    const window = this.find(gpa);
    const offset = gpa - window.start;
    if (!window.writable || window.end - gpa < 8 || (offset & 3) !== 0) return false;
    const { longs } = window;
    longs[offset >>> 2] = first;
    longs[(offset >>> 2) + 1] = second;
    return true;
  }

  /** Read of an emulated device; each piece is looked up anew, because a handler may change the regions. */
  dmaRead(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    if (!this.coversDma(gpa, length, false)) return false;
    let done = 0;
    while (done < length) {
      const at = gpa + done;
      const window = this.find(at);
      const bytes = Math.min(length - done, window.end - at);
      const to = offset + done;
      if (window.ram) copy(window.bytes, at - window.start, into, to, bytes);
      else if (window.access !== undefined) window.access.read(at - window.start, into.subarray(to, to + bytes));
      else return false;
      done += bytes;
    }
    return true;
  }

  /** Write of an emulated device; checks the whole range first, then looks each piece up anew as in `dmaRead`. */
  dmaWrite(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    if (!this.coversDma(gpa, length, true)) return false;
    let done = 0;
    while (done < length) {
      const at = gpa + done;
      const window = this.find(at);
      const bytes = Math.min(length - done, window.end - at);
      const source = offset + done;
      if (window.writable) copy(from, source, window.bytes, at - window.start, bytes);
      else if (window.access !== undefined)
        window.access.write(at - window.start, from.subarray(source, source + bytes));
      else return false;
      done += bytes;
    }
    return true;
  }

  #search(gpa: number): RamWindow {
    const windows = this.#windows;
    let low = 0;
    let high = windows.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const window = windows[middle]!;
      if (gpa < window.start) high = middle - 1;
      else if (gpa < window.end) return (this.#last = window);
      else if (gpa >= window.end) low = middle + 1;
      else break;
    }
    return NONE;
  }
}

/** The windows of what was registered. */
/** Windows for RAM from `start` on that `bytes` back. */
export function cutWindow(start: number, bytes: Uint8Array, writable: boolean): RamWindow[] {
  const windows: RamWindow[] = [];
  for (let at = 0; at < bytes.length; at += WINDOW_BYTES) {
    const part = bytes.length <= WINDOW_BYTES ? bytes : bytes.subarray(at, at + WINDOW_BYTES);
    windows.push(new RamWindow(start + at, start + at + part.length, part, writable));
  }
  return windows;
}

function copy(from: Uint8Array, source: number, into: Uint8Array, to: number, bytes: number): void {
  if (bytes <= LOOP_COPY_BYTES) {
    for (let i = 0; i < bytes; i++) into[to + i] = from[source + i]!;
  } else {
    into.set(from.subarray(source, source + bytes), to);
  }
}
