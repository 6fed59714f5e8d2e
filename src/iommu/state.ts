// The state that requests act on: endpoints, domains, host groups, configuration. Decides nothing about a request;
// the request files (attach.ts, detach.ts, map.ts, unmap.ts, probe.ts) do.
import { EventChannel } from '../base/events.ts';
import type { AddressRange } from '../base/ranges.ts';
import { roundInward } from '../base/ranges.ts';
import { Backing } from '../coalesce/backing.ts';
import type { PlanSettings } from '../coalesce/settings.ts';
import { HOST_PAGE_SHIFT } from '../host/context.ts';
import { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import type { IommuEvent } from './events.ts';
import { FaultReporter } from './faults.ts';
import { Granule } from './granule.ts';
import type { GroupObserver, Target } from './host-groups.ts';
import { HostGroups } from './host-groups.ts';
import type { FeatureName, ResolvedOptions } from './options.ts';
import { FEATURES, planSettings } from './options.ts';
import { Counters } from './stats.ts';

/** What the device shows in its configuration space and works with; fixed once the driver runs. */
export interface Geometry {
  readonly pageSizeMask: bigint;
  /** As shown to the driver; inclusive. */
  readonly inputRange: AddressRange;
}

/** Everything that belongs to one IOMMU. */
export class IommuState {
  readonly options: ResolvedOptions;
  readonly events = new EventChannel<IommuEvent>();
  readonly counters = new Counters();
  readonly endpoints = new Map<number, Endpoint>();
  readonly domains = new Map<number, Domain>();
  readonly backing = new Backing();
  /** Policy and limits of all host plans; the policy may change at run time. */
  readonly plan: PlanSettings;
  readonly groups: HostGroups;
  readonly faults: FaultReporter = new FaultReporter(this);
  geometry: Geometry;
  granule: Granule;
  /** What translation counts in: the granule, but at most 4 KiB, so that any address is a number and an exact offset. */
  unit: Granule;
  /** Units per granule: a power of two. */
  unitsPerGranule = 1;
  /** Units that an access may touch, half-open: below a 4 KiB granule the input range (SIL-17), else all of 64 bits. */
  unitStart = 0;
  unitEnd = 0;
  /** 4 KiB pages per granule, 0 when the granule is smaller (then no host context can be there). */
  granulePages = 0;
  /** Granule numbers that MAP accepts, half-open. */
  inputStart = 0;
  inputEnd = 0;
  /** Mappings of all domains. */
  mappings = 0;
  /** config.bypass as the driver sees it: 0 or 1. */
  bypass: number;
  /** Features that the driver accepted; 0 before FEATURES_OK. */
  negotiated = 0n;
  mapUnmapNegotiated = false;
  mmioNegotiated = false;
  bypassConfigNegotiated = false;
  probeUsable = false;
  #lastDomain: Domain | undefined = undefined;

  constructor(options: ResolvedOptions, geometry: Geometry, observer: GroupObserver) {
    this.options = options;
    this.geometry = geometry;
    this.granule = new Granule(geometry.pageSizeMask);
    this.unit = this.granule;
    this.setGeometry(geometry);
    this.plan = planSettings(options, () => {
      this.events.listenerErrors++;
    });
    this.groups = new HostGroups(this.backing, observer, options.maxInstalled, this.plan);
    this.bypass = this.initialBypass;
  }

  /** [5.13.4] D-CFG-3: the initial value of config.bypass; 0 when the field is not there. */
  get initialBypass(): number {
    return this.options.bypass && this.offers('bypassConfig') ? 1 : 0;
  }

  offers(feature: FeatureName): boolean {
    return ((this.options.features >> BigInt(FEATURES[feature])) & 1n) === 1n;
  }

  accepted(feature: FeatureName): boolean {
    return ((this.negotiated >> BigInt(FEATURES[feature])) & 1n) === 1n;
  }

  /** Takes over what the driver accepted; 0n at reset. */
  setNegotiated(features: bigint): void {
    this.negotiated = features & this.options.features;
    this.mapUnmapNegotiated = this.accepted('mapUnmap');
    this.mmioNegotiated = this.accepted('mmio');
    this.bypassConfigNegotiated = this.accepted('bypassConfig');
    this.probeUsable = this.accepted('probe');
  }

  /** Replaces page sizes and input range; only while there are no mappings. */
  setGeometry(geometry: Geometry): void {
    this.geometry = geometry;
    this.granule = new Granule(geometry.pageSizeMask);
    const inside = roundInward(geometry.inputRange, BigInt(this.granule.bytes)) ?? geometry.inputRange;
    this.inputStart = this.granule.numberOfBigint(inside.start);
    this.inputEnd = this.granule.numberOfBigint(inside.end) + 1;
    const small = this.granule.shift < HOST_PAGE_SHIFT;
    this.unit = small ? this.granule : new Granule(1n << BigInt(HOST_PAGE_SHIFT));
    this.granulePages = small ? 0 : 2 ** (this.granule.shift - HOST_PAGE_SHIFT);
    this.unitsPerGranule = this.granule.bytes / this.unit.bytes;
    this.unitStart = small ? this.inputStart : 0;
    this.unitEnd = small ? this.inputEnd : this.unit.limit;
  }

  /** The domain with this id; the last one found is remembered, since requests come in runs. */
  domain(id: number): Domain | undefined {
    if (this.#lastDomain?.id === id) return this.#lastDomain;
    const domain = this.domains.get(id);
    if (domain !== undefined) this.#lastDomain = domain;
    return domain;
  }

  /** A new domain, not yet known by its id. */
  makeDomain(id: number, bypass: boolean): Domain {
    return new Domain(id, bypass, this.granulePages);
  }

  /** [5.13.6.4] T-DET-2: the domain ends, with all its mappings; its id can be used again. */
  dropDomain(domain: Domain): void {
    this.mappings -= domain.table.size;
    domain.table.clear();
    this.domains.delete(domain.id);
    if (this.#lastDomain === domain) this.#lastDomain = undefined;
  }

  /** True when an endpoint without a domain may access all of memory. */
  get bypassesUnattached(): boolean {
    // [5.13.6] T-BYP-1: with BYPASS_CONFIG offered, the field decides, also before the driver accepted it.
    if (this.offers('bypassConfig')) return this.bypass === 1;
    // [5.13.6.2] T-BYP-3: with legacy BYPASS the driver decides by accepting it.
    return this.accepted('bypass');
  }

  /** What an endpoint's guest state asks of its host context. D-OP-5: blocked without a domain and without bypass. */
  targetOf(endpoint: Endpoint): Target {
    return endpoint.domain ?? (this.bypassesUnattached ? 'bypass' : 'blocked');
  }
}
