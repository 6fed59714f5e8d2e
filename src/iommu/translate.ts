// Translates an access of an emulated device. Hot path: no allocation, no bigint, no side effect (dma-view.ts and
// core.ts report faults). Decided per access: the endpoint's domain, bypass and rights at this moment count.
import { NONE } from '../intervals/table.ts';
import * as abi from '../wire/abi.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { MSI } from './endpoint.ts';
import type { IommuState } from './state.ts';
import type { Translation } from './translation.ts';
import { PieceKind } from './translation.ts';

const READ = abi.VIRTIO_IOMMU_MAP_F_READ;
const WRITE = abi.VIRTIO_IOMMU_MAP_F_WRITE;

/**
 * Translates `length` (>= 1) bytes at the I/O virtual address (high, low); true when every byte can be reached, and
 * `out` holds the pieces in order; false when one cannot, and `out` holds the fault.
 */
export function translateAccess(
  state: IommuState,
  endpoint: Endpoint | undefined,
  high: number,
  low: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  out.count = 0;
  if (endpoint === undefined) return faultAt(out, high, low, abi.VIRTIO_IOMMU_FAULT_R_DOMAIN);
  const unit = state.granule;
  const first = unit.numberOf(high, low);
  const offset = unit.offsetOf(high, low);
  // Bytes are walked as granule number + offset: exact also where the address is beyond 2^53.
  const last = first + Math.floor((offset + length - 1) / unit.bytes);
  if (last >= unit.limit || !Number.isSafeInteger(last))
    return faultAt(out, high, low, abi.VIRTIO_IOMMU_FAULT_R_MAPPING);
  const { domain, reserved } = endpoint;
  if (domain !== undefined && !domain.bypass && (reserved.length === 0 || !reserved.meets(first, last + 1))) {
    return translateMapped(state, domain, first, last, offset, length, write, out);
  }
  return translateAround(state, endpoint, first, last, offset, length, write, out);
}

/** No reserved region in the way: one table lookup, then neighbours. */
function translateMapped(
  state: IommuState,
  domain: Domain,
  first: number,
  last: number,
  offset: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  const { table } = domain;
  const unit = state.granule;
  // [5.13.6.5.2] D-MAP-6: MUST NOT allow writes without WRITE; reads without READ are refused too (D-MAP-7 is a MAY).
  const right = write ? WRITE : READ;
  let at = first;
  let skip = offset;
  let left = length;
  let slot = table.find(at);
  while (at <= last) {
    if (slot === NONE || table.startAt(slot) > at || (table.flagsAt(slot) & right) === 0) {
      return faultInside(state, out, at, at === first ? offset : 0, abi.VIRTIO_IOMMU_FAULT_R_MAPPING);
    }
    const end = table.endAt(slot);
    const bytes = Math.min(left, (end - at) * unit.bytes - skip);
    // T-MAP-1: PA = VA - virt_start + phys_start.
    out.push(unit, table.valueAt(slot) + (at - table.startAt(slot)), skip, bytes, PieceKind.memory);
    left -= bytes;
    skip = 0;
    at = end;
    if (at <= last) slot = table.next(slot);
  }
  return true;
}

/** The general walk: reserved regions, bypass and blocked endpoints; piece by piece. */
function translateAround(
  state: IommuState,
  endpoint: Endpoint,
  first: number,
  last: number,
  offset: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  const { reserved, domain } = endpoint;
  const unit = state.granule;
  const identity = domain === undefined ? state.bypassesUnattached : domain.bypass;
  let at = first;
  let skip = offset;
  let left = length;
  while (at <= last) {
    const region = reserved.seek(at);
    const inside = region < reserved.length && reserved.startAt(region) <= at;
    const edge = region === reserved.length ? last + 1 : inside ? reserved.endAt(region) : reserved.startAt(region);
    const end = Math.min(edge, last + 1);
    const bytes = Math.min(left, (end - at) * unit.bytes - skip);
    if (inside) {
      // [5.13.6.8] A write to the MSI region is an interrupt and passes untranslated. D-RES-5: nothing else in a
      // reserved region may affect anything but endpoint and driver, also in bypass.
      if (reserved.kindAt(region) !== MSI || !write)
        return faultInside(state, out, at, skip, abi.VIRTIO_IOMMU_FAULT_R_MAPPING);
      out.push(unit, at, skip, bytes, PieceKind.msi);
    } else if (identity) {
      out.push(unit, at, skip, bytes, PieceKind.memory); // T-BYP-2: all accesses allowed, identity
    } else if (domain === undefined) {
      // [5.13.6.2] D-OP-5: an endpoint without a domain and not in bypass reaches nothing.
      return faultInside(state, out, at, skip, abi.VIRTIO_IOMMU_FAULT_R_DOMAIN);
    } else if (!translateMapped(state, domain, at, end - 1, skip, bytes, write, out)) {
      return false;
    }
    left -= bytes;
    skip = 0;
    at = end;
  }
  return true;
}

function faultInside(state: IommuState, out: Translation, granule: number, offset: number, reason: number): boolean {
  const { shift } = state.granule;
  // Split granule number and offset into two words without a rounding step.
  const high =
    shift >= 32 ? granule * 2 ** (shift - 32) + Math.floor(offset / 2 ** 32) : Math.floor(granule / 2 ** (32 - shift));
  const low = shift >= 32 ? offset % 2 ** 32 : (granule % 2 ** (32 - shift)) * 2 ** shift + offset;
  return faultAt(out, high, low, reason);
}

function faultAt(out: Translation, high: number, low: number, reason: number): boolean {
  out.count = 0;
  out.faultHigh = high;
  out.faultLow = low;
  out.reason = reason;
  return false;
}
