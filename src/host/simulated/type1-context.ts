// SimulatedType1Context: one VFIO type1 v2 container with the kernel's errno, order of checks, atomicity and limits.
// Not here: argument checks of the ioctls (type1-rules.ts), pinning (virtual-mappings.ts), option checks
// (host-options.ts), what it shares with iommufd (simulated-context.ts).
// Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { Errno } from '../../base/errors.ts';
import { IntervalTable, NONE } from '../../intervals/table.ts';
import { HostRight } from '../context.ts';
import type { OperationKind } from './fault-plan.ts';
import { IoPageTable } from './io-page-table.ts';
import type { Machine } from './machine.ts';
import { PinList } from './pin-list.ts';
import type { ContextSettings, ContextStatistics } from './simulated-context.ts';
import { SimulatedContext, toPages } from './simulated-context.ts';
import type { IoctlResult, MapArguments, UnmapArguments } from './type1-rules.ts';
import { MapFlag, PAGE_END, Type1Rules, UnmapFlag } from './type1-rules.ts';

export type { HostEntry } from './simulated-context.ts';

/** Checked options of a container, all present. */
export interface Type1Settings extends ContextSettings {
  readonly entriesLeftOffset: number;
}

/** Counters of one container; a snapshot. */
export type Type1Statistics = ContextStatistics;

/** A simulated VFIO container of type 1 v2 that holds one group. */
export class SimulatedType1Context extends SimulatedContext {
  readonly flavour = 'type1';
  /** Added to what {@link entriesLeft} reports, never below 0: a host that lies about dma_avail; may be changed. */
  entriesLeftOffset: number;
  protected readonly live = new IntervalTable();
  protected pinnedPages = 0;
  readonly #table: IoPageTable;
  readonly #pins = new PinList();
  readonly #rules: Type1Rules;
  readonly #memlockLimit: number;
  readonly #isOld: boolean;
  readonly #usable: readonly (readonly [first: number, end: number])[];

  constructor(machine: Machine, settings: Type1Settings) {
    const { limits } = settings;
    super('type1', machine, settings);
    this.#table = new IoPageTable(limits.pageSizes, settings.writeOnlyReadable);
    this.entriesLeftOffset = settings.entriesLeftOffset;
    this.#rules = new Type1Rules(settings.kernel, limits.pageSizes);
    this.#memlockLimit = settings.memlockLimit;
    this.#isOld = settings.kernel === '6.1';
    this.#usable = limits.usableRanges.map(({ start, end }) => [
      Number((start + 4095n) / 4096n),
      Number((end + 1n) / 4096n),
    ]);
    for (const device of this.devices) device.table = this.#table;
  }

  /** VFIO_IOMMU_MAP_DMA with all of its checks, in bytes. @throws TypeError or RangeError when no u32 or u64 is given. */
  mapDma(args: MapArguments): IoctlResult {
    this.enter('VFIO_IOMMU_MAP_DMA');
    const refused = this.#rules.checkMap(args);
    const [iova, pages, va] = [toPages(args.iova), toPages(args.size), toPages(args.vaddr)];
    let errno = this.begin('map');
    if (errno === 0) errno = refused;
    if (errno === 0 && (args.flags & MapFlag.vaddr) !== 0) errno = this.#setVaddr(iova, pages);
    else if (errno === 0) errno = this.#insert(iova, pages, va, args.flags);
    this.end('map', iova, pages, errno);
    return { errno, size: args.size };
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA with all of its checks, in bytes; the flag ALL counts as an unmapAll.
   * @throws TypeError or RangeError when no u32 or u64 is given, or for the flag VADDR, which is not simulated.
   */
  unmapDma(args: UnmapArguments): IoctlResult {
    this.enter('VFIO_IOMMU_UNMAP_DMA');
    const refused = this.#rules.checkUnmap(args);
    const all = ((args.flags ?? 0) & UnmapFlag.all) !== 0;
    const kind: OperationKind = all ? 'unmapAll' : 'unmap';
    const [iova, pages] = all ? [0, PAGE_END] : [toPages(args.iova), toPages(args.size)];
    let errno = this.begin(kind);
    if (errno === 0) errno = refused;
    if (errno === 0) errno = this.#remove(iova, pages);
    const size = errno === 0 ? BigInt(this.removedPages) * 4096n : args.size;
    this.end(kind, all ? 0 : iova, all ? 0 : pages, errno);
    return { errno, size };
  }

  entriesLeft(): number {
    this.enter('entriesLeft');
    return Math.max(0, this.limits.entryLimit - this.live.size + this.entriesLeftOffset);
  }

  protected mapPages(iova: number, pages: number, va: number, rights: number): number {
    return this.#rules.checkMapPages(iova, pages, va, rights) || this.#insert(iova, pages, va, rights);
  }

  protected unmapPages(iova: number, pages: number): number {
    return this.#rules.checkUnmapPages(iova, pages) || this.#remove(iova, pages);
  }

  protected removeAll(): number {
    return this.#remove(0, PAGE_END);
  }

  protected release(): void {
    this.removeAll();
  }

  protected ioptes(): ReadonlyMap<bigint, number> {
    return this.#table.ioptes();
  }

  /** vfio_dma_do_map() below its argument checks, in the kernel's order; nothing is left of a refused map. */
  #insert(iova: number, pages: number, va: number, rights: number): number {
    const end = iova + pages;
    if (!this.live.isFree(iova, end)) return Errno.EEXIST;
    if (this.live.size >= this.limits.entryLimit) return Errno.ENOSPC;
    if (!this.#isUsable(iova, end)) return Errno.EINVAL;
    const { machine } = this;
    const pins = this.#pins;
    pins.reset(this.#memlockLimit - machine.processPages, this.#isOld);
    const errno = machine.addressSpace.pin(va, pages, (rights & HostRight.write) !== 0, pins);
    if (errno !== 0) return errno;
    if (!this.#table.insert(iova, pins, rights)) return Errno.EINVAL;
    this.live.insert(iova, end, pins.lockedPages, rights);
    this.seeEntries(this.live.size);
    this.#lock(pins.lockedPages);
    machine.spend(machine.costs.perPageNs * pages);
    return 0;
  }

  /** vfio_dma_do_unmap() below its argument checks: only the two ends are tested, before anything is removed. */
  #remove(iova: number, pages: number): number {
    const end = iova + pages;
    this.removedPages = 0;
    if (this.live.splits(iova, end)) return Errno.EINVAL;
    let locked = 0;
    let removed = 0;
    for (let slot = this.live.seek(iova); slot !== NONE; slot = this.live.next(slot)) {
      const start = this.live.startAt(slot);
      if (start >= end) break;
      this.removedPages += this.live.endAt(slot) - start;
      locked += this.live.valueAt(slot);
      removed++;
    }
    this.spendRemoval(removed);
    if (removed === 0) return 0;
    this.live.removeRange(iova, end);
    this.#table.remove(iova, end);
    this.#lock(-locked);
    return 0;
  }

  /** The VADDR flag without rights: no entry here ever has an invalid virtual address. */
  #setVaddr(iova: number, pages: number): number {
    return this.live.isFree(iova, iova + pages) ? Errno.ENOENT : Errno.EINVAL;
  }

  #isUsable(iova: number, end: number): boolean {
    for (const [first, limit] of this.#usable) if (iova >= first && end <= limit) return true;
    return false;
  }

  #lock(pages: number): void {
    this.pinnedPages += pages;
    this.machine.lock(pages);
  }
}
