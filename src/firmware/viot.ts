// Builder of the ACPI VIOT table (ACPI 6.5, virtual I/O translation table), which tells a guest what is behind a
// virtio-iommu. Not IORT: Linux reads virtio-iommu topology from VIOT. All ranges of ids have INCLUSIVE ends.
import { U32_MAX, U64_MAX, checkBigint, checkInteger, checkOneOf, checkOptions, hex } from '../base/check.ts';
import { byteSum } from './acpi-table.ts';

/** The virtio-iommu device, as a PCI function or as a virtio-mmio device. */
export type ViotIommu =
  | { readonly kind: 'pci'; readonly segment: number; readonly bdf: number }
  | { readonly kind: 'mmio'; readonly base: bigint };

/**
 * What is behind an IOMMU: a range of PCI functions (a single one where start and end are equal), or an MMIO device.
 * A function's endpoint id is ((segment - segmentStart) << 16) + bdf - bdfStart + endpointStart.
 */
export type ViotEndpoint =
  | {
      readonly kind: 'pci-range';
      readonly iommu: number;
      readonly endpointStart: number;
      readonly segmentStart: number;
      readonly segmentEnd: number;
      readonly bdfStart: number;
      readonly bdfEnd: number;
    }
  | { readonly kind: 'mmio'; readonly iommu: number; readonly endpoint: number; readonly base: bigint };

/** Identification fields of the ACPI header. */
export interface ViotHeader {
  /** At most 6 ASCII characters. */
  readonly oemId?: string;
  /** At most 8 ASCII characters. */
  readonly oemTableId?: string;
  readonly oemRevision?: number;
  /** Exactly 4 ASCII characters. */
  readonly creatorId?: string;
  readonly creatorRevision?: number;
}

/** What {@link buildViot} makes a table of. `iommu` of an endpoint is an index into `iommus`. */
export interface ViotConfig {
  readonly iommus: readonly ViotIommu[];
  readonly endpoints: readonly ViotEndpoint[];
  readonly header?: ViotHeader;
}

const TABLE = {
  length: 4,
  revision: 8,
  checksum: 9,
  oemId: 10,
  oemTableId: 16,
  oemRevision: 24,
  creatorId: 28,
  creatorRevision: 32,
  nodeCount: 36,
  nodeOffset: 38,
  SIZE: 48,
};
const NODE = { type: 0, length: 2 };
const PCI_RANGE = {
  TYPE: 1,
  endpoint: 4,
  segmentStart: 8,
  segmentEnd: 10,
  bdfStart: 12,
  bdfEnd: 14,
  output: 16,
  SIZE: 24,
};
const MMIO = { TYPE: 2, endpoint: 4, base: 8, output: 16, SIZE: 24 };
const IOMMU_PCI = { TYPE: 3, segment: 4, bdf: 6, SIZE: 16 };
const IOMMU_MMIO = { TYPE: 4, base: 8, SIZE: 16 };

/**
 * Builds the table: IOMMU nodes first, then endpoints, in the order given.
 * @throws TypeError or RangeError naming the argument for fields out of range and for what Linux (viot.c) would drop or
 * decide silently: an unknown IOMMU, two nodes for one device, overlapping ranges (there the last one wins), one endpoint
 * id for two devices, an id beyond 32 bits, a table too long for the 16-bit offsets.
 */
export function buildViot(config: ViotConfig): Uint8Array {
  checkViot(config);
  const { iommus, endpoints } = config;
  const size = TABLE.SIZE + iommus.length * IOMMU_PCI.SIZE + endpoints.length * PCI_RANGE.SIZE;
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  writeHeader(bytes, view, config.header ?? {}, iommus.length + endpoints.length);
  let offset = TABLE.SIZE;
  for (const iommu of iommus) offset += writeIommu(view, offset, iommu);
  for (const endpoint of endpoints) offset += writeEndpoint(view, offset, endpoint);
  view.setUint8(TABLE.checksum, -byteSum(bytes, size) & 0xff);
  return bytes;
}

/**
 * Nodes for one virtio-iommu that is a PCI function and translates every other function of its segment: one range on
 * each side of itself, endpoint id = bdf.
 * @throws RangeError or TypeError naming the argument.
 */
export function viotAroundPci(iommu: { readonly segment: number; readonly bdf: number }): ViotConfig {
  const segment = checkInteger('segment', iommu.segment, 0, 0xffff);
  const bdf = checkInteger('bdf', iommu.bdf, 0, 0xffff);
  const range = (bdfStart: number, bdfEnd: number): ViotEndpoint[] =>
    bdfStart > bdfEnd
      ? []
      : [
          {
            kind: 'pci-range',
            iommu: 0,
            endpointStart: bdfStart,
            segmentStart: segment,
            segmentEnd: segment,
            bdfStart,
            bdfEnd,
          },
        ];
  return { iommus: [{ kind: 'pci', segment, bdf }], endpoints: [...range(0, bdf - 1), ...range(bdf + 1, 0xffff)] };
}

function writeHeader(bytes: Uint8Array, view: DataView, header: ViotHeader, nodes: number): void {
  writeText(bytes, 0, 'VIOT', 4);
  view.setUint32(TABLE.length, bytes.length, true);
  view.setUint8(TABLE.revision, 0);
  writeText(bytes, TABLE.oemId, header.oemId ?? 'VIRTIO', 6);
  writeText(bytes, TABLE.oemTableId, header.oemTableId ?? 'VIOMMU', 8);
  view.setUint32(TABLE.oemRevision, header.oemRevision ?? 1, true);
  writeText(bytes, TABLE.creatorId, header.creatorId ?? 'VIOM', 4);
  view.setUint32(TABLE.creatorRevision, header.creatorRevision ?? 1, true);
  view.setUint16(TABLE.nodeCount, nodes, true);
  view.setUint16(TABLE.nodeOffset, TABLE.SIZE, true);
}

/** Pads with spaces, as firmware does. */
function writeText(bytes: Uint8Array, offset: number, text: string, size: number): void {
  for (let i = 0; i < size; i++) bytes[offset + i] = i < text.length ? text.charCodeAt(i) : 0x20;
}

function writeIommu(view: DataView, offset: number, iommu: ViotIommu): number {
  const layout = iommu.kind === 'pci' ? IOMMU_PCI : IOMMU_MMIO;
  view.setUint8(offset + NODE.type, layout.TYPE);
  view.setUint16(offset + NODE.length, layout.SIZE, true);
  if (iommu.kind === 'pci') {
    view.setUint16(offset + IOMMU_PCI.segment, iommu.segment, true);
    view.setUint16(offset + IOMMU_PCI.bdf, iommu.bdf, true);
  } else view.setBigUint64(offset + IOMMU_MMIO.base, iommu.base, true);
  return layout.SIZE;
}

function writeEndpoint(view: DataView, offset: number, endpoint: ViotEndpoint): number {
  const output = TABLE.SIZE + endpoint.iommu * IOMMU_PCI.SIZE;
  const layout = endpoint.kind === 'mmio' ? MMIO : PCI_RANGE;
  view.setUint8(offset + NODE.type, layout.TYPE);
  view.setUint16(offset + NODE.length, layout.SIZE, true);
  view.setUint16(offset + layout.output, output, true);
  if (endpoint.kind === 'mmio') {
    view.setUint32(offset + MMIO.endpoint, endpoint.endpoint, true);
    view.setBigUint64(offset + MMIO.base, endpoint.base, true);
    return MMIO.SIZE;
  }
  view.setUint32(offset + PCI_RANGE.endpoint, endpoint.endpointStart, true);
  view.setUint16(offset + PCI_RANGE.segmentStart, endpoint.segmentStart, true);
  view.setUint16(offset + PCI_RANGE.segmentEnd, endpoint.segmentEnd, true);
  view.setUint16(offset + PCI_RANGE.bdfStart, endpoint.bdfStart, true);
  view.setUint16(offset + PCI_RANGE.bdfEnd, endpoint.bdfEnd, true);
  return PCI_RANGE.SIZE;
}

function checkViot(config: ViotConfig): void {
  checkOptions('config', config, ['iommus', 'endpoints', 'header']);
  const lists: { readonly iommus: unknown; readonly endpoints: unknown } = config;
  if (!Array.isArray(lists.iommus)) throw new TypeError('iommus must be an array');
  if (!Array.isArray(lists.endpoints)) throw new TypeError('endpoints must be an array');
  if (config.iommus.length === 0) throw new RangeError('iommus must not be empty');
  const last = TABLE.SIZE + (config.iommus.length - 1) * IOMMU_PCI.SIZE;
  if (last > 0xffff)
    throw new RangeError(`iommus must hold at most 4093 nodes (16-bit offsets), got ${config.iommus.length}`);
  const nodes = config.iommus.length + config.endpoints.length;
  if (nodes > 0xffff) throw new RangeError(`endpoints must leave at most 65535 nodes, got ${nodes}`);
  checkIommus(config.iommus);
  config.endpoints.forEach((endpoint, i) => checkEndpoint(`endpoints[${i}]`, endpoint, config.iommus.length));
  checkOverlaps(config.endpoints);
  checkEndpointIds(config.endpoints);
  checkHeader(config.header ?? {});
}

function checkIommus(iommus: readonly ViotIommu[]): void {
  const seen = new Set<string>();
  for (const [i, iommu] of iommus.entries()) {
    const name = `iommus[${i}]`;
    if (checkOneOf(`${name}.kind`, iommu.kind, ['pci', 'mmio']) === 'pci') {
      const pci = iommu as ViotIommu & { kind: 'pci' };
      checkInteger(`${name}.segment`, pci.segment, 0, 0xffff);
      checkInteger(`${name}.bdf`, pci.bdf, 0, 0xffff);
    } else checkBigint(`${name}.base`, (iommu as ViotIommu & { kind: 'mmio' }).base, 1n, U64_MAX);
    const key = iommu.kind === 'pci' ? `pci ${iommu.segment}:${iommu.bdf}` : `mmio ${iommu.base}`;
    if (seen.has(key)) throw new RangeError(`${name} names the same device as an earlier node (${key})`);
    seen.add(key);
  }
}

function checkEndpoint(name: string, endpoint: ViotEndpoint, iommus: number): void {
  const kind = checkOneOf(`${name}.kind`, endpoint.kind, ['pci-range', 'mmio']);
  checkInteger(`${name}.iommu`, endpoint.iommu, 0, iommus - 1);
  if (kind === 'mmio') {
    const mmio = endpoint as ViotEndpoint & { kind: 'mmio' };
    checkInteger(`${name}.endpoint`, mmio.endpoint, 0, U32_MAX);
    checkBigint(`${name}.base`, mmio.base, 0n, U64_MAX);
    return;
  }
  const range = endpoint as ViotEndpoint & { kind: 'pci-range' };
  checkInteger(`${name}.segmentStart`, range.segmentStart, 0, 0xffff);
  checkInteger(`${name}.segmentEnd`, range.segmentEnd, range.segmentStart, 0xffff);
  checkInteger(`${name}.bdfStart`, range.bdfStart, 0, 0xffff);
  checkInteger(`${name}.bdfEnd`, range.bdfEnd, range.bdfStart, 0xffff);
  checkInteger(`${name}.endpointStart`, range.endpointStart, 0, U32_MAX);
  const [, last] = idSpan(range, range.segmentEnd);
  if (last > U32_MAX)
    throw new RangeError(`${name}.endpointStart gives the last function the id ${hex(last)}, beyond 32 bits`);
}

/** First and last endpoint id that a range gives to the functions of one segment. */
function idSpan(range: ViotEndpoint & { kind: 'pci-range' }, segment: number): [number, number] {
  const first = range.endpointStart + (segment - range.segmentStart) * 0x10000;
  return [first, first + range.bdfEnd - range.bdfStart];
}

/** Linux takes the LAST of two ranges that hold a function, and the first of two MMIO nodes: both are refused. */
function checkOverlaps(endpoints: readonly ViotEndpoint[]): void {
  const bases = new Map<bigint, number>();
  for (const [i, a] of endpoints.entries()) {
    if (a.kind === 'mmio') {
      const before = bases.get(a.base);
      if (before !== undefined) throw new RangeError(`endpoints[${i}].base is that of endpoints[${before}]`);
      bases.set(a.base, i);
      continue;
    }
    for (let j = 0; j < i; j++) {
      const b = endpoints[j]!;
      if (b.kind === 'mmio' || a.segmentStart > b.segmentEnd || b.segmentStart > a.segmentEnd) continue;
      if (a.bdfStart <= b.bdfEnd && b.bdfStart <= a.bdfEnd) {
        throw new RangeError(
          `endpoints[${i}].bdfStart: the range overlaps endpoints[${j}], Linux would use the later one`,
        );
      }
    }
  }
}

/** One endpoint id of one IOMMU must mean one device. */
function checkEndpointIds(endpoints: readonly ViotEndpoint[]): void {
  const spans: { index: number; iommu: number; first: number; last: number }[] = [];
  for (const [index, endpoint] of endpoints.entries()) {
    const { iommu } = endpoint;
    if (endpoint.kind === 'mmio') {
      spans.push({ index, iommu, first: endpoint.endpoint, last: endpoint.endpoint });
      continue;
    }
    for (let segment = endpoint.segmentStart; segment <= endpoint.segmentEnd; segment++) {
      const [first, last] = idSpan(endpoint, segment);
      spans.push({ index, iommu, first, last });
    }
  }
  spans.sort((a, b) => a.iommu - b.iommu || a.first - b.first);
  for (const [i, span] of spans.entries()) {
    const next = spans[i + 1];
    if (next?.iommu !== span.iommu || next.first > span.last) continue;
    const index = Math.max(span.index, next.index);
    throw new RangeError(
      `endpoints[${index}] gives the id ${hex(next.first)} to a second device of iommus[${span.iommu}]`,
    );
  }
}

function checkHeader(header: ViotHeader): void {
  checkOptions('header', header, ['oemId', 'oemTableId', 'oemRevision', 'creatorId', 'creatorRevision']);
  checkText('header.oemId', header.oemId, 0, 6);
  checkText('header.oemTableId', header.oemTableId, 0, 8);
  checkText('header.creatorId', header.creatorId, 4, 4);
  checkInteger('header.oemRevision', header.oemRevision ?? 0, 0, U32_MAX);
  checkInteger('header.creatorRevision', header.creatorRevision ?? 0, 0, U32_MAX);
}

function checkText(name: string, text: unknown, min: number, max: number): void {
  if (text === undefined) return;
  if (typeof text !== 'string') throw new TypeError(`${name} must be a string`);
  if (text.length < min || text.length > max || !/^[\x20-\x7e]*$/.test(text)) {
    throw new RangeError(`${name} must be ${min === max ? min : `at most ${max}`} printable ASCII characters`);
  }
}
