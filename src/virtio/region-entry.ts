// One registered region with what backs it, and the checks of what an embedder registers.
// Not here: the set of regions (memory.ts). Ranges are gpa + size, end exclusive, at most 2^53.
import type { FileSeal, MemoryRegion, MmioAccess, MmioRegionInit, RamRegionInit, RegionFile } from './memory-types.ts';
import { RamWindow } from './ram-window.ts';
import { cutWindow } from './window-table.ts';
import { checkBigint, checkBoolean, checkInteger, checkOneOf, checkOptions, hex, U64_MAX } from '../base/check.ts';

/** Unit of regions in bytes. */
export const PAGE = 4096n;

/** First address that no region may reach beyond: addresses stay exact as numbers. */
const MEMORY_END = 1n << 53n;

/** Longest window that is allocated for a region without windows. */
const ALLOCATED_WINDOW_BYTES = 1 << 30;

/** Windows start at and are long multiples of this, so that no aligned ring index crosses two of them. */
const WINDOW_UNIT = 8;

const SEALS: readonly FileSeal[] = ['shrink', 'grow', 'seal', 'write', 'future-write'];

/** A region and its backing: windows in order for RAM, one with handlers for MMIO. */
export interface RegionEntry {
  readonly region: MemoryRegion;
  /** First guest-physical address, and the one behind the last. */
  readonly start: number;
  readonly end: number;
  /** The rows of the lookup table. */
  readonly windows: readonly RamWindow[];
}

/** Checks a RAM region without allocating anything. */
export function checkRamRegion(init: RamRegionInit): void {
  checkOptions('init', init, ['gpa', 'size', 'windows', 'hva', 'readOnly', 'file']);
  checkPlace(init.gpa, init.size, init.hva);
  if (init.readOnly !== undefined) checkBoolean('init.readOnly', init.readOnly);
  if (init.file !== undefined) checkFile(init.file, init.hva);
  if (init.windows !== undefined) checkWindows(init.windows, init.size);
}

/** Makes the entry of a checked RAM region; allocates its memory when it brings none (RangeError when the host has not that much). */
export function ramEntry(init: RamRegionInit): RegionEntry {
  const { gpa, size, hva, readOnly = false } = init;
  const file = init.file === undefined ? undefined : frozenFile(init.file);
  const start = Number(gpa);
  let at = start;
  const windows = (init.windows?.map(bytesOf) ?? allocate(Number(size))).flatMap((bytes) => {
    const rows = cutWindow(at, bytes, !readOnly);
    at += bytes.length;
    return rows;
  });
  return { region: Object.freeze({ kind: 'ram', gpa, size, hva, readOnly, file }), start, end: at, windows };
}

/** Checks an MMIO region and makes its entry. */
export function checkMmioRegion(init: MmioRegionInit): RegionEntry {
  checkOptions('init', init, ['gpa', 'size', 'hva', 'access']);
  checkPlace(init.gpa, init.size, init.hva);
  const { gpa, size, hva, access } = init;
  if (access !== undefined && (typeof access.read !== 'function' || typeof access.write !== 'function')) {
    throw new TypeError('init.access must be an object with read and write');
  }
  return mmioEntry({ kind: 'mmio', gpa, size, hva, readOnly: false, file: undefined }, access);
}

/** The entry of an MMIO region at a new address, checked as `gpa`. */
export function movedEntry(entry: RegionEntry, gpa: bigint): RegionEntry {
  checkBigint('gpa', gpa, 0n, MEMORY_END - entry.region.size);
  checkMultiple('gpa', gpa);
  return mmioEntry({ ...entry.region, gpa }, entry.windows[0]?.access);
}

function mmioEntry(region: MemoryRegion, access: MmioAccess | undefined): RegionEntry {
  const start = Number(region.gpa);
  const end = start + Number(region.size);
  return { region: Object.freeze(region), start, end, windows: [new RamWindow(start, end, undefined, false, access)] };
}

function checkPlace(gpa: bigint, size: bigint, hva: bigint | undefined): void {
  checkBigint('init.gpa', gpa, 0n, MEMORY_END - PAGE);
  checkMultiple('init.gpa', gpa);
  checkBigint('init.size', size, PAGE, MEMORY_END - gpa);
  checkMultiple('init.size', size);
  if (hva === undefined) return;
  checkBigint('init.hva', hva, 0n, U64_MAX - size + 1n);
  checkMultiple('init.hva', hva);
}

function checkFile(file: RegionFile, hva: bigint | undefined): void {
  checkOptions('init.file', file, ['pageSize', 'seals']);
  const size = checkInteger('init.file.pageSize', file.pageSize, Number(PAGE), 2 ** 52);
  if (2 ** Math.round(Math.log2(size)) !== size) {
    throw new RangeError(`init.file.pageSize must be a power of two, got ${size}`);
  }
  if (hva !== undefined && hva % BigInt(size) !== 0n) {
    throw new RangeError(`init.hva must be a multiple of init.file.pageSize ${hex(size)}, got ${hex(hva)}`);
  }
  const seals: unknown = file.seals ?? [];
  if (!Array.isArray(seals)) throw new TypeError('init.file.seals must be an array');
  seals.forEach((seal, i) => checkOneOf(`init.file.seals[${i}]`, seal, SEALS));
}

function frozenFile({ pageSize, seals }: RegionFile): RegionFile {
  return Object.freeze(seals === undefined ? { pageSize } : { pageSize, seals: Object.freeze([...seals]) });
}

function checkMultiple(name: string, value: bigint): void {
  if (value % PAGE !== 0n) throw new RangeError(`${name} must be a multiple of 4096, got ${hex(value)}`);
}

function checkWindows(windows: unknown, size: bigint): void {
  if (!Array.isArray(windows)) throw new TypeError('init.windows must be an array');
  let total = 0;
  windows.forEach((window: unknown, i) => {
    if (!isBuffer(window) && !(window instanceof Uint8Array)) {
      throw new TypeError(`init.windows[${i}] must be an ArrayBuffer, a SharedArrayBuffer or a Uint8Array`);
    }
    const bytes = bytesOf(window);
    if (bytes.byteOffset % WINDOW_UNIT !== 0 || bytes.length % WINDOW_UNIT !== 0 || bytes.length === 0) {
      throw new RangeError(`init.windows[${i}] must start at and be long a multiple of 8 bytes, and not be empty`);
    }
    total += bytes.length;
  });
  if (BigInt(total) !== size) {
    throw new RangeError(`init.windows hold ${hex(total)} bytes together, init.size is ${hex(size)}`);
  }
}

function isBuffer(value: unknown): value is ArrayBuffer | SharedArrayBuffer {
  // A browser page without cross-origin isolation has no SharedArrayBuffer at all.
  return (
    value instanceof ArrayBuffer || (typeof SharedArrayBuffer !== 'undefined' && value instanceof SharedArrayBuffer)
  );
}

function bytesOf(window: ArrayBuffer | SharedArrayBuffer | Uint8Array): Uint8Array {
  return window instanceof Uint8Array ? window : new Uint8Array(window);
}

function allocate(size: number): Uint8Array[] {
  const windows: Uint8Array[] = [];
  for (let left = size; left > 0; left -= ALLOCATED_WINDOW_BYTES) {
    windows.push(new Uint8Array(Math.min(left, ALLOCATED_WINDOW_BYTES)));
  }
  return windows;
}
