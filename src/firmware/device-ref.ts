// What a source names when it says "device": a PCI function, a scope path whose bridges are not resolved, a range of
// functions, an ACPI object, stream ids, or a group. Not a PCI topology (topology.ts).
// A requester id (rid) is bus << 8 | device << 3 | function; ranges of rids and stream ids have INCLUSIVE ends.

/** One hop of a scope path: device and function on the secondary bus of the hop before. */
export interface PathHop {
  readonly device: number;
  readonly function: number;
}

/** A device as a source names it. `bridge` marks a scope that means everything behind the bridge too. */
export type DeviceRef =
  | { readonly kind: 'pci'; readonly segment: number; readonly rid: number; readonly bridge?: boolean }
  | {
      readonly kind: 'path';
      readonly segment: number;
      readonly startBus: number;
      readonly path: readonly PathHop[];
      readonly bridge?: boolean;
    }
  | { readonly kind: 'pci-range'; readonly segment: number; readonly first: number; readonly last: number }
  | { readonly kind: 'acpi'; readonly name: string }
  | { readonly kind: 'stream'; readonly smmu: number; readonly first: number; readonly last: number }
  | { readonly kind: 'group'; readonly name: string };

const PCI_NAME = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$/i;
const PATH_NAME = /^([0-9a-f]{4,8}):([0-9a-f]{2})((?:\/[0-9a-f]{2}\.[0-9a-f]{1,2}){1,124})$/i;

/** Requester id of a function. */
export function ridOf(bus: number, device: number, fn: number): number {
  return (bus << 8) | ((device & 0x1f) << 3) | (fn & 7);
}

/** `ssss:bb:dd.f`, as Linux writes it. */
export function formatRid(segment: number, rid: number): string {
  const bus = hexDigits(rid >> 8, 2);
  return `${hexDigits(segment, 4)}:${bus}:${hexDigits((rid >> 3) & 0x1f, 2)}.${(rid & 7).toString(16)}`;
}

/**
 * The one spelling of a device in reports: `0000:00:1d.0`; `0000:00/1c.7/00.0` (segment, start bus, one `/device.function`
 * per hop) for a path whose bridges are unknown; `0000:00:00.0-0000:0f:1f.7` for a range; `acpi:\_SB.PCI0.I2C0`;
 * `smmu@0x1c0:0x0-0x3` for stream ids (offset of the SMMU node in the table); `group 19`.
 */
export function formatDevice(ref: DeviceRef): string {
  switch (ref.kind) {
    case 'pci':
      return formatRid(ref.segment, ref.rid);
    case 'path':
      return `${hexDigits(ref.segment, 4)}:${hexDigits(ref.startBus, 2)}${ref.path.map(formatHop).join('')}`;
    case 'pci-range':
      return `${formatRid(ref.segment, ref.first)}-${formatRid(ref.segment, ref.last)}`;
    case 'acpi':
      return `acpi:${ref.name}`;
    case 'stream': {
      const ids = ref.first === ref.last ? hex(ref.first) : `${hex(ref.first)}-${hex(ref.last)}`;
      return `smmu@${hex(ref.smmu)}:${ids}`;
    }
    case 'group':
      return ref.name;
  }
}

/** Reads `bb:dd.f`, and functions, ranges of them and scope paths as {@link formatDevice} writes them; else undefined. */
export function parseDeviceName(text: string): DeviceRef | undefined {
  const [start = '', end] = text.split('-', 3);
  if (end !== undefined && text.length === start.length + 1 + end.length) return rangeOf(start, end);
  const pci = PCI_NAME.exec(text);
  if (pci !== null) {
    const device = Number.parseInt(pci[3]!, 16);
    if (device > 31) return undefined;
    const rid = ridOf(Number.parseInt(pci[2]!, 16), device, Number.parseInt(pci[4]!, 16));
    return { kind: 'pci', segment: Number.parseInt(pci[1] ?? '0', 16), rid };
  }
  const path = PATH_NAME.exec(text);
  if (path === null) return undefined;
  const hops = path[3]!.slice(1).split('/');
  return {
    kind: 'path',
    segment: Number.parseInt(path[1]!, 16),
    startBus: Number.parseInt(path[2]!, 16),
    path: hops.map((hop) => {
      const [device = '0', fn = '0'] = hop.split('.');
      return { device: Number.parseInt(device, 16), function: Number.parseInt(fn, 16) };
    }),
  };
}

/** True when `ref` certainly means `device`: the same name, or a range that holds it. */
export function refNames(ref: DeviceRef, device: DeviceRef): boolean {
  if (ref.kind === 'pci-range') {
    if (device.kind === 'pci') return inRange(ref, device.segment, device.rid, device.rid);
    if (device.kind === 'pci-range') return inRange(ref, device.segment, device.first, device.last);
  }
  return formatDevice(ref) === formatDevice(device);
}

/**
 * True when `ref` could mean the function `device`: a path through unknown bridges, a bridge with whatever is behind it,
 * a group without members, stream ids.
 */
export function refMayName(ref: DeviceRef, device: DeviceRef): boolean {
  if (ref.kind === 'group') return ref.name.startsWith('group ');
  if (ref.kind === 'stream') return true;
  if (device.kind !== 'pci') return false;
  if (ref.kind === 'pci')
    return ref.bridge === true && ref.segment === device.segment && device.rid >> 8 > ref.rid >> 8;
  if (ref.kind !== 'path' || ref.segment !== device.segment) return false;
  const last = ref.path.at(-1);
  if (last === undefined || device.rid >> 8 === ref.startBus) return false;
  return ref.bridge === true || ((last.device << 3) | last.function) === (device.rid & 0xff);
}

/** Order of devices in reports: by their spelling. */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function inRange(range: DeviceRef & { kind: 'pci-range' }, segment: number, first: number, last: number): boolean {
  return range.segment === segment && first >= range.first && last <= range.last;
}

function rangeOf(start: string, end: string): DeviceRef | undefined {
  const first = parseDeviceName(start);
  const last = parseDeviceName(end);
  if (first?.kind !== 'pci' || last?.kind !== 'pci') return undefined;
  if (first.segment !== last.segment || last.rid < first.rid) return undefined;
  return { kind: 'pci-range', segment: first.segment, first: first.rid, last: last.rid };
}

function formatHop(hop: PathHop): string {
  return `/${hexDigits(hop.device, 2)}.${hop.function.toString(16)}`;
}

function hexDigits(value: number, width: number): string {
  return value.toString(16).padStart(width, '0');
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
