// UNMAP [5.13.6.6]: removes whole mappings from a domain, or nothing. Hot path: no allocation, no bigint.
import * as tables from '../intervals/table.ts';
import * as abi from '../wire/abi.ts';
import type { RequestRecord } from '../wire/request.ts';
import type { Domain } from './domain.ts';
import type { Segment } from './segment.ts';
import * as segments from './segment.ts';
import type { IommuState } from './state.ts';

// Own constants are folded into the code, imported ones are loaded and checked at each use.
const { VIRTIO_IOMMU_S_INVAL, VIRTIO_IOMMU_S_NOENT, VIRTIO_IOMMU_S_OK, VIRTIO_IOMMU_S_RANGE } = abi;
const { COMMIT_FIRST, UNWRITTEN } = segments;
const { NONE } = tables;

/**
 * Decides one UNMAP, changes the guest's table and plans the host operations under the segment's next token.
 * Returns a status, UNWRITTEN, or COMMIT_FIRST when the answer depends on requests that are not committed.
 */
export function processUnmap(state: IommuState, request: RequestRecord, segment: Segment): number {
  // [5.13.6.6] T-UNM-2: the request exists only with MAP_UNMAP negotiated.
  if (!state.mapUnmapNegotiated) return UNWRITTEN;
  // [5.13.6.6.2] D-UNM-1: MAY reject reserved != 0 (INVAL); nothing is unmapped then.
  if (request.reservedSet) return VIRTIO_IOMMU_S_INVAL;
  // [5.13.6.6.2] D-UNM-2: SHOULD reject an unknown domain (NOENT).
  const domain = state.domain(request.domain);
  if (domain === undefined) return VIRTIO_IOMMU_S_NOENT;
  // [5.13.6.6.2] D-UNM-3: SHOULD reject a bypass domain (INVAL).
  if (domain.bypass) return VIRTIO_IOMMU_S_INVAL;
  const { startHigh, startLow, endHigh, endLow } = request;
  if (endHigh < startHigh || (endHigh === startHigh && endLow < startLow)) return VIRTIO_IOMMU_S_RANGE;

  const { granule } = state;
  const { table } = domain;
  // Nothing lies outside the input range: clip after the exact comparison, so that keys stay exact.
  const first = granule.numberOf(startHigh, startLow);
  if (first >= state.inputEnd) return VIRTIO_IOMMU_S_OK;
  const named = granule.numberOf(endHigh, endLow);
  const clipped = named >= state.inputEnd;
  const last = clipped ? state.inputEnd - 1 : named;
  const slot = table.seek(first);
  if (slot === NONE) return VIRTIO_IOMMU_S_OK; // D-UNM-5, T-UNM-EX1
  const slotStart = table.startAt(slot);
  if (slotStart > last) return VIRTIO_IOMMU_S_OK;

  const pages = state.granulePages;
  if (domain.planner.pending > 0 && domain.planner.touches(first * pages, (last + 1 - first) * pages))
    return COMMIT_FIRST;
  // UNMAP has no alignment rule: an end inside a granule cuts the mapping that holds the granule, if there is one.
  const start = granule.isStart(startHigh, startLow) ? first : first + 1;
  const end = clipped || granule.isLast(endHigh, endLow) ? last + 1 : last;
  const slotEnd = table.endAt(slot);
  if (slotStart >= start && slotEnd > last && slotEnd <= end) {
    removeOnly(state, domain, slot, slotStart, slotEnd, segment);
    return VIRTIO_IOMMU_S_OK;
  }
  // [5.13.6.6.2] D-UNM-4, T-UNM-EX4: SHOULD remove nothing at all when the range would split a mapping (RANGE).
  if (slotStart < start || cutsAtEnd(domain, last, end)) return VIRTIO_IOMMU_S_RANGE;
  remove(state, domain, slot, start, end, segment);
  return VIRTIO_IOMMU_S_OK;
}

/** T-UNM-EX2, T-UNM-EX5: just the mapping [start, end) in `slot`, as nearly every UNMAP of Linux: no further search is needed. */
function removeOnly(
  state: IommuState,
  domain: Domain,
  slot: number,
  start: number,
  end: number,
  segment: Segment,
): void {
  const { planner, table } = domain;
  table.removeAt(slot);
  state.mappings--;
  if (domain.mirrors.length === 0) return;
  const pages = state.granulePages;
  segment.planUnmap(domain);
  planner.unmap(segment.token, start * pages, (end - start) * pages);
}

/** True when the mapping that holds granule `last` goes on behind the range, which removes granules below `end`. */
function cutsAtEnd(domain: Domain, last: number, end: number): boolean {
  const slot = domain.table.find(last);
  return slot !== NONE && domain.table.endAt(slot) > end;
}

/** D-UNM-5, T-UNM-EX3, T-UNM-EX6, T-UNM-EX7: removes every mapping inside [start, end); holes do not matter. */
function remove(
  state: IommuState,
  domain: Domain,
  firstSlot: number,
  start: number,
  end: number,
  segment: Segment,
): void {
  const { table } = domain;
  const firstStart = table.startAt(firstSlot);
  let lastEnd = end;
  if (domain.mirrors.length > 0) {
    const after = table.seek(end);
    const lastSlot = after === NONE ? table.last() : table.previous(after);
    lastEnd = table.endAt(lastSlot);
  }
  const removed = table.removeRange(start, end);
  state.mappings -= removed;
  if (domain.mirrors.length === 0) return;
  const pages = state.granulePages;
  segment.planUnmap(domain);
  domain.planner.unmap(segment.token, firstStart * pages, (lastEnd - firstStart) * pages);
}
