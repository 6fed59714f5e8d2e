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
  maskIrqs(index: number, start: number, count: number, masked: boolean): void;
  map(position: bigint, length: bigint): NativeRegisters;
  close(): void;
}

/** What IOMMU_IOAS_IOVA_RANGES says; `ranges`: first and last address of each, inclusive. */
export interface NativeIovaRanges {
  readonly ranges: BigUint64Array;
  readonly alignment: bigint;
}

/** An open /dev/iommu; `ioas` is the id of an address space of this file, results are 0 or errno. */
export interface NativeIommufd {
  allocate(): number;
  destroy(ioas: number): void;
  /** IOMMU_OPTION_HUGE_PAGES = 0. */
  smallPages(ioas: number): void;
  ranges(ioas: number): NativeIovaRanges;
  /** Opens a file of /dev/vfio/devices and binds the device. */
  bind(path: string): NativeDevice;
  attach(device: NativeDevice, ioas: number): number;
  detach(device: NativeDevice): number;
  /** Whether registers of the device can be mapped, by dma-buf. */
  mapsRegisters(device: NativeDevice): boolean;
  areaCount(ioas: number): number;
  /** First and last address of each area, ascending. */
  areas(ioas: number): BigUint64Array;
  map(ioas: number, byFile: boolean, flags: number, va: bigint, length: bigint, iova: bigint): number;
  copy(ioas: number, source: number, flags: number, sourceIova: bigint, length: bigint, iova: bigint): number;
  unmap(ioas: number, iova: bigint, length: bigint): NativeIoctlResult;
  /** After IOMMU_VFIO_IOAS, where another address space was the target. */
  unmapDma(ioas: number, argsz: number, flags: number, iova: bigint, size: bigint): NativeIoctlResult;
  /** Applies operations `from`..`count` of columns of a HostBatch; returns where it stopped. */
  run(
    ioas: number,
    cut: boolean,
    from: number,
    count: number,
    kind: Uint8Array,
    iova: Float64Array,
    pages: Float64Array,
    va: Float64Array,
    rights: Uint8Array,
    errno: Int32Array,
    done: Float64Array,
  ): number;
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

/** A Unix stream socket on a file. */
export interface NativeListener {
  fd(): number;
  /** The next connection, null when there is none at the moment. */
  accept(): NativeSocket | null;
  /** The file stays. */
  close(): void;
}

/** A connected Unix stream socket, and the descriptors that came with what was read. */
export interface NativeSocket {
  fd(): number;
  /**
   * Reads into [start, end) of `into`; number of bytes, 0 at the end of the stream, -1 when there are none at the moment.
   * Descriptors stay inside; with more than `limit` of them: EMSGSIZE, and all are closed.
   */
  receive(into: Uint8Array, start: number, end: number, limit: number): number;
  /** Number of descriptors inside. */
  descriptors(): number;
  /** One of them, which stays owned inside. */
  descriptor(index: number): number;
  /** Closes them. */
  dropDescriptors(): void;
  /** Writes [start, end) of `from` and descriptors, which stay the caller's; number of bytes, -1 when there is no room. */
  send(from: Uint8Array, start: number, end: number, descriptors?: Int32Array): number;
  close(): void;
}

/** Events of {@link NativePoll}. */
export const NativePollEvent = { readable: 1, writable: 2, hungUp: 4 } as const;

/** Waits for a descriptor on Node's event loop; keeps a descriptor of its own. */
export interface NativePoll {
  /** Waits for {@link NativePollEvent} bits from now on. */
  start(events: number): void;
  stop(): void;
  /** Whether waiting keeps the process running; true at first. */
  keepAlive(on: boolean): void;
  close(): void;
}

/** An eventfd of another process. */
export interface NativeSignal {
  /** Adds one; never waits. */
  raise(): void;
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
  readonly NativeIommufd: { open(path: string, perProcess: boolean): NativeIommufd };
  readonly NativeEvents: { create(): NativeEvents };
  readonly NativeListener: { bind(path: string, mode: number, backlog: number): NativeListener };
  readonly NativeSocket: { connect(path: string): NativeSocket; pair(): NativeSocket[] };
  /** `ready` gets {@link NativePollEvent} bits, or a negative errno; it is not called before `start`. */
  readonly NativePoll: { create(fd: number, ready: (events: number) => void): NativePoll };
  /** Takes a descriptor of its own; EINVAL for anything but an eventfd. */
  readonly NativeSignal: { adopt(fd: number): NativeSignal };
}
