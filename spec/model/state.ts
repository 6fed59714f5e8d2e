// State of the reference model: plain lists of plain objects, searched from front to back.
// Addresses are bigint, both ends of every range INCLUSIVE. Shares no code with the device it is compared with.

export type FeatureName =
  | 'VERSION_1'
  | 'RING_INDIRECT_DESC'
  | 'RING_EVENT_IDX'
  | 'INPUT_RANGE'
  | 'DOMAIN_RANGE'
  | 'MAP_UNMAP'
  | 'BYPASS'
  | 'PROBE'
  | 'MMIO'
  | 'BYPASS_CONFIG';

export const STATUS = {
  OK: 0,
  IOERR: 1,
  UNSUPP: 2,
  DEVERR: 3,
  INVAL: 4,
  RANGE: 5,
  NOENT: 6,
  FAULT: 7,
  NOMEM: 8,
} as const;

export type StatusName = keyof typeof STATUS;

/** A reserved region as the endpoint reports it: already rounded to the granule, merged and free of overlap. */
export interface ModelRegion {
  readonly kind: 'reserved' | 'msi';
  readonly start: bigint;
  readonly end: bigint;
}

export interface ModelOptions {
  readonly pageSizeMask: bigint;
  /** Counts only when INPUT_RANGE is offered. */
  readonly inputRange: { readonly start: bigint; readonly end: bigint };
  /** Counts only when DOMAIN_RANGE is offered. */
  readonly domainRange: { readonly start: number; readonly end: number };
  readonly probeSize: number;
  /** Initial value of config.bypass. */
  readonly bypass: boolean;
  readonly offered: readonly FeatureName[];
  readonly endpoints: readonly { readonly id: number; readonly regions: readonly ModelRegion[] }[];
  /** Most mappings per device; default 32 Mi. */
  readonly maxMappings?: number;
  /** Most domains per device; default 65,536. */
  readonly maxDomains?: number;
}

export interface ModelMapping {
  readonly virtStart: bigint;
  readonly virtEnd: bigint;
  readonly physStart: bigint;
  readonly flags: number;
}

export interface ModelDomain {
  readonly id: number;
  readonly bypass: boolean;
  mappings: ModelMapping[];
}

export interface ModelEndpoint {
  readonly id: number;
  readonly regions: readonly ModelRegion[];
  /** Domain that the endpoint is attached to. */
  domain: ModelDomain | undefined;
}

export interface ModelState {
  readonly options: ModelOptions;
  endpoints: ModelEndpoint[];
  /** Features that both sides agreed on; empty before FEATURES_OK and after a reset. */
  negotiated: readonly FeatureName[];
  /** Value of config.bypass. */
  bypass: boolean;
}

export function isOffered(state: ModelState, feature: FeatureName): boolean {
  return state.options.offered.includes(feature);
}

export function isNegotiated(state: ModelState, feature: FeatureName): boolean {
  return state.negotiated.includes(feature);
}

export function findEndpoint(state: ModelState, id: number): ModelEndpoint | undefined {
  return state.endpoints.find((endpoint) => endpoint.id === id);
}

/** A domain exists as long as an endpoint is attached to it. */
export function findDomain(state: ModelState, id: number): ModelDomain | undefined {
  return state.endpoints.find((endpoint) => endpoint.domain?.id === id)?.domain;
}

export function endpointsOf(state: ModelState, domain: ModelDomain): ModelEndpoint[] {
  return state.endpoints.filter((endpoint) => endpoint.domain === domain);
}

/** Every domain once. */
export function allDomains(state: ModelState): ModelDomain[] {
  const domains: ModelDomain[] = [];
  for (const endpoint of state.endpoints) {
    if (endpoint.domain !== undefined && !domains.includes(endpoint.domain)) domains.push(endpoint.domain);
  }
  return domains;
}

export function granuleOf(state: ModelState): bigint {
  const mask = state.options.pageSizeMask;
  return mask & -mask;
}

export function inputRangeOf(state: ModelState): { start: bigint; end: bigint } {
  return isOffered(state, 'INPUT_RANGE') ? state.options.inputRange : { start: 0n, end: 0xffff_ffff_ffff_ffffn };
}

/** True when two ranges with inclusive ends share an address. */
export function meet(aStart: bigint, aEnd: bigint, bStart: bigint, bEnd: bigint): boolean {
  return aStart <= bEnd && bStart <= aEnd;
}
