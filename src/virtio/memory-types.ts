// Types of guest memory: what an embedder registers, what observers are told, what a virtqueue needs.
// Not here: the tables behind them (window-table.ts, memory.ts).
// Guest-physical addresses are bigint at registration and plain numbers (bytes) on the access path; ends are exclusive.

/**
 * What the file behind a region was sealed against, F_SEAL_* of memfd_create(2); `write` and `future-write` forbid another
 * writable mapping of it.
 */
export type FileSeal = 'shrink' | 'grow' | 'seal' | 'write' | 'future-write';

/** The file whose shared mapping a region's `hva` is: what a host context may map a second time, in another order. */
export interface RegionFile {
  /**
   * Bytes of one page of the file, the unit in which it can be mapped: a power of two, at least 4096. 4096 for memfd and
   * shmem also where they use transparent huge pages; the huge page for hugetlbfs.
   */
  readonly pageSize: number;
  /** Seals of the file; default none. */
  readonly seals?: readonly FileSeal[];
}

/** RAM or ROM of the guest. */
export interface RamRegionInit {
  /** Guest-physical address of the first byte; a multiple of 4096. */
  readonly gpa: bigint;
  /** Bytes; > 0, a multiple of 4096; `gpa + size` is at most 2^53. */
  readonly size: bigint;
  /**
   * Windows that together back the region, in order; the sum of their lengths is `size`. One buffer is one window: a region
   * larger than one buffer can be has several. Each starts at, and is long, a multiple of 8 bytes.
   * Omitted: zeroed memory is allocated in windows of at most 1 GiB.
   */
  readonly windows?: readonly (ArrayBuffer | SharedArrayBuffer | Uint8Array)[];
  /**
   * Host virtual address of the first byte; a multiple of 4096, contiguous over all windows. Needed to forward the region
   * to a host context; omitted: the region is not visible to host contexts.
   */
  readonly hva?: bigint;
  /** Guest ROM: writes of devices are refused. Default false. */
  readonly readOnly?: boolean;
  /**
   * The file that is mapped at `hva`, which is then a multiple of its page size; omitted: anonymous memory, which cannot
   * be mapped a second time and so is never gathered.
   */
  readonly file?: RegionFile;
}

/** Handlers for DMA of emulated devices into an MMIO region; offsets in bytes from the start of the region. */
export interface MmioAccess {
  /** Fills all of `into` with what a read of `into.length` bytes at `offset` returns. */
  read(offset: number, into: Uint8Array): void;
  /** Performs a write of `bytes` at `offset`; `bytes` is valid during the call only. */
  write(offset: number, bytes: Uint8Array): void;
}

/** Registers of a device in guest-physical space (a BAR). */
export interface MmioRegionInit {
  /** Guest-physical address of the first byte; a multiple of 4096. */
  readonly gpa: bigint;
  /** Bytes; > 0, a multiple of 4096. */
  readonly size: bigint;
  /** Host virtual address of the first byte, a multiple of 4096; omitted: not visible to host contexts. */
  readonly hva?: bigint;
  /** Called for DMA of emulated devices into the region; omitted: such DMA fails. */
  readonly access?: MmioAccess;
}

/** A registered region; identity matters, the object is frozen. */
export interface MemoryRegion {
  readonly kind: 'ram' | 'mmio';
  readonly gpa: bigint;
  readonly size: bigint;
  readonly hva: bigint | undefined;
  readonly readOnly: boolean;
  /** A frozen copy of {@link RamRegionInit.file}; undefined for anonymous memory and for registers. */
  readonly file: RegionFile | undefined;
}

/**
 * Is told synchronously of changes. An observer that throws vetoes the change: it must have undone its own part, the
 * observers told before it get the opposite call, and the memory is as before.
 */
export interface MemoryObserver {
  /** Called before the region disappears (remove, or move: the old place); it can still be accessed. */
  removing(region: MemoryRegion): void;
  /** Called after the region is there (add, or move: the new place). */
  added(region: MemoryRegion): void;
  /** May veto {@link GuestMemory.discardRange} by returning a reason. */
  discarding?(gpa: bigint, size: bigint): string | undefined;
}

/** What a virtqueue needs of memory; {@link GuestMemory} is one. None of these throws for any address. */
export interface RingMemory {
  /** True when [gpa, gpa+length) is wholly RAM or ROM (length 0: true). */
  isRam(gpa: number, length: number): boolean;
  /** True when [gpa, gpa+length) is wholly RAM that devices may write (length 0: true). */
  isWritableRam(gpa: number, length: number): boolean;
  /** Copies `length` bytes to `into[offset..]`; false when any byte is not RAM. */
  read(gpa: number, into: Uint8Array, offset: number, length: number): boolean;
  /** Writes `from[offset..offset+length)`; false and nothing written when any byte is not writable RAM. */
  write(gpa: number, from: Uint8Array, offset: number, length: number): boolean;
  /** Atomic load of a little-endian u16; -1 when outside RAM or misaligned. */
  loadU16(gpa: number): number;
  readU16(gpa: number): number;
  readWords(gpa: number, into: Uint32Array, count: number): boolean;
  writeWord(gpa: number, value: number): boolean;
  writeWords2(gpa: number, first: number, second: number): boolean;
  /** Atomic store of a little-endian u16; false when outside writable RAM or misaligned. */
  storeU16(gpa: number, value: number): boolean;
}
