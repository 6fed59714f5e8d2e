// One window of guest memory: a JS buffer that backs a stretch of it, or a stretch of registers. Rings and requests are
// read in place through it. Not here: finding the window of an address (window-table.ts).
// Addresses are guest-physical bytes below 2^53; [start, end), end exclusive. A window is at most 2^30 bytes long, so that
// an offset in it is a small integer whatever a buffer's limit is; a larger buffer makes several.
import type { MmioAccess, RingMemory } from './memory-types.ts';

const NO_BYTES = new Uint8Array(0);

/** A window; immutable, so that one who holds it past a change of regions writes to memory that is not the guest's any more. */
export class RamWindow {
  /** First address, and the one behind the last. */
  readonly start: number;
  readonly end: number;
  /** True for RAM and ROM; true for RAM. */
  readonly ram: boolean;
  readonly writable: boolean;
  /** The memory as bytes and as native little-endian words of 16 and of 32 bits; all are empty for registers. */
  readonly bytes: Uint8Array;
  readonly words: Uint16Array;
  readonly longs: Uint32Array;
  /** Handlers of registers. */
  readonly access: MmioAccess | undefined;

  constructor(start: number, end: number, bytes: Uint8Array | undefined, writable: boolean, access?: MmioAccess) {
    const { buffer, byteOffset, byteLength } = bytes ?? NO_BYTES;
    this.start = start;
    this.end = end;
    this.ram = bytes !== undefined;
    this.writable = this.ram && writable;
    this.bytes = bytes ?? NO_BYTES;
    this.words = new Uint16Array(buffer, byteOffset, byteLength / 2);
    this.longs = new Uint32Array(buffer, byteOffset, byteLength / 4);
    this.access = access;
  }
}

/** Stands for no window: it holds no address. */
export const NO_WINDOW = new RamWindow(0, 0, undefined, false);

/** Memory that can show RAM in place. */
export interface RamInPlace extends RingMemory {
  /** Changes whenever regions come, go or move: no window may be used across a change. */
  readonly generation: number;
  /** The window that holds `gpa`, {@link NO_WINDOW} when none does (also for NaN, negative and huge values). */
  windowAt(gpa: number): RamWindow;
}

/** `memory` as one that shows RAM in place, undefined when it cannot. */
export function inPlace(memory: RingMemory): RamInPlace | undefined {
  const able = memory as (RingMemory & Partial<RamInPlace>) | undefined;
  return typeof able?.windowAt === 'function' ? (memory as RamInPlace) : undefined;
}
