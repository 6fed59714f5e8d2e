// What all contexts of one simulated host share: the VMM process's memory and locked pages, injected failures,
// the cost model and the observers of single operations.
import type { SimulatedAddressSpace } from './address-space.ts';
import type { HostContext } from '../context.ts';
import type { OperationKind } from './fault-plan.ts';
import { FaultPlan } from './fault-plan.ts';

/** Simulated durations in nanoseconds, default 0 each; nothing really waits. */
export interface HostCosts {
  /** Per call of a context's method, for example one `apply` of a whole batch. */
  readonly perCallNs?: number;
  /** Per map operation, refused ones included. */
  readonly perMapNs?: number;
  /** Per entry removed, and once for an unmap that removes nothing. */
  readonly perUnmapNs?: number;
  /** Per 4 KiB page pinned or unpinned. */
  readonly perPageNs?: number;
  /** Per piece of a window, to build and to drop it. */
  readonly perPieceNs?: number;
}

/** One executed or refused operation, as an observer sees it; the record is reused: copy what you keep. */
export interface SimulatedOperation {
  readonly context: HostContext;
  readonly kind: OperationKind;
  /** First I/O virtual page; 0 for operations on everything. */
  readonly iova: number;
  /** Pages asked for; 0 for operations on everything. */
  readonly pages: number;
  /** 0 or the errno of the refusal. */
  readonly errno: number;
}

/** Receives each operation after it; what it throws reaches the caller of the context. */
export type OperationObserver = (operation: SimulatedOperation) => void;

/** The shared parts of one simulated host. */
export class Machine {
  readonly addressSpace: SimulatedAddressSpace;
  readonly faults = new FaultPlan();
  readonly costs: Required<HostCosts>;
  /** Simulated time spent in host calls. */
  elapsedNs = 0;
  /** Pages locked by all contexts together. */
  lockedPages = 0;
  lockedPagesPeak = 0;
  /** Those of {@link lockedPages} that count for the user (user->locked_vm, iommufd); the others count for the mm (type1). */
  userPages = 0;
  readonly #advance: ((ns: number) => void) | undefined;
  #observers: readonly OperationObserver[] = [];

  constructor(addressSpace: SimulatedAddressSpace, costs: HostCosts, advance: ((ns: number) => void) | undefined) {
    this.addressSpace = addressSpace;
    this.costs = { perCallNs: 0, perMapNs: 0, perUnmapNs: 0, perPageNs: 0, perPieceNs: 0, ...costs };
    this.#advance = advance;
  }

  /** Adds simulated time. */
  spend(ns: number): void {
    if (ns === 0) return;
    this.elapsedNs += ns;
    this.#advance?.(ns);
  }

  /** Locked pages of the process (mm->locked_vm). */
  get processPages(): number {
    return this.lockedPages - this.userPages;
  }

  /** Accounts pages as locked by the process, or by its user (negative: no longer locked). */
  lock(pages: number, forUser = false): void {
    if (forUser) this.userPages += pages;
    this.lockedPages += pages;
    if (this.lockedPages > this.lockedPagesPeak) this.lockedPagesPeak = this.lockedPages;
  }

  /** True when someone observes operations. */
  get observed(): boolean {
    return this.#observers.length > 0;
  }

  /** Adds an observer and returns the function that removes it. */
  observe(observer: OperationObserver): () => void {
    const entry: OperationObserver = (operation) => observer(operation);
    this.#observers = [...this.#observers, entry];
    return () => {
      this.#observers = this.#observers.filter((other) => other !== entry);
    };
  }

  /** Tells all observers, in order of subscription. */
  notify(operation: SimulatedOperation): void {
    for (const observer of this.#observers) observer(operation);
  }
}
