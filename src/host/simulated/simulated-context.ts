// What the simulated type1 container and the simulated iommufd attachment share: batches, counters, injected failures,
// observers, devices and close. Not here: which maps and unmaps are refused, and what they pin (the two subclasses).
// Unit: 4 KiB page numbers, ends exclusive.
import { checkInteger } from '../../base/check.ts';
import { Errno, HostError } from '../../base/errors.ts';
import type { IntervalTable } from '../../intervals/table.ts';
import { NONE } from '../../intervals/table.ts';
import { checkBatch } from '../batch-check.ts';
import type { HostBatch, HostContext, HostLimits } from '../context.ts';
import { HostOp, HostRight } from '../context.ts';
import type { SimulatedDevice } from './device.ts';
import type { OperationKind } from './fault-plan.ts';
import type { Machine } from './machine.ts';
import { DmaProber } from './prober.ts';
import type { KernelVersion } from './type1-rules.ts';
import { WindowPool } from './window-pool.ts';

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
  /** Maps and gathers. */
  readonly mapCalls: number;
  readonly unmapCalls: number;
  readonly unmapAllCalls: number;
  /** Windows that were tried, refused ones included. */
  readonly windowCalls: number;
  /** Operations that ended with an errno, injected ones included. */
  readonly refusals: number;
  readonly entries: number;
  readonly entriesPeak: number;
  /** Pages pinned by the live entries, counted once per entry; of type1, whose locked memory this is, no device memory. */
  readonly pinnedPages: number;
  /** Number of IOPTEs by size in bytes. */
  readonly ioptes: ReadonlyMap<bigint, number>;
  /** Windows that stand now: built, and neither mapped nor dropped. */
  readonly windows: number;
  /** Pieces of those windows. */
  readonly windowPieces: number;
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
  protected abstract readonly live: IntervalTable;
  protected abstract readonly pinnedPages: number;
  protected readonly devices: readonly SimulatedDevice[];
  /** Pages that the last removal took away. */
  protected removedPages = 0;
  readonly #onClose: () => void;
  readonly #windows: WindowPool | undefined;
  readonly #counts = { map: 0, unmap: 0, window: 0, unmapAll: 0, clearBusMaster: 0, resetDevices: 0, attach: 0 };
  readonly #operation: { context: HostContext; kind: OperationKind; iova: number; pages: number; errno: number };
  #refusals = 0;
  #entriesPeak = 0;
  #closed = false;

  constructor(name: string, machine: Machine, settings: ContextSettings) {
    this.name = `${name} group ${settings.group}`;
    this.group = settings.group;
    this.limits = settings.limits;
    this.machine = machine;
    this.devices = settings.devices;
    const { windowPieces } = settings.limits;
    this.#windows = windowPieces > 0 ? new WindowPool(machine.addressSpace, windowPieces) : undefined;
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
   * See {@link HostContext.buildWindows}; a gather whose window stands already keeps it. The errno of a piece is that of
   * {@link SimulatedAddressSpace.alias}.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  buildWindows(batch: HostBatch, from: number): number {
    this.checkOpen('buildWindows');
    checkInteger('from', from, 0, batch.count);
    if (checkBatch(batch, from) === 0) return batch.count;
    this.enter('buildWindows');
    const built: number[] = [];
    for (let i = from; i < batch.count; i++) {
      if (batch.kind[i] !== HostOp.gather || this.#isBuilt(batch, i)) continue;
      const errno = this.#buildWindow(batch, i);
      batch.errno[i] = errno;
      if (errno !== 0) {
        for (const index of built) this.#dropWindow(batch, index);
        return i;
      }
      built.push(i);
    }
    return batch.count;
  }

  dropWindows(batch: HostBatch): void {
    this.checkOpen('dropWindows');
    for (let i = 0; i < batch.count; i++) if (batch.kind[i] === HostOp.gather) this.#dropWindow(batch, i);
  }

  /**
   * See {@link HostContext.apply}; each operation follows the map and unmap calls of the flavour.
   * @throws RangeError, before anything changes, when `from` or a column of `batch` is not legal.
   */
  apply(batch: HostBatch, from: number): number {
    this.enter('apply');
    checkInteger('from', from, 0, batch.count);
    checkBatch(batch, from);
    for (let i = from; i < batch.count; i++) {
      const errno = batch.kind[i] === HostOp.unmap ? this.#applyUnmap(batch, i) : this.#applyMap(batch, i);
      batch.errno[i] = errno;
      this.end(batch.kind[i] === HostOp.unmap ? 'unmap' : 'map', batch.iova[i]!, batch.pages[i]!, errno);
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
    this.release();
    this.#windows?.close();
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
      windowCalls: this.#counts.window,
      refusals: this.#refusals,
      entries: this.live.size,
      entriesPeak: this.#entriesPeak,
      pinnedPages: this.pinnedPages,
      ioptes: this.ioptes(),
      windows: this.#windows?.size ?? 0,
      windowPieces: this.#windows?.pieces ?? 0,
    };
  }

  /** Maps with the rules of the flavour; returns 0, or the errno with which nothing has changed. */
  protected abstract mapPages(iova: number, pages: number, va: number, rights: number): number;

  /** Unmaps with the rules of the flavour and sets {@link removedPages}; returns 0 or errno. */
  protected abstract unmapPages(iova: number, pages: number): number;

  /** Removes every entry; returns 0. */
  protected abstract removeAll(): number;

  /** Gives up, when the context is closed, what its devices have reached. */
  protected abstract release(): void;

  /** Number of IOPTEs by size in bytes. */
  protected abstract ioptes(): ReadonlyMap<bigint, number>;

  /** To be told of the number of entries when it grows. */
  protected seeEntries(count: number): void {
    if (count > this.#entriesPeak) this.#entriesPeak = count;
  }

  /** Adds the cost of a removal of `entries` entries. */
  protected spendRemoval(entries: number): void {
    const { costs } = this.machine;
    this.machine.spend(costs.perUnmapNs * Math.max(entries, 1) + costs.perPageNs * this.removedPages);
  }

  /** Throws ERR_VIOMMU_HOST_CLOSED after close. */
  protected checkOpen(syscall: string): void {
    if (!this.#closed) return;
    throw new HostError('ERR_VIOMMU_HOST_CLOSED', `${this.name} is closed`, { errno: 0, syscall });
  }

  /** Starts a call; throws ERR_VIOMMU_HOST_CLOSED after close. */
  protected enter(syscall: string): void {
    this.checkOpen(syscall);
    this.machine.spend(this.machine.costs.perCallNs);
  }

  /** Starts one operation; returns the errno of an injected failure, or 0. */
  protected begin(kind: OperationKind): number {
    // An observer may have closed the context in the middle of a batch.
    this.checkOpen(kind);
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

  #applyMap(batch: HostBatch, i: number): number {
    const rights = batch.rights[i]! & RIGHTS;
    const injected = this.begin('map');
    if (batch.kind[i] === HostOp.map) {
      return injected || this.mapPages(batch.iova[i]!, batch.pages[i]!, batch.va[i]!, rights);
    }
    if (!this.#isBuilt(batch, i)) return injected || Errno.EINVAL;
    const errno = injected || this.mapPages(batch.iova[i]!, batch.pages[i]!, batch.window[i]!, rights);
    this.#dropWindow(batch, i);
    return errno;
  }

  #applyUnmap(batch: HostBatch, i: number): number {
    const errno = this.begin('unmap') || this.unmapPages(batch.iova[i]!, batch.pages[i]!);
    batch.done[i] = errno === 0 ? this.removedPages : 0;
    return errno;
  }

  #isBuilt(batch: HostBatch, i: number): boolean {
    return this.#windows?.has(batch.window[i]!, batch.pages[i]!) ?? false;
  }

  #buildWindow(batch: HostBatch, i: number): number {
    let errno = this.begin('window');
    if (errno === 0) {
      errno = this.#windows?.build(batch, i) ?? Errno.EOPNOTSUPP;
      this.machine.spend(this.machine.costs.perPieceNs * batch.pieces[i]!);
    }
    this.end('window', batch.iova[i]!, batch.pages[i]!, errno);
    return errno;
  }

  #dropWindow(batch: HostBatch, i: number): void {
    if (!this.#isBuilt(batch, i)) return;
    this.#windows!.drop(batch.window[i]!);
    batch.window[i] = 0;
  }
}

/** Page number of a byte address, rounded down. */
export function toPages(bytes: bigint): number {
  return Number(bytes / 4096n);
}
