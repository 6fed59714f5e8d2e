// Reports the fault of an access that translate.ts refused.
import * as abi from '../wire/abi.ts';
import type { Endpoint } from './endpoint.ts';
import type { IommuState } from './state.ts';
import type { Translation } from './translation.ts';

/** [5.13.6.9] T-FLT-1: counts, sends and announces what `fault` holds; the record names the access and its address. */
export function reportFault(
  state: IommuState,
  endpointId: number,
  endpoint: Endpoint | undefined,
  write: boolean,
  fault: Translation,
): void {
  const flags =
    (write ? abi.VIRTIO_IOMMU_FAULT_F_WRITE : abi.VIRTIO_IOMMU_FAULT_F_READ) | abi.VIRTIO_IOMMU_FAULT_F_ADDRESS;
  if (endpoint === undefined) state.faults.reportUnknown(endpointId, flags, fault.faultHigh, fault.faultLow);
  else state.faults.report(endpoint, fault.reason, flags, fault.faultHigh, fault.faultLow);
}
