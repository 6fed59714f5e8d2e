// Reader of the ACPI IORT table (Arm DEN 0049): RMR nodes decoded, their stream ids followed back to PCI functions and
// named components; other nodes skipped. The table stores lengths, regions have INCLUSIVE limits; offsets are bytes.
import type { AcpiHeader, OpenTable } from './acpi-table.ts';
import { asciiText, openAcpiTable } from './acpi-table.ts';
import { U64_MAX, hex } from '../base/check.ts';
import type { AddressRange } from '../base/ranges.ts';
import type { DeviceRef } from './device-ref.ts';
import type { IdMapping, IortNode } from './iort-nodes.ts';
import { IORT_HEADER_SIZE, IortNodeType, readMappings, readNodes } from './iort-nodes.ts';
import type { HostRegion } from './region.ts';
import { flagOverlaps, flagRange } from './region.ts';
import type { Warning } from './warnings.ts';
import { WarningList } from './warnings.ts';

/** One descriptor of an RMR node, literally. */
export interface RmrDescriptor {
  readonly base: bigint;
  /** Bytes. */
  readonly length: bigint;
  /** Flags of the node: bit 0 remapping permitted, 1 privileged, 9:2 attributes. */
  readonly flags: number;
  readonly offset: number;
}

/** A decoded IORT table. */
export interface IortTable {
  readonly kind: 'iort';
  /** Undefined when the bytes are no IORT table; everything else is empty then. */
  readonly header: AcpiHeader | undefined;
  readonly rmrs: readonly RmrDescriptor[];
  /** How many nodes of each type there are. */
  readonly structures: ReadonlyMap<number, number>;
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

const RMR = { flags: 16, count: 20, descriptors: 24, SIZE: 28 };
const DESCRIPTOR = { base: 0, length: 8, SIZE: 20 };
const ROOT = { segment: 28, SIZE: 36 };
const NAMED = { name: 29 };
const REMAPPING_PERMITTED = 1;
const ALIGNMENT = 0xffffn;
const PAGE_MASK = 0xfffn;

/** Most pairs of mappings that are compared, so that a hostile table costs bounded time. */
const MAX_PAIRS = 1 << 14;

/**
 * Decodes an IORT table. No content throws: what is odd becomes a located warning.
 * @throws TypeError when `bytes` is not a Uint8Array.
 */
export function parseIort(bytes: Uint8Array): IortTable {
  const warnings = new WarningList();
  const expected = { signature: 'IORT', headerSize: IORT_HEADER_SIZE, revisions: [0, 1, 3, 5, 6, 7] };
  const table = openAcpiTable(bytes, expected, warnings);
  const structures = new Map<number, number>();
  if (table === undefined) {
    return { kind: 'iort', header: undefined, rmrs: [], structures, regions: [], warnings: warnings.list() };
  }
  const nodes = readNodes(table, warnings);
  for (const node of nodes) structures.set(node.type, (structures.get(node.type) ?? 0) + 1);
  const rmrs: RmrDescriptor[] = [];
  const regions: HostRegion[] = [];
  const streams = new StreamResolver(table, nodes);
  for (const node of nodes) {
    if (node.type === IortNodeType.rmr) readRmrNode(table, node, streams, rmrs, regions, warnings);
  }
  if (rmrs.length > 0 && table.header.revision < 5) {
    warnings.at(
      8,
      `Linux reads RMR nodes from table revision 5 on (approximate), this one has ${table.header.revision}`,
    );
  }
  flagOverlaps('RMR', regions, warnings);
  return { kind: 'iort', header: table.header, rmrs, structures, regions, warnings: warnings.list() };
}

function readRmrNode(
  table: OpenTable,
  node: IortNode,
  streams: StreamResolver,
  rmrs: RmrDescriptor[],
  regions: HostRegion[],
  warnings: WarningList,
): void {
  const { view } = table;
  if (node.length < RMR.SIZE) {
    warnings.at(node.offset, `RMR node of ${node.length} bytes is too short to be read`);
    return;
  }
  if (node.revision !== 3) warnings.at(node.offset, `RMR node of revision ${node.revision}, expected 3`);
  const flags = view.getUint32(node.offset + RMR.flags, true);
  const count = view.getUint32(node.offset + RMR.count, true);
  const first = view.getUint32(node.offset + RMR.descriptors, true);
  const room = Math.max(0, Math.floor((node.length - first) / DESCRIPTOR.SIZE));
  if (count > 0 && (first < RMR.SIZE || count > room)) {
    warnings.at(node.offset, `${count} RMR descriptors do not fit into their node`);
    if (first < RMR.SIZE) return;
  }
  const { devices, segment } = streams.devicesOf(node, warnings);
  for (let i = 0; i < Math.min(count, room); i++) {
    const offset = node.offset + first + i * DESCRIPTOR.SIZE;
    const base = view.getBigUint64(offset + DESCRIPTOR.base, true);
    const length = view.getBigUint64(offset + DESCRIPTOR.length, true);
    rmrs.push({ base, length, flags, offset });
    const region = toRegion({ base, length, flags, offset }, devices, segment, warnings);
    if (region !== undefined) regions.push(region);
  }
}

function toRegion(
  rmr: RmrDescriptor,
  devices: readonly DeviceRef[],
  segment: number,
  warnings: WarningList,
): HostRegion | undefined {
  const { base, length, offset } = rmr;
  const name = `RMR [${hex(base)}, ${hex(length)} bytes]`;
  if (length === 0n) {
    warnings.at(offset, `${name} is empty`);
    return undefined;
  }
  const end = base + length - 1n;
  if (end > U64_MAX) warnings.at(offset, `${name} passes the end of the address space`);
  const limit = end > U64_MAX ? U64_MAX : end;
  const where = `offset 0x${offset.toString(16)}`;
  if (!warnings.full) flagRange('RMR', base, limit, where, undefined, warnings);
  let effective: AddressRange | undefined;
  if ((base & ALIGNMENT) !== 0n || (length & ALIGNMENT) !== 0n) {
    effective = { start: base & ~PAGE_MASK, end: limit | PAGE_MASK };
    warnings.at(offset, `${name} is not aligned to 64 KiB; Linux uses [${hex(effective.start)}-${hex(effective.end)}]`);
    if (effective.start === base && effective.end === limit) effective = undefined;
  }
  const type = (rmr.flags & REMAPPING_PERMITTED) !== 0 ? 'direct-relaxable' : 'direct';
  const range = effective === undefined ? {} : { effective };
  return { source: 'iort', base, limit, segment, type, devices, where, platform: 'arm', ...range };
}

/** Follows stream ids of RMR nodes back to what feeds them: root complexes and named components. */
class StreamResolver {
  readonly #table: OpenTable;
  readonly #types = new Map<number, number>();
  readonly #feeders: { node: IortNode; mapping: IdMapping }[] = [];
  #pairs = 0;

  constructor(table: OpenTable, nodes: readonly IortNode[]) {
    this.#table = table;
    const quiet = new WarningList();
    for (const node of nodes) {
      this.#types.set(node.offset, node.type);
      const isRoot = node.type === IortNodeType.root && node.length >= ROOT.SIZE;
      const isNamed = node.type === IortNodeType.named && node.length > NAMED.name;
      if (!isRoot && !isNamed) continue;
      for (const mapping of readMappings(table, node, quiet)) this.#feeders.push({ node, mapping });
    }
  }

  devicesOf(rmr: IortNode, warnings: WarningList): { devices: DeviceRef[]; segment: number } {
    const devices: DeviceRef[] = [];
    const mappings = readMappings(this.#table, rmr, warnings);
    if (mappings.length === 0) warnings.at(rmr.offset, 'RMR node without an id mapping names no device');
    for (const mapping of mappings) {
      const type = this.#types.get(mapping.reference);
      const isSmmu = type === IortNodeType.smmu || type === IortNodeType.smmuV3;
      if (!isSmmu) {
        warnings.at(mapping.offset, `id mapping refers to offset ${hex(mapping.reference)}, where no SMMU node is`);
      }
      const found = isSmmu ? this.#feed(mapping, warnings) : [];
      const { reference: smmu, output: first } = mapping;
      if (found.length === 0) devices.push({ kind: 'stream', smmu, first, last: first + mapping.span });
      else devices.push(...found);
    }
    const pci = devices.find((device) => device.kind === 'pci' || device.kind === 'pci-range');
    return { devices, segment: pci?.segment ?? 0 };
  }

  #feed(rmr: IdMapping, warnings: WarningList): DeviceRef[] {
    const found: DeviceRef[] = [];
    for (const { node, mapping } of this.#feeders) {
      if (++this.#pairs > MAX_PAIRS) {
        if (this.#pairs === MAX_PAIRS + 1) warnings.at(rmr.offset, 'too many id mappings; stream ids stay unresolved');
        break;
      }
      if (mapping.reference !== rmr.reference) continue;
      const first = Math.max(rmr.output, mapping.output);
      const last = Math.min(rmr.output + rmr.span, mapping.output + mapping.span);
      if (first > last) continue;
      const device = this.#feeder(node, first - mapping.output + mapping.input, last - first);
      if (device !== undefined) found.push(device);
    }
    return found;
  }

  #feeder(node: IortNode, first: number, span: number): DeviceRef | undefined {
    const { view, end } = this.#table;
    if (node.type === IortNodeType.named) {
      const bytes = new Uint8Array(view.buffer, view.byteOffset, end);
      const stop = node.offset + node.length;
      let length = 0;
      while (node.offset + NAMED.name + length < stop && bytes[node.offset + NAMED.name + length] !== 0) length++;
      return { kind: 'acpi', name: asciiText(bytes, node.offset + NAMED.name, length) };
    }
    if (first + span > 0xffff) return undefined;
    const segment = view.getUint32(node.offset + ROOT.segment, true);
    if (span === 0) return { kind: 'pci', segment, rid: first };
    return { kind: 'pci-range', segment, first, last: first + span };
  }
}
