// What a device behind the IOMMU needs for its DMA, and the two ways to have it: translated (a DmaView has this face), or,
// for a device that no IOMMU translates, straight into guest memory. Not here: rings (dma-ring-memory.ts).
// Addresses are bytes below 2^64 as the driver wrote them; lengths are bytes.
import type { DmaResult, DmaView } from '../iommu/dma-view.ts';
import type { GuestMemory } from '../virtio/memory.ts';

/** DMA of one device; {@link DmaView} is one. An access is all or nothing, and is decided when it happens. */
export type DmaAccess = Pick<DmaView, 'read' | 'write' | 'loadU16' | 'storeU16'>;

/** Nothing can be at or above this address: guest memory ends below, and a number is not exact there. */
const END = 1n << 53n;

/**
 * DMA that takes every address for a guest-physical one. For devices that are not behind an IOMMU, and for the test that
 * a driver which uses I/O virtual addresses gets nowhere with them.
 */
export class UntranslatedDma implements DmaAccess {
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Reads `length` bytes (default: the rest of `into`) at `gpa` into `into[offset..]`; never `fault`. */
  read(gpa: bigint, into: Uint8Array, offset = 0, length = into.length - offset): DmaResult {
    return gpa < END && this.#memory.dmaRead(Number(gpa), into, offset, length) ? 'ok' : 'unbacked';
  }

  /** Writes `length` bytes (default: the rest of `from`) of `from[offset..]` at `gpa`; never `fault`. */
  write(gpa: bigint, from: Uint8Array, offset = 0, length = from.length - offset): DmaResult {
    return gpa < END && this.#memory.dmaWrite(Number(gpa), from, offset, length) ? 'ok' : 'unbacked';
  }

  /** Atomic load of a little-endian u16; undefined when it is misaligned or not RAM. */
  loadU16(gpa: bigint): number | undefined {
    const value = gpa < END ? this.#memory.loadU16(Number(gpa)) : -1;
    return value < 0 ? undefined : value;
  }

  /** Atomic store of a little-endian u16; false when it is misaligned or not writable RAM. */
  storeU16(gpa: bigint, value: number): boolean {
    return gpa < END && this.#memory.storeU16(Number(gpa), value);
  }
}
