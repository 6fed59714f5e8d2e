// SimulatedIommufdContext: one group's attachment to an IOAS, its own or one that other groups use too, with the kernel's
// errno, order of checks and non-atomic unmap. An entry of a context is an area (struct iopt_area) of the IOAS used now.
// Not here: argument checks (iommufd-rules.ts), the IOAS itself (iommufd-ioas.ts), shared parts (simulated-context.ts).
// Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../../base/check.ts';
import { Errno } from '../../base/errors.ts';
import type { IntervalTable } from '../../intervals/table.ts';
import type { SharingContext } from '../context.ts';
import { HostRight, isSharing } from '../context.ts';
import type { IoasUser } from './iommufd-ioas.ts';
import { SimulatedIoas } from './iommufd-ioas.ts';
import type { IoasMapArguments, IoasUnmapArguments } from './iommufd-rules.ts';
import { IommufdRules, checkIoasFlags, rightsOf } from './iommufd-rules.ts';
import type { Machine } from './machine.ts';
import type { ContextSettings } from './simulated-context.ts';
import { SimulatedContext, toPages } from './simulated-context.ts';
import type { IoctlResult, UnmapArguments } from './type1-rules.ts';
import { PAGE_END, UnmapFlag } from './type1-rules.ts';

/**
 * `large`: areas are mapped with the largest IOPTEs and can only be unmapped whole. `cut` (IOMMU_OPTION_HUGE_PAGES = 0):
 * IOPTEs of the smallest size, and an unmap goes through VFIO_IOMMU_UNMAP_DMA on the same file, which first cuts the
 * areas at both of its ends, without any loss of access beside them.
 */
export type IommufdMode = 'large' | 'cut';

/** An open /dev/iommu: what the contexts of each mode have as {@link SharingContext.spaces}. */
export type IommufdFile = Readonly<Record<IommufdMode, object>>;

/** Checked options of an attachment, all present. */
export interface IommufdSettings extends ContextSettings {
  readonly mode: IommufdMode;
  readonly attached: boolean;
  readonly file: IommufdFile;
}

/** struct iommu_ioas_copy. */
export interface IoasCopyArguments {
  /** The context whose IOAS is read, of the same iommufd file and any mode; may be the same. */
  readonly source: SimulatedIommufdContext;
  /** {@link IoasFlag} bits; `fixed` must be among them. */
  readonly flags: number;
  readonly sourceIova: bigint;
  readonly iova: bigint;
  /** Bytes. */
  readonly length: bigint;
}

/** The syscall that errors of the calls that attach name. */
const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';

/**
 * A simulated attachment of one group to an IOAS; {@link limits} are those of the group, attached or not. Entries, pinned pages
 * and IOPTEs are those of the IOAS that it uses now, which other contexts may use and change as well.
 */
export class SimulatedIommufdContext extends SimulatedContext implements SharingContext {
  readonly flavour = 'iommufd';
  readonly mode: IommufdMode;
  /** See {@link SharingContext.spaces}. */
  readonly spaces: object;
  readonly #file: IommufdFile;
  readonly #rules: IommufdRules;
  readonly #user: IoasUser;
  #ioas: SimulatedIoas;
  /** Told to be attached, which after a refusal is not the same as {@link attached}. */
  #wanted: boolean;
  #attached = false;

  constructor(machine: Machine, settings: IommufdSettings) {
    super('iommufd', machine, settings);
    const { pageSizes, usableRanges } = settings.limits;
    this.mode = settings.mode;
    this.spaces = settings.file[settings.mode];
    this.#file = settings.file;
    this.#rules = new IommufdRules(settings.kernel, pageSizes, usableRanges);
    this.#user = {
      rules: this.#rules,
      ioptes: settings.mode === 'cut' ? pageSizes & -pageSizes : pageSizes,
      writeOnlyReadable: settings.writeOnlyReadable,
      memlockLimit: settings.memlockLimit,
      seeAreas: (count) => this.seeEntries(count),
    };
    this.#ioas = this.#newIoas();
    this.#ioas.join(this.#user);
    this.#wanted = settings.attached;
    if (settings.attached) this.#ioas.attach(this.#user, false);
    this.#setAttached(settings.attached);
  }

  /** Whether the devices are attached: only then areas are pinned for them and reach them. */
  get attached(): boolean {
    return this.#attached;
  }

  /** Infinity: iommufd has no limit of its own. */
  entriesLeft(): number {
    this.enter('entriesLeft');
    return Infinity;
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT for all devices: pins and maps every area, unless a group is attached already. Returns 0,
   * EADDRINUSE (an area is outside the usable ranges or not aligned), EFAULT or ENOMEM; then nothing has changed. OK when attached.
   */
  attach(): number {
    this.enter(ATTACH);
    const errno = this.#attached ? this.begin('attach') : this.#tryAttach(this.#ioas);
    if (errno === 0) this.#wanted = true;
    if (errno === 0) this.#setAttached(true);
    this.end('attach', 0, 0, errno);
    return errno;
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT for all devices: they are blocked, and the areas stay, pinned only for other groups. */
  detach(): void {
    this.enter('VFIO_DEVICE_DETACH_IOMMUFD_PT');
    this.#wanted = false;
    if (!this.#attached) return;
    this.#ioas.detach(this.#user);
    this.#setAttached(false);
  }

  /**
   * See {@link SharingContext.attachTo}; EFAULT and ENOMEM only when no group is attached to the other IOAS yet. Devices that
   * are to stay detached stay so, and those that a refused {@link attachAlone} left detached are attached. An injected
   * failure counts as `attach`, of which there is none when nothing has to be attached.
   * @throws TypeError when `other` is no such context, RangeError when it has other {@link spaces}.
   */
  attachTo(other: SharingContext): number {
    const source = this.#checkOther(other);
    source.checkOpen(ATTACH);
    this.enter(ATTACH);
    const ioas = source.#ioas;
    if (ioas === this.#ioas) return this.#attachAgain();
    if (!this.#wanted) return this.#use(ioas);
    const errno = this.#tryAttach(ioas);
    if (errno === 0) this.#use(ioas);
    if (errno === 0) this.#setAttached(true);
    this.end('attach', 0, 0, errno);
    if (errno !== 0 && this.#attached && this.devices.length > 1) this.#putBack();
    return errno;
  }

  /** The devices before the one that was refused go back, which counts as `attach`; where that is refused all are detached. */
  #putBack(): void {
    const errno = this.begin('attach');
    if (errno !== 0) {
      this.#ioas.detach(this.#user);
      this.#setAttached(false);
    }
    this.end('attach', 0, 0, errno);
  }

  /** See {@link SharingContext.attachAlone}; counts as {@link attachTo} does. After a refusal the empty IOAS is used all the same. */
  attachAlone(): number {
    this.enter(ATTACH);
    if (this.#ioas.userCount === 1) return this.#attachAgain();
    const ioas = this.#newIoas();
    if (!this.#wanted) return this.#use(ioas);
    const errno = this.#tryAttach(ioas);
    this.#use(ioas);
    this.#setAttached(errno === 0);
    this.end('attach', 0, 0, errno);
    return errno;
  }

  /** IOMMU_IOAS_MAP in bytes. @throws TypeError or RangeError when no u32 or u64 is given, or for what is not simulated. */
  ioasMap(args: IoasMapArguments): IoctlResult {
    this.enter('IOMMU_IOAS_MAP');
    const { iova, length, userVa, flags } = args;
    const refused = this.#rules.checkMap(args) || this.#rules.checkPlace(iova, length, this.#unit);
    let errno = this.begin('map') || refused || this.#checkFree(toPages(iova), toPages(length));
    // The offset in the page is looked at last, when the area is inserted.
    if (errno === 0 && this.#unit > 0 && userVa % (BigInt(this.#unit) * 4096n) !== 0n) errno = Errno.EINVAL;
    if (errno === 0 && (userVa & 4095n) !== 0n) throw new RangeError('userVa: sub-page areas are not simulated');
    if (errno === 0) errno = this.#insert(toPages(iova), toPages(length), toPages(userVa), rightsOf(flags));
    this.end('map', toPages(iova), toPages(length), errno);
    return { errno, size: length };
  }

  /** IOMMU_IOAS_UNMAP in bytes; `size` is what was removed, and as given after a refusal. @throws as {@link ioasMap}. */
  ioasUnmap(args: IoasUnmapArguments): IoctlResult {
    this.enter('IOMMU_IOAS_UNMAP');
    const refused = this.#rules.checkUnmap(args);
    const all = args.iova === 0n && args.length === U64_MAX;
    const kind = all ? 'unmapAll' : 'unmap';
    const errno = this.begin(kind) || refused || (all ? this.removeAll() : this.#removeBytes(args.iova, args.length));
    this.end(kind, all ? 0 : toPages(args.iova), all ? 0 : toPages(args.length), errno);
    return { errno, size: errno === 0 ? BigInt(this.removedPages) * 4096n : args.length };
  }

  /** IOMMU_IOAS_COPY into this IOAS in bytes, counted as a map. @throws as {@link ioasMap}, and for a source of another file. */
  ioasCopy(args: IoasCopyArguments): IoctlResult {
    this.enter('IOMMU_IOAS_COPY');
    const { source, iova, length, flags } = args;
    if (!(source instanceof SimulatedIommufdContext)) throw new TypeError('source must be a SimulatedIommufdContext');
    if (source.#file !== this.#file) throw new RangeError('source must be a context of the same iommufd file');
    const errno = this.begin('map') || this.#copy(args, rightsOf(checkInteger('flags', flags, 0, U32_MAX)));
    this.end('map', toPages(iova), toPages(length), errno);
    return { errno, size: length };
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA on the iommufd file, in bytes: in mode `cut` areas are cut at both ends first. `size` is what
   * was removed, also when a cut area at the end made it fail. @throws TypeError or RangeError when no u32 or u64 is given.
   */
  unmapDma(args: UnmapArguments): IoctlResult {
    this.enter('VFIO_IOMMU_UNMAP_DMA');
    const { argsz = 24, flags = 0 } = args;
    checkInteger('argsz', argsz, 0, U32_MAX);
    checkInteger('flags', flags, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    const size = checkBigint('size', args.size, 0n, U64_MAX);
    const all = flags === UnmapFlag.all;
    const kind = all ? 'unmapAll' : 'unmap';
    let errno = this.begin(kind);
    if (errno === 0 && (argsz < 24 || (flags & ~UnmapFlag.all) !== 0)) errno = Errno.EINVAL;
    if (errno === 0 && all && (iova | size) !== 0n) errno = Errno.EINVAL;
    if (errno === 0 && !all) errno = this.#cutEnds(iova, size);
    const tried = errno === 0;
    if (tried) errno = all ? this.removeAll() : this.#unmapDma(iova, size);
    this.end(kind, all ? 0 : toPages(iova), all ? 0 : toPages(size), errno);
    return { errno, size: tried ? BigInt(this.removedPages) * 4096n : size };
  }

  protected mapPages(iova: number, pages: number, va: number, rights: number): number {
    const unit = this.#unit;
    const errno = this.#rules.checkMapPages(iova, pages, va, rights, unit) || this.#checkFree(iova, pages);
    if (errno !== 0) return errno;
    return unit > 0 && va % unit !== 0 ? Errno.EINVAL : this.#insert(iova, pages, va, rights);
  }

  protected unmapPages(iova: number, pages: number): number {
    this.removedPages = 0;
    if (iova === 0 && pages === PAGE_END) return this.removeAll();
    const refused = this.#rules.checkUnmapPages(iova, pages);
    if (refused !== 0 || this.mode === 'large') {
      return refused || this.#remove(iova, iova + pages, iova, iova + pages);
    }
    // Through VFIO_IOMMU_UNMAP_DMA, to which nothing there is no error.
    const errno = this.#cutAt((iova + pages) % PAGE_END) || this.#cutAt(iova);
    if (errno !== 0 || this.#ioas.areas.firstFrom(iova, iova + pages) === undefined) return errno;
    return this.#remove(iova, iova + pages, iova, iova + pages);
  }

  protected removeAll(): number {
    this.#remove(0, PAGE_END, 0, PAGE_END);
    return 0;
  }

  protected get live(): IntervalTable {
    return this.#ioas.live;
  }

  protected get pinnedPages(): number {
    return this.#ioas.pinnedPages;
  }

  protected release(): void {
    this.#use(this.#newIoas());
    this.#setAttached(false);
  }

  protected ioptes(): ReadonlyMap<bigint, number> {
    return this.#ioas.tableOf(this.#user)?.ioptes() ?? new Map();
  }

  /** iova_alignment in pages; 0 for an IOAS without a domain, which takes any byte. */
  get #unit(): number {
    return this.#ioas.unit || (this.mode === 'cut' ? this.#rules.unit : 0);
  }

  #newIoas(): SimulatedIoas {
    return new SimulatedIoas(this.machine);
  }

  #setAttached(attached: boolean): void {
    this.#attached = attached;
    const table = attached ? this.#ioas.tableOf(this.#user) : undefined;
    for (const device of this.devices) device.table = table;
  }

  /** ATTACH of all devices, or a replace when they are attached: the kernel lets go of the former IOAS last. */
  #tryAttach(ioas: SimulatedIoas): number {
    return this.begin('attach') || ioas.attach(this.#user, this.#attached);
  }

  /** Nothing to be done but for devices that a refusal left detached. */
  #attachAgain(): number {
    if (this.#attached || !this.#wanted) return 0;
    const errno = this.#tryAttach(this.#ioas);
    if (errno === 0) this.#setAttached(true);
    this.end('attach', 0, 0, errno);
    return errno;
  }

  /** Uses `ioas` from now on; what nobody uses any more is emptied. Returns 0. */
  #use(ioas: SimulatedIoas): number {
    const former = this.#ioas;
    this.#ioas = ioas;
    ioas.join(this.#user);
    former.leave(this.#user);
    if (former.userCount === 0) this.#removeFrom(former, 0, PAGE_END, 0, PAGE_END);
    return 0;
  }

  #checkOther(other: SharingContext): SimulatedIommufdContext {
    const given: unknown = other;
    if (typeof given !== 'object' || given === null || !isSharing(other)) {
      throw new TypeError('other must be a SharingContext');
    }
    if (!(other instanceof SimulatedIommufdContext) || other.spaces !== this.spaces) {
      throw new RangeError('other must be a context of the same iommufd file and mode');
    }
    return other;
  }

  #checkFree(iova: number, pages: number): number {
    return this.#ioas.checkFree(iova, iova + pages);
  }

  #insert(iova: number, pages: number, va: number, rights: number): number {
    return this.#ioas.insert(iova, pages, va, rights, this.#user.memlockLimit);
  }

  #remove(touchStart: number, touchEnd: number, iova: number, end: number): number {
    return this.#removeFrom(this.#ioas, touchStart, touchEnd, iova, end);
  }

  #removeFrom(ioas: SimulatedIoas, touchStart: number, touchEnd: number, iova: number, end: number): number {
    const errno = ioas.remove(touchStart, touchEnd, iova, end);
    this.removedPages = ioas.removedPages;
    this.spendRemoval(ioas.removedAreas);
    return errno;
  }

  #removeBytes(iova: bigint, length: bigint): number {
    const end = iova + length;
    return this.#remove(toPages(iova), toPages(end + 4095n), toPages(iova + 4095n), toPages(end));
  }

  #unmapDma(iova: bigint, size: bigint): number {
    this.removedPages = 0;
    if (size === 0n) return Errno.EINVAL;
    if (iova + size - 1n > U64_MAX) return Errno.EOVERFLOW;
    // Unlike IOMMU_IOAS_UNMAP this call does not mind when there is nothing.
    if (this.#ioas.areas.firstFrom(toPages(iova), toPages(iova + size + 4095n)) === undefined) return 0;
    return this.#removeBytes(iova, size);
  }

  /** iopt_cut_iova() as VFIO_IOMMU_UNMAP_DMA calls it, before it looks at the size: both ends, the upper one first. */
  #cutEnds(iova: bigint, size: bigint): number {
    if (this.mode !== 'cut') return 0;
    const cuts = iova === 0n ? [size] : [iova + size, iova];
    for (const cut of cuts) {
      const start = BigInt.asUintN(64, cut);
      const page = toPages(start);
      const unaligned = start % (BigInt(this.#unit) * 4096n) !== 0n;
      // iopt_area_split() takes the first byte of an area for its border, and does nothing.
      const first = start % 4096n === 1n && this.#ioas.areas.over(page) === undefined;
      const errno = unaligned && this.#ioas.areas.covers(page) ? (first ? 0 : Errno.EINVAL) : this.#cutAt(page);
      if (errno !== 0) return errno;
    }
    return 0;
  }

  #cutAt(page: number): number {
    return this.#ioas.cutAt(page, this.#unit);
  }

  #copy(args: IoasCopyArguments, rights: number): number {
    const { iova, length, sourceIova } = args;
    checkBigint('iova', iova, 0n, U64_MAX);
    checkBigint('sourceIova', sourceIova, 0n, U64_MAX);
    checkBigint('length', length, 0n, U64_MAX);
    const refused = checkIoasFlags(args.flags, length, sourceIova, iova);
    if (refused !== 0) return refused;
    if (length === 0n) return Errno.EINVAL;
    if (sourceIova + length - 1n > U64_MAX) return Errno.EOVERFLOW;
    if (((sourceIova | length) & 4095n) !== 0n) throw new RangeError('sourceIova: sub-page areas are not simulated');
    const slices = args.source.#ioas.share(toPages(sourceIova), toPages(sourceIova + length));
    if (slices === undefined) return Errno.ENOENT;
    const placed = this.#rules.checkPlace(iova, length, this.#unit) || this.#checkFree(toPages(iova), toPages(length));
    if (placed !== 0) return placed;
    if ((rights & HostRight.write) !== 0 && slices.some(({ pages }) => !pages.writable)) return Errno.EPERM;
    return this.#ioas.insertSlices(toPages(iova), slices, rights, this.#user.memlockLimit);
  }
}
