// The rmrr report as text for a terminal. Addresses in hex, limits INCLUSIVE. The head is in rmrr-summary.ts.
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
import { summaryText, verdictText, wrap } from './rmrr-summary.ts';

const MAX_LINES = 250;
const MAX_CELL_LINES = 24;

const MODES = {
  translated: 'the guest driver picks I/O addresses around the regions',
  bypass: 'guest-physical address = I/O address',
  nested: 'RAM of an L2 inside this guest',
} as const;

/** The whole report; with `named` devices these come first. */
export function reportText(report: RmrrReport, named: readonly string[]): string {
  const relax = report.relaxRmrr === 'unknown' ? '' : `; relax_rmrr: ${report.relaxRmrr}`;
  const bound = report.devices.filter(
    ({ name, regions, eligibility }) =>
      regions.some(({ type }) => type !== 'msi') || eligibility.verdict !== 'assignable' || named.includes(name),
  );
  return [
    `Reserved host memory, judged for Linux ${formatKernel(report.kernel)}${relax}`,
    summaryText(report, named),
    section('Regions', regionTable(report.regions)),
    section('Verdict by kernel version', deviceTable(bound)),
    section('Sharing: devices tied by memory (IOMMU groups do not hold this)', componentTable(report)),
    section('What each endpoint reports to its guest (RESV_MEM)', resvTable(bound)),
    section(`Holes in guest RAM, mode ${report.mode} (${MODES[report.mode]})`, holeTable(report)),
    costText(report),
    layoutText(report.layout),
    warningText(report),
    report.notes.map((note) => wrap(`Note: ${note}`, 6)).join('\n'),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
    .concat('\n');
}

/** Components and pairs, for `graph`. */
export function graphText(report: RmrrReport): string {
  const group = new Map(report.devices.map((device) => [device.name, device.group]));
  const pairs = report.shared.map(({ a, b, ranges }) => {
    const same = group.get(a) === undefined ? 'unknown' : group.get(a) === group.get(b) ? 'yes' : 'no';
    return [a, b, ranges.map((range) => `${hex(range.start)}-${hex(range.end)}`).join('\n'), same];
  });
  const head = ['device', 'device', 'shared memory', 'same group'];
  const shared = pairs.length === 0 ? 'No two devices name one region.' : tableOf(head, pairs);
  return `${section('Devices tied by reserved memory', componentTable(report))}\n\n${section('Shared directly', shared)}\n`;
}

/** Differences, for `diff`. */
export function diffText(diff: RegionDiff): string {
  const head = `Compared: ${diff.sources.join(', ')}`;
  if (diff.sources.length < 2) return `${head}\nTwo kinds of sources are needed for a comparison.\n`;
  if (diff.differences.length === 0)
    return `${head}\nAll list the same firmware memory (${diff.common.length} ranges).\n`;
  const rows = diff.differences.map((item) => [
    `${hex(item.start)}-${hex(item.end)}`,
    item.present,
    item.missing,
    item.why,
  ]);
  const layout = { colWidths: [null, null, null, 64], wordWrap: true };
  const table = tableOf(['range', 'in', 'not in', 'why'], rows, layout);
  return `${head}; ${diff.common.length} ranges are in all\n${table}\n`;
}

/** Holes and what they leave of a RAM layout, for `holes`. */
export function holesText(report: RmrrReport, hotAdd: HotAdd | undefined): string {
  const parts = [
    section(`Holes in guest RAM, mode ${report.mode} (${MODES[report.mode]})`, holeTable(report)),
    costText(report),
    layoutText(report.layout),
  ];
  if (hotAdd !== undefined) parts.push(`Hot-add to a guest with this RAM: ${hotAdd.rule}.`);
  parts.push(
    'Hot-added devices: regions of a new endpoint may fall on RAM in use. Refuse it, or require translation and bypass = 0.',
  );
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function section(title: string, body: string): string {
  return `${title}\n${body}`;
}

/** A table of at most {@link MAX_LINES} lines: the layout costs much more than linear time (80 s for 2000 lines). */
function tableOf(head: string[], rows: readonly (readonly string[])[], options: object = {}): string {
  const table = new Table({ head, style: { head: [], border: [] }, ...options });
  let room = MAX_LINES;
  let shown = 0;
  for (const row of rows) {
    const cells = row.map(clipCell);
    room -= Math.max(...cells.map((cell) => cell.split('\n').length));
    if (room < 0) break;
    table.push(cells);
    shown++;
  }
  return table.toString() + (shown < rows.length ? `\nand ${rows.length - shown} more rows, see --json` : '');
}

function clipCell(cell: string): string {
  const lines = cell.split('\n');
  const left = lines.length - MAX_CELL_LINES;
  return left > 1 ? `${lines.slice(0, MAX_CELL_LINES).join('\n')}\nand ${left} more lines` : cell;
}

/** Regions that name the same devices share a row, one line each. */
function regionTable(regions: readonly HostRegion[]): string {
  if (regions.length === 0) return 'none';
  const rows = new Map<string, { lines: [string, string, string, string][]; devices: string }>();
  for (const region of regions) {
    const names = [...new Set(region.devices.map(formatDevice))];
    const devices = names.length === 0 ? 'not named' : columns(names);
    const key = [...names].sort().join(' ');
    let row = rows.get(key);
    if (row === undefined) rows.set(key, (row = { lines: [], devices }));
    const size = region.limit < region.base ? 'broken' : sizeText(region.limit - region.base + 1n);
    const mark = region.exclusion === true ? ' (exclusion)' : region.pseudo === true ? ' (ISA bridge)' : '';
    row.lines.push([`${hex(region.base)}-${hex(region.limit)}`, size, region.type + mark, region.source]);
  }
  const cells = [...rows.values()].map(({ lines, devices }) => {
    const cell = (column: 0 | 1 | 2 | 3): string => lines.map((line) => line[column]).join('\n');
    return [cell(0), cell(1), cell(2), cell(3), devices];
  });
  return tableOf(['range', 'size', 'type', 'source', 'devices'], cells);
}

/** Devices that differ in nothing but their name share a row. */
function rowsOf(devices: readonly ReportDevice[], cells: (device: ReportDevice) => string[]): string[][] {
  const rows = new Map<string, { names: string[]; cells: string[] }>();
  for (const device of devices) {
    const list = cells(device);
    const key = JSON.stringify(list);
    const row = rows.get(key);
    if (row === undefined) rows.set(key, { names: [device.name], cells: list });
    else row.names.push(device.name);
  }
  return [...rows.values()].map((row) => [columns(row.names), ...row.cells]);
}

function deviceTable(devices: readonly ReportDevice[]): string {
  if (devices.length === 0) return 'no device is bound to reserved memory';
  const kernels = devices[0]!.byKernel.map((item) => item.kernels);
  const rows = rowsOf(devices, (device) => [
    device.classCode === undefined ? '?' : pciClassName(device.classCode),
    device.group ?? '?',
    ...device.byKernel.map(verdictText),
  ]);
  return tableOf(['device', 'class', 'group', ...kernels], rows);
}

function componentTable(report: RmrrReport): string {
  if (report.components.length === 0) return 'no device is tied to another';
  const group = new Map(report.devices.map((device) => [device.name, device.group]));
  const rows = report.components.map(({ devices, ranges }) => {
    const groups = new Set(devices.map((name) => group.get(name) ?? '?'));
    const memory = ranges.map((range) => `${hex(range.start)}-${hex(range.end)}`).join('\n');
    return [columns(devices), memory, [...groups].join(', ')];
  });
  return tableOf(['tied devices', 'memory', 'IOMMU groups'], rows);
}

function resvTable(devices: readonly ReportDevice[]): string {
  if (devices.length === 0) return 'only what the platform reserves, see the holes';
  const rows = rowsOf(devices, ({ resv }) => {
    const list = (resv?.reserved ?? []).map((region) => `${hex(region.start)}-${hex(region.end)} ${region.kind}`);
    const none = resv === undefined ? 'none possible, see warnings' : 'none';
    return [list.length === 0 ? none : list.join('\n'), String(resv?.bytes ?? 0)];
  });
  return tableOf(['device', 'regions', 'bytes of probe_size'], rows);
}

function holeTable({ holes }: { readonly holes: readonly Hole[] }): string {
  if (holes.length === 0) return 'none';
  const rows = holes.map((hole) => {
    const kind = hole.kind === 'beyond' ? 'beyond the input range' : hole.kind;
    return [`${hex(hole.start)}-${hex(hole.end)}`, sizeText(hole.end - hole.start + 1n), kind];
  });
  return tableOf(['range', 'size', 'kind'], rows);
}

function costText(report: RmrrReport): string {
  if (report.relaxableCost === 0n) return '';
  const what = report.layout === undefined ? 'of these addresses' : 'of its RAM';
  return wrap(
    `Reporting relaxable regions costs a guest in bypass, or an L2, ${sizeText(report.relaxableCost)} ${what}; ` +
      `--relaxable omit gives them back (VFIO's way), at the risk that device or firmware still use them`,
    2,
  );
}

function layoutText(layout: RamLayout | undefined): string {
  if (layout === undefined) return '';
  const ram = layout.ram.map((range) => `  ${hex(range.start)}-${hex(range.end)}`).join('\n');
  if (layout.lost === 0n) return `RAM to use, nothing is lost:\n${ram}`;
  const places = layout.conflicts.length === 1 ? 'one place' : `${layout.conflicts.length} places`;
  return `RAM to use:\n${ram}\nLost: ${sizeText(layout.lost)} in ${places}; add it at the top to keep the size.`;
}

function warningText(report: RmrrReport): string {
  if (report.warnings.length === 0) return '';
  return `Warnings\n${report.warnings.map(({ where, what }) => `  ${wrap(`${where}: ${what}`, 4)}`).join('\n')}`;
}

/** Names in two columns when there are many. */
function columns(names: readonly string[]): string {
  if (names.length <= 4) return names.join('\n');
  const lines: string[] = [];
  for (let i = 0; i < names.length; i += 2) lines.push(names.slice(i, i + 2).join('  '));
  return lines.join('\n');
}
