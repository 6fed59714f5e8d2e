// PROBE [5.13.6.7]: tells the driver an endpoint's reserved regions.
import * as abi from '../wire/abi.ts';
import type { RequestRecord } from '../wire/request.ts';
import { UNWRITTEN } from './segment.ts';
import type { IommuState } from './state.ts';

/** Bytes behind probe_size + tail that a driver may add; a larger buffer is not worth filling with zeroes. */
const SLACK = 65_536;

/** The answer to a PROBE: the status, and the properties that go with OK. */
export interface ProbeAnswer {
  status: number;
  properties: Uint8Array | undefined;
}

/** Decides one PROBE whose device-writable part has `writable` bytes. */
export function processProbe(state: IommuState, request: RequestRecord, writable: number, answer: ProbeAnswer): void {
  answer.properties = undefined;
  answer.status = decide(state, request, writable, answer);
}

function decide(state: IommuState, request: RequestRecord, writable: number, answer: ProbeAnswer): number {
  const { probeSize } = state.options;
  // [5.13.6.7.2] D-PRB-3: without the feature SHOULD NOT write, used length 0.
  if (!state.probeUsable || writable > probeSize + abi.Tail.SIZE + SLACK) return UNWRITTEN;
  // [5.13.6.7.2] D-PRB-2: SHOULD reject an unknown endpoint (NOENT).
  const endpoint = state.endpoints.get(request.endpoint);
  if (endpoint === undefined) return abi.VIRTIO_IOMMU_S_NOENT;
  // [5.13.6.7.2] D-PRB-7: properties shorter than probe_size: write none, INVAL.
  if (writable < probeSize + abi.Tail.SIZE) return abi.VIRTIO_IOMMU_S_INVAL;
  // More regions than fit, chosen by `resvOverflow: 'probe-error'`: an error, since a partial list would mislead.
  if (endpoint.properties === undefined) return abi.VIRTIO_IOMMU_S_DEVERR;
  // [5.13.6.7] T-PRB-2: they belong to the endpoint, whether it is attached or not.
  answer.properties = endpoint.properties;
  return abi.VIRTIO_IOMMU_S_OK;
}
