// The report on reserved host memory: regions of all sources, a verdict and remedies per device, components, holes.
// Pure: data in, data out. Ranges have INCLUSIVE ends.
import { compareNames, formatDevice, parseDeviceName, refMayName } from './device-ref.ts';
import type { Eligibility } from './eligibility.ts';
import { assignability, classifyRelaxable, refusalLine } from './eligibility.ts';
import { entangle, sharedPairs } from './entanglement.ts';
import { layRam } from './holes.ts';
import type { KernelVersion } from './kernel-version.ts';
import { KERNEL_ERAS, NEWEST_KERNEL, eraOf, formatKernel } from './kernel-version.ts';
import type { HostRegion } from './region.ts';
import { isFirmwareMemory } from './region.ts';
import { remediesFor } from './remedies.ts';
import type { Context } from './report-context.ts';
import { classOf, matesOf, memberOf, platformOf, relaxState, resolveAll } from './report-context.ts';
import { flagGuestMsi, holesOf, relaxableCost, reservedOf } from './report-guest.ts';
import type { ReportDevice, ReportInput, RmrrReport } from './report-types.ts';
import { PciTopology } from './topology.ts';
import { WarningList } from './warnings.ts';

/** Computes the report; content of sources never throws, a wrong option does (TypeError or RangeError naming it). */
export function buildReport(input: ReportInput): RmrrReport {
  const warnings = new WarningList();
  const kernel = input.kernel ?? NEWEST_KERNEL;
  const topology = input.snapshot === undefined ? undefined : new PciTopology(input.snapshot);
  const platform = platformOf(input);
  const regions = resolveAll(input, topology, platform, kernel, warnings);
  const arch = input.resv?.arch ?? (platform === 'arm' ? 'arm' : 'x86');
  const relaxRmrr = relaxState(input, topology, regions);
  const components = entangle(regions);
  const context: Context = {
    input,
    kernel,
    topology,
    regions,
    relaxRmrr,
    platform,
    resv: { ...input.resv, arch },
    warnings,
  };
  context.sizeOf = new Map(components.flatMap((part) => part.devices.map((name) => [name, part.devices.length])));
  const devices = deviceNames(context).map((name) => judge(context, name));
  const mode = input.mode ?? 'bypass';
  const holes = holesOf(context, devices, mode);
  flagGuestMsi(context, devices);
  return {
    kernel,
    relaxRmrr,
    arch,
    sources: [...new Set(input.sources.map((source) => source.kind))],
    regions,
    warnings: [...sourceWarnings(input), ...warnings.list()],
    devices,
    components,
    shared: sharedPairs(regions),
    mode,
    holes,
    layout: input.ram === undefined ? undefined : layRam(input.ram, holes),
    relaxableCost: relaxableCost(context, devices, holes, mode),
    refusals: input.refusals ?? [],
    notes: notesOf(context),
  };
}

function sourceWarnings(input: ReportInput): { where: string; what: string }[] {
  return input.sources.flatMap((source) =>
    source.warnings.map(({ where, what }) => ({ where: `${source.name}: ${where}`, what })),
  );
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
  const relaxRmrr = context.relaxRmrr === 'active';
  const eligibility = withEvidence(context, name, mates, assignability(members, kernel, { relaxRmrr }));
  const classCode = classOf(name, input, context.topology);
  const byKernel = KERNEL_ERAS.map(({ kernels, sample }) => {
    const { verdict, errno, approximate } = withEvidence(context, name, mates, assignability(members, sample), sample);
    return { kernels, verdict, errno, approximate };
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

/** Adds what the rules cannot see: a refusal in the log, or a region that may name the device. */
function withEvidence(
  context: Context,
  name: string,
  mates: readonly string[],
  verdict: Eligibility,
  kernel: KernelVersion = context.kernel,
): Eligibility {
  const { input } = context;
  if (name.startsWith('acpi:') && verdict.verdict === 'refused' && context.platform === 'intel') {
    const why = 'its scope is an ACPI device, which Linux counts and binds to no device';
    return { ...verdict, verdict: 'unknown', errno: undefined, message: undefined, lockedBy: undefined, why };
  }
  if (verdict.verdict === 'refused' || eraOf(kernel) === 'none' || context.relaxRmrr === 'active') return verdict;
  const refusal = input.refusals?.find(({ device }) => device !== undefined && mates.includes(device));
  if (refusal !== undefined) {
    const errno = eraOf(kernel) === 'require-direct' ? 'EINVAL' : 'EPERM';
    const why = `the kernel refused ${refusal.device ?? name} in the log (line ${refusal.line})`;
    const message = refusalLine(refusal.device ?? name, kernel, refusal.driver);
    return { ...verdict, verdict: 'refused', errno, message, lockedBy: refusal.device, why };
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
      ((region.source === 'dmesg' && region.devices.length === 0) ||
        region.devices.some((ref) => refMayName(ref, device))),
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
    message: refusalLine(device, kernel),
    lockedBy: device,
    approximate: classCode === undefined,
    why: why + doubt,
  };
}

function notesOf(context: Context): string[] {
  const { input, platform, regions } = context;
  const notes: string[] = [];
  if (input.kernel === undefined) {
    const newest = formatKernel(context.kernel);
    notes.push(`no source names a kernel version: judged for ${newest}, the newest one known; --kernel sets another`);
  }
  if (input.kernelFromWording === true) {
    notes.push(
      'no source names a kernel version: the refusal in the log is worded as in 3.17 to ~6.5; --kernel sets one',
    );
  }
  if (platform === 'amd' && !regions.some((region) => region.source === 'sysfs')) {
    notes.push(
      '0xfd00000000-0xffffffffff (HyperTransport) is in no table: Linux reserves it in every group of an AMD host',
    );
  }
  if (context.relaxRmrr === 'active' && input.relaxRmrr !== 'active') {
    notes.push(
      'sysfs lists a region as direct-relaxable whose devices are not exempt: the kernel has the relax_rmrr patch',
    );
  }
  if (input.snapshot === undefined && regions.some((region) => region.devices.some((ref) => ref.kind === 'path'))) {
    notes.push(
      'paths such as 0000:00/1c.7/00.0 (segment:start bus/device.function per hop) need sysfs to become bus numbers',
    );
  }
  if (context.relaxRmrr === 'requested') {
    notes.push(
      'relax_rmrr is on the kernel command line, but nothing shows that the kernel knows it: a vanilla kernel ignores it',
    );
  }
  if (regions.some((region) => region.pseudo === true)) {
    notes.push(
      '0x0-0xffffff is the map Linux makes for an ISA bridge: a hole only for a guest that is given its group',
    );
  }
  notes.push('versions and verdicts with ~ are approximate: not read in source code, or the device class is not known');
  return notes;
}
