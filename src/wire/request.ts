// Decodes the device-readable part of a request into a reused record. Bytes only: no domains, no policy.
// Addresses stay split in 32-bit halves: the granule that turns them into numbers belongs to the device.
import {
  Attach,
  Detach,
  Head,
  MapRequest,
  Probe,
  Unmap,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_DETACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from './abi.ts';

/** Longest device-readable part that any request needs. */
export const MAX_REQUEST_BYTES = Probe.SIZE;

/** One decoded request; a single instance is reused for every request of a queue. */
export class RequestRecord {
  /** Request type as sent; the fields below are valid only when {@link decodeRequest} returned true. */
  type = 0;
  domain = 0;
  endpoint = 0;
  flags = 0;
  /** True when reserved bytes that a rule looks at are not all zero (ATTACH, UNMAP). */
  reservedSet = false;
  startHigh = 0;
  startLow = 0;
  endHigh = 0;
  endLow = 0;
  physHigh = 0;
  physLow = 0;
}

/** Bytes that the device-readable part of a request of `type` needs; 0 for an unknown type. */
export function requestBytes(type: number): number {
  switch (type) {
    case VIRTIO_IOMMU_T_ATTACH:
      return Attach.SIZE;
    case VIRTIO_IOMMU_T_DETACH:
      return Detach.SIZE;
    case VIRTIO_IOMMU_T_MAP:
      return MapRequest.SIZE;
    case VIRTIO_IOMMU_T_UNMAP:
      return Unmap.SIZE;
    case VIRTIO_IOMMU_T_PROBE:
      return Probe.SIZE;
    default:
      return 0;
  }
}

/**
 * Decodes `length` bytes of `bytes` into `into`; false when the type is unknown or the part is too short for its type
 * ([5.13.6] unparsable: the buffer goes back unwritten). A longer part is legal, the rest is ignored.
 */
export function decodeRequest(bytes: DataView, length: number, into: RequestRecord): boolean {
  if (length < Head.SIZE) return false;
  // [5.13.6.2] D-OP-3: MUST ignore head.reserved: only the type byte is looked at.
  const type = bytes.getUint8(Head.type);
  const needed = requestBytes(type);
  if (needed === 0 || length < needed) return false;
  into.type = type;
  switch (type) {
    case VIRTIO_IOMMU_T_MAP:
      decodeRange(bytes, into);
      into.physLow = bytes.getUint32(MapRequest.phys_start, true);
      into.physHigh = bytes.getUint32(MapRequest.phys_start + 4, true);
      into.flags = bytes.getUint32(MapRequest.flags, true);
      break;
    case VIRTIO_IOMMU_T_UNMAP:
      decodeRange(bytes, into);
      into.reservedSet = bytes.getUint32(Unmap.reserved, true) !== 0;
      break;
    case VIRTIO_IOMMU_T_ATTACH:
      into.domain = bytes.getUint32(Attach.domain, true);
      into.endpoint = bytes.getUint32(Attach.endpoint, true);
      into.flags = bytes.getUint32(Attach.flags, true);
      into.reservedSet = bytes.getUint32(Attach.reserved, true) !== 0;
      break;
    case VIRTIO_IOMMU_T_DETACH:
      // [5.13.6.4.2] D-DET-1: MUST ignore reserved.
      into.domain = bytes.getUint32(Detach.domain, true);
      into.endpoint = bytes.getUint32(Detach.endpoint, true);
      break;
    default:
      // [5.13.6.7.2] D-PRB-1: MUST ignore reserved[64].
      into.endpoint = bytes.getUint32(Probe.endpoint, true);
  }
  return true;
}

// MAP and UNMAP have domain, virt_start and virt_end at the same offsets (checked against the golden layouts).
function decodeRange(bytes: DataView, into: RequestRecord): void {
  into.domain = bytes.getUint32(MapRequest.domain, true);
  into.startLow = bytes.getUint32(MapRequest.virt_start, true);
  into.startHigh = bytes.getUint32(MapRequest.virt_start + 4, true);
  into.endLow = bytes.getUint32(MapRequest.virt_end, true);
  into.endHigh = bytes.getUint32(MapRequest.virt_end + 4, true);
}
