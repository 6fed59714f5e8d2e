// What the simulated type1 container and the simulated iommufd attachment share: batches, counters, injected failures,
// observers, devices and close. Not here: which maps and unmaps are refused, and what they pin (the two subclasses).
// Unit: 4 KiB page numbers, ends exclusive.
import { checkInteger } from '../../base/check.ts';
import { HostError } from '../../base/errors.ts';
import { IntervalTable, NONE } from '../../intervals/table.ts';
import type { HostBatch, HostContext, HostLimits } from '../context.ts';
import { HOST_MMIO, HostOp, HostRight } from '../context.ts';
import type { SimulatedDevice } from './device.ts';
import type { OperationKind } from './fault-plan.ts';
import type { IoPageTable } from './io-page-table.ts';
import type { Machine } from './machine.ts';
import { PinList } from './pin-list.ts';
import { DmaProber } from './prober.ts';
import type { KernelVersion } from './type1-rules.ts';
import { PAGE_END } from './type1-rules.ts';

/** The bits of a batch's rights that are rights; a host tells device memory from RAM by the mapping itself. */
const RIGHTS = HostRight.read | HostRight.write;

/** Checked options that every context has. */
export interface ContextSettings {
  readonly group: number;
  readonly devices: readonly SimulatedDevice[];
  readonly limits: HostLimits;
  /** RLIMIT_MEMLOCK in 4 KiB pages, Infinity with CAP_IPC_LOCK. */
  readonly memlockLimit: number;
  readonly kernel: KernelVersion;
  readonly writeOnlyReadable: boolean;
  /** Called once by close(). */
  readonly onClose: () => void;
}

/** Counters of one context; a snapshot. */
export interface ContextStatistics {
  readonly mapCalls: number;
  readonly unmapCalls: number;
  readonly unmapAllCalls: number;
  /** Operations that ended with an errno, injected ones included. */
  readonly refusals: number;
  readonly entries: number;
  readonly entriesPeak: number;
  /** Pages locked by this context: type1 counts a page once per entry, iommufd once per pin. */
  readonly pinnedPages: number;
  /** Number of IOPTEs by size in bytes. */
  readonly ioptes: ReadonlyMap<bigint, number>;
}

/** One host entry (struct vfio_dma, struct iopt_area). */
export interface HostEntry {
  readonly iova: number;
  readonly pages: number;
  /** {@link HostRight} bits. */
  readonly rights: number;
}

/** A context of one group on the simulated host. */
export abstract class SimulatedContext implements HostContext {
  readonly name: string;
  abstract readonly flavour: 'type1' | 'iommufd';
  readonly limits: HostLimits;
  readonly group: number;
  protected readonly machine: Machine;
  /** Entry [iova, end) -> (a value of the subclass, rights). */
  protected readonly live = new IntervalTable();
  protected readonly table: IoPageTable;
  protected readonly pins = new PinList();
  protected readonly devices: readonly SimulatedDevice[];
  protected pinnedPages = 0;
  /** Pages that the last removal took away. */
  protected removedPages = 0;
  readonly #onClose: () => void;
  readonly #counts = { map: 0, unmap: 0, unmapAll: 0, clearBusMaster: 0, resetDevices: 0, attach: 0 };
  readonly #operation: { context: HostContext; kind: OperationKind; iova: number; pages: number; errno: number };
  #refusals = 0;
  #entriesPeak = 0;
  #closed = false;

  constructor(name: string, machine: Machine, settings: ContextSettings, table: IoPageTable) {
    this.name = `${name} group ${settings.group}`;
    this.group = settings.group;
    this.limits = settings.limits;
    this.machine = machine;
    this.table = table;
    this.devices = settings.devices;
    this.#onClose = settings.onClose;
    this.#operation = { context: this, kind: 'map', iova: 0, pages: 0, errno: 0 };
  }

  /** Endpoint ids of the group. */
  get endpoints(): number[] {
    return this.devices.map((device) => device.endpoint);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * See {@link HostContext.apply}; each operation follows the map and unmap calls of the flavour.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not a legal page number.
   */
  apply(batch: HostBatch, from: number): number {
    this.enter('apply');
    checkInteger('from', from, 0, batch.count);
    for (let i = from; i < batch.count; i++) checkOperation(batch, i);
    for (let i = from; i < batch.count; i++) {
      const iova = batch.iova[i]!;
      const pages = batch.pages[i]!;
      let errno: number;
      if (batch.kind[i] === HostOp.map) {
        errno = this.begin('map');
        if (errno === 0) errno = this.mapPages(iova, pages, batch.va[i]!, batch.rights[i]! & RIGHTS);
        batch.errno[i] = errno;
        this.end('map', iova, pages, errno);
      } else {
        errno = this.begin('unmap');
        if (errno === 0) errno = this.unmapPages(iova, pages);
        batch.errno[i] = errno;
        batch.done[i] = errno === 0 ? this.removedPages : 0;
        this.end('unmap', iova, pages, errno);
      }
      if (errno !== 0) return i;
    }
    return batch.count;
  }

  unmapAll(): number {
    this.enter('unmapAll');
    const errno = this.begin('unmapAll') || this.removeAll();
    this.end('unmapAll', 0, 0, errno);
    return errno;
  }

  /** See {@link HostContext.entriesLeft}. */
  abstract entriesLeft(): number;

  clearBusMaster(): number {
    this.enter('clearBusMaster');
    const errno = this.begin('clearBusMaster');
    if (errno === 0) for (const device of this.devices) device.busMaster = false;
    this.end('clearBusMaster', 0, 0, errno);
    return errno;
  }

  resetDevices(): number {
    this.enter('resetDevices');
    const errno = this.begin('resetDevices');
    if (errno === 0) for (const device of this.devices) device.reset();
    this.end('resetDevices', 0, 0, errno);
    return errno;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.devices) device.table = undefined;
    this.removeAll();
    this.#onClose();
  }

  /** What the device `endpoint` of this group reaches. @throws RangeError when it is not in the group. */
  prober(endpoint: number): DmaProber {
    const device = this.devices.find((candidate) => candidate.endpoint === endpoint);
    if (device === undefined) throw new RangeError(`endpoint must be one of ${this.endpoints.join(', ')}`);
    return new DmaProber(device, this.machine.addressSpace);
  }

  /** All live entries in order; also after close (none). */
  entries(): HostEntry[] {
    const list: HostEntry[] = [];
    for (let slot = this.live.first(); slot !== NONE; slot = this.live.next(slot)) {
      const iova = this.live.startAt(slot);
      list.push({ iova, pages: this.live.endAt(slot) - iova, rights: this.live.flagsAt(slot) });
    }
    return list;
  }

  /** Counters; also after close. */
  stats(): ContextStatistics {
    return {
      mapCalls: this.#counts.map,
      unmapCalls: this.#counts.unmap,
      unmapAllCalls: this.#counts.unmapAll,
      refusals: this.#refusals,
      entries: this.live.size,
      entriesPeak: this.#entriesPeak,
      pinnedPages: this.pinnedPages,
      ioptes: this.table.ioptes(),
    };
  }

  /** Maps with the rules of the flavour; returns 0, or the errno with which nothing has changed. */
  protected abstract mapPages(iova: number, pages: number, va: number, rights: number): number;

  /** Unmaps with the rules of the flavour and sets {@link removedPages}; returns 0 or errno. */
  protected abstract unmapPages(iova: number, pages: number): number;

  /** Removes every entry; returns 0. */
  protected abstract removeAll(): number;

  /** Adds an entry to the table of live ones. */
  protected addEntry(iova: number, end: number, value: number, rights: number): void {
    this.live.insert(iova, end, value, rights);
    if (this.live.size > this.#entriesPeak) this.#entriesPeak = this.live.size;
  }

  /** Adds the cost of a removal of `entries` entries. */
  protected spendRemoval(entries: number): void {
    const { costs } = this.machine;
    this.machine.spend(costs.perUnmapNs * Math.max(entries, 1) + costs.perPageNs * this.removedPages);
  }

  /** Starts a call; throws ERR_VIOMMU_HOST_CLOSED after close. */
  protected enter(syscall: string): void {
    this.#checkOpen(syscall);
    this.machine.spend(this.machine.costs.perCallNs);
  }

  /** Starts one operation; returns the errno of an injected failure, or 0. */
  protected begin(kind: OperationKind): number {
    // An observer may have closed the context in the middle of a batch.
    this.#checkOpen(kind);
    this.#counts[kind]++;
    if (kind === 'map') this.machine.spend(this.machine.costs.perMapNs);
    return this.machine.faults.take(kind, this.group);
  }

  /** Ends one operation and tells the observers. */
  protected end(kind: OperationKind, iova: number, pages: number, errno: number): void {
    if (errno !== 0) this.#refusals++;
    if (!this.machine.observed) return;
    const operation = this.#operation;
    operation.kind = kind;
    operation.iova = iova;
    operation.pages = pages;
    operation.errno = errno;
    this.machine.notify(operation);
  }

  #checkOpen(syscall: string): void {
    if (!this.#closed) return;
    throw new HostError('ERR_VIOMMU_HOST_CLOSED', `${this.name} is closed`, { errno: 0, syscall });
  }
}

/** Page number of a byte address, rounded down. */
export function toPages(bytes: bigint): number {
  return Number(bytes / 4096n);
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
