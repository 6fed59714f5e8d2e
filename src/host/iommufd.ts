// IommufdContext: a real attachment of one group to an IOAS, on Linux (include/uapi/linux/iommufd.h).
// Not here: the ioctls (native/), single calls (iommufd/ioas.ts), the file and its IOASes (iommufd/file.ts, spaces.ts), devices
// (iommufd/open-devices.ts, attachment.ts, vfio-device.ts), what a refusal means (iommufd/verdicts.ts). Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../base/check.ts';
import { Errno } from '../base/errors.ts';
import { checkBatch, checkFrom } from './batch-check.ts';
import type { HostLimits, SharingContext } from './context.ts';
import { HostBatch, HostOp, isSharing } from './context.ts';
import { Attachment } from './iommufd/attachment.ts';
import { IommufdFile } from './iommufd/file.ts';
import { IommufdIoas, rangesOf } from './iommufd/ioas.ts';
import type { BoundDevice } from './iommufd/open-devices.ts';
import { openDevices } from './iommufd/open-devices.ts';
import type { CheckedIommufdOptions, IommufdMode, IommufdOptions } from './iommufd/options.ts';
import { checkIommufdOptions } from './iommufd/options.ts';
import { AddressSpace } from './iommufd/spaces.ts';
import type { AddressSpaces } from './iommufd/spaces.ts';
import { attachVerdict, explainIommufdErrno } from './iommufd/verdicts.ts';
import type { NativeIommufd } from './native-api.ts';
import { lockedMemory } from './native.ts';
import { attempt, closedError, errnoOf, hostError, refusedVerdict } from './refusals.ts';
import type { IoctlResult, UnmapArguments } from './simulated/type1-rules.ts';
import type { VfioDevice } from './vfio-device.ts';
import { everyDevice } from './vfio-device.ts';

export { iommufdIsAvailable, iommufdLack } from './iommufd/availability.ts';
export type { IoasCopy } from './iommufd/ioas.ts';
export { IommufdIoas } from './iommufd/ioas.ts';
export type { IommufdMode, IommufdOptions } from './iommufd/options.ts';

/** One group attached to an address space: to one of its own, or to that of another group. */
export class IommufdContext implements SharingContext {
  readonly flavour = 'iommufd';
  readonly name: string;
  readonly group: number;
  readonly mode: IommufdMode;
  /** The devices that were opened. */
  readonly devices: readonly VfioDevice[];
  /**
   * Whether registers of devices (`VfioDevice.mapRegion` of a device of an iommufd) can be mapped, as dma-bufs; tried with
   * a BAR of the group's own devices: false when none has one of a page. Where the kernel cannot, such a map is EFAULT.
   */
  readonly mmio: boolean;
  readonly #file: IommufdFile;
  readonly #native: NativeIommufd;
  readonly #spaces: AddressSpaces;
  readonly #attachment: Attachment;
  readonly #perProcess: boolean;
  /** Those of {@link allocate} that live. */
  readonly #vaults = new Map<IommufdIoas, AddressSpace>();
  #space: AddressSpace;
  #limits: HostLimits;
  #closed = false;

  private constructor(
    file: IommufdFile,
    bound: readonly BoundDevice[],
    space: AddressSpace,
    options: CheckedIommufdOptions,
  ) {
    const { native } = file;
    this.#file = file;
    this.#native = native;
    this.#spaces = file.spacesOf(options.mode);
    this.#space = space;
    this.#perProcess = options.perProcess;
    this.name = `iommufd group ${options.group}`;
    this.group = options.group;
    this.mode = options.mode;
    this.devices = bound.map(({ device }) => device);
    this.#attachment = new Attachment(native, bound);
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
    const { folder, perProcess, share } = checked;
    const file = IommufdFile.open({ path: `${folder}/iommu`, perProcess, share });
    const spaces = file.spacesOf(checked.mode);
    let bound: readonly BoundDevice[] = [];
    let space: AddressSpace | undefined;
    try {
      bound = openDevices(file.native, checked);
      space = spaces.create();
      return new IommufdContext(file, bound, space, checked);
    } catch (error) {
      for (const { device } of bound) device.close();
      if (space !== undefined) spaces.close(space);
      file.close();
      throw error;
    }
  }

  /** The address space that the devices use now, also of other contexts that share it. */
  get ioas(): IommufdIoas {
    this.#open('ioas');
    return this.#space.ioas;
  }

  /** One for all contexts of the same file (see `IommufdOptions.share`) and mode. */
  get spaces(): object {
    return this.#spaces;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Whether the devices are attached: only then entries are pinned and reach the devices. */
  get attached(): boolean {
    return this.#attachment.attached;
  }

  /** Those of the group while it is attached alone; see {@link refreshLimits}. */
  get limits(): HostLimits {
    return this.#limits;
  }

  /**
   * Reads the usable ranges again; nothing changes while the devices are detached, since the kernel would tell of none, or while
   * others use the address space, since it would tell what is common to all.
   */
  refreshLimits(): HostLimits {
    this.#open('IOMMU_IOAS_IOVA_RANGES');
    if (this.attached && this.#space.users === 1) this.#limits = this.#readLimits();
    return this.#limits;
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT for all devices: pins and maps every entry. Returns 0, EADDRINUSE (an entry is outside the
   * usable ranges or not aligned), EFAULT or ENOMEM; then nothing is attached or pinned. OK when attached.
   */
  attach(): number {
    this.#open('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    return this.#attachment.attach(this.#space.id);
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT for all devices: they are blocked, nothing is pinned for them, and the entries stay. */
  detach(): void {
    this.#open('VFIO_DEVICE_DETACH_IOMMUFD_PT');
    this.#attachment.detach();
  }

  /**
   * See {@link SharingContext.attachTo}. A refusal of a later device puts the earlier ones back, or detaches all when that is
   * refused too (see {@link attached}). While {@link detach} holds no device is attached, only the address space changes. EFAULT also
   * when memory of an entry was given back. DMA of these devices may fault while an IOMMU driver moves them; that of others does not.
   * @throws TypeError or RangeError when `other` is no context of the same file and mode; HostError when it is closed.
   */
  attachTo(other: SharingContext): number {
    this.#open('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    const former = this.#space;
    const next = this.#spaceOf(other);
    if (next === former) return this.#attachment.again(former.id);
    const errno = this.#attachment.move(next.id, former.id);
    if (errno !== 0) return errno;
    this.#space = this.#spaces.join(next);
    this.#spaces.leave(former);
    return 0;
  }

  /** See {@link SharingContext.attachAlone}; while {@link detach} holds no device is attached. */
  attachAlone(): number {
    this.#open('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    const former = this.#space;
    if (former.users === 1 && former.exists) return this.#attachment.again(former.id);
    const { space, errno } = this.#spaces.take();
    this.#space = space;
    // Also where there is none: the kernel refuses that, and the devices are detached from what the others use.
    const refused = this.#attachment.part(space.id);
    this.#spaces.leave(former);
    return errno === 0 ? refused : errno;
  }

  #spaceOf(other: unknown): AddressSpace {
    if (typeof other !== 'object' || other === null || !isSharing(other as SharingContext)) {
      throw new TypeError('other must be a SharingContext');
    }
    if (!(other instanceof IommufdContext) || other.#spaces !== this.#spaces) {
      throw new RangeError('other must be a context of the same iommufd and mode');
    }
    other.#open('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    return other.#space;
  }

  /** Another address space of the same file, which no device uses: holds memory for {@link IommufdIoas.copy}. */
  allocate(): IommufdIoas {
    const native = this.#open('IOMMU_IOAS_ALLOC');
    const vault = new AddressSpace(
      attempt(() => native.allocate(), refusedVerdict),
      native,
    );
    this.#vaults.set(vault.ioas, vault);
    return vault.ioas;
  }

  /** Removes an address space of {@link allocate}; returns 0 or errno. @throws RangeError for any other one. */
  destroy(ioas: IommufdIoas): number {
    const native = this.#open('IOMMU_DESTROY');
    if (!(ioas instanceof IommufdIoas)) throw new TypeError('ioas must be an IommufdIoas');
    const vault = this.#vaults.get(ioas);
    if (vault === undefined) throw new RangeError('ioas must be of allocate() of this context, and not destroyed yet');
    const errno = errnoOf(() => native.destroy(vault.id));
    if (errno === 0) {
      vault.end();
      this.#vaults.delete(ioas);
    }
    return errno;
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
    return native.run(this.#space.id, this.mode === 'cut', from, count, kind, iova, pages, va, rights, errno, done);
  }

  unmapAll(): number {
    const native = this.#open('unmapAll');
    return this.#space.exists ? native.unmap(this.#space.id, 0n, U64_MAX).errno : 0;
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
   * VFIO_IOMMU_UNMAP_DMA on {@link ioas}, in bytes: in mode `cut` entries are cut at both ends first.
   * @throws TypeError or RangeError when no u32 or u64 is given.
   */
  unmapDma(args: UnmapArguments): IoctlResult {
    const native = this.#open('VFIO_IOMMU_UNMAP_DMA');
    const argsz = checkInteger('argsz', args.argsz ?? 24, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags ?? 0, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return native.unmapDma(this.#space.id, argsz, flags, iova, checkBigint('size', args.size, 0n, U64_MAX));
  }

  /** See {@link HostContext.close}; what other contexts use stays. The file closes with its last context. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.devices) device.close();
    for (const vault of this.#vaults.values()) vault.discard();
    this.#spaces.close(this.#space);
    this.#file.close();
  }

  #open(syscall: string): NativeIommufd {
    if (this.#closed) throw closedError(this.name, syscall);
    return this.#native;
  }

  #attachEmpty(): void {
    const errno = this.attach();
    if (errno === 0) return;
    const name = this.devices.map((device) => device.name).join(', ');
    throw hostError(attachVerdict(name, errno), { call: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', errno });
  }

  #readLimits(): HostLimits {
    const { ranges, alignment } = attempt(() => this.#native.ranges(this.#space.id), refusedVerdict);
    return Object.freeze({
      // The kernel tells the smallest page only, and takes every larger one.
      pageSizes: U64_MAX & ~(alignment - 1n),
      usableRanges: Object.freeze(rangesOf(ranges)),
      entryLimit: Infinity,
      windowPieces: 0,
      ...(this.mmio ? {} : { mmio: false }),
      ...(this.mode === 'cut' ? { cuts: true } : {}),
    });
  }
}
