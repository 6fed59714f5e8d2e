// One address space of the host and what it mirrors: blocked, bypass or a guest domain (a MirrorSource). One context uses
// it, or several that can share one (SharingContext). Every change of the host passes through here, so that the table of
// entries is always what the host was told.
// Not here: what a plan wants (install.ts, removal.ts, demotion.ts, compaction.ts).
// Unit: 4 KiB page numbers, half-open.
import { Errno } from '../base/errors.ts';
import type { HostContext } from '../host/context.ts';
import { HostBatch, HostOp } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import type { Backing } from './backing.ts';
import { Budget } from './budget.ts';
import { compact } from './compaction.ts';
import { HostEntries } from './host-entries.ts';
import { InstallPlan } from './install.ts';
import { admitSource } from './admission.ts';
import { replay } from './replay.ts';
import type { PlanSettings, Policy } from './settings.ts';
import { reinstallRevoked } from './revocation.ts';
import { compactsLive, joinsWhenQuiet } from './settings.ts';
import { mayGather } from './stretch.ts';
import type { MappingSource, MirrorSource } from './source.ts';
import type { WindowReason } from './tally.ts';
import { PlanTally } from './tally.ts';
import { WaitingStretches } from './waiting.ts';

/** How a context is kept from DMA: by having no entries, or, when the host refuses that, by stronger means. */
export type BlockedBy = 'nothing' | 'no entries' | 'bus master' | 'device reset' | 'fatal';

/** What the rest of the device hears about a context; every call is rare. */
export interface MirrorObserver {
  /** The context was blocked: `operation` on [iova, iova + pages) failed with `errno`; `iova` is -1 where there is no range. */
  blocked(mirror: ContextMirror, operation: string, errno: number, iova: number, pages: number): void;
  /** Nothing could stop the devices of these contexts: the embedder must. */
  fatal(mirror: ContextMirror, contexts: readonly HostContext[], errno: number): void;
  /** Live mappings in [iova, iova + pages) lost access for `ms` milliseconds; undefined: until entries come free. */
  window(mirror: ContextMirror, reason: WindowReason, iova: number, pages: number, ms: number | undefined): void;
  /** Entries run short for the first time since there was plenty. */
  budgetLow(mirror: ContextMirror): void;
  /** Quiet (or, under `lossy`, live) entries were put together. */
  compacted(mirror: ContextMirror, before: number): void;
}

/** Mirrors one source into one address space. Not reentrant. */
export class ContextMirror {
  /** The contexts whose devices use the address space. */
  contexts: readonly HostContext[];
  /** The one of {@link contexts} through which it is changed. */
  context: HostContext;
  readonly backing: Backing;
  readonly settings: PlanSettings;
  readonly observer: MirrorObserver;
  readonly entries = new HostEntries();
  /** Stretches of the mirrored domain that no entry shows. */
  readonly waiting = new WaitingStretches();
  readonly tally = new PlanTally();
  readonly budget: Budget;
  readonly plan: InstallPlan;
  /** What is mirrored; undefined when blocked. */
  source: MirrorSource | undefined;
  blockedBy: BlockedBy = 'no entries';
  /** True when none of the contexts' devices can do DMA. */
  quiet = false;
  /** True once the embedder has told a bus-master bit. */
  quietKnown = false;
  /** True when scattered pages can stand in a window of this context. */
  readonly gathers: boolean;
  readonly #batch = new HostBatch();
  readonly #undo = new HostBatch();
  readonly #capFactor: number;

  constructor(
    context: HostContext,
    backing: Backing,
    observer: MirrorObserver,
    capFactor: number,
    settings: PlanSettings,
  ) {
    this.contexts = [context];
    this.context = context;
    this.backing = backing;
    this.observer = observer;
    this.settings = settings;
    this.#capFactor = capFactor;
    this.gathers = mayGather(this);
    this.budget = new Budget(this);
    this.plan = new InstallPlan(this);
  }

  /** Names of all {@link contexts}, for messages. */
  get name(): string {
    return this.contexts.map(({ name }) => name).join(' + ');
  }

  /** The devices of one more context use the address space now. */
  admit(context: HostContext): void {
    this.contexts = [...this.contexts, context];
  }

  /** The devices of a context use another address space now. */
  dismiss(context: HostContext): void {
    this.contexts = this.contexts.filter((other) => other !== context);
    this.context = this.contexts[0] ?? context;
  }

  /** The mirrored domain; undefined when blocked or in bypass. */
  get mappings(): MappingSource | undefined {
    const { source } = this;
    return source?.kind === 'domain' ? (source as MappingSource) : undefined;
  }

  /** True when nothing is mirrored; a method, since any call that reaches the host may block the context. */
  isBlocked(): boolean {
    return this.source === undefined;
  }

  /** True when no device can notice that entries change: none can do DMA, or the context is being switched. */
  get undisturbed(): boolean {
    return this.quiet || this.blockedBy !== 'nothing';
  }

  /** RAM pages installed. */
  get pages(): number {
    return this.entries.pages;
  }

  /** Most RAM pages that may be installed or planned at a time. */
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
    this.#statePeak(batch, from);
    const stopped = this.context.apply(batch, from);
    const tried = Math.min(stopped + 1, batch.count);
    for (let i = from; i < tried; i++) {
      if (batch.kind[i] === HostOp.unmap) this.tally.unmapCalls++;
      else this.tally.mapCalls++;
    }
    for (let i = from; i < stopped; i++) {
      this.entries.record(batch, i);
      if (batch.kind[i] !== HostOp.unmap || batch.note[i] !== 0) this.#notePeak();
    }
    return stopped;
  }

  /** What the batch may come to, before it begins: its removals are not counted on. */
  #statePeak(batch: HostBatch, from: number): void {
    const { tally, entries } = this;
    let count = entries.size;
    let pages = entries.pages;
    for (let i = from; i < batch.count; i++) {
      if (batch.kind[i] === HostOp.unmap) {
        // One that cuts an entry in the middle makes two of it.
        if (batch.note[i] !== 0) count++;
        continue;
      }
      count++;
      pages += batch.pages[i]!;
    }
    if (count > tally.statedEntries) tally.statedEntries = count;
    if (pages > tally.statedPages) tally.statedPages = pages;
  }

  /** Removes the entries that map operations `from`..`to - 1` of `batch` made. Blocks the context if the host refuses. */
  undoMaps(batch: HostBatch, from: number, to: number): void {
    const undo = this.#undo;
    undo.clear();
    for (let i = from; i < to; i++) {
      if (batch.kind[i] === HostOp.map) undo.unmap(batch.iova[i]!, batch.pages[i]!);
    }
    const stopped = this.apply(undo, 0);
    if (stopped < undo.count) this.block('undo of MAP', undo.errno[stopped]!, undo.iova[stopped]!, undo.pages[stopped]);
  }

  /** Removes the entries inside [iova, iova + pages), none of which reaches over an end; blocks if the host refuses. */
  unmapRange(iova: number, pages: number): void {
    if (this.entries.isFree(iova, iova + pages)) return;
    const undo = this.#undo;
    undo.clear();
    undo.unmap(iova, pages);
    if (this.apply(undo, 0) === 0) this.block('UNMAP', undo.errno[0]!, iova, pages);
  }

  /**
   * Makes the context mirror `next`. Counts are checked before anything is touched. Returns 0, or the errno of a
   * refusal: then the former source is mirrored again when `mayRestore`, and the context is blocked otherwise or when
   * that fails too.
   */
  switchTo(next: MirrorSource, mayRestore: boolean): number {
    if (this.blockedBy === 'fatal') return Errno.EIO;
    const former = mayRestore ? this.source : undefined;
    const refused = admitSource(this, next) || this.#empty();
    if (refused !== 0) {
      if (!mayRestore) this.block('switch', refused, NONE);
      return refused;
    }
    const errno = this.#install(next);
    if (errno === 0) return 0;
    if (this.source === undefined) return errno; // an undo was refused too: blocked, and told
    const emptied = this.#empty();
    this.source = undefined;
    if (emptied === 0 && former !== undefined && this.#install(former) === 0) return errno;
    this.source = undefined;
    // Nothing to restore and nothing left: blocked as before.
    if (former === undefined && emptied === 0 && mayRestore) return errno;
    this.block('switch', errno, NONE);
    return errno;
  }

  /** Blocks the context on purpose (its guest state gives it nothing); a refusal escalates and is told as in {@link block}. */
  quiesce(): void {
    if (this.source === undefined && this.blockedBy !== 'nothing') return;
    this.source = undefined;
    const errno = this.#stop();
    if (errno === 0) return;
    this.tally.blocks++;
    this.observer.blocked(this, 'UNMAP_ALL', errno, NONE, 0);
  }

  /** Blocks the context because `operation` failed, and tells the observer. */
  block(operation: string, errno: number, iova: number, pages = 0): void {
    this.source = undefined;
    this.tally.blocks++;
    this.#stop();
    this.observer.blocked(this, operation, errno, iova, pages);
  }

  /**
   * Called before a device of a blocked context gets its bus-master bit back: entries that the host would not remove
   * must go first. False when they cannot be removed: the bit must stay clear.
   */
  mayEnableBusMaster(): boolean {
    if (this.source !== undefined || this.blockedBy === 'no entries') return true;
    const fatal = this.blockedBy === 'fatal';
    if (this.#empty() !== 0) return false;
    if (fatal) this.blockedBy = 'fatal';
    return true;
  }

  /** Takes over whether any device can do DMA; a context that wakes gets all that was planned for it first. */
  setQuiet(quiet: boolean): void {
    if (quiet === this.quiet) return;
    if (quiet) {
      this.quiet = true;
      this.budget.relieved(Infinity);
      if (this.mappings !== undefined && this.budget.isLow) this.relieve();
      return;
    }
    // Before the first device can see it.
    if (this.mappings !== undefined) this.plan.installPlanned('installation of planned mappings');
    this.quiet = false;
    reinstallRevoked(this);
  }

  /** Before the policy changes: what was planned under one that joins is made by it, when the next one does not. */
  policyChanges(next: Policy): void {
    if (!joinsWhenQuiet(next) && this.mappings !== undefined) this.plan.installPlanned('change of policy');
  }

  /** {@link relieve} before there is need, when enough came together for it to pay. */
  relieveEarly(): void {
    if (this.budget.compactionPays) this.relieve();
  }

  /**
   * Makes room after the host had none, or when little is left: puts entries together where nobody is disturbed, or where
   * the policy allows it. Returns true when entries came free.
   */
  relieve(): boolean {
    const { settings, budget } = this;
    const mayDisturb = this.undisturbed || compactsLive(settings.policy);
    if (budget.exhausted || settings.policy === 'forward' || !mayDisturb) return false;
    const before = this.entries.size;
    if (!budget.changedSinceCompaction) return false;
    compact(this);
    budget.compacted(before);
    if (this.source === undefined || this.entries.size >= before) return false;
    this.observer.compacted(this, before);
    return true;
  }

  /** Forgets a fatal block (system reset): the next switch tries the host again. */
  forgive(): void {
    if (this.blockedBy === 'fatal') this.#stop();
  }

  /** Installs `next`, which is mirrored from now on unless the host refuses; returns 0 or errno. */
  #install(next: MirrorSource): number {
    this.source = next;
    const errno = replay(this, next);
    if (errno === 0 && this.source === next) {
      this.blockedBy = 'nothing';
      this.#notePeak();
    }
    return errno;
  }

  /** UNMAP_ALL; returns 0 or errno, with nothing changed. */
  #empty(): number {
    this.tally.unmapAllCalls++;
    const errno = this.context.unmapAll();
    if (errno === 0) {
      this.blockedBy = 'no entries';
      this.entries.clear();
      this.waiting.clear();
      this.plan.forget();
      this.budget.relieved(Infinity);
    }
    return errno;
  }

  /** Stops all DMA by the mildest means that the host grants; returns 0, or the errno with which it kept the entries. */
  #stop(): number {
    const errno = this.#empty();
    if (errno === 0) return 0;
    const masters = this.contexts.filter((context) => context.clearBusMaster() !== 0);
    const unstopped = masters.filter((context) => context.resetDevices() !== 0);
    if (masters.length === 0) this.blockedBy = 'bus master';
    else if (unstopped.length === 0) this.blockedBy = 'device reset';
    else {
      this.blockedBy = 'fatal';
      this.observer.fatal(this, unstopped, errno);
    }
    this.waiting.clear();
    this.plan.forget();
    return errno;
  }

  #notePeak(): void {
    const { tally, source } = this;
    const { size } = this.entries;
    if (size > tally.entriesPeak) tally.entriesPeak = size;
    if (size > tally.domainEntriesPeak && source?.kind === 'domain') tally.domainEntriesPeak = size;
  }
}
