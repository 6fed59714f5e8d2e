// Reader of the ACPI DMAR table (Intel VT-d specification, chapter 8): RMRRs decoded, every other structure skipped by
// its length. Not a judge of devices. Limits are inclusive as in the table; offsets are bytes from its start.
import type { AcpiHeader, OpenTable } from './acpi-table.ts';
import { asciiText, openAcpiTable } from './acpi-table.ts';
import type { DeviceRef } from './device-ref.ts';
import type { DeviceScope } from './dmar-scope.ts';
import { MAX_SCOPES, readScopes, scopeDevice } from './dmar-scope.ts';
import type { HostRegion } from './region.ts';
import { flagOverlaps, flagRange } from './region.ts';
import type { Warning } from './warnings.ts';
import { WarningList } from './warnings.ts';

/** One RMRR structure, literally. */
export interface Rmrr {
  readonly segment: number;
  readonly base: bigint;
  /** Inclusive. */
  readonly limit: bigint;
  readonly scopes: readonly DeviceScope[];
  readonly offset: number;
}

/** A decoded DMAR table. */
export interface DmarTable {
  readonly kind: 'dmar';
  /** Undefined when the bytes are no DMAR table; everything else is empty then. */
  readonly header: AcpiHeader | undefined;
  /** Bits of a host physical address. */
  readonly hostAddressWidth: number | undefined;
  readonly rmrrs: readonly Rmrr[];
  /** How many structures of each type there are; unknown types are counted too. */
  readonly structures: ReadonlyMap<number, number>;
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

const DMAR = { width: 36, first: 48 };
const STRUCTURE = { type: 0, length: 2, SIZE: 4 };
const RMRR = { segment: 6, base: 8, limit: 16, scopes: 24, SIZE: 24 };
const ANDD = { device: 7, name: 8 };
const Type = { rmrr: 1, andd: 4, last: 6 };

/** Most structures that are read from one table. */
const MAX_STRUCTURES = 1 << 16;

/**
 * Decodes a DMAR table. No content throws: what is odd becomes a located warning, what cannot be read is left out.
 * @throws TypeError when `bytes` is not a Uint8Array.
 */
export function parseDmar(bytes: Uint8Array): DmarTable {
  const warnings = new WarningList();
  const expected = { signature: 'DMAR', headerSize: DMAR.first, revisions: [1, 2] };
  const table = openAcpiTable(bytes, expected, warnings);
  const structures = new Map<number, number>();
  if (table === undefined) {
    const none = { hostAddressWidth: undefined, rmrrs: [], regions: [] };
    return { kind: 'dmar', header: undefined, ...none, structures, warnings: warnings.list() };
  }
  const hostAddressWidth = table.view.getUint8(DMAR.width) + 1;
  if (hostAddressWidth < 12 || hostAddressWidth > 64) {
    warnings.at(DMAR.width, `host address width of ${hostAddressWidth} bits cannot be`);
  }
  const found = walk(table, structures, warnings);
  const regions = found.rmrrs.map((rmrr) => toRegion(rmrr, found.names, hostAddressWidth, warnings));
  flagOverlaps('RMRR', regions, warnings);
  const { header } = table;
  return { kind: 'dmar', header, hostAddressWidth, rmrrs: found.rmrrs, structures, regions, warnings: warnings.list() };
}

interface Found {
  readonly rmrrs: Rmrr[];
  /** ACPI object names by enumeration id, of the ANDD structures. */
  readonly names: Map<number, string>;
}

function walk(table: OpenTable, structures: Map<number, number>, warnings: WarningList): Found {
  const { view, end } = table;
  const found: Found = { rmrrs: [], names: new Map() };
  let scopesLeft = MAX_SCOPES;
  let offset = DMAR.first;
  for (let count = 0; offset < end; count++) {
    if (count >= MAX_STRUCTURES) {
      warnings.at(offset, `more than ${MAX_STRUCTURES} structures; the rest is not read`);
      break;
    }
    const length = offset + STRUCTURE.SIZE <= end ? view.getUint16(offset + STRUCTURE.length, true) : 0;
    if (length < STRUCTURE.SIZE || offset + length > end) {
      warnings.at(offset, `${brokenStructure(table, offset, length)}; nothing behind it can be read`);
      break;
    }
    const type = view.getUint16(offset + STRUCTURE.type, true);
    structures.set(type, (structures.get(type) ?? 0) + 1);
    if (type === Type.rmrr) scopesLeft -= readRmrr(table, offset, length, scopesLeft, found, warnings);
    else if (type === Type.andd) readAndd(table, offset, length, found, warnings);
    else if (type > Type.last) warnings.at(offset, `structure type ${type} is not known and skipped`);
    offset += length;
  }
  return found;
}

/** Why a structure ends the walk, and what Linux (dmar_walk_remapping_entries) does there. */
function brokenStructure(table: OpenTable, offset: number, length: number): string {
  if (offset + STRUCTURE.SIZE > table.end) return `${table.end - offset} bytes are left, too few for a structure`;
  if (length === 0) return 'structure of length 0, where Linux stops and keeps what stands before';
  if (length < STRUCTURE.SIZE) return `structure of ${length} bytes is too short`;
  if (table.header.length > table.end) return `structure of ${length} bytes is cut off`;
  return `structure of ${length} bytes passes the end of the table, for which Linux leaves its IOMMUs off`;
}

function readRmrr(
  table: OpenTable,
  offset: number,
  length: number,
  room: number,
  found: Found,
  warnings: WarningList,
): number {
  if (length < RMRR.SIZE) {
    warnings.at(offset, `RMRR of ${length} bytes is too short to be read`);
    return 0;
  }
  const { view } = table;
  const scopes = readScopes(table, offset + RMRR.scopes, offset + length, room, warnings);
  if (scopes.length === 0) warnings.at(offset, 'RMRR names no device');
  found.rmrrs.push({
    segment: view.getUint16(offset + RMRR.segment, true),
    base: view.getBigUint64(offset + RMRR.base, true),
    limit: view.getBigUint64(offset + RMRR.limit, true),
    scopes,
    offset,
  });
  return scopes.length;
}

function readAndd(table: OpenTable, offset: number, length: number, found: Found, warnings: WarningList): void {
  if (length <= ANDD.name) {
    warnings.at(offset, `ANDD of ${length} bytes is too short to be read`);
    return;
  }
  const bytes = new Uint8Array(table.view.buffer, table.view.byteOffset, table.end);
  const name = asciiText(bytes, offset + ANDD.name, length - ANDD.name);
  found.names.set(table.view.getUint8(offset + ANDD.device), name);
}

function toRegion(rmrr: Rmrr, names: ReadonlyMap<number, string>, width: number, warnings: WarningList): HostRegion {
  const where = `offset 0x${rmrr.offset.toString(16)}`;
  if (!warnings.full) flagRange('RMRR', rmrr.base, rmrr.limit, where, width, warnings);
  const devices: DeviceRef[] = [];
  for (const scope of rmrr.scopes) {
    const device = scopeDevice(scope, rmrr.segment, names, warnings);
    if (device !== undefined) devices.push(device);
  }
  const { base, limit, segment } = rmrr;
  return { source: 'dmar', base, limit, segment, type: 'direct', devices, where, platform: 'intel' };
}
