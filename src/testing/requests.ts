// Driver side of the virtio-iommu ABI: encodes requests, decodes PROBE replies and fault records. Bytes only: no ring.
// Ranges are INCLUSIVE on the wire and at the bigint edge; a Kick counts pages, {iovaPage, pages}.
import type { Kick } from './kick.ts';
import {
  Attach,
  Detach,
  Fault,
  MapRequest,
  Probe,
  ProbeProperty,
  ResvMem,
  Tail,
  Unmap,
  VIRTIO_IOMMU_FAULT_F_ADDRESS,
  VIRTIO_IOMMU_PROBE_T_NONE,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  VIRTIO_IOMMU_RESV_MEM_T_MSI,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_DETACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from '../wire/abi.ts';
import { PAGE_BYTES } from './run-cursor.ts';

/** A request as values; range ends inclusive. */
export type DriverCommand =
  | { readonly op: 'attach'; readonly domain: number; readonly endpoint: number; readonly flags?: number }
  | { readonly op: 'detach'; readonly domain: number; readonly endpoint: number }
  | {
      readonly op: 'map';
      readonly domain: number;
      readonly virtStart: bigint;
      readonly virtEnd: bigint;
      readonly physStart: bigint;
      readonly flags: number;
    }
  | { readonly op: 'unmap'; readonly domain: number; readonly virtStart: bigint; readonly virtEnd: bigint }
  | { readonly op: 'probe'; readonly endpoint: number };

/** Pages per 2^32 bytes, to split a page number into the halves of a 64-bit address. */
const PAGES_PER_4G = 0x1_0000_0000 / PAGE_BYTES;

/** Encodes one request at a time into a buffer of its own; reserved bytes are zero. */
export class RequestEncoder {
  /** Readable part of the last request: the first `length` bytes. */
  readonly bytes = new Uint8Array(Probe.SIZE);
  readonly #view = new DataView(this.bytes.buffer);

  /** Encodes a command and returns its length in bytes; values are cut to the width of their field. */
  encode(command: DriverCommand): number {
    const view = this.#view;
    switch (command.op) {
      case 'attach':
        return this.#attach(VIRTIO_IOMMU_T_ATTACH, command.domain, command.endpoint, command.flags ?? 0);
      case 'detach':
        return this.#attach(VIRTIO_IOMMU_T_DETACH, command.domain, command.endpoint, 0);
      case 'map':
        this.#start(VIRTIO_IOMMU_T_MAP);
        view.setUint32(MapRequest.domain, command.domain, true);
        view.setBigUint64(MapRequest.virt_start, command.virtStart, true);
        view.setBigUint64(MapRequest.virt_end, command.virtEnd, true);
        view.setBigUint64(MapRequest.phys_start, command.physStart, true);
        view.setUint32(MapRequest.flags, command.flags, true);
        return MapRequest.SIZE;
      case 'unmap':
        this.#start(VIRTIO_IOMMU_T_UNMAP);
        view.setUint32(Unmap.domain, command.domain, true);
        view.setBigUint64(Unmap.virt_start, command.virtStart, true);
        view.setBigUint64(Unmap.virt_end, command.virtEnd, true);
        return Unmap.SIZE;
      case 'probe':
        return this.#probe(command.endpoint);
    }
  }

  /** Encodes entry `index` of a kick and returns its length in bytes; allocates nothing. */
  encodeEntry(kick: Kick, index: number): number {
    const type = kick.op[index]!;
    const domain = kick.domain[index]!;
    switch (type) {
      case VIRTIO_IOMMU_T_ATTACH:
      case VIRTIO_IOMMU_T_DETACH:
        return this.#attach(type, domain, kick.endpoint[index]!, kick.flags[index]!);
      case VIRTIO_IOMMU_T_MAP:
        this.#start(type);
        this.#view.setUint32(MapRequest.domain, domain, true);
        this.#range(MapRequest.virt_start, kick.iovaPage[index]!, kick.pages[index]!);
        this.#address(MapRequest.phys_start, kick.physPage[index]!, 0);
        this.#view.setUint32(MapRequest.flags, kick.flags[index]!, true);
        return MapRequest.SIZE;
      case VIRTIO_IOMMU_T_UNMAP:
        this.#start(type);
        this.#view.setUint32(Unmap.domain, domain, true);
        this.#range(Unmap.virt_start, kick.iovaPage[index]!, kick.pages[index]!);
        return Unmap.SIZE;
      default:
        return this.#probe(kick.endpoint[index]!);
    }
  }

  #start(type: number): void {
    this.bytes.fill(0);
    this.bytes[0] = type;
  }

  #attach(type: number, domain: number, endpoint: number, flags: number): number {
    this.#start(type);
    this.#view.setUint32(Attach.domain, domain, true);
    this.#view.setUint32(Attach.endpoint, endpoint, true);
    if (type === VIRTIO_IOMMU_T_DETACH) return Detach.SIZE;
    this.#view.setUint32(Attach.flags, flags, true);
    return Attach.SIZE;
  }

  #probe(endpoint: number): number {
    this.#start(VIRTIO_IOMMU_T_PROBE);
    this.#view.setUint32(Probe.endpoint, endpoint, true);
    return Probe.SIZE;
  }

  /** virt_start and, behind it, virt_end (inclusive). */
  #range(offset: number, page: number, pages: number): void {
    this.#address(offset, page, 0);
    this.#address(offset + 8, page + pages - 1, PAGE_BYTES - 1);
  }

  #address(offset: number, page: number, inPage: number): void {
    const high = Math.floor(page / PAGES_PER_4G);
    this.#view.setUint32(offset, (page - high * PAGES_PER_4G) * PAGE_BYTES + inPage, true);
    this.#view.setUint32(offset + 4, high, true);
  }
}

/** A reserved region as Linux understands it; both ends inclusive. An unknown subtype counts as reserved. */
export interface ProbedRegion {
  readonly kind: 'reserved' | 'msi';
  readonly subtype: number;
  readonly start: bigint;
  readonly end: bigint;
}

/** What Linux takes from the properties of a PROBE reply. */
export interface ProbedProperties {
  readonly regions: readonly ProbedRegion[];
  /** Types of properties that Linux does not know, in order. */
  readonly unknownTypes: readonly number[];
  /**
   * Why Linux gives the endpoint no IOMMU: the last RESV_MEM property spans all 2^64 addresses or is shorter than 24 bytes;
   * `ENDLESS`: a length of 0xfffc, on which its 16-bit arithmetic never gets further.
   */
  readonly error: 'EOVERFLOW' | 'EINVAL' | 'ENDLESS' | undefined;
}

/** Property type bits that Linux looks at; it takes the four reserved bits for nothing. */
const PROBE_T_MASK = 0xfff;

/**
 * Reads the properties of a PROBE reply as viommu_probe_endpoint() of Linux 6.1 to 7.2 does, faults included.
 * `writable` is the whole writable part, the tail at `probeSize`: a property that is cut short reads on into it.
 */
export function parseProperties(writable: Uint8Array, probeSize: number): ProbedProperties {
  const padded = new Uint8Array(probeSize + Tail.SIZE + ResvMem.SIZE);
  padded.set(writable.subarray(0, padded.length));
  const view = new DataView(padded.buffer);
  const regions: ProbedRegion[] = [];
  const unknownTypes: number[] = [];
  let error: ProbedProperties['error'];
  for (let at = 0; at < probeSize;) {
    const type = view.getUint16(at + ProbeProperty.type, true) & PROBE_T_MASK;
    if (type === VIRTIO_IOMMU_PROBE_T_NONE) break;
    const length = (view.getUint16(at + ProbeProperty.length, true) + ProbeProperty.SIZE) & 0xffff;
    if (type === VIRTIO_IOMMU_PROBE_T_RESV_MEM) error = addRegion(view, at, length, regions);
    else unknownTypes.push(type);
    if (length === 0) return { regions, unknownTypes, error: 'ENDLESS' };
    at += length;
  }
  return { regions, unknownTypes, error };
}

/** viommu_add_resv_mem(): the overflow is looked for before the length. */
function addRegion(view: DataView, at: number, length: number, regions: ProbedRegion[]): ProbedProperties['error'] {
  const start = view.getBigUint64(at + ResvMem.start, true);
  const end = view.getBigUint64(at + ResvMem.end, true);
  if (BigInt.asUintN(64, end - start + 1n) === 0n) return 'EOVERFLOW';
  if (length < ResvMem.SIZE) return 'EINVAL';
  const subtype = view.getUint8(at + ResvMem.subtype);
  regions.push({ kind: subtype === VIRTIO_IOMMU_RESV_MEM_T_MSI ? 'msi' : 'reserved', subtype, start, end });
  return undefined;
}

/** A fault record of the event queue. */
export interface FaultReport {
  /** VIRTIO_IOMMU_FAULT_R_ number as the device wrote it. */
  readonly reason: number;
  /** VIRTIO_IOMMU_FAULT_F_ bits as the device wrote them. */
  readonly flags: number;
  readonly endpoint: number;
  /** Undefined without the ADDRESS flag. */
  readonly address: bigint | undefined;
  /** Used length of the buffer. */
  readonly usedLength: number;
}

/**
 * Reads a fault record; undefined for one that Linux ignores: used length above 24, or reserved bytes not zero
 * [5.13.6.9, DRV-FLT-1]. `buffer` has at least 24 bytes.
 */
export function parseFault(buffer: Uint8Array, usedLength: number): FaultReport | undefined {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  const head = view.getUint32(Fault.reason, true);
  if (usedLength > Fault.SIZE || head > 0xff) return undefined;
  const flags = view.getUint32(Fault.flags, true);
  return {
    reason: head,
    flags,
    endpoint: view.getUint32(Fault.endpoint, true),
    address: (flags & VIRTIO_IOMMU_FAULT_F_ADDRESS) === 0 ? undefined : view.getBigUint64(Fault.address, true),
    usedLength,
  };
}
