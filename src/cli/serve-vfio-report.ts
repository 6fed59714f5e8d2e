// What `virtio-iommu serve` says of the host context of a passed-through function. Not here: emulated functions
// (serve-report.ts). Counts are host entries and pages of 4 KiB.
import type { ContextStats, IommuStats } from '../iommu/stats.ts';

/** The host context behind an endpoint; functions of one IOMMU group share it. */
export interface HostReport {
  readonly name: string;
  /** Other contexts whose devices use the same address space: entries and pages are those of them all. */
  readonly sharedWith: readonly string[];
  /** What the context mirrors now: a domain, bypass, or nothing. */
  readonly state: ContextStats['state'];
  /** Entries in use and what the host gives, Infinity (null in JSON) without a limit. */
  readonly entries: number;
  readonly limit: number;
  /** Pages that the entries cover. */
  readonly pages: number;
  /** True while no device of the group can do DMA. */
  readonly quiet: boolean;
  /** Planned entries that are not yet installed because the context is quiet. */
  readonly planned: number;
}

/** The host context of an endpoint, null for an emulated function. */
export function hostReport(stats: IommuStats, endpoint: number): HostReport | null {
  const found = stats.contexts.find(({ endpoints }) => endpoints.includes(endpoint));
  if (found === undefined) return null;
  const { name, sharedWith, state, entries, limit, pages, quiet, planned } = found;
  return { name, sharedWith, state, entries, limit, pages, quiet, planned };
}

/** In a few words. */
export function hostText({ name, sharedWith, state, entries, planned, quiet }: HostReport): string {
  const waits = planned === 0 ? '' : ` and ${planned} planned`;
  const what = state === 'blocked' ? 'BLOCKED' : `${entries} host entries${waits}`;
  return `${what}, ${quiet ? 'quiet' : 'live'} (${[name, ...sharedWith].join(' + ')})`;
}
