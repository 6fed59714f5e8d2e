// An endpoint: one device behind the IOMMU, its reserved regions and its place.
// Reserved regions are kept twice: as reported (bigint, inclusive) and as granule numbers (half-open).
import type { ReservedRegion } from '../base/reserved.ts';
import type { Domain } from './domain.ts';
import type { Granule } from './granule.ts';
import type { HostGroup } from './host-groups.ts';
import { RangeList } from './range-list.ts';

/** Kinds in {@link Endpoint.reserved}. */
export const RESERVED = 0;
export const MSI = 1;

/** State of one endpoint. */
export class Endpoint {
  readonly id: number;
  /** As reported by PROBE: normalised, sorted. */
  readonly regions: readonly ReservedRegion[];
  readonly reserved: RangeList;
  /** Properties buffer of a PROBE reply; undefined when the regions do not fit (`resvOverflow: 'probe-error'`). */
  readonly properties: Uint8Array | undefined;
  /** The host context that a passed-through endpoint belongs to, shared by its group. */
  readonly group: HostGroup | undefined;
  domain: Domain | undefined = undefined;
  /** Rate limit of fault records: tokens left, and when they were counted (ms). */
  faultTokens: number;
  faultTime = 0;
  faults = 0;
  /** Whether the device can do DMA; undefined when nobody told: then it can. */
  busMaster: boolean | undefined = undefined;

  constructor(
    id: number,
    regions: readonly ReservedRegion[],
    properties: Uint8Array | undefined,
    group: HostGroup | undefined,
    granule: Granule,
    faultTokens: number,
  ) {
    this.id = id;
    this.regions = regions;
    this.properties = properties;
    this.group = group;
    this.faultTokens = faultTokens;
    this.reserved = toRangeList(regions, granule);
  }
}

function toRangeList(regions: readonly ReservedRegion[], granule: Granule): RangeList {
  return new RangeList(
    regions.map((region) => ({
      start: granule.numberOfBigint(region.start),
      end: granule.numberOfBigint(region.end) + 1,
      kind: region.kind === 'msi' ? MSI : RESERVED,
    })),
  );
}
