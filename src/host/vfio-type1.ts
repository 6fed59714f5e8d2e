// VfioType1Context: a real VFIO container of type 1 v2 with one group, on Linux (include/uapi/linux/vfio.h).
// Not here: the ioctls (native/), the device behind it (vfio-device.ts), what a refusal means (refusals.ts).
// Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { U32_MAX, U64_MAX, checkBigint, checkInteger, checkOptions } from '../base/check.ts';
import { HostError } from '../base/errors.ts';
import type { AddressRange } from '../base/ranges.ts';
import { checkBatch, checkFrom } from './batch-check.ts';
import type { HostContext, HostLimits } from './context.ts';
import { HostBatch } from './context.ts';
import type { NativeType1, NativeType1Facts } from './native-api.ts';
import { NativeRun } from './native-api.ts';
import { loadNative, lockedMemory, mappingsLeft } from './native.ts';
import {
  attempt,
  closedError,
  deviceError,
  errnoOf,
  explainMapErrno,
  guarded,
  openError,
  refusedVerdict,
} from './refusals.ts';
import type { IoctlResult, MapArguments, UnmapArguments } from './simulated/type1-rules.ts';
import { readSysfs, vfioFunctions } from './sysfs.ts';
import { VfioDevice, everyDevice } from './vfio-device.ts';

/** Options of {@link VfioType1Context.open}. */
export interface VfioType1Options {
  /** IOMMU group number, the name of a folder in /sys/kernel/iommu_groups. */
  readonly group: number;
  /** PCI functions (`ssss:bb:dd.f`) to open; default all members of the group that vfio-pci has. */
  readonly devices?: readonly string[];
  /** {@link HostLimits.windowPieces}; default half of the mappings that vm.max_map_count leaves, at most 32768; 0: never gather. */
  readonly windowPieces?: number;
  /** Folder of the device files, default `/dev/vfio`. */
  readonly deviceFolder?: string;
  /** Root of sysfs, default `/sys`. */
  readonly sysfs?: string;
}

/** Address space for windows; costs no memory. Room for the default number of pieces even if each were 2 MiB. */
const WINDOW_BYTES = 1n << 36n;
const MAX_WINDOW_PIECES = 32768;
/**
 * Linux (6.1, 6.12) takes a map of the last page of 64 bits where the IOMMU has it (AMD-Vi), and then finds it neither for an
 * unmap nor for ALL, since its end is 0: the device would keep it. So it is not usable.
 */
const LAST_PAGE = (1n << 64n) - 4096n;
/** What iommufd reports in place of DMA_AVAIL when it serves /dev/vfio/vfio. */
const NO_LIMIT = U32_MAX;

/** One VFIO container that holds one group. */
export class VfioType1Context implements HostContext {
  readonly flavour = 'type1';
  readonly name: string;
  readonly group: number;
  /** The devices that were opened. */
  readonly devices: readonly VfioDevice[];
  readonly #native: NativeType1;
  readonly #windowPieces: number;
  #limits: HostLimits;
  #closed = false;

  private constructor(native: NativeType1, group: number, devices: readonly VfioDevice[], limits: HostLimits) {
    this.#native = native;
    this.name = `type1 group ${group}`;
    this.group = group;
    this.devices = devices;
    this.#limits = limits;
    this.#windowPieces = limits.windowPieces;
  }

  /**
   * Opens a group in a container of its own, and its devices.
   * @throws TypeError or RangeError for wrong options; HostError that says what is wrong and what to do: no VFIO, no such
   * group, no permission, in use, not viable, no interrupt remapping, reserved memory that firmware wants mapped 1:1 (EPERM or
   * EINVAL, depending on the kernel), a kernel before 5.12, iommufd in place of type 1, the addon missing.
   */
  static open(options: VfioType1Options): VfioType1Context {
    const { group, devices, windowPieces, folder, sysfs } = checkOpen(options);
    const { NativeType1 } = loadNative();
    const native = guarded(
      () => NativeType1.open(`${folder}/vfio`, `${folder}/${group}`),
      (failure) => openError(group, failure, readSysfs(sysfs)),
    );
    const opened: VfioDevice[] = [];
    try {
      const facts = attempt(() => native.facts(), refusedVerdict);
      checkFacts(group, facts);
      const limits = limitsOf(facts, windowPieces ?? defaultPieces());
      if (limits.windowPieces > 0) {
        attempt(() => native.reserveWindows(WINDOW_BYTES, limits.windowPieces), refusedVerdict);
      }
      for (const name of devices ?? vfioFunctions(sysfs, group)) opened.push(openDevice(native, group, name, sysfs));
      return new VfioType1Context(native, group, opened, limits);
    } catch (error) {
      for (const device of opened) device.close();
      native.close();
      throw error;
    }
  }

  get closed(): boolean {
    return this.#closed;
  }

  get limits(): HostLimits {
    return this.#limits;
  }

  /** Reads page sizes and usable ranges again; the entry limit stays as it was at open, where the kernel samples it. */
  refreshLimits(): HostLimits {
    const native = this.#open('VFIO_IOMMU_GET_INFO');
    const facts = attempt(() => native.facts(), refusedVerdict);
    const fresh = limitsOf(facts, this.#windowPieces);
    this.#limits = { ...fresh, entryLimit: this.#limits.entryLimit };
    return this.#limits;
  }

  /**
   * See {@link HostContext.buildWindows}; a gather whose window stands already keeps it. Pieces are guest RAM of
   * `GuestRam`: other addresses are EFAULT, BARs EINVAL.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  buildWindows(batch: HostBatch, from: number): number {
    this.#open('buildWindows');
    checkFrom(batch, from);
    return checkBatch(batch, from) === 0 ? batch.count : this.#run(NativeRun.buildWindows, batch, from);
  }

  dropWindows(batch: HostBatch): void {
    this.#open('dropWindows');
    checkFrom(batch, 0);
    this.#run(NativeRun.dropWindows, batch, 0);
  }

  /**
   * See {@link HostContext.apply}. Memory that is neither guest RAM of `GuestRam` nor a BAR of `VfioDevice.mapRegion` is
   * never given to a device: such a map is EFAULT, after the kernel's checks of arguments, entries and ranges.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  apply(batch: HostBatch, from: number): number {
    this.#open('apply');
    checkFrom(batch, from);
    checkBatch(batch, from);
    return this.#run(NativeRun.apply, batch, from);
  }

  unmapAll(): number {
    return this.#open('unmapAll').unmapAll();
  }

  /** See {@link HostContext.entriesLeft}; 0 when the kernel does not answer. */
  entriesLeft(): number {
    const native = this.#open('entriesLeft');
    let left = 0;
    errnoOf(() => (left = native.facts().available ?? 0));
    return left;
  }

  /** See {@link HostContext.clearBusMaster}; with read-back and the wait for pending transactions. ENODEV without a device. */
  clearBusMaster(): number {
    this.#open('clearBusMaster');
    return everyDevice(this.devices, (device) => device.setBusMaster(false));
  }

  /** See {@link HostContext.resetDevices}; ENODEV without a device, EINVAL for one that has no reset. */
  resetDevices(): number {
    this.#open('resetDevices');
    return everyDevice(this.devices, (device) => device.resetQuiet());
  }

  /** What an errno that {@link apply} left in a batch means now, and what to do; one sentence. */
  explain(errno: number): string {
    const { locked, limit } = lockedMemory();
    const { entryLimit } = this.#limits;
    return explainMapErrno(errno, { entriesLeft: this.entriesLeft(), entryLimit, locked, lockLimit: limit });
  }

  /** VFIO_IOMMU_MAP_DMA in bytes, with the guard of {@link apply}. @throws TypeError or RangeError when no u32 or u64 is given. */
  mapDma(args: MapArguments): IoctlResult {
    const native = this.#open('VFIO_IOMMU_MAP_DMA');
    const argsz = checkInteger('argsz', args.argsz ?? 32, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags, 0, U32_MAX);
    const vaddr = checkBigint('vaddr', args.vaddr, 0n, U64_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return native.mapDma(argsz, flags, vaddr, iova, checkBigint('size', args.size, 0n, U64_MAX));
  }

  /** VFIO_IOMMU_UNMAP_DMA in bytes. @throws TypeError or RangeError when no u32 or u64 is given. */
  unmapDma(args: UnmapArguments): IoctlResult {
    const native = this.#open('VFIO_IOMMU_UNMAP_DMA');
    const argsz = checkInteger('argsz', args.argsz ?? 24, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags ?? 0, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return native.unmapDma(argsz, flags, iova, checkBigint('size', args.size, 0n, U64_MAX));
  }

  /** Windows that stand now and the addresses reserved for them; for tests and statistics. */
  windowState(): { readonly hva: bigint; readonly size: bigint; readonly pieces: number } {
    const [hva = 0n, size = 0n, pieces = 0n] = this.#open('windowState').windowState();
    return { hva, size, pieces: Number(pieces) };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.devices) device.close();
    this.#native.close();
  }

  #open(syscall: string): NativeType1 {
    if (this.#closed) throw closedError(this.name, syscall);
    return this.#native;
  }

  #run(what: number, batch: HostBatch, from: number): number {
    const { kind, iova, pages, va, rights, pieces, window, errno, done, pieceVa, piecePages } = batch;
    const { count } = batch;
    return this.#native.run(
      what,
      from,
      count,
      kind,
      iova,
      pages,
      va,
      rights,
      pieces,
      window,
      errno,
      done,
      pieceVa,
      piecePages,
    );
  }
}

interface CheckedOptions {
  readonly group: number;
  readonly devices: readonly string[] | undefined;
  readonly windowPieces: number | undefined;
  readonly folder: string;
  readonly sysfs: string;
}

const NAME = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

function checkOpen(options: VfioType1Options): CheckedOptions {
  checkOptions('options', options, ['group', 'devices', 'windowPieces', 'deviceFolder', 'sysfs']);
  const { devices, windowPieces, deviceFolder = '/dev/vfio', sysfs = '/sys' } = options;
  const group = checkInteger('options.group', options.group, 0, 2 ** 31 - 1);
  if (windowPieces !== undefined) checkInteger('options.windowPieces', windowPieces, 0, 2 ** 31 - 1);
  if (devices !== undefined) {
    if (!Array.isArray(devices)) throw new TypeError('options.devices must be an array');
    devices.forEach((name: unknown, i) => {
      if (typeof name !== 'string') throw new TypeError(`options.devices[${i}] must be a string`);
      if (!NAME.test(name)) throw new RangeError(`options.devices[${i}] must be like 0000:00:04.0, got "${name}"`);
    });
  }
  if (typeof deviceFolder !== 'string') throw new TypeError('options.deviceFolder must be a string');
  if (typeof sysfs !== 'string') throw new TypeError('options.sysfs must be a string');
  return { group, devices, windowPieces, folder: deviceFolder, sysfs };
}

function openDevice(native: NativeType1, group: number, name: string, sysfs: string): VfioDevice {
  const device = guarded(
    () => native.device(name),
    (failure) => deviceError(group, name, failure, readSysfs(sysfs)),
  );
  try {
    return new VfioDevice(name, device);
  } catch (error) {
    device.close();
    throw error;
  }
}

function checkFacts(group: number, facts: NativeType1Facts): void {
  const detail = { errno: 0, syscall: 'VFIO_IOMMU_GET_INFO' };
  if (facts.available === undefined) {
    const message = `the kernel does not tell how many entries group ${group} may have: Linux 5.12 or later is needed`;
    throw new HostError('ERR_VIOMMU_HOST_INCOMPATIBLE', message, detail);
  }
  if (facts.available === NO_LIMIT && !facts.migration) {
    const message = '/dev/vfio/vfio is served by iommufd, whose unmap has other rules: use an iommufd context';
    throw new HostError('ERR_VIOMMU_HOST_INCOMPATIBLE', message, detail);
  }
}

function limitsOf(facts: NativeType1Facts, windowPieces: number): HostLimits {
  const ranges = facts.ranges === undefined ? [{ start: 0n, end: LAST_PAGE - 1n }] : rangesOf(facts.ranges);
  return Object.freeze({
    pageSizes: facts.pageSizes,
    usableRanges: Object.freeze(ranges),
    entryLimit: facts.available ?? 0,
    // Without the capability the devices are mediated: they look at the virtual address later, when a window is gone.
    windowPieces: facts.ranges === undefined ? 0 : windowPieces,
  });
}

function rangesOf(numbers: BigUint64Array): AddressRange[] {
  const ranges: AddressRange[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2) {
    const [start, end] = [numbers[i]!, numbers[i + 1]!];
    if (start < LAST_PAGE) ranges.push({ start, end: end < LAST_PAGE ? end : LAST_PAGE - 1n });
  }
  return ranges;
}

/** Half of what is left: the other half is for the process itself, and for other containers. */
function defaultPieces(): number {
  return Math.min(MAX_WINDOW_PIECES, Math.floor(mappingsLeft() / 2));
}
