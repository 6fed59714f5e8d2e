// The report as plain JSON values: addresses as 0x strings, limits and ends INCLUSIVE, devices in the one spelling of
// device-ref.ts, RESV_MEM subtypes as on the wire (0 RESERVED, 1 MSI).
import type { AddressRange } from '../base/ranges.ts';
import { hex } from '../base/check.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { formatDevice } from './device-ref.ts';
import type { Hole, RamLayout } from './holes.ts';
import { formatKernel } from './kernel-version.ts';
import { pciClassName } from './pci-class.ts';
import type { RegionDiff } from './region-diff.ts';
import type { HostRegion } from './region.ts';
import type { ReportDevice, RmrrReport } from './report-types.ts';
import { RESV_MEM_BYTES } from './resv-mem.ts';

/** A value that `JSON.stringify` takes as it is. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

/** A JSON object. */
export type JsonObject = Readonly<Record<string, Json>>;

/** The whole report. */
export function reportJson(report: RmrrReport): JsonObject {
  return {
    kernel: formatKernel(report.kernel),
    relaxRmrr: report.relaxRmrr,
    arch: report.arch,
    regions: report.regions.map(regionJson),
    warnings: report.warnings.map(({ where, what }) => ({ where, what })),
    devices: report.devices.map(deviceJson),
    components: report.components.map((component) => [...component.devices]),
    shared: report.shared.map(({ a, b, ranges }) => ({ devices: [a, b], ranges: ranges.map(rangeJson) })),
    reservedMemory: Object.fromEntries(
      report.devices.map((device) => [device.name, (device.resv?.reserved ?? []).map(propertyJson)]),
    ),
    mode: report.mode,
    holes: holesJson(report.holes),
    relaxableCost: hex(report.relaxableCost),
    ...(report.layout === undefined ? {} : { layout: layoutJson(report.layout) }),
    refusals: report.refusals.map(({ device, rule, line }) => ({
      device: device ?? null,
      rule,
      errno: rule === 'rmrr-locked' ? 'EPERM' : 'EINVAL',
      line,
    })),
    notes: [...report.notes],
  };
}

/** Holes with their kind. */
export function holesJson(holes: readonly Hole[]): Json {
  return holes.map((hole) => ({ ...rangeJson(hole), kind: hole.kind }));
}

/** A RAM layout with holes cut out. */
export function layoutJson(layout: RamLayout): JsonObject {
  return {
    ram: layout.ram.map(rangeJson),
    conflicts: layout.conflicts.map(rangeJson),
    lost: hex(layout.lost),
  };
}

/** Differences between sources. */
export function diffJson(diff: RegionDiff): JsonObject {
  return {
    sources: [...diff.sources],
    common: diff.common.map(rangeJson),
    differences: diff.differences.map(({ start, end, present, missing, why }) => ({
      base: hex(start),
      limit: hex(end),
      present,
      missing,
      why,
    })),
  };
}

function rangeJson(range: AddressRange): { readonly start: string; readonly end: string } {
  return { start: hex(range.start), end: hex(range.end) };
}

function regionJson(region: HostRegion): Json {
  return {
    source: region.source,
    base: hex(region.base),
    limit: hex(region.limit),
    segment: region.segment,
    type: region.type,
    devices: [...new Set(region.devices.map(formatDevice))],
    where: region.where,
    ...(region.effective === undefined ? {} : { effective: rangeJson(region.effective) }),
    ...(region.exclusion === true ? { exclusion: true } : {}),
    ...(region.pseudo === true ? { pseudo: true } : {}),
    ...(region.group === undefined ? {} : { group: region.group }),
  };
}

function propertyJson(region: ReservedRegion): Json {
  return { subtype: region.kind === 'msi' ? 1 : 0, ...rangeJson(region) };
}

function deviceJson(device: ReportDevice): Json {
  const { eligibility } = device;
  return {
    device: device.name,
    class: device.classCode === undefined ? null : pciClassName(device.classCode),
    group: device.group ?? null,
    mates: [...device.mates],
    verdict: eligibility.verdict,
    errno: eligibility.errno ?? null,
    message: eligibility.message ?? null,
    lockedBy: eligibility.lockedBy ?? null,
    approximate: eligibility.approximate,
    why: eligibility.why,
    byKernel: device.byKernel.map(({ kernels, verdict, errno, approximate }) => ({
      kernels,
      verdict,
      errno: errno ?? null,
      approximate,
    })),
    probeBytes: (device.resv?.reserved.length ?? 0) * RESV_MEM_BYTES,
    relaxableBytes: hex(device.resv?.relaxableBytes ?? 0n),
    remedies: [...device.remedies],
  };
}
