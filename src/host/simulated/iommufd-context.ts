// SimulatedIommufdContext: one group's attachment to an IOAS of its own, with the kernel's errno, order of checks,
// non-atomic unmap, lazy pinning and accounting. An entry of a context is an area (struct iopt_area) here.
// Not here: argument checks (iommufd-rules.ts), who pins what (iopt-pages.ts), shared parts (simulated-context.ts).
// Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../../base/check.ts';
import { Errno } from '../../base/errors.ts';
import { HostRight } from '../context.ts';
import type { AreaSlice, AreaSource } from './area-table.ts';
import { AreaTable } from './area-table.ts';
import type { IoasMapArguments, IoasUnmapArguments } from './iommufd-rules.ts';
import { IommufdRules, checkIoasFlags, rightsOf } from './iommufd-rules.ts';
import { IoPageTable } from './io-page-table.ts';
import { IoptPages } from './iopt-pages.ts';
import type { Machine } from './machine.ts';
import { PinList } from './pin-list.ts';
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

/** Checked options of an attachment, all present. */
export interface IommufdSettings extends ContextSettings {
  readonly mode: IommufdMode;
  readonly attached: boolean;
}

/** struct iommu_ioas_copy. */
export interface IoasCopyArguments {
  /** The context whose IOAS is read; may be the same. */
  readonly source: SimulatedIommufdContext;
  /** {@link IoasFlag} bits; `fixed` must be among them. */
  readonly flags: number;
  readonly sourceIova: bigint;
  readonly iova: bigint;
  /** Bytes. */
  readonly length: bigint;
}

/** A simulated attachment of one group to an IOAS; {@link limits} are those of the group, attached or not. */
export class SimulatedIommufdContext extends SimulatedContext {
  readonly flavour = 'iommufd';
  readonly mode: IommufdMode;
  readonly #rules: IommufdRules;
  readonly #memlockLimit: number;
  readonly #areas = new AreaTable(this.live);
  #attached = false;

  constructor(machine: Machine, settings: IommufdSettings) {
    const { pageSizes, usableRanges } = settings.limits;
    const ioptes = settings.mode === 'cut' ? pageSizes & -pageSizes : pageSizes;
    super('iommufd', machine, settings, new IoPageTable(ioptes, settings.writeOnlyReadable));
    this.mode = settings.mode;
    this.#rules = new IommufdRules(settings.kernel, pageSizes, usableRanges);
    this.#memlockLimit = settings.memlockLimit;
    if (settings.attached) this.#setAttached(true);
  }

  /** Whether the devices are attached: only then areas are pinned and reach the devices. */
  get attached(): boolean {
    return this.#attached;
  }

  /** Infinity: iommufd has no limit of its own. */
  entriesLeft(): number {
    this.enter('entriesLeft');
    return Infinity;
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT for all devices: pins and maps every area. Returns 0, EADDRINUSE (an area is outside the
   * usable ranges or not aligned), EFAULT or ENOMEM; then nothing is attached or pinned. OK when attached.
   */
  attach(): number {
    this.enter('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    let errno = this.begin('attach');
    if (errno === 0 && !this.#attached) {
      errno = this.#checkAreas() || this.#fillAll();
      if (errno === 0) this.#setAttached(true);
    }
    this.end('attach', 0, 0, errno);
    return errno;
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT for all devices: they are blocked, nothing is pinned, and the areas stay. */
  detach(): void {
    this.enter('VFIO_DEVICE_DETACH_IOMMUFD_PT');
    if (!this.#attached) return;
    this.#setAttached(false);
    this.#unfillAll(PAGE_END);
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

  /** IOMMU_IOAS_COPY into this IOAS in bytes, counted as a map. @throws as {@link ioasMap}. */
  ioasCopy(args: IoasCopyArguments): IoctlResult {
    this.enter('IOMMU_IOAS_COPY');
    const { iova, length, flags } = args;
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
    if (errno !== 0 || this.#areas.firstFrom(iova, iova + pages) === undefined) return errno;
    return this.#remove(iova, iova + pages, iova, iova + pages);
  }

  protected removeAll(): number {
    this.#remove(0, PAGE_END, 0, PAGE_END);
    return 0;
  }

  /** iova_alignment in pages; 0 for an IOAS without a domain, which takes any byte. */
  get #unit(): number {
    return this.#attached || this.mode === 'cut' ? this.#rules.unit : 0;
  }

  #setAttached(attached: boolean): void {
    this.#attached = attached;
    for (const device of this.devices) device.table = attached ? this.table : undefined;
  }

  #checkFree(iova: number, pages: number): number {
    if (this.#attached && !this.#rules.isUsable(iova, iova + pages)) return Errno.EINVAL;
    return this.live.isFree(iova, iova + pages) ? 0 : Errno.EEXIST;
  }

  #insert(iova: number, pages: number, va: number, rights: number): number {
    const { addressSpace } = this.machine;
    const source = { pages: new IoptPages(addressSpace, va, (rights & HostRight.write) !== 0), index: 0 };
    const errno = this.#fill(iova, iova + pages, source, rights);
    if (errno === 0) this.#addArea(iova, iova + pages, source, rights);
    return errno;
  }

  #addArea(iova: number, end: number, source: AreaSource, rights: number): void {
    this.addEntry(iova, end, 0, rights);
    this.#areas.add(iova, source);
  }

  /** Pins an area and maps it for the devices, when attached; nothing is left of a refused one. */
  #fill(iova: number, end: number, { pages, index }: AreaSource, rights: number): number {
    if (!this.#attached) return 0;
    const { pins, machine } = this;
    const stop = index + end - iova;
    const errno = pages.fill(index, stop, pins);
    if (errno !== 0) return errno;
    // Pages are pinned first and counted afterwards: a hole is found before the limit.
    const tooMany = machine.userPages + pins.lockedPages > this.#memlockLimit;
    if (tooMany || !this.table.insert(iova, pins, rights)) {
      pages.unfill(index, stop);
      return tooMany ? Errno.ENOMEM : Errno.EINVAL;
    }
    machine.lock(pins.lockedPages, true);
    machine.spend(machine.costs.perPageNs * (end - iova));
    this.pinnedPages += end - iova;
    return 0;
  }

  #unfill(iova: number, end: number): void {
    const { pages, index } = this.#areas.sourceOf(iova);
    this.table.remove(iova, end);
    this.machine.lock(-pages.unfill(index, index + end - iova), true);
    this.pinnedPages -= end - iova;
  }

  #fillAll(): number {
    this.#attached = true;
    let errno = 0;
    this.#areas.each(PAGE_END, (start, end, rights) => {
      errno = this.#fill(start, end, this.#areas.sourceOf(start), rights);
      if (errno !== 0) this.#unfillAll(start);
      return errno === 0;
    });
    this.#attached = errno === 0;
    return errno;
  }

  #unfillAll(limit: number): void {
    this.#areas.each(limit, (start, end) => {
      this.#unfill(start, end);
      return true;
    });
  }

  /** What attaching asks of the areas that are there. */
  #checkAreas(): number {
    const { unit } = this.#rules;
    let errno = 0;
    this.#areas.each(PAGE_END, (start, end) => {
      const { pages, index } = this.#areas.sourceOf(start);
      const aligned = start % unit === 0 && end % unit === 0 && (pages.va + index) % unit === 0;
      if (!aligned || !this.#rules.isUsable(start, end)) errno = Errno.EADDRINUSE;
      return errno === 0;
    });
    return errno;
  }

  /**
   * iopt_unmap_iova_range(): removes the areas that touch [touchStart, touchEnd) one by one in ascending order, and stops with
   * ENOENT at the first that is not inside [iova, end); ENOENT also when there is none.
   */
  #remove(touchStart: number, touchEnd: number, iova: number, end: number): number {
    this.removedPages = 0;
    let removed = 0;
    let area = this.#areas.firstFrom(touchStart, touchEnd);
    while (area !== undefined && area.start >= iova && area.end <= end) {
      this.#drop(area.start, area.end);
      this.removedPages += area.end - area.start;
      removed++;
      area = this.#areas.firstFrom(touchStart, touchEnd);
    }
    this.spendRemoval(removed);
    return area !== undefined || removed === 0 ? Errno.ENOENT : 0;
  }

  #drop(iova: number, end: number): void {
    if (this.#attached) this.#unfill(iova, end);
    this.#areas.remove(iova);
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
    if (this.#areas.firstFrom(toPages(iova), toPages(iova + size + 4095n)) === undefined) return 0;
    return this.#removeBytes(iova, size);
  }

  /** iopt_cut_iova() as VFIO_IOMMU_UNMAP_DMA calls it, before it looks at the size: both ends, the upper one first. */
  #cutEnds(iova: bigint, size: bigint): number {
    if (this.mode !== 'cut') return 0;
    const cuts = iova === 0n ? [size] : [iova + size, iova];
    for (const cut of cuts) {
      const start = BigInt.asUintN(64, cut);
      const page = toPages(start);
      const unaligned = start % (BigInt(this.#rules.unit) * 4096n) !== 0n;
      // iopt_area_split() takes the first byte of an area for its border, and does nothing.
      const first = start % 4096n === 1n && this.#areas.over(page) === undefined;
      const errno = unaligned && this.#areas.covers(page) ? (first ? 0 : Errno.EINVAL) : this.#cutAt(page);
      if (errno !== 0) return errno;
    }
    return 0;
  }

  /** iopt_area_split(): the area over `page` becomes two, without any change for the devices. */
  #cutAt(page: number): number {
    const area = this.#areas.over(page);
    if (area === undefined) return 0;
    if (page % this.#rules.unit !== 0) return Errno.EINVAL;
    const { start, end, rights } = area;
    const source = this.#areas.sourceOf(start);
    this.#areas.remove(start);
    this.#addArea(start, page, source, rights);
    this.#addArea(page, end, this.#tail(source, page - start), rights);
    this.table.split(page);
    return 0;
  }

  /** The second part of an area that is cut; what only one area shows needs no record of who shows what. */
  #tail({ pages, index }: AreaSource, length: number): AreaSource {
    if (pages.shared) return { pages, index: index + length };
    return { pages: new IoptPages(this.machine.addressSpace, pages.va + index + length, pages.writable), index: 0 };
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
    const slices = args.source.#share(toPages(sourceIova), toPages(sourceIova + length));
    if (slices === undefined) return Errno.ENOENT;
    const placed = this.#rules.checkPlace(iova, length, this.#unit) || this.#checkFree(toPages(iova), toPages(length));
    if (placed !== 0) return placed;
    if ((rights & HostRight.write) !== 0 && slices.some(({ pages }) => !pages.writable)) return Errno.EPERM;
    return this.#insertSlices(toPages(iova), slices, rights);
  }

  #insertSlices(iova: number, slices: readonly AreaSlice[], rights: number): number {
    let at = iova;
    for (const slice of slices) {
      const errno = this.#fill(at, at + slice.length, slice, rights);
      if (errno !== 0) {
        for (let area = this.#areas.firstFrom(iova, at); area !== undefined; area = this.#areas.firstFrom(iova, at)) {
          this.#drop(area.start, area.end);
        }
        return errno;
      }
      this.#addArea(at, at + slice.length, slice, rights);
      at += slice.length;
    }
    return 0;
  }

  /** The parts of areas that cover [iova, end), ready to be shown by further areas; undefined when a page has none. */
  #share(iova: number, end: number): AreaSlice[] | undefined {
    const slices = this.#areas.slices(iova, end);
    for (const { pages, area } of slices ?? []) {
      const held = new PinList();
      if (this.#attached && !pages.shared) this.table.collect(area.start, area.end, held);
      pages.share(area.index, held);
    }
    return slices;
  }
}
