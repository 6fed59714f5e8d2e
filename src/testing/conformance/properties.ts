// Takes the properties of a PROBE reply apart, strictly, as the standard has them [5.13.6.7.2].
// Not here: what Linux makes of them (testing/requests.ts). Range ends are inclusive.
import { ProbeProperty, ResvMem, VIRTIO_IOMMU_PROBE_T_NONE, VIRTIO_IOMMU_PROBE_T_RESV_MEM } from '../../wire/abi.ts';
import type { PropertySpec } from './vector-types.ts';

/** A property that stands where it should. */
export interface FoundProperty extends PropertySpec {
  /** The four high bits of the type, or reserved[3] of a RESV_MEM property, are not zero. */
  readonly reservedSet: boolean;
}

export interface FoundProperties {
  readonly list: readonly FoundProperty[];
  /** Where they end: bytes from here on are padding. */
  readonly end: number;
  /** What is wrong with the first one that is not well formed; empty when all are. */
  readonly problem: string;
}

/** Bits of the first field that hold the type. */
const TYPE_MASK = 0xfff;

/** Reads properties up to type NONE, the end of `bytes`, or the first one that is not well formed. */
export function findProperties(bytes: Uint8Array): FoundProperties {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const list: FoundProperty[] = [];
  let at = 0;
  while (at + ProbeProperty.SIZE <= bytes.length) {
    const head = view.getUint16(at + ProbeProperty.type, true);
    const type = head & TYPE_MASK;
    const length = view.getUint16(at + ProbeProperty.length, true);
    if (type === VIRTIO_IOMMU_PROBE_T_NONE) break;
    const end = at + ProbeProperty.SIZE + length;
    const problem = problemOf(view, at, type, end);
    if (problem !== '') return { list, end: at, problem };
    const region = type === VIRTIO_IOMMU_PROBE_T_RESV_MEM;
    list.push({
      type,
      length,
      subtype: region ? view.getUint8(at + ResvMem.subtype) : 0,
      start: region ? view.getBigUint64(at + ResvMem.start, true) : 0n,
      end: region ? view.getBigUint64(at + ResvMem.end, true) : 0n,
      reservedSet: head > TYPE_MASK || (region && [1, 2, 3].some((i) => bytes[at + ResvMem.subtype + i] !== 0)),
    });
    at = end;
  }
  return { list, end: at, problem: '' };
}

function problemOf(view: DataView, at: number, type: number, end: number): string {
  if (end > view.byteLength) return `the property at ${at} (type ${type}) does not end inside the buffer`;
  if (type !== VIRTIO_IOMMU_PROBE_T_RESV_MEM) return '';
  if (end !== at + ResvMem.SIZE) return `the RESV_MEM property at ${at} has length ${end - at - ProbeProperty.SIZE}`;
  const first = view.getBigUint64(at + ResvMem.start, true);
  return first <= view.getBigUint64(at + ResvMem.end, true)
    ? ''
    : `the RESV_MEM property at ${at} ends before it starts`;
}

/** One property on one line; equal lines mean equal properties. */
export function propertyText({ type, length, subtype, start, end }: PropertySpec): string {
  return `type ${type} length ${length} subtype ${subtype} 0x${start.toString(16)}-0x${end.toString(16)}`;
}
