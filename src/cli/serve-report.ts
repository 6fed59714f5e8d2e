// What `virtio-iommu serve` says of itself, as one object. Not here: the same as Prometheus text (serve-prometheus.ts), who asks
// (serve-sockets.ts), how a person sees it (serve-status.ts).
import type { IommuStats } from '../iommu/stats.ts';
import type { AccessCounts } from './serve-observed-dma.ts';
import type { FunctionServerStats, ServeMachine } from './serve-machine.ts';
import type { HostReport } from './serve-vfio-report.ts';
import { hostReport } from './serve-vfio-report.ts';

/** One function. */
export interface FunctionReport {
  readonly name: string;
  readonly device: string;
  readonly addr: string;
  readonly endpoint: number | null;
  readonly socket: string;
  readonly server: FunctionServerStats;
  /** Counters of the device; those of the IOMMU stand in {@link ServeReport.iommu}. */
  readonly stats: object | null;
  /** Accesses through the IOMMU; null for a function that is not translated, or whose DMA the host does. */
  readonly dma: AccessCounts | null;
  /** What the IOMMU does with the endpoint now; null for the IOMMU itself. */
  readonly translation: EndpointReport | null;
  /** The host context of a passed-through function, else null. */
  readonly host: HostReport | null;
}

/** State of an endpoint. */
export interface EndpointReport {
  /** Domain it is attached to, null without one. */
  readonly domain: number | null;
  /** True when its accesses pass untranslated: a bypass domain, or no domain while config.bypass is 1. */
  readonly bypass: boolean;
  /** Mappings of its domain. */
  readonly mappings: number;
  readonly faults: number;
}

/** Everything. */
export interface ServeReport {
  readonly seconds: number;
  readonly iommu: IommuStats & { readonly bypass: number };
  readonly functions: readonly FunctionReport[];
  readonly record: { readonly records: number; readonly dropped: number; readonly failed: string | null } | null;
  /** Log lines that were kept back. */
  readonly linesSuppressed: number;
}

/** The state now; `seconds` since the start. */
export function serveReport(machine: ServeMachine, seconds: number, linesSuppressed: number): ServeReport {
  const { core } = machine.iommu;
  const stats = core.stats();
  return {
    seconds,
    iommu: { ...stats, bypass: core.shownBypass },
    functions: machine.functions.map((each) => ({
      name: each.name,
      device: each.device,
      addr: each.addr,
      endpoint: each.endpoint ?? null,
      socket: each.socket,
      server: each.server.stats(),
      stats: each.endpoint === undefined ? null : each.stats(),
      dma: each.dma() ?? null,
      translation: each.endpoint === undefined ? null : endpointReport(machine, each.endpoint),
      host: each.endpoint === undefined ? null : hostReport(stats, each.endpoint),
    })),
    record: machine.writer?.stats() ?? null,
    linesSuppressed,
  };
}

function endpointReport(machine: ServeMachine, id: number): EndpointReport {
  const { state } = machine.iommu.core;
  const endpoint = state.endpoints.get(id);
  const domain = endpoint?.domain;
  return {
    domain: domain?.id ?? null,
    bypass: domain === undefined ? state.bypassesUnattached : domain.bypass,
    mappings: domain?.table.size ?? 0,
    faults: endpoint?.faults ?? 0,
  };
}

/** JSON in one line; a bigint becomes a number where that is exact, else a hex text. Infinity becomes null. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => {
    if (typeof item !== 'bigint') return item;
    return item <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(item) : `0x${item.toString(16)}`;
  });
}
