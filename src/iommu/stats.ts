// Counters of the device and the snapshot that stats() hands out.
import type { IommuState } from './state.ts';
import { STATUS_NAMES, statusName } from './status.ts';

/** Request types by wire value, as counter names; index 0 stands for unknown and unparsable ones. */
export const REQUEST_NAMES = ['unknown', 'attach', 'detach', 'map', 'unmap', 'probe'] as const;

/** Counters that requests and translation increment; plain numbers, exact up to 2^53. */
export class Counters {
  /** By request type (index as in REQUEST_NAMES). */
  readonly requests = new Float64Array(REQUEST_NAMES.length);
  /** By wire status. */
  readonly statuses = new Float64Array(STATUS_NAMES.length);
  /** Requests returned unwritten. */
  unwritten = 0;
  kicks = 0;
  /** Kicks that found nothing. */
  emptyKicks = 0;
  /** Requests refused by a host or a cap. */
  refused = 0;
  /** Host operations that were refused. */
  hostRefusals = 0;
  capRefusals = 0;
  contextBlocks = 0;
  contextsDiffering = 0;
  /** Segments that were committed, and those cut short because a request met an uncommitted one. */
  segments = 0;
  segmentCuts = 0;
  faults = 0;
  faultsReported = 0;
  faultsWithoutBuffer = 0;
  faultBuffersTooSmall = 0;
  faultsRateLimited = 0;
  faultsNotRunning = 0;
  translations = 0;
  deviceResets = 0;
  systemResets = 0;
  brokenRings = 0;
}

/** Counts the answer to a request; one that is not OK is announced as well. */
export function countStatus(state: IommuState, type: number, status: number): void {
  state.counters.statuses[status]!++;
  if (status !== 0 && state.events.active)
    state.events.emit({ type: 'request', request: REQUEST_NAMES[type]!, status: statusName(status) });
}

/** Statistics of one host context. */
export interface ContextStats {
  readonly name: string;
  readonly flavour: 'type1' | 'iommufd';
  /**
   * Other contexts whose devices use the same address space (one domain on iommufd). Figures and counters are those of the
   * address space: the same in the rows of all of them, and other ones when a context moves to another.
   */
  readonly sharedWith: readonly string[];
  readonly endpoints: readonly number[];
  readonly state: 'blocked' | 'bypass' | 'domain';
  /** By what means a blocked context is kept from DMA. */
  readonly blockedBy: string;
  /** Live host entries now, most ever, and most while a domain was mirrored. */
  readonly entries: number;
  readonly entriesPeak: number;
  readonly domainEntriesPeak: number;
  /** Highest number of entries that a plan stated before it began. */
  readonly statedPeak: number;
  /** Highest number of RAM pages, locked for the devices, that a plan stated before it began. */
  readonly statedPagesPeak: number;
  /** Most entries that the host allows, Infinity without a limit. */
  readonly limit: number;
  /** True when none of the context's devices can do DMA. */
  readonly quiet: boolean;
  /** Mappings of the mirrored domain. */
  readonly guestMappings: number;
  /** Live entries that join contiguous mappings, and those that stand on a virtual window. */
  readonly joined: number;
  readonly gathered: number;
  /** Stretches that were answered OK on a quiet context and are not installed yet, and their pages of 4 KiB. */
  readonly planned: number;
  readonly plannedPages: number;
  /** Stretches whose access was taken away for want of room, and their pages. */
  readonly revoked: number;
  readonly revokedPages: number;
  /** Entries of each kind that were ever made. */
  readonly joinsMade: number;
  readonly gathersMade: number;
  /** Entries that a partial UNMAP took apart. */
  readonly demotions: number;
  /** Times in which live mappings had no access: how many, how many are still open, and the longest that is over. */
  readonly windows: { readonly count: number; readonly open: number; readonly longestMs: number };
  /** Replacements during which `pauseDma` stalled the devices. */
  readonly stalls: number;
  /** Times that entries began to run short, and compactions. */
  readonly lowWaterHits: number;
  readonly compactions: number;
  /** Host calls that a 1:1 plan would have made. */
  readonly callsSaved: number;
  /** Planned installations that the host refused. */
  readonly failedInstalls: number;
  /** RAM pages of 4 KiB installed. */
  readonly pages: number;
  readonly mapCalls: number;
  readonly unmapCalls: number;
  readonly unmapAllCalls: number;
  readonly blocks: number;
  readonly failedSwitches: number;
}

/** A snapshot of the device's counters. */
export interface IommuStats {
  readonly requests: Readonly<Record<(typeof REQUEST_NAMES)[number], number>>;
  readonly statuses: Readonly<Record<(typeof STATUS_NAMES)[number], number>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly domains: number;
  readonly endpoints: number;
  readonly mappings: number;
  /** Exceptions that event listeners threw. */
  readonly listenerErrors: number;
  readonly contexts: readonly ContextStats[];
}

/** Copies counters into plain objects. */
export function snapshotCounters(counters: Counters): Pick<IommuStats, 'requests' | 'statuses' | 'counters'> {
  const byName = <T extends string>(names: readonly T[], values: Float64Array): Record<T, number> =>
    Object.fromEntries(names.map((name, i) => [name, values[i]!])) as Record<T, number>;
  const plain: Record<string, number> = {};
  for (const [name, value] of Object.entries(counters)) if (typeof value === 'number') plain[name] = value;
  return {
    requests: byName(REQUEST_NAMES, counters.requests),
    statuses: byName(STATUS_NAMES, counters.statuses),
    counters: plain,
  };
}
