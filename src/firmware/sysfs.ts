// Linux sysfs as text: the `reserved_regions` format of IOMMU groups, and the shape of a snapshot of the parts of /sys
// that matter here. No file access (the host's room does that). Region ends are INCLUSIVE, as the kernel prints them.
import type { HostRegion, RegionType } from './region.ts';
import { ISA_WINDOW, X86_MSI_WINDOW } from './region.ts';
import type { DeviceRef } from './device-ref.ts';
import { parseDeviceName } from './device-ref.ts';
import type { Warning } from './warnings.ts';
import { WarningList } from './warnings.ts';

/** One PCI function of a snapshot of /sys/bus/pci/devices. */
export interface SysfsDevice {
  /** `ssss:bb:dd.f`. */
  readonly name: string;
  /** 0xCCSSPP: base class, subclass, programming interface. */
  readonly classCode: number | undefined;
  readonly group: string | undefined;
  /** Set for bridges. */
  readonly secondaryBus: number | undefined;
  readonly subordinateBus: number | undefined;
  /** PCI header type without the multi-function bit; undefined when `config` could not be read. */
  readonly headerType: number | undefined;
  /** True for an SR-IOV virtual function (`physfn` exists). */
  readonly virtualFunction: boolean;
  readonly driver: string | undefined;
}

/** One IOMMU group of a snapshot of /sys/kernel/iommu_groups. */
export interface SysfsGroup {
  readonly id: string;
  /** Text of its `reserved_regions`; undefined before Linux 4.11, where the file does not exist. */
  readonly reservedRegions: string | undefined;
  /** Names of its members, `ssss:bb:dd.f` for PCI. */
  readonly devices: readonly string[];
}

/** What is read of /sys, live or from a copy. */
export interface SysfsSnapshot {
  readonly devices: readonly SysfsDevice[];
  readonly groups: readonly SysfsGroup[];
}

/** The regions of one `reserved_regions` text. */
export interface ReservedRegionsText {
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

/** Most lines that are read from one text; the kernel prints one line per region. */
const MAX_LINES = 1 << 16;

const LINE = /0x([0-9a-f]+)[ \t]+0x([0-9a-f]+)[ \t]+([a-z][a-z0-9-]*)/i;
const GROUP_PATH = /iommu_groups\/(\d{1,9})\/reserved_regions/;

/**
 * Reads the text of `reserved_regions` (also several of them as `grep .` or `head` print them, with the path of the
 * group before each line or above the lines). Every line that is not exactly one region is flagged.
 * @throws TypeError when `text` is not a string.
 */
export function parseReservedRegions(
  text: string,
  owner?: { readonly group?: string; readonly devices?: readonly DeviceRef[] },
): ReservedRegionsText {
  if (typeof text !== 'string') throw new TypeError('text must be a string');
  const warnings = new WarningList();
  const regions: HostRegion[] = [];
  const lines = text.split('\n', MAX_LINES + 1);
  if (lines.length > MAX_LINES) warnings.add(`line ${MAX_LINES + 1}`, 'the rest of the text is not read');
  let group = owner?.group;
  for (const [i, full] of lines.slice(0, MAX_LINES).entries()) {
    const line = full.slice(0, 4096);
    const path = GROUP_PATH.exec(line);
    if (path !== null) group = `group ${path[1]!}`;
    const region = readLine(line, i + 1, group, owner?.devices, warnings);
    if (region !== undefined) regions.push(region);
    else if (line.trim() !== '' && path === null) warnings.add(`line ${i + 1}`, 'not a reserved region, skipped');
  }
  flagSet(regions, warnings);
  return { regions, warnings: warnings.list() };
}

function readLine(
  line: string,
  number: number,
  group: string | undefined,
  devices: readonly DeviceRef[] | undefined,
  warnings: WarningList,
): HostRegion | undefined {
  const match = LINE.exec(line);
  if (match === null) return undefined;
  const where = `line ${number}`;
  const [whole, first = '', last = '', word = ''] = match;
  if (first.length > 16 || last.length > 16) {
    warnings.add(where, 'an address has more than 16 hex digits');
    return undefined;
  }
  if (line.trim() !== whole && !GROUP_PATH.test(line)) warnings.add(where, 'text stands beside the region');
  if (first.length !== 16 || last.length !== 16) {
    warnings.add(where, `addresses have ${first.length} and ${last.length} hex digits, the kernel prints 16`);
  }
  const base = BigInt(`0x${first}`);
  const limit = BigInt(`0x${last}`);
  if (limit < base) warnings.add(where, 'the region ends before it starts');
  const type = toType(word);
  if (type === undefined) warnings.add(where, `region type ${JSON.stringify(word)} is not known, taken as reserved`);
  const pseudo = base === ISA_WINDOW.start && limit === ISA_WINDOW.end;
  return {
    source: 'sysfs',
    base,
    limit,
    segment: segmentOf(devices),
    type: type ?? 'reserved',
    devices: devices ?? (group === undefined ? [] : [{ kind: 'group', name: group }]),
    where,
    ...(group === undefined ? {} : { group }),
    ...(pseudo ? { pseudo } : {}),
  };
}

function toType(word: string): RegionType | undefined {
  return word === 'direct' || word === 'direct-relaxable' || word === 'reserved' || word === 'msi' ? word : undefined;
}

function segmentOf(devices: readonly DeviceRef[] | undefined): number {
  const first = devices?.[0];
  return first?.kind === 'pci' ? first.segment : 0;
}

/** Flags what a group's list should not hold: overlaps of types, wrong order, a software MSI window. */
function flagSet(regions: readonly HostRegion[], warnings: WarningList): void {
  let before: HostRegion | undefined;
  let widest: HostRegion | undefined;
  for (const region of regions) {
    if (before?.group !== region.group) before = widest = undefined;
    if (before !== undefined && region.base < before.base)
      warnings.add(region.where, 'regions are not sorted by start');
    if (widest !== undefined && region.base <= widest.limit && region.limit >= widest.base) {
      const inside = region.limit <= widest.limit ? 'lies inside' : 'overlaps';
      warnings.add(region.where, `${region.type} region ${inside} the ${widest.type} region of ${widest.where}`);
    }
    if (region.type === 'msi' && (region.base > X86_MSI_WINDOW.end || region.limit < X86_MSI_WINDOW.start)) {
      warnings.add(region.where, 'software MSI window of an Arm host: the guest needs one of its own, not this one');
    }
    if (region.base === 0n && region.limit >= 0xffff_ffff_ffff_ffffn) {
      warnings.add(region.where, 'region covers the whole address space');
    }
    before = region;
    if (widest === undefined || region.limit > widest.limit) widest = region;
  }
}

/** The regions of all groups of a snapshot, each with the members of its group as devices. */
export function snapshotRegions(snapshot: SysfsSnapshot): ReservedRegionsText {
  const warnings = new WarningList();
  const regions: HostRegion[] = [];
  for (const group of snapshot.groups) {
    const label = `group ${group.id}`;
    if (group.reservedRegions === undefined) {
      warnings.add(label, 'has no reserved_regions (Linux prints them since 4.11)');
      continue;
    }
    const devices = group.devices.map((name): DeviceRef => parseDeviceName(name) ?? { kind: 'group', name });
    const read = parseReservedRegions(group.reservedRegions, { group: label, devices });
    for (const region of read.regions) regions.push({ ...region, where: `${label} ${region.where}` });
    for (const { where, what } of read.warnings) warnings.add(`${label} ${where}`, what);
  }
  return { regions, warnings: warnings.list() };
}
