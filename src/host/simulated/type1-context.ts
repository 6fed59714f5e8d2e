// SimulatedType1Context: one VFIO type1 v2 container with the kernel's errno, order of checks, atomicity and limits.
// Not here: argument checks of the ioctls (type1-rules.ts), pinning (virtual-mappings.ts), option checks (host.ts).
// Unit: 4 KiB page numbers, ends exclusive; the byte-level entry points take bigint bytes.
import { checkInteger } from '../../base/check.ts';
import { Errno, HostError } from '../../base/errors.ts';
import { IntervalTable, NONE } from '../../intervals/table.ts';
import type { HostBatch, HostContext, HostLimits } from '../context.ts';
import { HOST_MMIO, HostOp, HostRight } from '../context.ts';
import type { SimulatedDevice } from './device.ts';
import type { OperationKind } from './fault-plan.ts';
import { IoPageTable } from './io-page-table.ts';
import type { Machine } from './machine.ts';
import { PinList } from './pin-list.ts';
import { DmaProber } from './prober.ts';
import type { IoctlResult, KernelVersion, MapArguments, UnmapArguments } from './type1-rules.ts';
import { MapFlag, PAGE_END, Type1Rules, UnmapFlag } from './type1-rules.ts';

/** The bits of a batch's rights that type1 knows; it tells device memory from RAM by the mapping itself. */
const RIGHTS = HostRight.read | HostRight.write;

/** Checked options of a context, all present. */
export interface Type1Settings {
  readonly group: number;
  readonly devices: readonly SimulatedDevice[];
  readonly limits: HostLimits;
  /** RLIMIT_MEMLOCK in 4 KiB pages, Infinity with CAP_IPC_LOCK. */
  readonly memlockLimit: number;
  readonly kernel: KernelVersion;
  readonly writeOnlyReadable: boolean;
  readonly entriesLeftOffset: number;
  /** Called once by close(). */
  readonly onClose: () => void;
}

/** Counters of one context; a snapshot. */
export interface Type1Statistics {
  readonly mapCalls: number;
  readonly unmapCalls: number;
  readonly unmapAllCalls: number;
  /** Operations that ended with an errno, injected ones included. */
  readonly refusals: number;
  readonly entries: number;
  readonly entriesPeak: number;
  /** Pages locked by the entries of this context, a page mapped twice counted twice. */
  readonly pinnedPages: number;
  /** Number of IOPTEs by size in bytes. */
  readonly ioptes: ReadonlyMap<bigint, number>;
}

/** One host entry (struct vfio_dma). */
export interface HostEntry {
  readonly iova: number;
  readonly pages: number;
  /** {@link HostRight} bits. */
  readonly rights: number;
}

/** A simulated VFIO container of type 1 v2 that holds one group. */
export class SimulatedType1Context implements HostContext {
  readonly name: string;
  readonly flavour = 'type1';
  readonly limits: HostLimits;
  readonly group: number;
  /** Added to what {@link entriesLeft} reports, never below 0: a host that lies about dma_avail; may be changed. */
  entriesLeftOffset: number;
  readonly #machine: Machine;
  readonly #settings: Type1Settings;
  readonly #rules: Type1Rules;
  /** Entry [iova, end) -> (locked pages, rights). */
  readonly #entries = new IntervalTable();
  readonly #table: IoPageTable;
  readonly #pins = new PinList();
  readonly #usable: readonly (readonly [first: number, end: number])[];
  readonly #counts = { map: 0, unmap: 0, unmapAll: 0, clearBusMaster: 0, resetDevices: 0 };
  readonly #operation: { context: HostContext; kind: OperationKind; iova: number; pages: number; errno: number };
  #refusals = 0;
  #entriesPeak = 0;
  #pinnedPages = 0;
  #removedPages = 0;
  #closed = false;

  constructor(machine: Machine, settings: Type1Settings) {
    this.name = `type1 group ${settings.group}`;
    this.group = settings.group;
    this.limits = settings.limits;
    this.entriesLeftOffset = settings.entriesLeftOffset;
    this.#machine = machine;
    this.#settings = settings;
    this.#rules = new Type1Rules(settings.kernel, settings.limits.pageSizes);
    this.#table = new IoPageTable(settings.limits.pageSizes, settings.writeOnlyReadable);
    this.#usable = settings.limits.usableRanges.map(({ start, end }) => [
      Number((start + 4095n) / 4096n),
      Number((end + 1n) / 4096n),
    ]);
    this.#operation = { context: this, kind: 'map', iova: 0, pages: 0, errno: 0 };
    for (const device of settings.devices) device.table = this.#table;
  }

  /** Endpoint ids of the group. */
  get endpoints(): number[] {
    return this.#settings.devices.map((device) => device.endpoint);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * See {@link HostContext.apply}; each operation follows VFIO_IOMMU_MAP_DMA or VFIO_IOMMU_UNMAP_DMA.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not a legal page number.
   */
  apply(batch: HostBatch, from: number): number {
    this.#enter('apply');
    checkInteger('from', from, 0, batch.count);
    for (let i = from; i < batch.count; i++) checkOperation(batch, i);
    for (let i = from; i < batch.count; i++) {
      const iova = batch.iova[i]!;
      const pages = batch.pages[i]!;
      let errno: number;
      if (batch.kind[i] === HostOp.map) {
        errno = this.#begin('map');
        if (errno === 0) errno = this.#mapPages(iova, pages, batch.va[i]!, batch.rights[i]! & RIGHTS);
        batch.errno[i] = errno;
        this.#end('map', iova, pages, errno);
      } else {
        errno = this.#begin('unmap');
        if (errno === 0) errno = this.#unmapPages(iova, pages);
        batch.errno[i] = errno;
        batch.done[i] = errno === 0 ? this.#removedPages : 0;
        this.#end('unmap', iova, pages, errno);
      }
      if (errno !== 0) return i;
    }
    return batch.count;
  }

  /** VFIO_IOMMU_MAP_DMA with all of its checks, in bytes. @throws TypeError or RangeError when no u32 or u64 is given. */
  mapDma(args: MapArguments): IoctlResult {
    this.#enter('VFIO_IOMMU_MAP_DMA');
    const refused = this.#rules.checkMap(args);
    const [iova, pages, va] = [toPages(args.iova), toPages(args.size), toPages(args.vaddr)];
    let errno = this.#begin('map');
    if (errno === 0) errno = refused;
    if (errno === 0 && (args.flags & MapFlag.vaddr) !== 0) errno = this.#setVaddr(iova, pages);
    else if (errno === 0) errno = this.#insert(iova, pages, va, args.flags);
    this.#end('map', iova, pages, errno);
    return { errno, size: args.size };
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA with all of its checks, in bytes; the flag ALL counts as an unmapAll.
   * @throws TypeError or RangeError when no u32 or u64 is given, or for the flag VADDR, which is not simulated.
   */
  unmapDma(args: UnmapArguments): IoctlResult {
    this.#enter('VFIO_IOMMU_UNMAP_DMA');
    const refused = this.#rules.checkUnmap(args);
    const all = ((args.flags ?? 0) & UnmapFlag.all) !== 0;
    const kind: OperationKind = all ? 'unmapAll' : 'unmap';
    const [iova, pages] = all ? [0, PAGE_END] : [toPages(args.iova), toPages(args.size)];
    let errno = this.#begin(kind);
    if (errno === 0) errno = refused;
    if (errno === 0) errno = this.#remove(iova, pages);
    const size = errno === 0 ? BigInt(this.#removedPages) * 4096n : args.size;
    this.#end(kind, all ? 0 : iova, all ? 0 : pages, errno);
    return { errno, size };
  }

  unmapAll(): number {
    this.#enter('unmapAll');
    const errno = this.#begin('unmapAll') || this.#remove(0, PAGE_END);
    this.#end('unmapAll', 0, 0, errno);
    return errno;
  }

  entriesLeft(): number {
    this.#enter('entriesLeft');
    return Math.max(0, this.limits.entryLimit - this.#entries.size + this.entriesLeftOffset);
  }

  clearBusMaster(): number {
    this.#enter('clearBusMaster');
    const errno = this.#begin('clearBusMaster');
    if (errno === 0) for (const device of this.#settings.devices) device.busMaster = false;
    this.#end('clearBusMaster', 0, 0, errno);
    return errno;
  }

  resetDevices(): number {
    this.#enter('resetDevices');
    const errno = this.#begin('resetDevices');
    if (errno === 0) for (const device of this.#settings.devices) device.reset();
    this.#end('resetDevices', 0, 0, errno);
    return errno;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.#settings.devices) device.table = undefined;
    this.#remove(0, PAGE_END);
    this.#settings.onClose();
  }

  /** What the device `endpoint` of this group reaches. @throws RangeError when it is not in the group. */
  prober(endpoint: number): DmaProber {
    const device = this.#settings.devices.find((candidate) => candidate.endpoint === endpoint);
    if (device === undefined) throw new RangeError(`endpoint must be one of ${this.endpoints.join(', ')}`);
    return new DmaProber(device, this.#machine.addressSpace);
  }

  /** All live entries in order; also after close (none). */
  entries(): HostEntry[] {
    const list: HostEntry[] = [];
    for (let slot = this.#entries.first(); slot !== NONE; slot = this.#entries.next(slot)) {
      const iova = this.#entries.startAt(slot);
      list.push({ iova, pages: this.#entries.endAt(slot) - iova, rights: this.#entries.flagsAt(slot) });
    }
    return list;
  }

  /** Counters; also after close. */
  stats(): Type1Statistics {
    return {
      mapCalls: this.#counts.map,
      unmapCalls: this.#counts.unmap,
      unmapAllCalls: this.#counts.unmapAll,
      refusals: this.#refusals,
      entries: this.#entries.size,
      entriesPeak: this.#entriesPeak,
      pinnedPages: this.#pinnedPages,
      ioptes: this.#table.ioptes(),
    };
  }

  #mapPages(iova: number, pages: number, va: number, rights: number): number {
    return this.#rules.checkMapPages(iova, pages, va, rights) || this.#insert(iova, pages, va, rights);
  }

  #unmapPages(iova: number, pages: number): number {
    return this.#rules.checkUnmapPages(iova, pages) || this.#remove(iova, pages);
  }

  /** vfio_dma_do_map() below its argument checks, in the kernel's order; nothing is left of a refused map. */
  #insert(iova: number, pages: number, va: number, rights: number): number {
    const end = iova + pages;
    if (!this.#entries.isFree(iova, end)) return Errno.EEXIST;
    if (this.#entries.size >= this.limits.entryLimit) return Errno.ENOSPC;
    if (!this.#isUsable(iova, end)) return Errno.EINVAL;
    const pins = this.#pins;
    pins.reset(this.#settings.memlockLimit - this.#machine.lockedPages, this.#settings.kernel === '6.1');
    const errno = this.#machine.addressSpace.pin(va, pages, (rights & HostRight.write) !== 0, pins);
    if (errno !== 0) return errno;
    if (!this.#table.insert(iova, pins, rights)) return Errno.EINVAL;
    this.#entries.insert(iova, end, pins.lockedPages, rights);
    this.#entriesPeak = Math.max(this.#entriesPeak, this.#entries.size);
    this.#lock(pins.lockedPages);
    this.#machine.spend(this.#machine.costs.perPageNs * pages);
    return 0;
  }

  /** vfio_dma_do_unmap() below its argument checks: only the two ends are tested, before anything is removed. */
  #remove(iova: number, pages: number): number {
    const end = iova + pages;
    this.#removedPages = 0;
    if (this.#entries.splits(iova, end)) return Errno.EINVAL;
    let locked = 0;
    let removed = 0;
    for (let slot = this.#entries.seek(iova); slot !== NONE; slot = this.#entries.next(slot)) {
      const start = this.#entries.startAt(slot);
      if (start >= end) break;
      this.#removedPages += this.#entries.endAt(slot) - start;
      locked += this.#entries.valueAt(slot);
      removed++;
    }
    const { costs } = this.#machine;
    this.#machine.spend(costs.perUnmapNs * Math.max(removed, 1) + costs.perPageNs * this.#removedPages);
    if (removed === 0) return 0;
    this.#entries.removeRange(iova, end);
    this.#table.remove(iova, end);
    this.#lock(-locked);
    return 0;
  }

  /** The VADDR flag without rights: no entry here ever has an invalid virtual address. */
  #setVaddr(iova: number, pages: number): number {
    return this.#entries.isFree(iova, iova + pages) ? Errno.ENOENT : Errno.EINVAL;
  }

  #isUsable(iova: number, end: number): boolean {
    for (const [first, limit] of this.#usable) if (iova >= first && end <= limit) return true;
    return false;
  }

  #lock(pages: number): void {
    this.#pinnedPages += pages;
    this.#machine.lock(pages);
  }

  #enter(syscall: string): void {
    if (this.#closed) {
      throw new HostError('ERR_VIOMMU_HOST_CLOSED', `${this.name} is closed`, { errno: 0, syscall });
    }
    this.#machine.spend(this.#machine.costs.perCallNs);
  }

  #begin(kind: OperationKind): number {
    // An observer may have closed the context in the middle of a batch.
    if (this.#closed) {
      throw new HostError('ERR_VIOMMU_HOST_CLOSED', `${this.name} is closed`, { errno: 0, syscall: kind });
    }
    this.#counts[kind]++;
    if (kind === 'map') this.#machine.spend(this.#machine.costs.perMapNs);
    return this.#machine.faults.take(kind, this.group);
  }

  #end(kind: OperationKind, iova: number, pages: number, errno: number): void {
    if (errno !== 0) this.#refusals++;
    if (!this.#machine.observed) return;
    const operation = this.#operation;
    operation.kind = kind;
    operation.iova = iova;
    operation.pages = pages;
    operation.errno = errno;
    this.#machine.notify(operation);
  }
}

function checkOperation(batch: HostBatch, i: number): void {
  const kind = batch.kind[i]!;
  if (kind !== HostOp.map && kind !== HostOp.unmap)
    throw new RangeError(`batch.kind[${i}] must be a HostOp, got ${kind}`);
  checkPage('iova', i, batch.iova[i]!);
  checkPage('pages', i, batch.pages[i]!);
  if (kind === HostOp.unmap) return;
  checkPage('va', i, batch.va[i]!);
  const rights = batch.rights[i]!;
  if (rights > (RIGHTS | HOST_MMIO)) throw new RangeError(`batch.rights[${i}] has unknown bits: ${rights}`);
}

function checkPage(column: string, i: number, value: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= PAGE_END) return;
  throw new RangeError(`batch.${column}[${i}] must be a page number in [0, 2^52], got ${value}`);
}

function toPages(bytes: bigint): number {
  return Number(bytes / 4096n);
}
