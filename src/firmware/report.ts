// The report on reserved host memory: regions of all sources, resolved on the topology at hand; a verdict, RESV_MEM list
// and remedies per device; components; holes. Pure: data in, data out. Ranges have INCLUSIVE ends.
import type { AddressRange } from '../base/ranges.ts';
import { rangeSize } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { sysfsArch } from './any-source.ts';
import type { DeviceRef } from './device-ref.ts';
import { compareNames, formatDevice, parseDeviceName, refMayName, refNames } from './device-ref.ts';
import type { Eligibility, GroupMember } from './eligibility.ts';
import { assignability, classifyRelaxable } from './eligibility.ts';
import { entangle, sharedPairs } from './entanglement.ts';
import { guestHoles } from './holes.ts';
import type { KernelVersion } from './kernel-version.ts';
import { KERNEL_ERAS, NEWEST_KERNEL, eraOf } from './kernel-version.ts';
import type { HostRegion, Platform } from './region.ts';
import { isFirmwareMemory } from './region.ts';
import { remediesFor } from './remedies.ts';
import type { ReportDevice, ReportInput, RmrrReport } from './report-types.ts';
import type { ResvMem, ResvMemOptions } from './resv-mem.ts';
import { toResvMem } from './resv-mem.ts';
import { PciTopology } from './topology.ts';
import { WarningList } from './warnings.ts';

const HYPERTRANSPORT: AddressRange = { start: 0xfd_0000_0000n, end: 0xff_ffff_ffffn };

/** Computes the report; content of sources never throws, a wrong option does (TypeError or RangeError naming it). */
export function buildReport(input: ReportInput): RmrrReport {
  const warnings = new WarningList();
  const kernel = input.kernel ?? NEWEST_KERNEL;
  const topology = input.snapshot === undefined ? undefined : new PciTopology(input.snapshot);
  const platform = platformOf(input);
  const regions = resolveAll(input, topology, platform, kernel, warnings);
  const arch = input.resv?.arch ?? (platform === 'arm' ? 'arm' : 'x86');
  const mode = input.mode ?? 'bypass';
  const components = entangle(regions);
  const context: Context = { input, kernel, topology, regions, resv: { ...input.resv, arch }, warnings };
  context.sizeOf = new Map(components.flatMap((part) => part.devices.map((name) => [name, part.devices.length])));
  const devices = deviceNames(context).map((name) => judge(context, name));
  const nameless = regions.filter((region) => region.devices.length === 0);
  const { holesFor } = input;
  const lists = devices
    .filter((device) => holesFor?.includes(device.name) ?? true)
    .map((device) => device.resv?.reserved ?? []);
  if (nameless.length > 0 && holesFor === undefined)
    lists.push(reservedOf(context, 'regions without a device', nameless)?.reserved ?? []);
  const holes = guestHoles(lists, mode);
  return {
    kernel,
    relaxRmrr: input.relaxRmrr ?? 'unknown',
    arch,
    sources: [...new Set(input.sources.map((source) => source.kind))],
    regions,
    warnings: [...sourceWarnings(input), ...warnings.list()],
    devices,
    components,
    shared: sharedPairs(regions),
    mode,
    holes,
    relaxableCost: relaxableCost(context, holes, mode),
    refusals: input.refusals ?? [],
    notes: notesOf(input, platform, regions),
  };
}

interface Context {
  readonly input: ReportInput;
  readonly kernel: KernelVersion;
  readonly topology: PciTopology | undefined;
  readonly regions: readonly HostRegion[];
  readonly resv: ResvMemOptions;
  readonly warnings: WarningList;
  sizeOf?: ReadonlyMap<string, number>;
  byName?: Map<string, HostRegion[]>;
  members?: Map<string, string[]>;
  /** Regions that name a range of functions. */
  ranged?: readonly HostRegion[];
}

function sourceWarnings(input: ReportInput): { where: string; what: string }[] {
  return input.sources.flatMap((source) =>
    source.warnings.map(({ where, what }) => ({ where: `${source.name}: ${where}`, what })),
  );
}

/** Whose rules sysfs regions follow: a table tells, else the regions that only one platform has. */
function platformOf(input: ReportInput): Platform {
  const kinds = new Set(input.sources.map((source) => source.kind));
  if (kinds.has('dmar') || kinds.has('dmesg')) return 'intel';
  if (kinds.has('ivrs')) return 'amd';
  if (kinds.has('iort')) return 'arm';
  const all = input.sources.flatMap((source) => source.regions);
  if (all.some((r) => r.type === 'reserved' && r.base === HYPERTRANSPORT.start && r.limit === HYPERTRANSPORT.end))
    return 'amd';
  return sysfsArch(all) === 'arm' ? 'arm' : 'intel';
}

function resolveAll(
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

function classOf(name: string, input: ReportInput, topology: PciTopology | undefined): number | undefined {
  return topology?.device(name)?.classCode ?? input.classes?.get(name);
}

function deviceNames(context: Context): string[] {
  const { input, topology, regions } = context;
  const names = new Set<string>();
  const byName = (context.byName = new Map<string, HostRegion[]>());
  for (const region of regions) {
    for (const name of new Set(region.devices.map(formatDevice))) {
      names.add(name);
      const own = byName.get(name);
      if (own === undefined) byName.set(name, [region]);
      else own.push(region);
    }
  }
  if (topology !== undefined)
    for (const name of topology.names) if (topology.groupOf(name) !== undefined) names.add(name);
  for (const refusal of input.refusals ?? []) if (refusal.device !== undefined) names.add(refusal.device);
  for (const name of [...(input.bound ?? []), ...(input.named ?? [])]) names.add(name);
  return [...names].sort(compareNames);
}

function judge(context: Context, name: string): ReportDevice {
  const { input, kernel } = context;
  const mates = matesOf(context, name);
  const members = mates.map((mate) => memberOf(context, mate));
  const own = members.find((member) => member.name === name)?.regions ?? [];
  const all = [...new Set(members.flatMap((member) => member.regions))];
  const relaxRmrr = input.relaxRmrr === 'active';
  const eligibility = withEvidence(context, name, mates, assignability(members, kernel, { relaxRmrr }));
  const classCode = classOf(name, input, context.topology);
  const byKernel = KERNEL_ERAS.map(({ kernels, sample }) => {
    const { verdict, errno } = withEvidence(context, name, mates, assignability(members, sample), sample);
    return { kernels, verdict, errno };
  });
  const entangled = context.sizeOf?.get(name) ?? 1;
  return {
    name,
    classCode,
    group: groupOf(context, name),
    mates: mates.filter((mate) => mate !== name),
    regions: own,
    eligibility,
    byKernel,
    resv: reservedOf(context, name, all),
    remedies: remediesFor({ eligibility, name, kernel, regions: own.filter(isFirmwareMemory), classCode, entangled }),
  };
}

function groupOf(context: Context, name: string): string | undefined {
  return context.topology?.groupOf(name) ?? context.input.groups?.get(name);
}

function matesOf(context: Context, name: string): readonly string[] {
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

function memberOf(context: Context, name: string): GroupMember {
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

/** Adds what the rules cannot see: a refusal in the log, or a region that may name the device. */
function withEvidence(
  context: Context,
  name: string,
  mates: readonly string[],
  verdict: Eligibility,
  kernel: KernelVersion = context.kernel,
): Eligibility {
  const { input } = context;
  if (verdict.verdict === 'refused' || eraOf(kernel) === 'none' || input.relaxRmrr === 'active') return verdict;
  const refusal = input.refusals?.find(({ device }) => device !== undefined && mates.includes(device));
  if (refusal !== undefined) {
    const errno = eraOf(kernel) === 'require-direct' ? 'EINVAL' : 'EPERM';
    const why = `the kernel refused ${refusal.device ?? name} in the log (line ${refusal.line})`;
    return { ...verdict, verdict: 'refused', errno, lockedBy: refusal.device, why };
  }
  const bound = input.bound?.find((device) => mates.includes(device));
  if (bound !== undefined) return boundByLog(verdict, bound, classOf(bound, input, context.topology), kernel);
  if (verdict.verdict !== 'assignable') return verdict;
  const device = parseDeviceName(name);
  const present = context.topology?.device(name) !== undefined;
  if (device?.kind !== 'pci' || present) return verdict;
  if (context.topology !== undefined) return { ...verdict, verdict: 'unknown', why: 'no such device in sysfs' };
  const doubt = context.regions.find(
    (region) =>
      isFirmwareMemory(region) &&
      (region.devices.length === 0 || region.devices.some((ref) => refMayName(ref, device))),
  );
  if (doubt === undefined || context.byName?.has(name) === true) return verdict;
  const what = doubt.devices.length === 0 ? 'names no device' : 'names what only the host can resolve to a device';
  return { ...verdict, verdict: 'unknown', why: `a region (${doubt.where}) ${what}: it may be this one` };
}

/** The log names the device as bound by an RMRR (a broken scope) without its range. */
function boundByLog(
  verdict: Eligibility,
  device: string,
  classCode: number | undefined,
  kernel: KernelVersion,
): Eligibility {
  const why = `the log says that an RMRR names ${device}`;
  if (classCode !== undefined && classifyRelaxable(classCode, kernel).relaxable)
    return { ...verdict, verdict: 'relaxable', why };
  const errno = eraOf(kernel) === 'require-direct' ? 'EINVAL' : 'EPERM';
  const doubt = classCode === undefined ? '; were it a USB or display device, it would be relaxable' : '';
  return {
    ...verdict,
    verdict: 'refused',
    errno,
    lockedBy: device,
    approximate: classCode === undefined,
    why: why + doubt,
  };
}

function reservedOf(context: Context, name: string, regions: readonly HostRegion[]): ResvMem | undefined {
  const { resv, warnings } = context;
  try {
    return toResvMem(regions, { ...resv, name: 'regions' });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    warnings.add(name, `RESV_MEM: ${error.message}`);
  }
  try {
    return toResvMem(regions, { ...resv, probeSize: 0xffff_ffff });
  } catch {
    return undefined;
  }
}

function relaxableCost(context: Context, holes: readonly AddressRange[], mode: RmrrReport['mode']): bigint {
  if (context.resv.relaxable === 'omit' || !context.regions.some((r) => r.type === 'direct-relaxable')) return 0n;
  const without: ReservedRegion[] = [];
  const options: ResvMemOptions = { ...context.resv, relaxable: 'omit', probeSize: 0xffff_ffff };
  try {
    without.push(...toResvMem(context.regions, options).reserved);
  } catch {
    return 0n;
  }
  const sum = (ranges: readonly AddressRange[]): bigint => ranges.reduce((left, range) => left + rangeSize(range), 0n);
  const cost = sum(holes) - sum(guestHoles([without], mode));
  return cost > 0n ? cost : 0n;
}

function notesOf(input: ReportInput, platform: Platform, regions: readonly HostRegion[]): string[] {
  const notes: string[] = [];
  const kinds = new Set(input.sources.map((source) => source.kind));
  if (platform === 'amd' && !kinds.has('sysfs')) {
    notes.push(
      'AMD hosts also reserve 0xfd00000000-0xffffffffff (HyperTransport); their sysfs shows it, the IVRS table does not',
    );
  }
  if (input.snapshot === undefined && regions.some((region) => region.devices.some((ref) => ref.kind === 'path'))) {
    notes.push(
      'paths such as 0000:00/1c.7/00.0 (segment:start bus/device.function per hop) need sysfs to become bus numbers',
    );
  }
  if (input.relaxRmrr === 'requested') {
    notes.push(
      'relax_rmrr is on the kernel command line, but nothing shows that the kernel knows it: a vanilla kernel ignores it',
    );
  }
  if (regions.some((region) => region.pseudo === true)) {
    notes.push(
      '0x0-0xffffff is the map Linux makes for an ISA bridge: a hole only for a guest that is given its group',
    );
  }
  notes.push('the versions 4.1 (display devices) and 6.6 (1:1 rule for all vendors) are approximate');
  return notes;
}
