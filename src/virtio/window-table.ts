// The lookup table of guest memory: sorted windows, each one JS buffer or one MMIO region, and byte access through them.
// Not here: regions, observers, argument checks of registration (memory.ts).
// Addresses are numbers (bytes) below 2^53; ranges are [start, end), end exclusive. A length may make `gpa + length` pass 2^53,
// so lengths are compared with what is left of a window and never added to an address first.
import type { MmioAccess } from './memory-types.ts';

const RAM = 1;
const WRITABLE = 2;

/** Longest copy done by a byte loop: below it a loop beats `set(subarray())`, which makes a view object per call. */
const LOOP_COPY_BYTES = 128;

/** One window as registration hands it over; `bytes` undefined for MMIO. */
export interface Window {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array | undefined;
  readonly writable: boolean;
  readonly access: MmioAccess | undefined;
}

const EMPTY_BYTES = new Uint8Array(0);
const EMPTY_WORDS = new Uint16Array(0);
const EMPTY_LONGS = new Uint32Array(0);

/** Sorted, disjoint windows; lookup is O(log n) with a last-hit cache and allocates nothing. */
export class WindowTable {
  #start = new Float64Array(1);
  #end = new Float64Array(1);
  #flags = new Uint8Array(1);
  #bytes: Uint8Array[] = [EMPTY_BYTES];
  #words: Uint16Array[] = [EMPTY_WORDS];
  #longs: Uint32Array[] = [EMPTY_LONGS];
  #access: (MmioAccess | undefined)[] = [undefined];
  #count = 0;
  #last = 0;

  /** Replaces all windows; `windows` must be sorted by start and disjoint. */
  assign(windows: readonly Window[]): void {
    // One row is kept when there is none, empty at [0, 0), so that the last-hit test never reads past the end.
    const rows = Math.max(windows.length, 1);
    this.#start = new Float64Array(rows);
    this.#end = new Float64Array(rows);
    this.#flags = new Uint8Array(rows);
    this.#bytes = windows.map((window) => window.bytes ?? EMPTY_BYTES);
    this.#words = windows.map(({ bytes }) =>
      bytes === undefined ? EMPTY_WORDS : new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2),
    );
    this.#longs = windows.map(({ bytes }) =>
      bytes === undefined ? EMPTY_LONGS : new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4),
    );
    this.#access = windows.map((window) => window.access);
    windows.forEach((window, i) => {
      this.#start[i] = window.start;
      this.#end[i] = window.end;
      this.#flags[i] = window.bytes === undefined ? 0 : window.writable ? RAM | WRITABLE : RAM;
    });
    this.#count = windows.length;
    this.#last = 0;
  }

  /** True when [gpa, gpa+length) is wholly RAM; `writable`: RAM that is not read-only. Length 0: true. */
  covers(gpa: number, length: number, writable: boolean): boolean {
    const need = writable ? RAM | WRITABLE : RAM;
    let at = gpa;
    let left = length;
    while (left > 0) {
      const i = this.#find(at);
      if (i < 0 || (this.#flags[i]! & need) !== need) return false;
      const end = this.#end[i]!;
      left -= end - at;
      at = end;
    }
    return true;
  }

  /** Like {@link WindowTable.covers}, but MMIO regions with access handlers count as well. */
  coversDma(gpa: number, length: number, write: boolean): boolean {
    const need = write ? RAM | WRITABLE : RAM;
    let at = gpa;
    let left = length;
    while (left > 0) {
      const i = this.#find(at);
      if (i < 0) return false;
      if ((this.#flags[i]! & need) !== need && this.#access[i] === undefined) return false;
      const end = this.#end[i]!;
      left -= end - at;
      at = end;
    }
    return true;
  }

  /** Copies [gpa, gpa+length) to `into[offset..]`; false when a byte is not RAM, `into` is then partly filled. */
  read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    let at = gpa;
    let to = offset;
    let left = length;
    while (left > 0) {
      const i = this.#find(at);
      if (i < 0 || (this.#flags[i]! & RAM) === 0) return false;
      const bytes = Math.min(left, this.#end[i]! - at);
      copy(this.#bytes[i]!, at - this.#start[i]!, into, to, bytes);
      at += bytes;
      to += bytes;
      left -= bytes;
    }
    return true;
  }

  /** Writes `from[offset..offset+length)` at `gpa`; checks the whole range first and writes nothing when it fails. */
  write(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    if (!this.covers(gpa, length, true)) return false;
    let at = gpa;
    let source = offset;
    let left = length;
    while (left > 0) {
      const i = this.#find(at);
      const bytes = Math.min(left, this.#end[i]! - at);
      copy(from, source, this.#bytes[i]!, at - this.#start[i]!, bytes);
      at += bytes;
      source += bytes;
      left -= bytes;
    }
    return true;
  }

  /** Sets [gpa, gpa+length) to zero; the caller has checked {@link WindowTable.covers}. */
  uncheckedZero(gpa: number, length: number): void {
    let at = gpa;
    let left = length;
    while (left > 0) {
      const i = this.#find(at);
      const bytes = Math.min(left, this.#end[i]! - at);
      const first = at - this.#start[i]!;
      this.#bytes[i]!.fill(0, first, first + bytes);
      at += bytes;
      left -= bytes;
    }
  }

  /** Atomic u16 load; -1 when `gpa` is odd or not RAM. */
  loadU16(gpa: number): number {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & RAM) === 0) return -1;
    const offset = gpa - this.#start[i]!;
    return (offset & 1) === 0 ? Atomics.load(this.#words[i]!, offset >>> 1) : -1;
  }

  /** Atomic u16 store; false when `gpa` is odd or not writable RAM. */
  storeU16(gpa: number, value: number): boolean {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & WRITABLE) === 0) return false;
    const offset = gpa - this.#start[i]!;
    if ((offset & 1) !== 0) return false;
    Atomics.store(this.#words[i]!, offset >>> 1, value);
    return true;
  }

  /** Plain load of a little-endian u16; -1 when `gpa` is odd or not RAM. */
  readU16(gpa: number): number {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & RAM) === 0) return -1;
    const offset = gpa - this.#start[i]!;
    return (offset & 1) === 0 ? this.#words[i]![offset >>> 1]! : -1;
  }

  /** Copies `count` u32 to `into[0..]`; false, and nothing read, when `gpa` is no multiple of 4 or a byte is outside one RAM window. */
  readWords(gpa: number, into: Uint32Array, count: number): boolean {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & RAM) === 0 || this.#end[i]! - gpa < count * 4) return false;
    const offset = gpa - this.#start[i]!;
    if ((offset & 3) !== 0) return false;
    const longs = this.#longs[i]!;
    const from = offset >>> 2;
    let k = 0;
    for (; k + 4 <= count; k += 4) {
      into[k] = longs[from + k]!;
      into[k + 1] = longs[from + k + 1]!;
      into[k + 2] = longs[from + k + 2]!;
      into[k + 3] = longs[from + k + 3]!;
    }
    for (; k < count; k++) into[k] = longs[from + k]!;
    return true;
  }

  /** Stores one u32; false, and nothing written, when `gpa` is no multiple of 4 or not in writable RAM. */
  writeWord(gpa: number, value: number): boolean {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & WRITABLE) === 0) return false;
    const offset = gpa - this.#start[i]!;
    if ((offset & 3) !== 0) return false;
    this.#longs[i]![offset >>> 2] = value;
    return true;
  }

  /** Stores two u32 in a row, both or (false) none. */
  writeWords2(gpa: number, first: number, second: number): boolean {
    const i = this.#find(gpa);
    if (i < 0 || (this.#flags[i]! & WRITABLE) === 0 || this.#end[i]! - gpa < 8) return false;
    const offset = gpa - this.#start[i]!;
    if ((offset & 3) !== 0) return false;
    const longs = this.#longs[i]!;
    const at = offset >>> 2;
    longs[at] = first;
    longs[at + 1] = second;
    return true;
  }

  /** Read of an emulated device; each piece is looked up anew, because a handler may change the regions. */
  dmaRead(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    if (!this.coversDma(gpa, length, false)) return false;
    let done = 0;
    while (done < length) {
      const i = this.#find(gpa + done);
      if (i < 0) return false;
      const bytes = Math.min(length - done, this.#end[i]! - (gpa + done));
      const at = gpa + done - this.#start[i]!;
      const to = offset + done;
      if ((this.#flags[i]! & RAM) !== 0) copy(this.#bytes[i]!, at, into, to, bytes);
      else if (this.#access[i] !== undefined) this.#access[i].read(at, into.subarray(to, to + bytes));
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
      const i = this.#find(gpa + done);
      if (i < 0) return false;
      const bytes = Math.min(length - done, this.#end[i]! - (gpa + done));
      const at = gpa + done - this.#start[i]!;
      const source = offset + done;
      if ((this.#flags[i]! & WRITABLE) !== 0) copy(from, source, this.#bytes[i]!, at, bytes);
      else if (this.#access[i] !== undefined) this.#access[i].write(at, from.subarray(source, source + bytes));
      else return false;
      done += bytes;
    }
    return true;
  }

  /** Row of the window that holds `gpa`, -1 when none does (also for NaN, negative and huge values). */
  #find(gpa: number): number {
    const last = this.#last;
    if (gpa >= this.#start[last]! && gpa < this.#end[last]!) return last;
    let low = 0;
    let high = this.#count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      if (gpa < this.#start[middle]!) high = middle - 1;
      else if (gpa < this.#end[middle]!) return (this.#last = middle);
      else if (gpa >= this.#end[middle]!) low = middle + 1;
      else return -1;
    }
    return -1;
  }
}

function copy(from: Uint8Array, source: number, into: Uint8Array, to: number, bytes: number): void {
  if (bytes <= LOOP_COPY_BYTES) {
    for (let i = 0; i < bytes; i++) into[to + i] = from[source + i]!;
  } else {
    into.set(from.subarray(source, source + bytes), to);
  }
}
