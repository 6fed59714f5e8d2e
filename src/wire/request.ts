// Decodes the device-readable part of a request into a reused record. Bytes only: no domains, no policy.
// Addresses stay split in 32-bit halves: the granule that turns them into numbers belongs to the device.
import * as abi from './abi.ts';

// An own constant is folded into the code, an imported one is loaded and checked at each use.
const { Attach, Detach, Head, MapRequest, Probe, Unmap } = abi;
const { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_DETACH, VIRTIO_IOMMU_T_MAP } = abi;
const { VIRTIO_IOMMU_T_PROBE, VIRTIO_IOMMU_T_UNMAP } = abi;

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
  const count = Math.min(length, MAX_REQUEST_BYTES) >>> 2;
  for (let i = 0; i < count; i++) WORDS[i] = bytes.getUint32(i * 4, true);
  return decodeWords(WORDS, 0, length, into);
}

/**
 * As {@link decodeRequest}, from little-endian words in a native array (a little-endian host), the first one at index `at`.
 * Reads no word twice and none behind `length`, so `words` may be memory that changes meanwhile.
 */
export function decodeWords(words: Uint32Array, at: number, length: number, into: RequestRecord): boolean {
  if (length < Head.SIZE) return false;
  // [5.13.6.2] D-OP-3: MUST ignore head.reserved: only the type byte is looked at.
  const type = words[at]! & 0xff;
  const needed = requestBytes(type);
  if (needed === 0 || length < needed) return false;
  into.type = type;
  switch (type) {
    case VIRTIO_IOMMU_T_MAP:
      decodeRange(words, at, into);
      into.physLow = words[at + MapRequest.phys_start / 4]!;
      into.physHigh = words[at + MapRequest.phys_start / 4 + 1]!;
      into.flags = words[at + MapRequest.flags / 4]!;
      break;
    case VIRTIO_IOMMU_T_UNMAP:
      decodeRange(words, at, into);
      into.reservedSet = words[at + Unmap.reserved / 4]! !== 0;
      break;
    case VIRTIO_IOMMU_T_ATTACH:
      into.domain = words[at + Attach.domain / 4]!;
      into.endpoint = words[at + Attach.endpoint / 4]!;
      into.flags = words[at + Attach.flags / 4]!;
      into.reservedSet = words[at + Attach.reserved / 4]! !== 0;
      break;
    case VIRTIO_IOMMU_T_DETACH:
      // [5.13.6.4.2] D-DET-1: MUST ignore reserved.
      into.domain = words[at + Detach.domain / 4]!;
      into.endpoint = words[at + Detach.endpoint / 4]!;
      break;
    default:
      // [5.13.6.7.2] D-PRB-1: MUST ignore reserved[64].
      into.endpoint = words[at + Probe.endpoint / 4]!;
  }
  return true;
}

/** Private copy of {@link decodeRequest}. */
const WORDS = new Uint32Array(MAX_REQUEST_BYTES / 4);

// MAP and UNMAP have domain, virt_start and virt_end at the same offsets (checked against the golden layouts).
function decodeRange(words: Uint32Array, at: number, into: RequestRecord): void {
  into.domain = words[at + MapRequest.domain / 4]!;
  into.startLow = words[at + MapRequest.virt_start / 4]!;
  into.startHigh = words[at + MapRequest.virt_start / 4 + 1]!;
  into.endLow = words[at + MapRequest.virt_end / 4]!;
  into.endHigh = words[at + MapRequest.virt_end / 4 + 1]!;
}
