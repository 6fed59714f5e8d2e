// Injected failures of host operations: "the n-th operation from now is refused with this errno".
// A refused operation has changed nothing; which operations count can be narrowed to a kind and a group.
import { checkInteger, checkOneOf, checkOptions } from '../../base/check.ts';

/**
 * The operations of a host context that count, each map, gather (a `map`) and unmap of a batch for itself; `window`: each
 * window that buildWindows builds; attach: iommufd.
 */
export type OperationKind = 'map' | 'unmap' | 'window' | 'unmapAll' | 'clearBusMaster' | 'resetDevices' | 'attach';

const KINDS: readonly OperationKind[] = [
  'map',
  'unmap',
  'window',
  'unmapAll',
  'clearBusMaster',
  'resetDevices',
  'attach',
];

/** Which operations an injected failure counts and hits. */
export interface FaultSelection {
  /** Only this kind; default all. */
  readonly kind?: OperationKind;
  /** Only the context of this group; default all. */
  readonly group?: number;
  /** How many matching operations fail in a row from the n-th on; default 1, Infinity for ever. */
  readonly times?: number;
}

interface PlannedFault {
  readonly errno: number;
  readonly kind: OperationKind | undefined;
  readonly group: number | undefined;
  wait: number;
  times: number;
}

/** The queue of failures of one simulated host. */
export class FaultPlan {
  #planned: PlannedFault[] = [];
  /** Operations refused by injection so far. */
  injected = 0;

  /** Failures that have not happened yet. */
  get pending(): number {
    return this.#planned.length;
  }

  /**
   * Plans that the `n`-th matching operation from now (1 = the next one) fails with `errno`. Several may be planned;
   * when two are due at once the one planned first happens, the other one at the next matching operation.
   */
  failAt(n: number, errno: number, selection: FaultSelection = {}): void {
    checkOptions('selection', selection, ['kind', 'group', 'times']);
    const times = selection.times ?? 1;
    this.#planned.push({
      errno: checkInteger('errno', errno, 1, 4095),
      kind: selection.kind === undefined ? undefined : checkOneOf('kind', selection.kind, KINDS),
      group: selection.group === undefined ? undefined : checkInteger('group', selection.group, 0, 2 ** 31 - 1),
      wait: checkInteger('n', n, 1, Number.MAX_SAFE_INTEGER),
      times: times === Infinity ? times : checkInteger('times', times, 1, Number.MAX_SAFE_INTEGER),
    });
  }

  /** Forgets all planned failures. */
  clear(): void {
    this.#planned = [];
  }

  /** Counts one operation; returns the errno with which it fails, or 0. */
  take(kind: OperationKind, group: number): number {
    if (this.#planned.length === 0) return 0;
    let due: PlannedFault | undefined;
    for (const fault of this.#planned) {
      if ((fault.kind ?? kind) !== kind || (fault.group ?? group) !== group) continue;
      if (fault.wait > 0) fault.wait--;
      if (fault.wait === 0) due ??= fault;
    }
    if (due === undefined) return 0;
    due.times--;
    this.injected++;
    if (due.times === 0) this.#planned = this.#planned.filter((fault) => fault !== due);
    return due.errno;
  }
}
