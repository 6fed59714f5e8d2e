// Endpoints come and go: checks what an embedder asks for, and derives what all hosts together allow
// (page sizes, input range) and what each endpoint must report as reserved.
// Ranges are bigint with inclusive ends.
import { U32_MAX, U64_MAX, checkBoolean, checkInteger, checkOptions, hex } from '../base/check.ts';
import type { AddressRange } from '../base/ranges.ts';
import { intersect, invertRanges, roundInward } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { checkReservedRegions, normaliseReserved } from '../base/reserved.ts';
import type { HostContext } from '../host/context.ts';
import { encodeProperties, probeBytes } from '../wire/reply.ts';
import { Endpoint } from './endpoint.ts';
import { Granule } from './granule.ts';
import { DEFAULT_PAGE_SIZE_MASK, checkGranule } from './options.ts';
import { fitRegions } from './reserved-fit.ts';
import { settleEndpoint } from './settle.ts';
import type { Geometry, IommuState } from './state.ts';

/** What an embedder says of an endpoint. */
export interface EndpointInit {
  /** Endpoint id as in the guest's firmware tables (PCI: usually segment and BDF); 0 to 2^32 - 1. */
  readonly id: number;
  /** Reserved regions; inclusive ends, any order, any overlap. A PC adds MSI 0xfee00000-0xfeefffff. */
  readonly reserved?: readonly ReservedRegion[];
  /** The host context of a passed-through endpoint; endpoints of one host group name the same object. */
  readonly host?: HostContext;
  /** The device's bus-master bit now; omitted: unknown, and so taken for set until `setBusMaster` tells. */
  readonly busMaster?: boolean;
}

const HUGE_SIZES = [1n << 21n, 1n << 30n];

/** The endpoints of a device, and the geometry that follows from them. */
export class Endpoints {
  readonly #state: IommuState;
  readonly #inits = new Map<number, EndpointInit>();

  constructor(state: IommuState) {
    this.#state = state;
  }

  /**
   * Adds an endpoint. `running`: the driver has read the configuration, so that it cannot change any more.
   * @throws TypeError or RangeError that names the argument, before anything changes.
   */
  add(init: EndpointInit, running: boolean): void {
    const state = this.#state;
    checkOptions('endpoint', init, ['id', 'reserved', 'host', 'busMaster']);
    checkInteger('endpoint.id', init.id, 0, U32_MAX);
    if (state.endpoints.has(init.id)) throw new RangeError(`endpoint.id ${init.id} is in use`);
    if (init.host !== undefined) checkHost(init.host);
    if (init.busMaster !== undefined) checkBoolean('endpoint.busMaster', init.busMaster);
    const inits = [...this.#inits.values(), init];
    const geometry = running ? checkFits(state, init) : deriveGeometry(state, inits);
    const changed = geometry !== state.geometry;
    // All reports are made before the first change, so that a RangeError leaves everything as it was.
    const reports = (changed ? inits : [init]).map((each) => report(state, each, geometry));
    if (changed) {
      state.setGeometry(geometry);
      for (const endpoint of state.endpoints.values()) endpoint.group?.removeMember(endpoint);
    }
    this.#inits.set(init.id, init);
    for (const each of reports) this.#place(each);
    // Other contexts only see a change when the geometry moved their reserved regions.
    for (const each of reports) settleEndpoint(state, state.endpoints.get(each.init.id)!, 'endpoint added');
  }

  /**
   * Removes an endpoint: it is detached, and its host context keeps nothing that only it needed. Other members of its
   * group keep what they have.
   * @throws RangeError when there is no such endpoint.
   */
  remove(id: number): void {
    const state = this.#state;
    const endpoint = state.endpoints.get(checkInteger('id', id, 0, U32_MAX));
    if (endpoint === undefined) throw new RangeError(`id ${id} is not an endpoint`);
    state.endpoints.delete(id);
    this.#inits.delete(id);
    const { group, domain } = endpoint;
    if (group !== undefined) {
      group.removeMember(endpoint);
      const [other] = group.members;
      if (other === undefined) state.groups.release(group);
      else settleEndpoint(state, other, 'endpoint removed');
    }
    endpoint.domain = undefined;
    if (domain?.remove(endpoint) === true) state.dropDomain(domain);
  }

  #place(each: Report): void {
    const state = this.#state;
    const { init } = each;
    const group = init.host === undefined ? undefined : state.groups.groupOf(init.host);
    const { faultBurst } = state.options;
    const endpoint = new Endpoint(init.id, each.regions, each.properties, group, state.granule, faultBurst);
    endpoint.busMaster = state.endpoints.get(init.id)?.busMaster ?? init.busMaster;
    state.endpoints.set(init.id, endpoint);
    group?.addMember(endpoint);
  }
}

interface Report {
  readonly init: EndpointInit;
  readonly regions: readonly ReservedRegion[];
  readonly properties: Uint8Array | undefined;
}

/** What an endpoint reports: its own regions and the holes in what its host can map, normalised. */
function report(state: IommuState, init: EndpointInit, geometry: Geometry): Report {
  const name = `endpoint ${init.id}: reserved`;
  const given = checkReservedRegions('endpoint.reserved', init.reserved ?? []);
  const unit = 1n << BigInt(new Granule(geometry.pageSizeMask).shift);
  // SIL-57: only whole granules of the input range count, so that what is reported is what is enforced.
  const inputRange = roundInward(geometry.inputRange, unit) ?? geometry.inputRange;
  const holes = init.host === undefined ? [] : invertRanges(init.host.limits.usableRanges, inputRange);
  const regions = normaliseReserved(
    [...given, ...holes.map((hole): ReservedRegion => ({ ...hole, kind: 'reserved' }))],
    { granule: unit, inputRange, name },
  );
  checkSpans(name, regions);
  const { probeSize, resvOverflow } = state.options;
  if (!state.offers('probe')) return { init, regions, properties: undefined };
  if (probeBytes(regions.length) <= probeSize)
    return { init, regions, properties: encodeProperties(regions, probeSize) };
  switch (resvOverflow) {
    case 'probe-error':
      return { init, regions, properties: undefined };
    case 'merge': {
      const merged = fitRegions(regions, Math.floor(probeSize / probeBytes(1)));
      if (merged === undefined) break;
      checkSpans(name, merged);
      return { init, regions: merged, properties: encodeProperties(merged, probeSize) };
    }
    case 'throw':
  }
  throw new RangeError(
    `${name} holds ${regions.length} regions, which need a probeSize of ${probeBytes(regions.length)}, not ${probeSize}`,
  );
}

function checkSpans(name: string, regions: readonly ReservedRegion[]): void {
  for (const region of regions) {
    // Linux cannot hold the size of [0, 2^64-1] and would refuse the endpoint.
    if (region.start === 0n && region.end === U64_MAX) throw new RangeError(`${name} covers the whole address space`);
  }
}

function checkHost(host: HostContext | null): asserts host is HostContext {
  if (typeof host !== 'object' || host === null || typeof host.apply !== 'function') {
    throw new TypeError('endpoint.host must be a HostContext');
  }
  if (host.limits.usableRanges.length === 0) throw new RangeError(`endpoint.host ${host.name} has no usable range`);
  if (host.limits.pageSizes === 0n) throw new RangeError(`endpoint.host ${host.name} has no page size`);
}

/** Smallest page of a host, at least 4 KiB (the unit of host operations). */
function smallestPage(host: HostContext): bigint {
  const smallest = host.limits.pageSizes & -host.limits.pageSizes;
  return smallest < 4096n ? 4096n : smallest;
}

/** From the lowest to the highest address that a host can map. */
function hull(host: HostContext): AddressRange {
  const { usableRanges } = host.limits;
  return { start: usableRanges[0]!.start, end: usableRanges.at(-1)!.end };
}

/** What the configuration space must say for these endpoints; the present geometry when nothing changes. */
export function deriveGeometry(state: IommuState, inits: readonly EndpointInit[]): Geometry {
  const { options } = state;
  const hosts = [...new Set(inits.flatMap((init) => (init.host === undefined ? [] : [init.host])))];
  const geometry = geometryOf(options.pageSizeMask, options.inputRange, state.offers('inputRange'), hosts);
  const same =
    geometry.pageSizeMask === state.geometry.pageSizeMask &&
    geometry.inputRange.start === state.geometry.inputRange.start &&
    geometry.inputRange.end === state.geometry.inputRange.end;
  return same ? state.geometry : geometry;
}

/**
 * Page sizes and input range for a set of hosts.
 * @throws RangeError naming `pageSizeMask`, `inputRange`, `features` or `endpoint.host`.
 */
export function geometryOf(
  pageSizeMask: bigint | undefined,
  wanted: AddressRange,
  rangeOffered: boolean,
  hosts: readonly HostContext[],
): Geometry {
  const smallest = hosts.reduce((least, host) => (smallestPage(host) > least ? smallestPage(host) : least), 0n);
  let inputRange: AddressRange = wanted;
  for (const host of hosts) {
    const common = intersect(inputRange, hull(host));
    if (common === undefined) throw new RangeError(`endpoint.host ${host.name} can map nothing of inputRange`);
    inputRange = common;
  }
  // [2.2.2] D-VIO-2: MUST NOT offer what would not work.
  if (!rangeOffered && (inputRange.start !== 0n || inputRange.end !== U64_MAX)) {
    throw new RangeError('features must hold inputRange: a host context cannot map the whole 64-bit space');
  }
  if (pageSizeMask !== undefined && (pageSizeMask & -pageSizeMask) < smallest) {
    throw new RangeError(`pageSizeMask ${hex(pageSizeMask)} has a granule below the host's page size ${hex(smallest)}`);
  }
  const mask = pageSizeMask ?? (smallest === 0n ? DEFAULT_PAGE_SIZE_MASK : maskOf(smallest, hosts));
  checkGranule(mask, inputRange);
  return { pageSizeMask: mask, inputRange };
}

// Never "all bits": Linux cuts a contiguous chunk at each page size that the mask names.
function maskOf(smallest: bigint, hosts: readonly HostContext[]): bigint {
  let mask = smallest;
  for (const size of HUGE_SIZES) {
    if (size > smallest && hosts.every((host) => (host.limits.pageSizes & size) !== 0n)) mask |= size;
  }
  return mask;
}

/** While the driver runs the configuration stands: the endpoint's host must carry it. */
function checkFits(state: IommuState, init: EndpointInit): Geometry {
  const { geometry } = state;
  const { host } = init;
  if (host === undefined) return geometry;
  if (smallestPage(host) > BigInt(state.granule.bytes)) {
    throw new RangeError(
      `endpoint.host ${host.name} has pages of ${hex(smallestPage(host))}, more than the granule ${hex(state.granule.bytes)} that the driver uses`,
    );
  }
  if (state.granulePages === 0) {
    throw new RangeError(
      `endpoint.host ${host.name} needs a granule of at least 4096, the driver uses ${state.granule.bytes}`,
    );
  }
  const reach = hull(host);
  if (reach.start > geometry.inputRange.start || reach.end < geometry.inputRange.end) {
    throw new RangeError(
      `endpoint.host ${host.name} maps [${hex(reach.start)}, ${hex(reach.end)}], less than the input range ` +
        `[${hex(geometry.inputRange.start)}, ${hex(geometry.inputRange.end)}] that the driver uses`,
    );
  }
  return geometry;
}
