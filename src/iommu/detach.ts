// DETACH [5.13.6.4]: takes an endpoint out of its domain.
import * as abi from '../wire/abi.ts';
import type { RequestRecord } from '../wire/request.ts';
import type { Endpoint } from './endpoint.ts';
import { settleEndpoint } from './settle.ts';
import type { IommuState } from './state.ts';

/** Decides and carries out one DETACH; returns the status. Any segment before it has been committed. */
export function processDetach(state: IommuState, request: RequestRecord): number {
  // [5.13.6.4.2] D-DET-2: MUST reject an unknown endpoint (NOENT).
  const endpoint = state.endpoints.get(request.endpoint);
  if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
  // [5.13.6.4.2] D-DET-3: MAY reject a domain that the endpoint is not attached to (INVAL): Linux warns, nothing leaks.
  if (endpoint.domain?.id !== request.domain) return abi.VIRTIO_IOMMU_S_INVAL;
  detachEndpoint(state, endpoint);
  return abi.VIRTIO_IOMMU_S_OK;
}

/**
 * [5.13.6.4.2] D-DET-4: afterwards the endpoint reaches nothing through the domain. T-DET-1: it may be in bypass.
 * If its host context cannot take the new state it is blocked, never left as it was.
 */
export function detachEndpoint(state: IommuState, endpoint: Endpoint): void {
  const { domain } = endpoint;
  if (domain === undefined) return;
  endpoint.domain = undefined;
  const last = domain.remove(endpoint);
  settleEndpoint(state, endpoint, 'DETACH');
  if (last) state.dropDomain(domain);
}
