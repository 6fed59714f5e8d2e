// ATTACH [5.13.6.3]: puts an endpoint into a domain, out of another one if need be.
// Everything is checked, and the host has switched, before the guest's state changes.
import * as abi from '../wire/abi.ts';
import type { RequestRecord } from '../wire/request.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { reportDomainCap } from './refusal.ts';
import { settleForAttach } from './settle.ts';
import type { IommuState } from './state.ts';
import { statusOfErrno } from './status.ts';

/** Decides and carries out one ATTACH; returns the status. Any segment before it has been committed. */
export function processAttach(state: IommuState, request: RequestRecord): number {
  // [5.13.6.3.2] D-ATT-1: MUST reject reserved != 0 (INVAL).
  if (request.reservedSet) return abi.VIRTIO_IOMMU_S_INVAL;
  // [5.13.6.3.2] D-ATT-2: MUST reject an unrecognised flag (INVAL); T-ATT-4: BYPASS needs BYPASS_CONFIG negotiated.
  const known = state.bypassConfigNegotiated ? abi.VIRTIO_IOMMU_ATTACH_F_BYPASS : 0;
  if ((request.flags & ~known) !== 0) return abi.VIRTIO_IOMMU_S_INVAL;
  const bypass = request.flags !== 0;
  // [5.13.6.3.2] D-ATT-3: MUST reject an unknown endpoint (NOENT).
  const endpoint = state.endpoints.get(request.endpoint);
  if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
  // T-CFG-3, DRV-OP-5: a domain outside domain_range is refused (spec/decisions.md).
  const { domainRange } = state.options;
  if (state.offers('domainRange') && (request.domain < domainRange.start || request.domain > domainRange.end)) {
    return abi.VIRTIO_IOMMU_S_RANGE;
  }
  const existing = state.domain(request.domain);
  if (existing === undefined) return attachToNew(state, endpoint, request.domain, bypass);
  // [5.13.6.3.2] D-ATT-5: SHOULD reject a BYPASS flag that does not fit the domain (INVAL).
  if (existing.bypass !== bypass) return abi.VIRTIO_IOMMU_S_INVAL;
  // Attaching again where it is changes nothing: mappings stay (spec/decisions.md).
  if (endpoint.domain === existing) return abi.VIRTIO_IOMMU_S_OK;
  // [5.13.6.3.2] D-ATT-7: endpoints with other reserved regions go together, so D-ATT-8 (UNSUPP) has no case here.
  // What is refused is a mapping over the endpoint's regions (INVAL, nothing changed); VFIO would refuse it too.
  if (existing.clashesWith(endpoint.reserved)) return abi.VIRTIO_IOMMU_S_INVAL;
  return move(state, endpoint, existing);
}

// [5.13.6.3] T-ATT-1: an unknown domain is created by ATTACH.
function attachToNew(state: IommuState, endpoint: Endpoint, id: number, bypass: boolean): number {
  const leavesEmpty = endpoint.domain?.endpoints.size === 1 ? 1 : 0;
  if (state.domains.size - leavesEmpty >= state.options.maxDomains) {
    // [5.13.6] T-ST-8: NOMEM is insufficient resources.
    reportDomainCap(state, endpoint, id);
    return abi.VIRTIO_IOMMU_S_NOMEM;
  }
  const domain = state.makeDomain(id, bypass);
  const status = move(state, endpoint, domain);
  if (status === abi.VIRTIO_IOMMU_S_OK) state.domains.set(id, domain);
  return status;
}

/**
 * [5.13.6.3.2] D-ATT-6: acts as DETACH, then ATTACH; D-ATT-4: a domain may hold several endpoints.
 * The host switches first: if it refuses, the endpoint stays where it was (D-ATT-9).
 */
function move(state: IommuState, endpoint: Endpoint, to: Domain): number {
  const from = endpoint.domain;
  const errno = settleForAttach(state, endpoint, to);
  if (errno !== 0) return statusOfErrno(errno);
  endpoint.domain = to;
  to.add(endpoint);
  if (from?.remove(endpoint) === true) state.dropDomain(from);
  return abi.VIRTIO_IOMMU_S_OK;
}
