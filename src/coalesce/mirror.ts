// One host context and what it mirrors: blocked, bypass or a guest domain (a MirrorSource).
// Keeps the table of live host entries in step with the host; every change of the host passes through here.
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import type { HostContext } from '../host/context.ts';
import { HOST_MMIO, HostBatch, HostOp } from '../host/context.ts';
import { IntervalTable, NONE } from '../intervals/table.ts';
import type { Backing } from './backing.ts';
import type { MirrorSource } from './source.ts';
import { measure } from './source.ts';

/** How a context is kept from DMA: by having no entries, or, when the host refuses that, by stronger means. */
export type BlockedBy = 'nothing' | 'no entries' | 'bus master' | 'device reset' | 'fatal';

/** What the rest of the device hears about a context; every call is rare. */
export interface MirrorObserver {
  /** The context was blocked because an operation failed; `errno` of that operation, `iova` page or -1. */
  blocked(mirror: ContextMirror, operation: string, errno: number, iova: number): void;
  /** Nothing could stop the context's devices: the embedder must. */
  fatal(mirror: ContextMirror, errno: number): void;
}

/** Entries are installed in chunks of this many operations. */
const CHUNK = 1024;

/** Mirrors one source into one host context. Not reentrant. */
export class ContextMirror {
  readonly context: HostContext;
  readonly backing: Backing;
  /** Live host entries: I/O virtual pages -> host virtual page; flags = rights. */
  readonly entries = new IntervalTable();
  /** What is mirrored; undefined when blocked. */
  source: MirrorSource | undefined;
  blockedBy: BlockedBy = 'no entries';
  /** RAM pages of live entries. */
  pages = 0;
  mapCalls = 0;
  unmapCalls = 0;
  unmapAllCalls = 0;
  entriesPeak = 0;
  /** Highest number of entries while a domain was mirrored (bypass is counted apart). */
  domainEntriesPeak = 0;
  blocks = 0;
  readonly #observer: MirrorObserver;
  readonly #batch = new HostBatch();
  readonly #undo = new HostBatch();
  readonly #capFactor: number;

  constructor(context: HostContext, backing: Backing, observer: MirrorObserver, capFactor: number) {
    this.context = context;
    this.backing = backing;
    this.#observer = observer;
    this.#capFactor = capFactor;
  }

  /** Most RAM pages that may be installed at a time. */
  get pageCap(): number {
    return this.backing.ramPages * this.#capFactor;
  }

  /** The batch of the current plan; valid until the next plan. */
  get batch(): HostBatch {
    return this.#batch;
  }

  /** Applies `batch` from `from` on and records what was done; returns the index of the refused operation or `count`. */
  apply(batch: HostBatch, from: number): number {
    if (from === batch.count) return from;
    const stopped = this.context.apply(batch, from);
    const tried = Math.min(stopped + 1, batch.count);
    for (let i = from; i < tried; i++) {
      if (batch.kind[i] === HostOp.map) this.mapCalls++;
      else this.unmapCalls++;
    }
    for (let i = from; i < stopped; i++) this.#record(batch, i);
    return stopped;
  }

  /** Removes the entries that map operations `from`..`to - 1` of `batch` made. Blocks the context if the host refuses. */
  undoMaps(batch: HostBatch, from: number, to: number): void {
    const undo = this.#undo;
    undo.clear();
    for (let i = from; i < to; i++) {
      if (batch.kind[i] === HostOp.map) undo.unmap(batch.iova[i]!, batch.pages[i]!);
    }
    const stopped = this.apply(undo, 0);
    if (stopped < undo.count) this.block('undo of MAP', undo.errno[stopped]!, undo.iova[stopped]!);
  }

  /** Removes the entries inside [iova, iova + pages), if there are any; blocks the context if the host refuses. */
  unmapRange(iova: number, pages: number): void {
    if (this.entries.isFree(iova, iova + pages)) return;
    const undo = this.#undo;
    undo.clear();
    undo.unmap(iova, pages);
    if (this.apply(undo, 0) === 0) this.block('UNMAP', undo.errno[0]!, iova);
  }

  /**
   * Makes the context mirror `next`. Counts are checked before anything is touched. Returns 0, or the errno of a
   * refusal: then the former source is mirrored again when `mayRestore`, and the context is blocked otherwise or when
   * that fails too.
   */
  switchTo(next: MirrorSource, mayRestore: boolean): number {
    if (this.blockedBy === 'fatal') return Errno.EIO;
    const former = mayRestore ? this.source : undefined;
    const refused = this.#admit(next) || this.#empty();
    if (refused !== 0) {
      if (!mayRestore) this.block('switch', refused, NONE);
      return refused;
    }
    this.source = undefined;
    const errno = this.#install(next);
    if (errno === 0) {
      this.#become(next);
      return 0;
    }
    const emptied = this.#empty();
    if (emptied === 0 && former !== undefined && this.#install(former) === 0) {
      this.#become(former);
    } else if (former === undefined && emptied === 0 && mayRestore) {
      this.blockedBy = 'no entries';
    } else {
      this.block('switch', errno, NONE);
    }
    return errno;
  }

  /** Blocks the context on purpose (its guest state gives it nothing); a refusal escalates and is told as in {@link block}. */
  quiesce(): void {
    if (this.source === undefined && this.blockedBy !== 'nothing') return;
    this.source = undefined;
    const errno = this.#stop();
    if (errno === 0) return;
    this.blocks++;
    this.#observer.blocked(this, 'UNMAP_ALL', errno, NONE);
  }

  /** Blocks the context because `operation` failed, and tells the observer. */
  block(operation: string, errno: number, iova: number): void {
    this.source = undefined;
    this.blocks++;
    this.#stop();
    this.#observer.blocked(this, operation, errno, iova);
  }

  /**
   * Called before a device of a blocked context gets its bus-master bit back: entries that the host would not remove
   * must go first. False when they cannot be removed: the bit must stay clear.
   */
  mayEnableBusMaster(): boolean {
    if (this.source !== undefined || this.blockedBy === 'no entries') return true;
    if (this.#empty() !== 0) return false;
    if (this.blockedBy !== 'fatal') this.blockedBy = 'no entries';
    return true;
  }

  /** Forgets a fatal block (system reset): the next switch tries the host again. */
  forgive(): void {
    if (this.blockedBy === 'fatal') this.#stop();
  }

  /** Walks `source` restricted by `select` and installs what it selects beside the live entries; returns 0 or errno. */
  installPart(
    source: MirrorSource,
    appendSelected: (batch: HostBatch, iova: number, pages: number, gpa: number, rights: number) => void,
  ): number {
    const batch = this.#batch;
    batch.clear();
    let errno = 0;
    source.walk((iova, pages, gpa, rights) => {
      appendSelected(batch, iova, pages, gpa, rights);
      if (batch.count >= CHUNK) errno = this.#flushInstall(batch);
      return errno === 0;
    });
    return errno === 0 ? this.#flushInstall(batch) : errno;
  }

  #become(source: MirrorSource): void {
    this.source = source;
    this.blockedBy = 'nothing';
    this.#notePeak();
  }

  #admit(next: MirrorSource): number {
    const need = measure(next, this.backing, this.#undo, this.context.limits.entryLimit);
    if (need.entries > this.context.limits.entryLimit) return Errno.ENOSPC;
    return need.pages > this.pageCap ? Errno.ENOMEM : 0;
  }

  #install(source: MirrorSource): number {
    return this.installPart(source, (batch, iova, pages, gpa, rights) => {
      this.backing.appendPieces(batch, iova, pages, gpa, rights);
    });
  }

  #flushInstall(batch: HostBatch): number {
    const stopped = this.apply(batch, 0);
    const errno = stopped < batch.count ? batch.errno[stopped]! : 0;
    batch.clear();
    return errno;
  }

  /** UNMAP_ALL; returns 0 or errno, with nothing changed. */
  #empty(): number {
    this.unmapAllCalls++;
    const errno = this.context.unmapAll();
    if (errno === 0) {
      this.entries.clear();
      this.pages = 0;
    }
    return errno;
  }

  /** Stops all DMA by the mildest means that the host grants; returns 0, or the errno with which it kept the entries. */
  #stop(): number {
    const errno = this.#empty();
    if (errno === 0) this.blockedBy = 'no entries';
    else if (this.context.clearBusMaster() === 0) this.blockedBy = 'bus master';
    else if (this.context.resetDevices() === 0) this.blockedBy = 'device reset';
    else {
      this.blockedBy = 'fatal';
      this.#observer.fatal(this, errno);
    }
    return errno;
  }

  #record(batch: HostBatch, i: number): void {
    const iova = batch.iova[i]!;
    const pages = batch.pages[i]!;
    if (batch.kind[i] === HostOp.map) {
      const rights = batch.rights[i]!;
      if (!this.entries.insert(iova, iova + pages, batch.va[i]!, rights)) throw new Error('host entries overlap');
      if ((rights & HOST_MMIO) === 0) this.pages += pages;
      this.#notePeak();
      return;
    }
    const slot = this.entries.seek(iova);
    if (slot !== NONE && this.entries.startAt(slot) === iova && this.entries.endAt(slot) === iova + pages) {
      if ((this.entries.flagsAt(slot) & HOST_MMIO) === 0) this.pages -= pages;
      this.entries.removeAt(slot);
      return;
    }
    this.pages -= this.#ramPagesOf(iova, iova + pages);
    if (this.entries.removeRange(iova, iova + pages) < 0) throw new Error('host entries cut');
  }

  #ramPagesOf(start: number, end: number): number {
    const { entries } = this;
    let sum = 0;
    for (let slot = entries.seek(start); slot !== NONE && entries.startAt(slot) < end; slot = entries.next(slot)) {
      if ((entries.flagsAt(slot) & HOST_MMIO) === 0) sum += entries.endAt(slot) - entries.startAt(slot);
    }
    return sum;
  }

  #notePeak(): void {
    const { size } = this.entries;
    if (size > this.entriesPeak) this.entriesPeak = size;
    if (size > this.domainEntriesPeak && this.source?.kind === 'domain') this.domainEntriesPeak = size;
  }
}
