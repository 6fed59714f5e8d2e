// Guest memory of a fuzzed device: several regions in one buffer with guard bytes around each, a second image in which the
// oracle writes what should happen, and a count of the device's accesses. Addresses are guest-physical bytes.
import { SimulatedAddressSpace } from '../../src/host/simulated/address-space.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import type { RamWindow } from '../../src/virtio/ram-window.ts';
import { NO_WINDOW } from '../../src/virtio/ram-window.ts';

const GUARD = 64;
const GUARD_BYTE = 0xc3;

/** A region: RAM, or ROM that devices may only read. */
interface Placed {
  readonly gpa: number;
  readonly size: number;
  readonly readOnly: boolean;
  /** Place of the first byte in the buffer. */
  readonly at: number;
}

const LAYOUT = [
  { gpa: 0, size: 0x8000, readOnly: false },
  { gpa: 0x9000, size: 0x2000, readOnly: false },
  // Directly behind RAM, so that a buffer can begin in one and end in the other.
  { gpa: 0xb000, size: 0x1000, readOnly: true },
  { gpa: 2 ** 52, size: 0x1000, readOnly: false },
];
/** Registers of a device: no ring or buffer may lie there. */
export const MMIO_GPA = 0xc000;

/** Counts every access that a device makes; while it shows no windows, nothing is read in place and every access counts. */
class CountingMemory extends GuestMemory {
  accesses = 0;
  showsWindows = true;

  override windowAt(gpa: number): RamWindow {
    return this.showsWindows ? super.windowAt(gpa) : NO_WINDOW;
  }

  override isRam(gpa: number, length: number): boolean {
    this.accesses++;
    return super.isRam(gpa, length);
  }

  override isWritableRam(gpa: number, length: number): boolean {
    this.accesses++;
    return super.isWritableRam(gpa, length);
  }

  override read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    this.accesses++;
    return super.read(gpa, into, offset, length);
  }

  override write(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    this.accesses++;
    return super.write(gpa, from, offset, length);
  }

  override loadU16(gpa: number): number {
    this.accesses++;
    return super.loadU16(gpa);
  }

  override storeU16(gpa: number, value: number): boolean {
    this.accesses++;
    return super.storeU16(gpa, value);
  }
}

/** The memory, what is in it, and what should be. */
export class FuzzMemory {
  readonly memory = new CountingMemory();
  readonly addressSpace = new SimulatedAddressSpace();
  /** What the device sees. */
  readonly actual: Buffer;
  /** What the oracle says should be there. */
  readonly wanted: Buffer;
  /** Accesses to registers, which must never happen. */
  mmioAccesses = 0;
  readonly regions: readonly { start: bigint; end: bigint; hva: bigint; readOnly: boolean }[];
  readonly #placed: readonly Placed[];
  readonly #pristine: Buffer;
  /** Number of the step in which the oracle last read or wrote a byte. */
  readonly #readAt: Uint32Array;
  readonly #writtenAt: Uint32Array;
  #step = 0;
  #ambiguous = false;

  constructor() {
    let at = GUARD;
    this.#placed = LAYOUT.map((region) => {
      const placed = { ...region, at };
      at += region.size + GUARD;
      return placed;
    });
    this.actual = Buffer.alloc(at, GUARD_BYTE);
    const { buffer, byteOffset } = this.actual;
    this.regions = this.#placed.map(({ gpa, size, readOnly, at: from }) => {
      this.actual.fill(0, from, from + size);
      const { hva } = this.addressSpace.mmap({ length: BigInt(size), kind: 'memfd' });
      const windows = [new Uint8Array(buffer, byteOffset + from, size)];
      this.memory.addRegion({ gpa: BigInt(gpa), size: BigInt(size), windows, hva, readOnly });
      return { start: BigInt(gpa), end: BigInt(gpa + size), hva, readOnly };
    });
    const touched = (): void => {
      this.mmioAccesses++;
    };
    this.memory.addMmio({ gpa: BigInt(MMIO_GPA), size: 0x1000n, access: { read: touched, write: touched } });
    this.wanted = Buffer.from(this.actual);
    this.#pristine = Buffer.from(this.actual);
    this.#readAt = new Uint32Array(at);
    this.#writtenAt = new Uint32Array(at);
  }

  /** Zeroes everything for a new device. */
  clear(): void {
    this.#pristine.copy(this.actual);
    this.#pristine.copy(this.wanted);
  }

  /** Physical page of the host behind a guest-physical address, -1 where there is no memory. */
  physicalPageOf(gpa: bigint): number {
    const region = this.regions.find(({ start, end }) => start <= gpa && gpa < end);
    return region === undefined
      ? -1
      : this.addressSpace.physicalPageOf(Number((region.hva + (gpa - region.start)) / 4096n));
  }

  /** The driver writes bytes; both images have them. False where there is no RAM. */
  poke(gpa: number, bytes: Uint8Array): boolean {
    const at = this.placeOf(gpa, bytes.length, false);
    if (at < 0) return false;
    this.actual.set(bytes, at);
    this.wanted.set(bytes, at);
    return true;
  }

  /** The driver writes a little-endian u16. */
  poke16(gpa: number, value: number): void {
    this.poke(gpa, Uint8Array.of(value & 0xff, (value >> 8) & 0xff));
  }

  /**
   * Place in the images of [gpa, gpa + length) when it is wholly inside RAM (or ROM), -1 otherwise. Regions that touch
   * in guest-physical space do not touch in the images: such a range has no single place, see {@link FuzzMemory.covers}.
   */
  placeOf(gpa: number, length: number, writable: boolean): number {
    for (const region of this.#placed) {
      if (gpa < region.gpa || gpa + length > region.gpa + region.size) continue;
      return writable && region.readOnly ? -1 : region.at + (gpa - region.gpa);
    }
    return -1;
  }

  /** True when every byte of [addr, addr + length) is RAM or ROM, or RAM when `writable`; any 64-bit address. */
  covers(addr: bigint, length: bigint, writable: boolean): boolean {
    let at = addr;
    const end = addr + length;
    while (at < end) {
      const region = this.regions.find((each) => each.start <= at && at < each.end && !(writable && each.readOnly));
      if (region === undefined) return false;
      at = region.end;
    }
    return true;
  }

  /** A new step of the oracle: nothing was read or written in it so far. */
  beginStep(): void {
    this.#step++;
    this.#ambiguous = false;
  }

  /** True when the step wrote what it also read, or wrote twice: the outcome then depends on the device's order of work. */
  get ambiguous(): boolean {
    return this.#ambiguous;
  }

  /** Oracle: one byte of the wanted image, covered memory only. */
  readByte(gpa: number): number {
    const at = this.placeOf(gpa, 1, false);
    if (this.#writtenAt[at] === this.#step) this.#ambiguous = true;
    this.#readAt[at] = this.#step;
    return this.wanted[at]!;
  }

  /** Oracle: writes one byte into the wanted image, covered memory only. */
  writeByte(gpa: number, value: number): void {
    const at = this.placeOf(gpa, 1, true);
    if (this.#writtenAt[at] === this.#step || this.#readAt[at] === this.#step) this.#ambiguous = true;
    this.#writtenAt[at] = this.#step;
    this.wanted[at] = value;
  }

  /** Oracle: little-endian unsigned number of `size` bytes. */
  readLe(gpa: number, size: number): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.readByte(gpa + i);
    return value;
  }

  /** Oracle: writes a little-endian unsigned number of `size` bytes. */
  writeLe(gpa: number, size: number, value: number): void {
    let left = value;
    for (let i = 0; i < size; i++) {
      this.writeByte(gpa + i, left % 256);
      left = Math.floor(left / 256);
    }
  }

  /** Compares the images; the first byte that differs, in words. */
  compare(): string | undefined {
    if (this.mmioAccesses > 0) return `${this.mmioAccesses} accesses to device registers`;
    if (this.actual.equals(this.wanted)) return undefined;
    const at = this.actual.findIndex((byte, i) => byte !== this.wanted[i]);
    const region = this.#placed.find((each) => each.at <= at && at < each.at + each.size);
    const where = region === undefined ? `guard byte ${at}` : `byte 0x${(region.gpa + at - region.at).toString(16)}`;
    const show = (image: Buffer): string => image.toString('hex', at, at + 16);
    return `${where}: memory holds ${show(this.actual)}, should hold ${show(this.wanted)}`;
  }

  /** Takes the device's memory as it is, after a step with more than one right outcome; guards and ROM must be whole. */
  resync(): string | undefined {
    let at = 0;
    for (const region of this.#placed) {
      if (this.actual.compare(this.#pristine, at, region.at, at, region.at) !== 0) return 'a guard byte was written';
      at = region.at + region.size;
      if (!region.readOnly) continue;
      if (this.actual.compare(this.wanted, region.at, at, region.at, at) !== 0) return 'read-only memory was written';
    }
    if (this.actual.compare(this.#pristine, at, this.#pristine.length, at) !== 0) return 'a guard byte was written';
    this.actual.copy(this.wanted);
    return undefined;
  }
}
