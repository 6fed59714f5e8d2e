// Encodes what the device writes: request tails, PROBE replies and fault records. Bytes only.
// Range ends are INCLUSIVE here, as the standard has them.
import type { ReservedRegion } from '../base/reserved.ts';
import {
  Fault,
  ProbeProperty,
  ResvMem,
  Tail,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  VIRTIO_IOMMU_RESV_MEM_T_MSI,
  VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
} from './abi.ts';

/** Writes a request tail at `at`: the status and zeroes ([5.13.6.2] D-OP-4: tail.reserved SHOULD be 0). */
export function encodeTail(bytes: Uint8Array, at: number, status: number): void {
  bytes[at + Tail.status] = status;
  // Byte by byte: a call of fill costs more than three stores.
  bytes[at + Tail.reserved] = 0;
  bytes[at + Tail.reserved + 1] = 0;
  bytes[at + Tail.reserved + 2] = 0;
}

/** Bytes that `count` RESV_MEM properties take in a PROBE reply. */
export function probeBytes(count: number): number {
  return count * ResvMem.SIZE;
}

/**
 * Builds the properties buffer of a PROBE reply: one RESV_MEM property per region, then zeroes.
 * The caller has checked that the regions fit.
 */
export function encodeProperties(regions: readonly ReservedRegion[], probeSize: number): Uint8Array {
  // [5.13.6.7.2] D-PRB-8: SHOULD fill the rest with zeroes; T-PRB-1: type 0 ends the list.
  const bytes = new Uint8Array(probeSize);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const region of regions) {
    // [5.13.6.7.2] D-PRB-4: the four high bits of the type are zero. D-PRB-5: length is the value's size.
    view.setUint16(at + ProbeProperty.type, VIRTIO_IOMMU_PROBE_T_RESV_MEM, true);
    view.setUint16(at + ProbeProperty.length, ResvMem.SIZE - ProbeProperty.SIZE, true);
    // [5.13.6.8.1.2] D-RES-1: reserved stays zero.
    view.setUint8(
      at + ResvMem.subtype,
      region.kind === 'msi' ? VIRTIO_IOMMU_RESV_MEM_T_MSI : VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
    );
    view.setBigUint64(at + ResvMem.start, region.start, true);
    view.setBigUint64(at + ResvMem.end, region.end, true);
    at += ResvMem.SIZE; // D-PRB-6: the next property stands exactly length + 4 further on
  }
  return bytes;
}

/**
 * Writes one fault record into the first {@link Fault.SIZE} bytes of `bytes`.
 * [5.13.6.9] D-FLT-1, D-FLT-2: reserved fields and undefined flags are zero.
 */
export function encodeFault(
  bytes: DataView,
  reason: number,
  flags: number,
  endpoint: number,
  addressHigh: number,
  addressLow: number,
): void {
  bytes.setUint32(Fault.reason, reason, true); // reason and reserved[3] together
  bytes.setUint32(Fault.flags, flags, true);
  bytes.setUint32(Fault.endpoint, endpoint, true);
  bytes.setUint32(Fault.reserved1, 0, true);
  bytes.setUint32(Fault.address, addressLow, true);
  bytes.setUint32(Fault.address + 4, addressHigh, true);
}
