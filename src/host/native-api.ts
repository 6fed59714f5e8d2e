// What the addon (native/) offers, as types; native/index.d.ts is generated and must fit (a test compares the two).
// Not here: how it is loaded (native.ts). Sizes and positions are bytes, ends exclusive, except where stated.
// Every call throws an error that native.ts turns into a call and an errno.

/** Guest RAM: a file in memory and its mapping. */
export interface NativeRam {
  /** Host virtual address of the first byte. */
  address(): bigint;
  size(): bigint;
  /** Size of the file's own pages. */
  pageSize(): number;
  /** F_SEAL_* bits, -1 where the file has none. */
  seals(): number;
  /** A new descriptor, close-on-exec, that the caller owns. */
  duplicate(): number;
  allocate(offset: bigint, length: bigint): void;
  /** All bytes in ArrayBuffers of at most `largest`; once only, because two must never have the same address. */
  windows(largest: number): ArrayBuffer[];
  /** Detaches the windows; the mapping goes when no ArrayBuffer has it any more. */
  close(windows: ArrayBuffer[]): void;
}

/** Memory laid out by hand for tests of backends; access 0 none, 1 read, 2 read and write. */
export interface NativeProbe {
  address(): bigint;
  anonymous(at: number, length: number, access: number): void;
  file(at: number, fd: number, offset: bigint, length: number, access: number): void;
  close(): void;
}

/** What VFIO_IOMMU_GET_INFO says; `ranges`: first and last address of each, inclusive. */
export interface NativeType1Facts {
  readonly pageSizes: bigint;
  readonly ranges?: BigUint64Array;
  readonly available?: number;
  readonly migration: boolean;
}

/** An ioctl with the size that the kernel left in its struct. */
export interface NativeIoctlResult {
  readonly errno: number;
  readonly size: bigint;
}

/** Values of the first argument of {@link NativeType1.run}. */
export const NativeRun = { apply: 0, buildWindows: 1, dropWindows: 2 } as const;

/** A container of type 1 v2 with one group. */
export interface NativeType1 {
  facts(): NativeType1Facts;
  device(name: string): NativeDevice;
  /** Takes address space for windows of at most `pieces` pieces together; once only. */
  reserveWindows(bytes: bigint, pieces: number): void;
  /** First address and length of the reserve, pieces of the windows that stand. */
  windowState(): bigint[];
  /** Runs {@link NativeRun} over operations `from`..`count` of the columns of a HostBatch; returns where it stopped. */
  run(
    what: number,
    from: number,
    count: number,
    kind: Uint8Array,
    iova: Float64Array,
    pages: Float64Array,
    va: Float64Array,
    rights: Uint8Array,
    pieces: Int32Array,
    window: Float64Array,
    errno: Int32Array,
    done: Float64Array,
    pieceVa: Float64Array,
    piecePages: Float64Array,
  ): number;
  mapDma(argsz: number, flags: number, vaddr: bigint, iova: bigint, size: bigint): NativeIoctlResult;
  unmapDma(argsz: number, flags: number, iova: bigint, size: bigint): NativeIoctlResult;
  unmapAll(): number;
  close(): void;
}

/** What VFIO_DEVICE_GET_REGION_INFO says; `mappable`: offset and size of each part that may be mapped, where only parts may. */
export interface NativeRegion {
  readonly flags: number;
  readonly size: bigint;
  /** Position of the region in the device's file. */
  readonly offset: bigint;
  readonly mappable?: BigUint64Array;
  readonly msixMappable: boolean;
}

/** A VFIO device. */
export interface NativeDevice {
  /** Flags, number of regions, number of interrupt kinds. */
  info(): number[];
  region(index: number): NativeRegion;
  read(into: Uint8Array, position: bigint): number;
  write(from: Uint8Array, position: bigint): number;
  reset(): void;
  /** Flags and number of interrupts of a kind. */
  irq(index: number): number[];
  setIrqs(index: number, start: number, counters: Int32Array): void;
  map(position: bigint, length: bigint): NativeRegisters;
  close(): void;
}

/** Device registers in this process's addresses. */
export interface NativeRegisters {
  address(): bigint;
  close(): void;
}

/** An event counter (eventfd). */
export interface NativeEvents {
  fd(): number;
  take(): bigint;
  signal(count: bigint): void;
  close(): void;
}

/** The addon. */
export interface NativeAddon {
  nativeApi(): number;
  readonly NativeRam: {
    create(name: string, size: bigint, hugeShift: number, seals: number): NativeRam;
    adopt(fd: number, offset: bigint, size: bigint): NativeRam;
  };
  readonly NativeProbe: { create(length: number): NativeProbe };
  readonly NativeType1: { open(container: string, group: string): NativeType1 };
  readonly NativeEvents: { create(): NativeEvents };
}
