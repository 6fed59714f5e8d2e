// IommufdContext: a real attachment of one group to an IOAS of its own, on Linux (include/uapi/linux/iommufd.h).
// Not here: the ioctls (native/), single calls (iommufd/ioas.ts), devices (iommufd/open-devices.ts, vfio-device.ts), what a
// refusal means (iommufd/verdicts.ts). Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../base/check.ts';
import { Errno } from '../base/errors.ts';
import { checkBatch, checkFrom } from './batch-check.ts';
import type { HostContext, HostLimits } from './context.ts';
import { HostBatch, HostOp } from './context.ts';
import { IommufdIoas, rangesOf } from './iommufd/ioas.ts';
import type { BoundDevice } from './iommufd/open-devices.ts';
import { openDevices } from './iommufd/open-devices.ts';
import type { CheckedIommufdOptions, IommufdMode, IommufdOptions } from './iommufd/options.ts';
import { checkIommufdOptions } from './iommufd/options.ts';
import { attachVerdict, explainIommufdErrno, fileVerdict } from './iommufd/verdicts.ts';
import type { NativeIommufd } from './native-api.ts';
import { loadNative, lockedMemory } from './native.ts';
import { attempt, closedError, errnoOf, hostError, refusedVerdict } from './refusals.ts';
import type { IoctlResult, UnmapArguments } from './simulated/type1-rules.ts';
import type { VfioDevice } from './vfio-device.ts';
import { everyDevice } from './vfio-device.ts';

export { iommufdIsAvailable, iommufdLack } from './iommufd/availability.ts';
export type { IoasCopy } from './iommufd/ioas.ts';
export { IommufdIoas } from './iommufd/ioas.ts';
export type { IommufdMode, IommufdOptions } from './iommufd/options.ts';

/** One group attached to an address space, on a file of its own. */
export class IommufdContext implements HostContext {
  readonly flavour = 'iommufd';
  readonly name: string;
  readonly group: number;
  readonly mode: IommufdMode;
  /** The devices that were opened. */
  readonly devices: readonly VfioDevice[];
  /** The address space that the devices use. */
  readonly ioas: IommufdIoas;
  /**
   * Whether registers of devices (`VfioDevice.mapRegion` of a device of an iommufd) can be mapped, as dma-bufs; tried with
   * a BAR of the group's own devices. Where it is false such a map is EFAULT.
   */
  readonly mmio: boolean;
  readonly #native: NativeIommufd;
  readonly #bound: readonly BoundDevice[];
  readonly #perProcess: boolean;
  readonly #open: (syscall: string) => NativeIommufd;
  #limits: HostLimits;
  #attached = false;
  #closed = false;

  private constructor(
    native: NativeIommufd,
    id: number,
    bound: readonly BoundDevice[],
    options: CheckedIommufdOptions,
  ) {
    this.#native = native;
    this.#bound = bound;
    this.#perProcess = options.perProcess;
    this.#open = (syscall) => {
      if (this.#closed) throw closedError(this.name, syscall);
      return native;
    };
    this.name = `iommufd group ${options.group}`;
    this.group = options.group;
    this.mode = options.mode;
    this.devices = bound.map(({ device }) => device);
    this.ioas = new IommufdIoas(id, this.#open);
    attempt(() => native.select(id), refusedVerdict);
    if (this.mode === 'cut') attempt(() => native.smallPages(id), refusedVerdict);
    this.mmio = bound.some((each) => native.mapsRegisters(each.native));
    this.#attachEmpty();
    this.#limits = this.#readLimits();
    if (!options.attached) this.detach();
  }

  /**
   * Opens the devices of a group and attaches them to an address space of their own.
   * @throws TypeError or RangeError for wrong options; HostError that says what is wrong and what to do: no iommufd in the
   * kernel, no such group, a device without a file of its own, no permission, in use, no interrupt remapping, reserved memory
   * that firmware wants mapped 1:1, the addon missing.
   */
  static open(options: IommufdOptions): IommufdContext {
    const checked = checkIommufdOptions(options);
    const path = `${checked.folder}/iommu`;
    const { NativeIommufd } = loadNative();
    const native = attempt(
      () => NativeIommufd.open(path, checked.perProcess),
      (failure) => fileVerdict(path, failure),
    );
    let bound: readonly BoundDevice[] = [];
    try {
      bound = openDevices(native, checked);
      return new IommufdContext(
        native,
        attempt(() => native.allocate(), refusedVerdict),
        bound,
        checked,
      );
    } catch (error) {
      for (const { device } of bound) device.close();
      native.close();
      throw error;
    }
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Whether the devices are attached: only then entries are pinned and reach the devices. */
  get attached(): boolean {
    return this.#attached;
  }

  /** Those of the group while it is attached; see {@link refreshLimits}. */
  get limits(): HostLimits {
    return this.#limits;
  }

  /** Reads the usable ranges again; while the devices are detached nothing changes, since the kernel would tell of none. */
  refreshLimits(): HostLimits {
    this.#open('IOMMU_IOAS_IOVA_RANGES');
    if (this.#attached) this.#limits = this.#readLimits();
    return this.#limits;
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT for all devices: pins and maps every entry. Returns 0, EADDRINUSE (an entry is outside the
   * usable ranges or not aligned), EFAULT or ENOMEM; then nothing is attached or pinned. OK when attached.
   */
  attach(): number {
    const native = this.#open('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    if (this.#attached) return 0;
    const bound = this.#openDevices();
    for (const [i, each] of bound.entries()) {
      const errno = native.attach(each.native, this.ioas.id);
      if (errno === 0) continue;
      for (const before of bound.slice(0, i)) native.detach(before.native);
      return errno;
    }
    this.#attached = true;
    return 0;
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT for all devices: they are blocked, nothing is pinned, and the entries stay. */
  detach(): void {
    const native = this.#open('VFIO_DEVICE_DETACH_IOMMUFD_PT');
    for (const each of this.#openDevices()) native.detach(each.native);
    this.#attached = false;
  }

  /** A device that was closed is attached to nothing. */
  #openDevices(): readonly BoundDevice[] {
    return this.#bound.filter(({ device }) => !device.closed);
  }

  /** Another address space of the same file, which no device uses: holds memory for {@link IommufdIoas.copy}. */
  allocate(): IommufdIoas {
    const native = this.#open('IOMMU_IOAS_ALLOC');
    return new IommufdIoas(
      attempt(() => native.allocate(), refusedVerdict),
      this.#open,
    );
  }

  /** Removes an address space of {@link allocate}; returns 0 or errno. @throws RangeError for the one of the devices. */
  destroy(ioas: IommufdIoas): number {
    const native = this.#open('IOMMU_DESTROY');
    if (!(ioas instanceof IommufdIoas)) throw new TypeError('ioas must be an IommufdIoas');
    if (ioas.id === this.ioas.id) throw new RangeError('ioas must not be the one of the devices');
    return errnoOf(() => native.destroy(ioas.id));
  }

  /**
   * See {@link HostContext.buildWindows}: a gather is EOPNOTSUPP, since there is no limit of entries to save.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  buildWindows(batch: HostBatch, from: number): number {
    this.#open('buildWindows');
    checkFrom(batch, from);
    if (checkBatch(batch, from) === 0) return batch.count;
    const refused = batch.kind.indexOf(HostOp.gather, from);
    batch.errno[refused] = Errno.EOPNOTSUPP;
    return refused;
  }

  dropWindows(batch: HostBatch): void {
    this.#open('dropWindows');
    checkFrom(batch, 0);
  }

  /**
   * See {@link HostContext.apply}; here both ends of an unmap are looked at first, so that one that cuts an entry (mode
   * `large`) is ENOENT and has changed nothing. Memory that is neither guest RAM of `GuestRam` nor, where {@link mmio}
   * holds, a BAR of `VfioDevice.mapRegion` is never given to a device: such a map is EFAULT.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  apply(batch: HostBatch, from: number): number {
    const native = this.#open('apply');
    checkFrom(batch, from);
    checkBatch(batch, from);
    const { count, kind, iova, pages, va, rights, errno, done } = batch;
    return native.run(this.ioas.id, this.mode === 'cut', from, count, kind, iova, pages, va, rights, errno, done);
  }

  unmapAll(): number {
    return this.#open('unmapAll').unmap(this.ioas.id, 0n, U64_MAX).errno;
  }

  /** Infinity: iommufd has no limit of its own. */
  entriesLeft(): number {
    this.#open('entriesLeft');
    return Infinity;
  }

  /** See {@link HostContext.clearBusMaster}; with read-back and the wait for pending transactions. */
  clearBusMaster(): number {
    this.#open('clearBusMaster');
    return everyDevice(this.devices, (device) => device.setBusMaster(false));
  }

  /** See {@link HostContext.resetDevices}; EINVAL for one that has no reset. */
  resetDevices(): number {
    this.#open('resetDevices');
    return everyDevice(this.devices, (device) => device.resetQuiet());
  }

  /** What an errno that {@link apply} or {@link attach} gave means now, and what to do; one sentence. */
  explain(errno: number): string {
    this.#open('explain');
    const { mode, mmio } = this;
    return explainIommufdErrno(errno, { lockLimit: lockedMemory().limit, perProcess: this.#perProcess, mode, mmio });
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA on the iommufd file, in bytes: in mode `cut` entries are cut at both ends first.
   * @throws TypeError or RangeError when no u32 or u64 is given.
   */
  unmapDma(args: UnmapArguments): IoctlResult {
    const native = this.#open('VFIO_IOMMU_UNMAP_DMA');
    const argsz = checkInteger('argsz', args.argsz ?? 24, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags ?? 0, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return native.unmapDma(argsz, flags, iova, checkBigint('size', args.size, 0n, U64_MAX));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.devices) device.close();
    this.#native.close();
  }

  #attachEmpty(): void {
    const errno = this.attach();
    if (errno === 0) return;
    const name = this.devices.map((device) => device.name).join(', ');
    throw hostError(attachVerdict(name, errno), { call: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', errno });
  }

  #readLimits(): HostLimits {
    const { ranges, alignment } = attempt(() => this.#native.ranges(this.ioas.id), refusedVerdict);
    return Object.freeze({
      // The kernel tells the smallest page only, and takes every larger one.
      pageSizes: U64_MAX & ~(alignment - 1n),
      usableRanges: Object.freeze(rangesOf(ranges)),
      entryLimit: Infinity,
      windowPieces: 0,
    });
  }
}
