// Device scopes of DMAR structures. Not their resolution through bridges (topology.ts).
// Offsets are bytes from the start of the table; `end` is exclusive.
import type { OpenTable } from './acpi-table.ts';
import type { DeviceRef, PathHop } from './device-ref.ts';
import { ridOf } from './device-ref.ts';
import type { WarningList } from './warnings.ts';

/** Device scope types (VT-d specification, 8.3.1). */
export const ScopeType = { endpoint: 1, bridge: 2, ioapic: 3, hpet: 4, namespace: 5 } as const;

/** One device scope, as in the table. */
export interface DeviceScope {
  readonly type: number;
  readonly flags: number;
  readonly enumerationId: number;
  readonly startBus: number;
  readonly path: readonly PathHop[];
  /** Byte offset in the table. */
  readonly offset: number;
}

/** Most device scopes that are read from one table. */
export const MAX_SCOPES = 1 << 16;

const SCOPE = { type: 0, length: 1, flags: 2, enumerationId: 4, startBus: 5, path: 6, SIZE: 6 };

/** Reads the device scopes in [`start`, `end`), at most `room`; a length that cannot be is flagged and ends the list. */
export function readScopes(
  table: OpenTable,
  start: number,
  end: number,
  room: number,
  warnings: WarningList,
): DeviceScope[] {
  const { view } = table;
  const scopes: DeviceScope[] = [];
  let offset = start;
  while (offset < end) {
    if (scopes.length >= room) {
      warnings.at(offset, `more than ${MAX_SCOPES} device scopes; the rest is not read`);
      return scopes;
    }
    const length = offset + SCOPE.SIZE <= end ? view.getUint8(offset + SCOPE.length) : 0;
    if (length < SCOPE.SIZE || offset + length > end) {
      warnings.at(offset, `device scope of ${length} bytes does not fit into its structure; the rest of it is skipped`);
      return scopes;
    }
    scopes.push(readScope(view, offset, length, warnings));
    offset += length;
  }
  return scopes;
}

/** What an RMRR's scope means as a device; undefined (with a warning) for what Linux binds to no device. */
export function scopeDevice(
  scope: DeviceScope,
  segment: number,
  names: ReadonlyMap<number, string>,
  warnings: WarningList,
): DeviceRef | undefined {
  const { type, path, startBus, offset } = scope;
  if (type === ScopeType.namespace) {
    const name = names.get(scope.enumerationId) ?? `#${scope.enumerationId}`;
    warnings.at(offset, `scope names the ACPI device ${name}, which Linux counts and never binds: unresolved`);
    return { kind: 'acpi', name };
  }
  if (type !== ScopeType.endpoint && type !== ScopeType.bridge) {
    warnings.at(offset, `scope type ${type} names no DMA device here and is ignored`);
    return undefined;
  }
  const hop = path[0];
  if (hop === undefined) {
    warnings.at(offset, 'device scope without a path matches no device');
    return undefined;
  }
  const bridge = type === ScopeType.bridge ? { bridge: true } : {};
  if (bridge.bridge === true) warnings.at(offset, 'bridge scope: the region holds for every device behind that bridge');
  if (path.length > 1 || hop.device > 31 || hop.function > 7)
    return { kind: 'path', segment, startBus, path, ...bridge };
  if (startBus !== 0) {
    const bus = startBus.toString(16).padStart(2, '0');
    warnings.at(
      offset,
      `one-hop path on bus ${bus}: unless that is a root bus the scope is broken and Linux takes it literally`,
    );
  }
  return { kind: 'pci', segment, rid: ridOf(startBus, hop.device, hop.function), ...bridge };
}

function readScope(view: DataView, offset: number, length: number, warnings: WarningList): DeviceScope {
  const path: PathHop[] = [];
  for (let at = offset + SCOPE.path; at + 2 <= offset + length; at += 2) {
    const hop = { device: view.getUint8(at), function: view.getUint8(at + 1) };
    if (hop.device > 31 || hop.function > 7) {
      warnings.at(at, `path hop ${hop.device.toString(16)}.${hop.function.toString(16)} is no PCI device and function`);
    }
    path.push(hop);
  }
  if ((length - SCOPE.SIZE) % 2 !== 0) warnings.at(offset, `device scope of ${length} bytes ends in half a path hop`);
  return {
    type: view.getUint8(offset + SCOPE.type),
    flags: view.getUint8(offset + SCOPE.flags),
    enumerationId: view.getUint8(offset + SCOPE.enumerationId),
    startBus: view.getUint8(offset + SCOPE.startBus),
    path,
    offset,
  };
}
