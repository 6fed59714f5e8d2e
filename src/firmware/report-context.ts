// What the parts of a report share: the input with its regions resolved on the topology at hand, and who owns which region.
// Not the judgement (report.ts), not what a guest sees (report-guest.ts). Ranges have INCLUSIVE ends.
import { sysfsArch } from './any-source.ts';
import type { DeviceRef } from './device-ref.ts';
import { formatDevice, parseDeviceName, refNames } from './device-ref.ts';
import type { GroupMember } from './eligibility.ts';
import { classifyRelaxable } from './eligibility.ts';
import type { KernelVersion } from './kernel-version.ts';
import { eraOf } from './kernel-version.ts';
import { isDisplay, isUsb } from './pci-class.ts';
import { HYPERTRANSPORT } from './region.ts';
import type { HostRegion, Platform } from './region.ts';
import type { ReportInput, RmrrReport } from './report-types.ts';
import type { ResvMemOptions } from './resv-mem.ts';
import type { PciTopology } from './topology.ts';
import type { WarningList } from './warnings.ts';

const ISA_BRIDGE = 0x0601;

/** Everything that the parts of one report share. */
export interface Context {
  readonly input: ReportInput;
  readonly kernel: KernelVersion;
  readonly topology: PciTopology | undefined;
  readonly regions: readonly HostRegion[];
  readonly relaxRmrr: RmrrReport['relaxRmrr'];
  readonly platform: Platform;
  readonly resv: ResvMemOptions;
  readonly warnings: WarningList;
  sizeOf?: ReadonlyMap<string, number>;
  byName?: Map<string, HostRegion[]>;
  members?: Map<string, string[]>;
  /** Regions that name a range of functions. */
  ranged?: readonly HostRegion[];
}

/** Whose rules sysfs regions follow: a table or a log tells, else the regions that only one platform has. */
export function platformOf(input: ReportInput): Platform {
  const kinds = new Set(input.sources.map((source) => source.kind));
  if (kinds.has('dmar')) return 'intel';
  if (kinds.has('ivrs')) return 'amd';
  if (kinds.has('iort')) return 'arm';
  const all = input.sources.flatMap((source) => source.regions);
  const inLog = all.find((region) => region.source === 'dmesg')?.platform;
  if (inLog !== undefined) return inLog;
  if (all.some((r) => r.type === 'reserved' && r.base === HYPERTRANSPORT.start && r.limit === HYPERTRANSPORT.end))
    return 'amd';
  return sysfsArch(all) === 'arm' ? 'arm' : 'intel';
}

/** Regions of all sources, their scopes resolved where a topology is there, typed by class where the classes are known. */
export function resolveAll(
  input: ReportInput,
  topology: PciTopology | undefined,
  platform: Platform,
  kernel: KernelVersion,
  warnings: WarningList,
): HostRegion[] {
  return input.sources.flatMap((source) =>
    source.regions.map((region) => {
      const known: HostRegion = region.platform === undefined ? { ...region, platform } : region;
      if (source.kind === 'sysfs') return known;
      const where = `${source.name}: ${region.where}`;
      const resolved =
        source.kind === 'dmesg' ? known : { ...known, devices: resolve(known.devices, topology, where, warnings) };
      return relaxedByClass(resolved, input, topology, kernel);
    }),
  );
}

function resolve(
  devices: readonly DeviceRef[],
  topology: PciTopology | undefined,
  where: string,
  warnings: WarningList,
): readonly DeviceRef[] {
  if (topology === undefined) return devices;
  const found = new Map<string, DeviceRef>();
  for (const device of devices) {
    const present = topology.resolve(device, where, warnings);
    for (const ref of present ?? [device]) found.set(formatDevice(ref), ref);
  }
  return [...found.values()];
}

/** A region all of whose devices are of an exempt class is direct-relaxable; a mixed one stays direct. */
function relaxedByClass(
  region: HostRegion,
  input: ReportInput,
  topology: PciTopology | undefined,
  kernel: KernelVersion,
): HostRegion {
  if (region.type !== 'direct' || region.platform !== 'intel' || region.devices.length === 0) return region;
  if (eraOf(kernel) === 'none') return region;
  const exempt = region.devices.every((device) => {
    const classCode = classOf(formatDevice(device), input, topology);
    return classCode !== undefined && classifyRelaxable(classCode, kernel).relaxable;
  });
  return exempt ? { ...region, type: 'direct-relaxable' } : region;
}

/** Class code of a device, from the topology or as the caller gave it. */
export function classOf(name: string, input: ReportInput, topology: PciTopology | undefined): number | undefined {
  return topology?.device(name)?.classCode ?? input.classes?.get(name);
}

/** The out-of-tree patch shows itself in sysfs: a relaxable region of a group in which no class is exempt. */
export function relaxState(
  input: ReportInput,
  topology: PciTopology | undefined,
  regions: readonly HostRegion[],
): RmrrReport['relaxRmrr'] {
  const told = input.relaxRmrr ?? 'unknown';
  if (told === 'active') return told;
  const proof = regions.some((region) => {
    if (region.source !== 'sysfs' || region.type !== 'direct-relaxable' || region.platform !== 'intel') return false;
    const classes = region.devices.map((device) => classOf(formatDevice(device), input, topology));
    const known = classes.length > 0 && classes.every((code) => code !== undefined);
    return known && !classes.some((code) => isUsb(code) || isDisplay(code) || code >> 8 === ISA_BRIDGE);
  });
  return proof ? 'active' : told;
}

/** Members of the device's group, itself included, as sysfs or a log tell. */
export function matesOf(context: Context, name: string): readonly string[] {
  if (context.topology?.groupOf(name) !== undefined) return context.topology.mates(name);
  const { groups } = context.input;
  const group = groups?.get(name);
  if (groups === undefined || group === undefined) return [name];
  if (context.members === undefined) {
    context.members = new Map();
    for (const [device, id] of groups) {
      const known = context.members.get(id);
      if (known === undefined) context.members.set(id, [device]);
      else known.push(device);
    }
  }
  return context.members.get(group) ?? [name];
}

/** A device with the regions that name it, alone or in a range. */
export function memberOf(context: Context, name: string): GroupMember {
  const device = parseDeviceName(name);
  const own = context.byName?.get(name) ?? [];
  context.ranged ??= context.regions.filter((region) => region.devices.some((ref) => ref.kind === 'pci-range'));
  const inRange =
    device === undefined ? [] : context.ranged.filter((region) => region.devices.some((ref) => refNames(ref, device)));
  return {
    name,
    regions: [...new Set([...own, ...inRange])],
    classCode: classOf(name, context.input, context.topology),
    virtualFunction: context.topology?.device(name)?.virtualFunction ?? false,
  };
}
