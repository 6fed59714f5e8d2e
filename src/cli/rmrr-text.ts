// The rmrr report as text for a terminal. Addresses in hex, limits INCLUSIVE.
import Table from 'cli-table3';
import { hex } from '../base/check.ts';
import { formatDevice } from '../firmware/device-ref.ts';
import { sizeText } from '../firmware/graph-svg.ts';
import type { Hole, HotAdd, RamLayout } from '../firmware/holes.ts';
import { formatKernel } from '../firmware/kernel-version.ts';
import { pciClassName } from '../firmware/pci-class.ts';
import type { RegionDiff } from '../firmware/region-diff.ts';
import type { HostRegion } from '../firmware/region.ts';
import type { ReportDevice, RmrrReport } from '../firmware/report-types.ts';

const MODES = {
  translated: 'the guest driver picks I/O addresses around the regions',
  bypass: 'guest-physical address = I/O address',
  nested: 'RAM of an L2 inside this guest',
} as const;

/** The whole report; with `named` devices first and in full. */
export function reportText(report: RmrrReport, named: readonly string[]): string {
  const relax = report.relaxRmrr === 'unknown' ? 'relax_rmrr: no sign of it' : `relax_rmrr: ${report.relaxRmrr}`;
  const bound = report.devices.filter(
    (device) => device.regions.some((region) => region.type !== 'msi') || named.includes(device.name),
  );
  return [
    `Reserved host memory, judged for Linux ${formatKernel(report.kernel)} (${relax})`,
    section('Regions', regionTable(report.regions)),
    section('Devices', deviceTable(bound)),
    ...deviceDetails(bound),
    section('Sharing', componentTable(report)),
    section('What each endpoint reports (RESV_MEM)', resvTable(bound)),
    section(`Holes in guest RAM, mode ${report.mode} (${MODES[report.mode]})`, holeTable(report.holes)),
    costText(report),
    warningText(report),
    report.notes.map((note) => `Note: ${note}`).join('\n'),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
    .concat('\n');
}

/** Components and pairs, for `graph`. */
export function graphText(report: RmrrReport): string {
  const pairs = new Table({ head: ['device', 'device', 'shared memory', 'same group'], style: plain() });
  const group = new Map(report.devices.map((device) => [device.name, device.group]));
  for (const { a, b, ranges } of report.shared) {
    const same = group.get(a) === undefined ? 'unknown' : group.get(a) === group.get(b) ? 'yes' : 'no';
    pairs.push([a, b, ranges.map((range) => `${hex(range.start)}-${hex(range.end)}`).join('\n'), same]);
  }
  const shared = report.shared.length === 0 ? 'No two devices name one region.' : pairs.toString();
  return `${section('Devices tied by reserved memory', componentTable(report))}\n\n${section('Shared directly', shared)}\n`;
}

/** Differences, for `diff`. */
export function diffText(diff: RegionDiff): string {
  const head = `Compared: ${diff.sources.join(', ')}`;
  if (diff.sources.length < 2) return `${head}\nTwo kinds of sources are needed for a comparison.\n`;
  if (diff.differences.length === 0)
    return `${head}\nAll list the same firmware memory (${diff.common.length} ranges).\n`;
  const table = new Table({
    head: ['range', 'in', 'not in', 'why'],
    style: plain(),
    colWidths: [null, null, null, 64],
    wordWrap: true,
  });
  for (const item of diff.differences)
    table.push([`${hex(item.start)}-${hex(item.end)}`, item.present, item.missing, item.why]);
  return `${head}\n${table.toString()}\n`;
}

/** Holes and what they leave of a RAM layout, for `holes`. */
export function holesText(report: RmrrReport, layout: RamLayout | undefined, hotAdd: HotAdd | undefined): string {
  const parts = [
    section(`Holes in guest RAM, mode ${report.mode} (${MODES[report.mode]})`, holeTable(report.holes)),
    costText(report),
  ];
  if (layout !== undefined) {
    parts.push(`RAM to use:\n${layout.ram.map((range) => `  ${hex(range.start)}-${hex(range.end)}`).join('\n')}`);
    parts.push(
      `Lost: ${sizeText(layout.lost)} in ${layout.conflicts.length} places; add it at the top to keep the size.`,
    );
  }
  if (hotAdd !== undefined) parts.push(`Hot-add to a guest with this RAM: ${hotAdd.rule}.`);
  parts.push(
    'Hot-added devices: regions of a new endpoint may fall on RAM in use. Refuse it, or require translation and bypass = 0.',
  );
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function section(title: string, body: string): string {
  return `${title}\n${body}`;
}

function plain(): { head: string[]; border: string[] } {
  return { head: [], border: [] };
}

function regionTable(regions: readonly HostRegion[]): string {
  if (regions.length === 0) return 'none';
  const table = new Table({ head: ['range', 'size', 'type', 'source', 'devices'], style: plain() });
  for (const region of regions) {
    const size = region.limit < region.base ? 'broken' : sizeText(region.limit - region.base + 1n);
    const names = [...new Set(region.devices.map(formatDevice))];
    const mark = region.exclusion === true ? ' (exclusion)' : region.pseudo === true ? ' (ISA bridge)' : '';
    table.push([`${hex(region.base)}-${hex(region.limit)}`, size, region.type + mark, region.source, columns(names)]);
  }
  return table.toString();
}

function deviceTable(devices: readonly ReportDevice[]): string {
  if (devices.length === 0) return 'none is bound to reserved memory';
  const kernels = devices[0]!.byKernel.map((item) => item.kernels);
  const table = new Table({ head: ['device', 'class', 'group', 'verdict', ...kernels], style: plain() });
  for (const device of devices) {
    const kind = device.classCode === undefined ? '?' : pciClassName(device.classCode);
    const own =
      verdictText(device.eligibility.verdict, device.eligibility.errno) + (device.eligibility.approximate ? ' ~' : '');
    table.push([
      device.name,
      kind,
      device.group ?? '?',
      own,
      ...device.byKernel.map((item) => verdictText(item.verdict, item.errno)),
    ]);
  }
  return `${table.toString()}\n~ approximate: a version edge or the device class is not certain`;
}

function verdictText(verdict: string, errno: string | undefined): string {
  return errno === undefined ? verdict : `${verdict} (${errno})`;
}

/** Devices with the same reason and the same ways out share one paragraph. */
function deviceDetails(devices: readonly ReportDevice[]): string[] {
  const blocks = new Map<string, { names: string[]; first: ReportDevice }>();
  for (const device of devices) {
    if (device.remedies.length === 0) continue;
    const { verdict, errno, why } = device.eligibility;
    const key = JSON.stringify([verdict, errno, why, device.remedies]);
    const block = blocks.get(key);
    if (block === undefined) blocks.set(key, { names: [device.name], first: device });
    else block.names.push(device.name);
  }
  return [...blocks.values()].map(({ names, first }) => deviceDetail(names, first));
}

function deviceDetail(names: readonly string[], first: ReportDevice): string {
  const { eligibility } = first;
  const lines = [`${names.join(', ')}\n  ${verdictText(eligibility.verdict, eligibility.errno)}: ${eligibility.why}`];
  if (eligibility.message !== undefined) lines.push(`  kernel line: ${eligibility.message}`);
  for (const remedy of first.remedies) lines.push(`  remedy: ${remedy}`);
  return lines.join('\n');
}

function componentTable(report: RmrrReport): string {
  if (report.components.length === 0) return 'no device is tied to another';
  const table = new Table({ head: ['tied devices', 'memory', 'IOMMU groups'], style: plain() });
  const group = new Map(report.devices.map((device) => [device.name, device.group]));
  for (const { devices, ranges } of report.components) {
    const groups = new Set(devices.map((name) => group.get(name) ?? '?'));
    table.push([
      columns(devices),
      ranges.map((range) => `${hex(range.start)}-${hex(range.end)}`).join('\n'),
      [...groups].join(', '),
    ]);
  }
  return table.toString();
}

function resvTable(devices: readonly ReportDevice[]): string {
  if (devices.length === 0) return 'only the MSI window';
  const table = new Table({ head: ['device', 'regions', 'bytes of probe_size'], style: plain() });
  for (const device of devices) {
    const list = (device.resv?.reserved ?? []).map(
      (region) => `${hex(region.start)}-${hex(region.end)} ${region.kind}`,
    );
    table.push([
      device.name,
      list.length === 0 ? 'none possible, see warnings' : list.join('\n'),
      String(device.resv?.bytes ?? 0),
    ]);
  }
  return table.toString();
}

function holeTable(holes: readonly Hole[]): string {
  if (holes.length === 0) return 'none';
  const table = new Table({ head: ['range', 'size', 'kind'], style: plain() });
  for (const hole of holes)
    table.push([`${hex(hole.start)}-${hex(hole.end)}`, sizeText(hole.end - hole.start + 1n), hole.kind]);
  return table.toString();
}

function costText(report: RmrrReport): string {
  if (report.relaxableCost === 0n) return '';
  return `${sizeText(report.relaxableCost)} of these holes come from relaxable regions; --relaxable omit gives that RAM back (VFIO's way)`;
}

function warningText(report: RmrrReport): string {
  if (report.warnings.length === 0) return '';
  return `Warnings\n${report.warnings.map(({ where, what }) => `  ${where}: ${what}`).join('\n')}`;
}

/** Names in two columns when there are many. */
function columns(names: readonly string[]): string {
  if (names.length <= 4) return names.join('\n');
  const lines: string[] = [];
  for (let i = 0; i < names.length; i += 2) lines.push(names.slice(i, i + 2).join('  '));
  return lines.join('\n');
}
