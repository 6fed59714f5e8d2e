// Translates an access of an emulated device. Hot path: no allocation, no bigint, no side effect (dma-view.ts and
// core.ts report faults). Decided per access: the endpoint's domain, bypass and rights at this moment count.
// Counts in units (state.ts): granules, or 4 KiB where the granule is larger, half-open; tables are in granules.
import * as tables from '../intervals/table.ts';
import * as abi from '../wire/abi.ts';
import type { Domain } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import * as endpoints from './endpoint.ts';
import type { IommuState } from './state.ts';
import type { Translation } from './translation.ts';
import * as translations from './translation.ts';

// Own constants are folded into the code, imported ones are loaded and checked at each use.
const READ = abi.VIRTIO_IOMMU_MAP_F_READ;
const WRITE = abi.VIRTIO_IOMMU_MAP_F_WRITE;
const { VIRTIO_IOMMU_FAULT_R_DOMAIN, VIRTIO_IOMMU_FAULT_R_MAPPING } = abi;
const { NONE } = tables;
const { MSI } = endpoints;
const { memory: MEMORY, msi: MSI_WRITE } = translations.PieceKind;

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
  if (endpoint === undefined) return faultAt(out, high, low, VIRTIO_IOMMU_FAULT_R_DOMAIN);
  const { unit, unitEnd } = state;
  const first = unit.numberOf(high, low);
  // SIL-17: where addresses are exact only inside the input range, nothing outside it can be reached.
  if (first < state.unitStart || first >= unitEnd) return faultAt(out, high, low, outsideReason(state, endpoint));
  const offset = unit.offsetOf(high, low);
  const { domain } = endpoint;
  if (domain !== undefined && state.unitsPerGranule === 1 && offset + length <= unit.bytes) {
    // What nearly every access is: part of one unit that a mapping holds and gives the right to. Anything else is for the
    // walks below. Where a mapping is, no reserved region of the endpoint can be in the way (map.ts, attach.ts).
    const { table } = domain;
    const right = write ? WRITE : READ;
    const slot = table.find(first);
    if (slot !== NONE && (table.flagsAt(slot) & right) === right) {
      out.put(unit, table.valueAt(slot) - table.startAt(slot) + first, offset, length, MEMORY);
      return true;
    }
  }
  // The last unit is compared, not the end: above 2^53 one more would not be exact.
  const last = offset + length <= unit.bytes ? first : first + Math.floor((offset + length - 1) / unit.bytes);
  if (last < unitEnd) return translateRange(state, endpoint, first, last + 1, offset, length, write, out);
  const inside = (unitEnd - first) * unit.bytes - offset;
  if (!translateRange(state, endpoint, first, unitEnd, offset, inside, write, out)) return false;
  // Behind the last address of 64 bits no address is left that could be named: the access itself is.
  if (unitEnd === unit.limit) return faultAt(out, high, low, outsideReason(state, endpoint));
  return faultInside(state, out, unitEnd, 0, outsideReason(state, endpoint));
}

function outsideReason(state: IommuState, endpoint: Endpoint): number {
  const blocked = endpoint.domain === undefined && !state.bypassesUnattached;
  return blocked ? VIRTIO_IOMMU_FAULT_R_DOMAIN : VIRTIO_IOMMU_FAULT_R_MAPPING;
}

/** Translates the bytes of units [first, end) that are left after `offset`, `length` of them. */
function translateRange(
  state: IommuState,
  endpoint: Endpoint,
  first: number,
  end: number,
  offset: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  const { domain, reserved } = endpoint;
  if (domain !== undefined && !domain.bypass) {
    const scale = state.unitsPerGranule;
    if (
      reserved.length === 0 ||
      !(scale === 1 ? reserved.meets(first, end) : reserved.meets(Math.floor(first / scale), Math.ceil(end / scale)))
    )
      return translateMapped(state, domain, first, end, offset, length, write, out);
  }
  return translateAround(state, endpoint, first, end, offset, length, write, out);
}

/** No reserved region in the way: one table lookup, then neighbours. */
function translateMapped(
  state: IommuState,
  domain: Domain,
  first: number,
  end: number,
  offset: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  const { table } = domain;
  const { unit, unitsPerGranule: scale } = state;
  // [5.13.6.5.2] D-MAP-6: MUST NOT allow writes without WRITE; reads without READ are refused too (D-MAP-7 is a MAY).
  const right = write ? WRITE : READ;
  let at = first;
  let skip = offset;
  let left = length;
  let slot = table.find(scale === 1 ? at : Math.floor(at / scale));
  for (;;) {
    if (slot === NONE || table.startAt(slot) * scale > at || (table.flagsAt(slot) & right) === 0)
      return faultInside(state, out, at, skip, VIRTIO_IOMMU_FAULT_R_MAPPING);
    const next = table.endAt(slot) * scale;
    const room = (next - at) * unit.bytes - skip;
    const bytes = left < room ? left : room;
    // T-MAP-1: PA = VA - virt_start + phys_start.
    out.push(unit, (table.valueAt(slot) - table.startAt(slot)) * scale + at, skip, bytes, MEMORY);
    if (next >= end) return true;
    left -= bytes;
    skip = 0;
    at = next;
    slot = table.next(slot);
  }
}

/** The general walk: reserved regions, bypass and blocked endpoints; piece by piece. */
function translateAround(
  state: IommuState,
  endpoint: Endpoint,
  first: number,
  end: number,
  offset: number,
  length: number,
  write: boolean,
  out: Translation,
): boolean {
  const { reserved, domain } = endpoint;
  const { unit, unitsPerGranule: scale } = state;
  const identity = domain === undefined ? state.bypassesUnattached : domain.bypass;
  let at = first;
  let skip = offset;
  let left = length;
  while (at < end) {
    const region = reserved.seek(Math.floor(at / scale));
    const inside = region < reserved.length && reserved.startAt(region) * scale <= at;
    const edge =
      region === reserved.length ? end : scale * (inside ? reserved.endAt(region) : reserved.startAt(region));
    const next = Math.min(edge, end);
    const bytes = Math.min(left, (next - at) * unit.bytes - skip);
    if (inside) {
      // [5.13.6.8.1] A write to the MSI region is an interrupt and passes untranslated. D-RES-5: nothing else in a
      // reserved region may affect anything but endpoint and driver, also in bypass.
      if (reserved.kindAt(region) !== MSI || !write)
        return faultInside(state, out, at, skip, VIRTIO_IOMMU_FAULT_R_MAPPING);
      out.push(unit, at, skip, bytes, MSI_WRITE);
    } else if (identity) {
      out.push(unit, at, skip, bytes, MEMORY); // T-BYP-2: all accesses allowed, identity
    } else if (domain === undefined) {
      // [5.13.6.2] D-OP-5: an endpoint without a domain and not in bypass reaches nothing.
      return faultInside(state, out, at, skip, VIRTIO_IOMMU_FAULT_R_DOMAIN);
    } else if (!translateMapped(state, domain, at, next, skip, bytes, write, out)) {
      return false;
    }
    left -= bytes;
    skip = 0;
    at = next;
  }
  return true;
}

function faultInside(state: IommuState, out: Translation, at: number, offset: number, reason: number): boolean {
  // A unit is at most 4 KiB, so its number splits into two words without a rounding step.
  const perHigh = 2 ** (32 - state.unit.shift);
  return faultAt(out, Math.floor(at / perHigh), (at % perHigh) * state.unit.bytes + offset, reason);
}

function faultAt(out: Translation, high: number, low: number, reason: number): boolean {
  out.count = 0;
  out.faultHigh = high;
  out.faultLow = low;
  out.reason = reason;
  return false;
}
