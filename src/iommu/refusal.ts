// Truthful failure: what a host (or a cap) refused is told four ways, because Linux never reads the status of MAP and
// UNMAP: status (by the caller), counter, event, and one rate-limited fault record per endpoint of the domain.
import { HOST_PAGE_SHIFT } from '../host/context.ts';
import * as abi from '../wire/abi.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { Errno } from '../base/errors.ts';
import type { HostGroup } from './host-groups.ts';
import type { IommuState } from './state.ts';
import { statusName, statusOfErrno } from './status.ts';

/** Tells that a host refused a MAP that starts at `iova`; the caller has removed the mapping. */
export function reportMapRefusal(
  state: IommuState,
  domain: Domain,
  context: string,
  errno: number,
  iova: bigint,
): void {
  state.counters.hostRefusals++;
  state.counters.refused++;
  tell(state, domain, context, errno, iova);
}

/** Tells that the cap on mappings refused a MAP: the guest sees NOMEM. */
export function reportMappingCap(state: IommuState, domain: Domain, iova: bigint): void {
  state.counters.capRefusals++;
  state.counters.refused++;
  tell(state, domain, DEVICE_CAP, Errno.ENOMEM, iova);
}

/** Tells that the cap on domains refused an ATTACH: the guest sees NOMEM; there is no address. */
export function reportDomainCap(state: IommuState, endpoint: Endpoint, domainId: number): void {
  state.counters.capRefusals++;
  state.counters.refused++;
  if (state.events.active) {
    state.events.emit({
      type: 'host-refusal',
      request: 'ATTACH',
      status: statusName(statusOfErrno(Errno.ENOMEM)),
      context: DEVICE_CAP,
      errno: Errno.ENOMEM,
      domain: domainId,
      endpoint: endpoint.id,
      iova: undefined,
    });
  }
  // [5.13.6.9.2] D-FLT-4: MAY omit ADDRESS: where a request was refused, no address is at fault.
  state.faults.report(endpoint, abi.VIRTIO_IOMMU_FAULT_R_UNKNOWN, 0, 0, 0);
}

/** Stands for the name of a host context where a cap of the device refused. */
const DEVICE_CAP = 'device cap';

function tell(state: IommuState, domain: Domain, context: string, errno: number, iova: bigint): void {
  if (state.events.active) {
    state.events.emit({
      type: 'host-refusal',
      request: 'MAP',
      status: statusName(statusOfErrno(errno)),
      context,
      errno,
      domain: domain.id,
      endpoint: undefined,
      iova,
    });
  }
  for (const endpoint of domain.endpoints) recordRefusal(state, endpoint, iova);
}

/** One fault record: reason UNKNOWN, ADDRESS flag, the address that was asked for. */
function recordRefusal(state: IommuState, endpoint: Endpoint, iova: bigint): void {
  state.faults.report(
    endpoint,
    abi.VIRTIO_IOMMU_FAULT_R_UNKNOWN,
    abi.VIRTIO_IOMMU_FAULT_F_ADDRESS,
    Number(iova >> 32n),
    Number(iova & 0xffff_ffffn),
  );
}

/**
 * Tells that a context could not take a new state (ATTACH, DETACH, bypass, reset): there is no address.
 * `recorded`: the endpoints have had a fault record already, because the context was blocked.
 */
export function reportSwitchRefusal(
  state: IommuState,
  group: HostGroup,
  request: string,
  errno: number,
  domain: Domain | undefined,
  endpoint: Endpoint,
  recorded: boolean,
): void {
  state.counters.hostRefusals++;
  if (request === 'ATTACH') state.counters.refused++;
  if (state.events.active) {
    state.events.emit({
      type: 'host-refusal',
      request,
      status: statusName(statusOfErrno(errno)),
      context: group.name,
      errno,
      domain: domain?.id,
      endpoint: endpoint.id,
      iova: undefined,
    });
  }
  if (!recorded) state.faults.report(endpoint, abi.VIRTIO_IOMMU_FAULT_R_UNKNOWN, 0, 0, 0);
}

/** Tells that the context `name` of `groups` was blocked because an operation failed; the guest's state as answered stands. */
export function reportBlocked(
  state: IommuState,
  name: string,
  groups: readonly HostGroup[],
  operation: string,
  errno: number,
  page: number,
  pages: number,
): void {
  state.counters.contextBlocks++;
  const iova = page < 0 ? undefined : BigInt(page) << BigInt(HOST_PAGE_SHIFT);
  if (state.events.active) {
    state.events.emit({
      type: 'context-blocked',
      context: name,
      endpoints: groups.flatMap((group) => group.endpointIds),
      reason: 'operation failed',
      operation,
      errno,
      iova,
      end: iova === undefined || pages === 0 ? undefined : iova + (BigInt(pages) << BigInt(HOST_PAGE_SHIFT)) - 1n,
    });
  }
  for (const group of groups) {
    group.blocks++;
    for (const endpoint of group.members) {
      if (iova !== undefined) recordRefusal(state, endpoint, iova);
      else state.faults.report(endpoint, abi.VIRTIO_IOMMU_FAULT_R_UNKNOWN, 0, 0, 0);
    }
  }
}
