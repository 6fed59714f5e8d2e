// The machine that sequences run on, made once and used again for each: guest memory in several regions, and for host
// groups the memory of the VMM process behind it. Not here: devices and drivers (world.ts).
import { SimulatedAddressSpace } from '../../src/host/simulated/address-space.ts';
import { SimulatedHost } from '../../src/host/simulated.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';

/** A stretch of guest-physical memory; end exclusive. */
export interface BenchRegion {
  readonly start: bigint;
  readonly end: bigint;
  /** Host virtual address of `start`. */
  readonly hva: bigint;
  readonly readOnly: boolean;
}

/** Where the rings lie; the rest of the first region is room for their buffers. */
export const RING_BASE = 0x1000n;
export const EVENT_BASE = 0x7_0000n;
export const REQUEST_BUFFER_BYTES = 0x5_0000;

const LAYOUT = [
  { gpa: 0n, size: 0xa_0000n, readOnly: false },
  // Neighbours in guest-physical space, apart in the process; and one that devices may only read.
  { gpa: 0xa_0000n, size: 0x4000n, readOnly: false },
  { gpa: 0x10_0000n, size: 0x4_0000n, readOnly: false },
  { gpa: 0x20_0000n, size: 0x8000n, readOnly: true },
  { gpa: 0x1_0000_0000n, size: 0x2_0000n, readOnly: false },
];

/** Guest memory and what is behind it. */
export class Bench {
  readonly memory = new GuestMemory();
  readonly addressSpace = new SimulatedAddressSpace();
  readonly regions: readonly BenchRegion[];

  constructor() {
    this.regions = LAYOUT.map(({ gpa, size, readOnly }) => {
      const { hva, windows } = this.addressSpace.mmap({ length: size, kind: 'memfd' });
      this.memory.addRegion({ gpa, size, windows, hva, readOnly });
      return { start: gpa, end: gpa + size, hva, readOnly };
    });
  }

  /** A host whose process has this memory; entries without a practical limit. */
  host(): SimulatedHost {
    return new SimulatedHost({
      addressSpace: this.addressSpace,
      entryLimit: 1_000_000,
      usableRanges: [{ start: 0n, end: 0xffff_ffff_ffff_ffffn }],
    });
  }

  /** Physical page of the host behind a guest-physical address, -1 where there is no memory. */
  physicalPageOf(gpa: bigint): number {
    const region = this.regions.find(({ start, end }) => start <= gpa && gpa < end);
    return region === undefined
      ? -1
      : this.addressSpace.physicalPageOf(Number((region.hva + (gpa - region.start)) / 4096n));
  }
}
