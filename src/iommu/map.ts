// MAP [5.13.6.5]: adds one mapping to a domain. Hot path: no allocation, no bigint.
import * as abi from '../wire/abi.ts';
import type { RequestRecord } from '../wire/request.ts';
import type { Domain } from './domain.ts';
import type { Granule } from './granule.ts';
import { reportMappingCap } from './refusal.ts';
import type { IommuState } from './state.ts';
import type { Segment } from './segment.ts';
import * as segments from './segment.ts';

// Own constants are folded into the code, imported ones are loaded and checked at each use.
const { VIRTIO_IOMMU_MAP_F_MMIO, VIRTIO_IOMMU_MAP_F_READ, VIRTIO_IOMMU_MAP_F_WRITE } = abi;
const { VIRTIO_IOMMU_S_INVAL, VIRTIO_IOMMU_S_NOENT, VIRTIO_IOMMU_S_OK, VIRTIO_IOMMU_S_RANGE } = abi;
const { COMMIT_FIRST, UNWRITTEN } = segments;

const KNOWN_FLAGS = VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE | VIRTIO_IOMMU_MAP_F_MMIO;

/**
 * Decides one MAP, changes the guest's table and plans the host operations under the segment's next token.
 * Returns a status, UNWRITTEN, or COMMIT_FIRST when the answer depends on requests that are not committed.
 */
export function processMap(state: IommuState, request: RequestRecord, segment: Segment): number {
  // [5.13.6.5] T-MAP-4: the request exists only with MAP_UNMAP negotiated.
  if (!state.mapUnmapNegotiated) return UNWRITTEN;
  // [5.13.6.5.2] D-MAP-3: MUST reject an unrecognised flag (INVAL). T-MAP-3: MMIO only after negotiation.
  const known = state.mmioNegotiated ? KNOWN_FLAGS : KNOWN_FLAGS & ~VIRTIO_IOMMU_MAP_F_MMIO;
  if ((request.flags & ~known) !== 0) return VIRTIO_IOMMU_S_INVAL;
  // [5.13.6.5.2] D-MAP-4: SHOULD reject an unknown domain (NOENT).
  const domain = state.domain(request.domain);
  if (domain === undefined) return VIRTIO_IOMMU_S_NOENT;
  // [5.13.6.5.2] D-MAP-5: SHOULD reject a bypass domain (INVAL).
  if (domain.bypass) return VIRTIO_IOMMU_S_INVAL;
  const { granule } = state;
  const start = granule.numberOf(request.startHigh, request.startLow);
  const last = granule.numberOf(request.endHigh, request.endLow);
  const phys = granule.numberOf(request.physHigh, request.physLow);
  if (!rangeIsSound(granule, request, last - start + 1, phys)) return VIRTIO_IOMMU_S_RANGE;

  // [5.13.6] T-CFG-2, DRV-OP-4: outside input_range MAP fails (RANGE, spec/decisions.md). `last` is compared, not the end:
  // above 2^53 one more would not be exact.
  if (start < state.inputStart || last >= state.inputEnd) return VIRTIO_IOMMU_S_RANGE;
  const end = last + 1;
  // [5.13.6.8.1.2] D-RES-4: SHOULD reject a MAP that meets a reserved region of any endpoint of the domain (INVAL).
  const { reserved } = domain;
  if (reserved.length > 0 && start < reserved.endAt(reserved.length - 1) && reserved.startAt(0) < end) {
    if (reserved.meets(start, end)) return VIRTIO_IOMMU_S_INVAL;
  }

  const { planner } = domain;
  const pages = state.granulePages;
  // A change of this segment here: the host decides first whether it holds.
  if (planner.pending > 0 && planner.touches(start * pages, (end - start) * pages)) return COMMIT_FIRST;
  if (state.mappings >= state.options.maxMappings) return processAtCap(state, domain, start, end, segment);
  // [5.13.6.5.2] D-MAP-2: SHOULD reject a range that meets an existing mapping (INVAL).
  if (!domain.table.insert(start, end, phys, request.flags)) return VIRTIO_IOMMU_S_INVAL;
  state.mappings++;
  if (domain.mirrors.length > 0) {
    segment.planMap(domain, start);
    // D-MAP-6: the host entry has no right that the flags do not give; READ and WRITE have the values of HostRight.
    planner.map(segment.token, start * pages, (end - start) * pages, phys * pages, request.flags);
  }
  return VIRTIO_IOMMU_S_OK;
}

/** No room for another mapping. A MAP that the host refuses in this segment would make some: commit, then decide again. */
function processAtCap(state: IommuState, domain: Domain, start: number, end: number, segment: Segment): number {
  if (!domain.table.isFree(start, end)) return VIRTIO_IOMMU_S_INVAL;
  if (segment.planned) return COMMIT_FIRST;
  // [5.13.6] T-ST-8: NOMEM is insufficient resources.
  reportMappingCap(state, domain, state.granule.addressOf(start));
  return abi.VIRTIO_IOMMU_S_NOMEM;
}

/**
 * Order, alignment and physical end of the range; everything here is answered RANGE. `length` granules at number `phys`:
 * both mean something only once the order is checked.
 */
function rangeIsSound(granule: Granule, request: RequestRecord, length: number, phys: number): boolean {
  const { startHigh, startLow, endHigh, endLow } = request;
  // DRV-MAP-2: an inverted range is refused (spec/decisions.md).
  if (endHigh < startHigh || (endHigh === startHigh && endLow < startLow)) return false;
  // [5.13.6.5.2] D-MAP-1: SHOULD reject what is not aligned to the granule (RANGE).
  if (!granule.isStart(startHigh, startLow) || !granule.isLast(endHigh, endLow)) return false;
  if (!granule.isStart(request.physHigh, request.physLow)) return false;
  // [5.13.6.5] T-MAP-2: whether memory is there is not asked, it may come later (spec/decisions.md).
  // T-MAP-1: the physical range must exist in 64 bits; below a 4 KiB granule it ends at 2^53 (spec/decisions.md).
  // A difference, since a sum could round down to the limit; the range is exact whenever it passes the checks below.
  return phys <= granule.physLimit - length;
}
