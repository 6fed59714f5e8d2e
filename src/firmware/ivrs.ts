// Reader of the ACPI IVRS table (AMD I/O virtualization specification, chapter 5): IVMD blocks decoded, IVHD and others
// skipped by length. Device ids are bus << 8 | device << 3 | function; the table stores LENGTHS, regions have inclusive limits.
import type { AcpiHeader, OpenTable } from './acpi-table.ts';
import { openAcpiTable } from './acpi-table.ts';
import { U64_MAX, hex } from '../base/check.ts';
import type { AddressRange } from '../base/ranges.ts';
import type { DeviceRef } from './device-ref.ts';
import type { HostRegion } from './region.ts';
import { flagOverlaps, flagRange } from './region.ts';
import type { Warning } from './warnings.ts';
import { WarningList } from './warnings.ts';

/** One IVMD block, literally. */
export interface Ivmd {
  /** 0x20 all devices, 0x21 one device, 0x22 a range of devices. */
  readonly type: number;
  /** Bit 0 unity, 1 read, 2 write, 3 exclusion. */
  readonly flags: number;
  readonly deviceId: number;
  /** Last device id of type 0x22. */
  readonly aux: number;
  readonly segment: number;
  readonly start: bigint;
  /** Bytes, not an end. */
  readonly length: bigint;
  readonly offset: number;
}

/** A decoded IVRS table. */
export interface IvrsTable {
  readonly kind: 'ivrs';
  /** Undefined when the bytes are no IVRS table; everything else is empty then. */
  readonly header: AcpiHeader | undefined;
  /** Bits of a host physical address (IVinfo), undefined when the table gives 0. */
  readonly hostAddressWidth: number | undefined;
  readonly ivmds: readonly Ivmd[];
  /** How many blocks of each type there are. */
  readonly structures: ReadonlyMap<number, number>;
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

const IVRS = { info: 36, first: 48 };
const BLOCK = { type: 0, flags: 1, length: 2, SIZE: 4 };
const IVMD = { deviceId: 4, aux: 6, segment: 8, start: 16, length: 24, SIZE: 32 };
const Type = { all: 0x20, one: 0x21, range: 0x22 } as const;
const IVHD_TYPES = [0x10, 0x11, 0x40];

/** IVMD flag bits. */
export const IvmdFlag = { unity: 1, read: 2, write: 4, exclusion: 8 } as const;

const PAGE_MASK = 0xfffn;

/**
 * Decodes an IVRS table. No content throws: what is odd becomes a located warning.
 * @throws TypeError when `bytes` is not a Uint8Array.
 */
export function parseIvrs(bytes: Uint8Array): IvrsTable {
  const warnings = new WarningList();
  const table = openAcpiTable(bytes, { signature: 'IVRS', headerSize: IVRS.first, revisions: [1, 2] }, warnings);
  const structures = new Map<number, number>();
  if (table === undefined) {
    const none = { hostAddressWidth: undefined, ivmds: [], regions: [] };
    return { kind: 'ivrs', header: undefined, ...none, structures, warnings: warnings.list() };
  }
  const width = (table.view.getUint32(IVRS.info, true) >> 8) & 0x7f;
  const hostAddressWidth = width === 0 ? undefined : width;
  const ivmds = walk(table, structures, warnings);
  const regions: HostRegion[] = [];
  for (const ivmd of ivmds) {
    const region = toRegion(ivmd, hostAddressWidth, warnings);
    if (region !== undefined) regions.push(region);
  }
  flagOverlaps('IVMD', regions, warnings);
  const { header } = table;
  return { kind: 'ivrs', header, hostAddressWidth, ivmds, structures, regions, warnings: warnings.list() };
}

function walk(table: OpenTable, structures: Map<number, number>, warnings: WarningList): Ivmd[] {
  const { view, end } = table;
  const ivmds: Ivmd[] = [];
  let offset = IVRS.first;
  while (offset < end) {
    const length = offset + BLOCK.SIZE <= end ? view.getUint16(offset + BLOCK.length, true) : 0;
    if (length < BLOCK.SIZE || offset + length > end) {
      warnings.at(offset, `block of ${length} bytes cannot be skipped; nothing behind it is read`);
      break;
    }
    const type = view.getUint8(offset + BLOCK.type);
    structures.set(type, (structures.get(type) ?? 0) + 1);
    if (type >= Type.all && type <= Type.range) {
      if (length < IVMD.SIZE) warnings.at(offset, `IVMD of ${length} bytes is too short to be read`);
      else ivmds.push(readIvmd(view, offset));
      if (length > IVMD.SIZE) warnings.at(offset, `IVMD of ${length} bytes, expected ${IVMD.SIZE}`);
    } else if (!IVHD_TYPES.includes(type)) {
      warnings.at(offset, `block type ${hex(type)} is not known and skipped`);
    }
    offset += length;
  }
  return ivmds;
}

function readIvmd(view: DataView, offset: number): Ivmd {
  return {
    type: view.getUint8(offset + BLOCK.type),
    flags: view.getUint8(offset + BLOCK.flags),
    deviceId: view.getUint16(offset + IVMD.deviceId, true),
    aux: view.getUint16(offset + IVMD.aux, true),
    segment: view.getUint16(offset + IVMD.segment, true),
    start: view.getBigUint64(offset + IVMD.start, true),
    length: view.getBigUint64(offset + IVMD.length, true),
    offset,
  };
}

function toRegion(ivmd: Ivmd, width: number | undefined, warnings: WarningList): HostRegion | undefined {
  const { start, length, segment, flags, offset } = ivmd;
  const where = `offset 0x${offset.toString(16)}`;
  const name = `IVMD [${hex(start)}, ${hex(length)} bytes]`;
  if ((flags & (IvmdFlag.unity | IvmdFlag.exclusion)) === 0) {
    warnings.at(offset, `${name} is neither a unity map nor an exclusion range; Linux ignores it`);
    return undefined;
  }
  if (length === 0n || start + length - 1n > U64_MAX) {
    warnings.at(offset, length === 0n ? `${name} is empty` : `${name} passes the end of the address space`);
    if (length === 0n) return undefined;
  }
  const literalEnd = start + length - 1n;
  const limit = literalEnd > U64_MAX ? U64_MAX : literalEnd;
  if (!warnings.full) flagRange('IVMD', start, limit, where, width, warnings);
  const exclusion = (flags & IvmdFlag.exclusion) !== 0;
  if (exclusion) warnings.at(offset, `${name} is an exclusion range; Linux treats it as a 1:1 mapping (direct)`);
  const linux = alignedByLinux(start, length);
  if (linux !== undefined && linux.start !== start) {
    warnings.at(offset, `${name} starts unaligned: Linux moves it up to [${hex(linux.start)}-${hex(linux.end)}]`);
  }
  const exact = linux === undefined || (linux.start === start && linux.end === limit);
  return {
    source: 'ivrs',
    base: start,
    limit,
    segment,
    type: 'direct',
    devices: devicesOf(ivmd, warnings),
    where,
    platform: 'amd',
    ...(exact ? {} : { effective: linux }),
    ...(exclusion ? { exclusion } : {}),
  };
}

/** Linux: start = PAGE_ALIGN(start), which rounds UP, and end = that start + PAGE_ALIGN(length). */
function alignedByLinux(start: bigint, length: bigint): AddressRange | undefined {
  const first = (start + PAGE_MASK) & ~PAGE_MASK;
  const end = first + ((length + PAGE_MASK) & ~PAGE_MASK) - 1n;
  return end > U64_MAX ? undefined : { start: first, end };
}

function devicesOf(ivmd: Ivmd, warnings: WarningList): DeviceRef[] {
  const { type, segment, deviceId, aux } = ivmd;
  if (type === Type.all) {
    warnings.at(ivmd.offset, 'IVMD holds for all devices of its segment');
    return [{ kind: 'pci-range', segment, first: 0, last: 0xffff }];
  }
  if (type === Type.one || deviceId === aux) return [{ kind: 'pci', segment, rid: deviceId }];
  if (aux < deviceId) {
    warnings.at(
      ivmd.offset,
      `IVMD range of devices ends at ${hex(aux)} before it starts at ${hex(deviceId)}: no device`,
    );
    return [];
  }
  if (aux - deviceId >= 0xfff) {
    warnings.at(ivmd.offset, `IVMD locks ${aux - deviceId + 1} device ids: nearly every device becomes 1:1-required`);
  }
  return [{ kind: 'pci-range', segment, first: deviceId, last: aux }];
}
