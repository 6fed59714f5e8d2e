// ATTACH and DETACH of the reference model. The numbered steps are the order of checks of decisions.md.
import { anySet, readLe } from './bytes.ts';
import type { ModelState, StatusName } from './state.ts';
import { allDomains, endpointsOf, findDomain, findEndpoint, isNegotiated, isOffered, meet } from './state.ts';

const ATTACH_F_BYPASS = 1n;

export function attach(state: ModelState, bytes: Uint8Array): StatusName {
  const domainId = Number(readLe(bytes, 4, 4));
  const endpointId = Number(readLe(bytes, 8, 4));
  const flags = readLe(bytes, 12, 4);
  // 1. Reserved bytes.
  if (anySet(bytes, 16, 4)) return 'INVAL';
  // 2. Flags that do not exist.
  if ((flags & ~ATTACH_F_BYPASS) !== 0n) return 'INVAL';
  // 3. The BYPASS flag exists only with BYPASS_CONFIG negotiated.
  const bypass = flags === ATTACH_F_BYPASS;
  if (bypass && !isNegotiated(state, 'BYPASS_CONFIG')) return 'INVAL';
  // 4. Unknown endpoint.
  const endpoint = findEndpoint(state, endpointId);
  if (endpoint === undefined) return 'NOENT';
  // 5. Domain that the device does not have.
  const { start, end } = state.options.domainRange;
  if (isOffered(state, 'DOMAIN_RANGE') && (domainId < start || domainId > end)) return 'RANGE';
  // 6. and 7. A domain that exists has to be of the wanted kind; to attach again changes nothing.
  const existing = findDomain(state, domainId);
  if (existing !== undefined && existing.bypass !== bypass) return 'INVAL';
  if (existing !== undefined && endpoint.domain === existing) return 'OK';
  // 8. What is mapped already must not lie in a reserved region of the newcomer.
  for (const mapping of existing?.mappings ?? []) {
    for (const region of endpoint.regions) {
      if (meet(mapping.virtStart, mapping.virtEnd, region.start, region.end)) return 'INVAL';
    }
  }
  // 9. Room for one more domain; the old domain of a lonely endpoint is gone by then.
  if (existing === undefined) {
    const old = endpoint.domain;
    const leavesNothing = old !== undefined && endpointsOf(state, old).length === 1;
    const count = allDomains(state).length - (leavesNothing ? 1 : 0);
    if (count >= (state.options.maxDomains ?? 65_536)) return 'NOMEM';
  }
  endpoint.domain = existing ?? { id: domainId, bypass, mappings: [] };
  return 'OK';
}

export function detach(state: ModelState, bytes: Uint8Array): StatusName {
  const domainId = Number(readLe(bytes, 4, 4));
  const endpointId = Number(readLe(bytes, 8, 4));
  // 1. Unknown endpoint. The reserved bytes do not matter.
  const endpoint = findEndpoint(state, endpointId);
  if (endpoint === undefined) return 'NOENT';
  // 2. Not attached to this domain, or no such domain.
  if (endpoint.domain?.id !== domainId) return 'INVAL';
  endpoint.domain = undefined;
  return 'OK';
}
