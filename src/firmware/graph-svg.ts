// Entanglement as an SVG picture: devices left, regions right, one panel per component; regions of the same devices share
// a box, so that few lines cross. Deterministic, no dependency.
// Units are SVG user units (pixels at 100 %). All text is escaped: names may come from a hostile table.
import { hex } from '../base/check.ts';
import type { AddressRange } from '../base/ranges.ts';
import { compareNames, formatDevice } from './device-ref.ts';
import { pciClassName } from './pci-class.ts';
import type { HostRegion } from './region.ts';
import { isFirmwareMemory, regionRange } from './region.ts';
import type { ReportDevice, RmrrReport } from './report-types.ts';

/** Most boxes that are drawn; the picture says how many were left out. */
export const MAX_BOXES = 400;

const WIDTH = 980;
const MARGIN = 24;
const PAD = 16;
const TITLE = 26;
const BOX = { height: 40, gap: 10, device: 330, region: 430, line: 18, inset: 11 };
const MAX_LINES = 16;
/** One colour per box of regions, so that its lines can be followed. */
const EDGES = ['#2c5d9b', '#8e44ad', '#0e7c66', '#b9770e', '#a93226', '#5b6770'] as const;
const HEADER = 88;
const FONT = 'font-family="ui-sans-serif, system-ui, Segoe UI, Helvetica, Arial, sans-serif"';
const MONO = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"';

const COLOURS = {
  refused: { fill: '#fdecea', stroke: '#c0392b' },
  relaxable: { fill: '#fff4dc', stroke: '#b9770e' },
  assignable: { fill: '#e8f6ec', stroke: '#1e8449' },
  unknown: { fill: '#eef0f2', stroke: '#6b7480' },
} as const;

interface DeviceNode {
  readonly title: string;
  readonly detail: string;
  readonly fill: string;
  readonly stroke: string;
  /** Boxes of regions that name it, by index. */
  readonly bundles: readonly number[];
}

/** Regions that name the same devices. */
interface Bundle {
  readonly lines: readonly { readonly range: string; readonly detail: string }[];
  readonly ranges: readonly AddressRange[];
  readonly devices: ReadonlySet<string>;
}

interface Panel {
  readonly title: string;
  readonly devices: readonly DeviceNode[];
  readonly bundles: readonly Bundle[];
  /** Boxes that are tied because ranges of theirs overlap. */
  readonly overlaps: readonly (readonly [number, number])[];
}

/** Draws the components of a report; a report without firmware memory gives a picture that says so. */
export function graphSvg(report: RmrrReport): string {
  const { panels, leftOut } = panelsOf(report);
  const parts: string[] = [];
  let top = HEADER;
  for (const panel of panels) {
    parts.push(drawPanel(panel, top));
    top += panelHeight(panel) + MARGIN;
  }
  if (panels.length === 0) {
    parts.push(label(MARGIN, top + 12, 'No device has firmware-reserved memory.', 14, '#333'));
    top += 40;
  }
  if (leftOut > 0) {
    parts.push(label(MARGIN, top + 8, `${leftOut} further components are not drawn.`, 13, '#6b7480'));
    top += 32;
  }
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${top}" viewBox="0 0 ${WIDTH} ${top}" role="img">\n` +
    `<title>Devices tied by reserved memory</title>\n<rect width="${WIDTH}" height="${top}" fill="#ffffff"/>\n` +
    `${drawHeader(report)}${parts.join('')}</svg>\n`
  );
}

function panelsOf(report: RmrrReport): { panels: Panel[]; leftOut: number } {
  const byName = new Map(report.devices.map((device) => [device.name, device]));
  const owner = new Map<string, number>();
  for (const [i, component] of report.components.entries()) for (const name of component.devices) owner.set(name, i);
  const regionsOf = new Map<number, HostRegion[]>();
  for (const region of report.regions) {
    const first = region.devices[0];
    const index = first === undefined || !isFirmwareMemory(region) ? undefined : owner.get(formatDevice(first));
    if (index === undefined) continue;
    const list = regionsOf.get(index);
    if (list === undefined) regionsOf.set(index, [region]);
    else list.push(region);
  }
  const order = report.components.map((component, i) => ({ component, i }));
  order.sort((a, b) => b.component.devices.length - a.component.devices.length || a.i - b.i);
  const panels: Panel[] = [];
  let room = MAX_BOXES;
  for (const { component, i } of order) {
    room -= component.devices.length;
    if (room < 0 && panels.length > 0) break;
    panels.push(panelOf(component.devices, regionsOf.get(i) ?? [], byName));
  }
  return { panels, leftOut: order.length - panels.length };
}

function panelOf(
  names: readonly string[],
  regions: readonly HostRegion[],
  byName: ReadonlyMap<string, ReportDevice>,
): Panel {
  const bundles = bundlesOf(regions).slice(0, MAX_BOXES);
  const drawn = [...names].sort(compareNames).slice(0, MAX_BOXES);
  const devices = drawn.map((name) => {
    const own = bundles.flatMap((bundle, i) => (bundle.devices.has(name) ? [i] : []));
    return deviceNode(name, byName.get(name), own);
  });
  // Neighbours in the picture have the same boxes; names keep their order among equals.
  const rank = ({ bundles: own }: DeviceNode): number => own.reduce((sum, index) => sum + index, 0) / (own.length || 1);
  devices.sort((a, b) => rank(a) - rank(b));
  const part = drawn.length < names.length ? `, ${drawn.length} of them drawn` : '';
  const tied = `${names.length} devices tied by shared memory${part}`;
  const title = names.length === 1 ? 'Alone: shares memory with no other device' : tied;
  return { title, devices, bundles, overlaps: overlapsOf(bundles) };
}

function bundlesOf(regions: readonly HostRegion[]): Bundle[] {
  const byRange = new Map<string, { region: HostRegion; sources: Set<string>; devices: Set<string> }>();
  for (const region of [...regions].sort((a, b) => (a.base < b.base ? -1 : a.base > b.base ? 1 : 0))) {
    const key = `${region.base}-${region.limit} ${region.type}`;
    let known = byRange.get(key);
    if (known === undefined) byRange.set(key, (known = { region, sources: new Set(), devices: new Set() }));
    known.sources.add(region.source);
    for (const device of region.devices) known.devices.add(formatDevice(device));
  }
  const found = new Map<string, { lines: Bundle['lines'][number][]; ranges: AddressRange[]; devices: Set<string> }>();
  for (const { region, sources, devices } of byRange.values()) {
    const key = [...devices].sort(compareNames).join(' ');
    let bundle = found.get(key);
    if (bundle === undefined) found.set(key, (bundle = { lines: [], ranges: [], devices }));
    const range = regionRange(region);
    const size = range === undefined ? 'ends before it starts' : sizeText(range.end - range.start + 1n);
    const detail = `${size} · ${region.type} · ${[...sources].join(', ')}`;
    bundle.lines.push({ range: `${hex(region.base)}-${hex(region.limit)}`, detail });
    if (range !== undefined) bundle.ranges.push(range);
  }
  return [...found.values()];
}

/** Pairs of boxes with a common address, at most {@link MAX_BOXES}. */
function overlapsOf(bundles: readonly Bundle[]): [number, number][] {
  const all = bundles
    .flatMap((bundle, index) => bundle.ranges.map((range) => ({ range, index })))
    .sort((a, b) => (a.range.start < b.range.start ? -1 : a.range.start > b.range.start ? 1 : 0));
  const pairs = new Map<string, [number, number]>();
  let widest = all[0];
  for (const item of all) {
    if (widest === undefined || pairs.size >= MAX_BOXES) break;
    const meet = item.range.start <= widest.range.end && item.index !== widest.index;
    if (meet) pairs.set(`${widest.index} ${item.index}`, [widest.index, item.index]);
    if (item.range.end > widest.range.end) widest = item;
  }
  return [...pairs.values()];
}

function deviceNode(name: string, device: ReportDevice | undefined, bundles: readonly number[]): DeviceNode {
  const verdict = device?.eligibility.verdict ?? 'unknown';
  const group = device?.group === undefined ? [] : [`group ${device.group}`];
  const kind = device?.classCode === undefined ? [] : [pciClassName(device.classCode)];
  const errno = device?.eligibility.errno === undefined ? verdict : `${verdict} (${device.eligibility.errno})`;
  return { title: name, detail: [...kind, ...group, errno].join(' · '), ...COLOURS[verdict], bundles };
}

/** A size in the largest binary unit that keeps at most one decimal: `128.1 MiB`. */
export function sizeText(bytes: bigint): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let unit = 0;
  let value = Number(bytes);
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value === Math.floor(value) ? value : value.toFixed(1)} ${units[unit]!}`;
}

function bundleHeight({ lines }: Bundle): number {
  const shown = Math.min(lines.length, MAX_LINES) + (lines.length > MAX_LINES ? 1 : 0);
  return 2 * BOX.inset + shown * BOX.line;
}

function columnHeight(heights: readonly number[]): number {
  return heights.reduce((sum, height) => sum + height + BOX.gap, -BOX.gap);
}

function panelHeight({ devices, bundles }: Panel): number {
  const left = columnHeight(devices.map(() => BOX.height));
  const right = columnHeight(bundles.map(bundleHeight));
  return PAD + TITLE + Math.max(left, right, BOX.height) + PAD;
}

function drawPanel(panel: Panel, top: number): string {
  const height = panelHeight(panel);
  const inner = top + PAD + TITLE;
  const room = height - 2 * PAD - TITLE;
  const left = MARGIN + PAD;
  const right = WIDTH - MARGIN - PAD - BOX.region;
  const deviceTops = placed(
    panel.devices.map(() => BOX.height),
    inner,
    room,
  );
  const heights = panel.bundles.map(bundleHeight);
  const bundleTops = placed(heights, inner, room);
  const middle = (index: number): number => bundleTops[index]! + heights[index]! / 2;
  let svg = `<rect x="${MARGIN}" y="${top}" width="${WIDTH - 2 * MARGIN}" height="${height}" rx="10" fill="#f8fafc" stroke="#d5dce4"/>\n`;
  svg += label(left, top + PAD + 8, panel.title, 14, '#22303c', 'font-weight="600"');
  for (const [i, { bundles }] of panel.devices.entries()) {
    const y = deviceTops[i]! + BOX.height / 2;
    for (const index of bundles) svg += edge(left + BOX.device, y, right, middle(index), colourOf(index));
  }
  for (const [a, b] of panel.overlaps) svg += overlapArc(right + BOX.region, middle(a), middle(b));
  for (const [i, node] of panel.devices.entries()) svg += deviceBox(left, deviceTops[i]!, node);
  for (const [i, bundle] of panel.bundles.entries()) svg += bundleBox(right, bundleTops[i]!, heights[i]!, bundle, i);
  return svg;
}

/** Tops of boxes in one column, centred in the panel. */
function placed(heights: readonly number[], top: number, room: number): number[] {
  let y = top + Math.max(0, (room - columnHeight(heights)) / 2);
  return heights.map((height) => {
    const at = y;
    y += height + BOX.gap;
    return at;
  });
}

function colourOf(index: number): string {
  return EDGES[index % EDGES.length]!;
}

function deviceBox(x: number, y: number, { title, detail, fill, stroke }: DeviceNode): string {
  const frame = `<rect x="${x}" y="${y}" width="${BOX.device}" height="${BOX.height}" rx="6" fill="${fill}" stroke="${stroke}"/>\n`;
  const text = label(x + 10, y + 32, clip(detail, 52), 11, '#4d5a66');
  return frame + mono(x + 10, y + 17, clip(title, 40), '#17202a') + text;
}

function bundleBox(x: number, y: number, height: number, { lines }: Bundle, index: number): string {
  let svg = `<rect x="${x}" y="${y}" width="${BOX.region}" height="${height}" rx="6" fill="#ffffff" stroke="${colourOf(index)}" stroke-width="1.5"/>\n`;
  const shown = lines.slice(0, MAX_LINES);
  for (const [i, { range, detail }] of shown.entries()) {
    const base = y + BOX.inset + i * BOX.line + 13;
    svg += mono(x + 10, base, clip(range, 39), '#17202a');
    const size = 11 - Math.max(0, range.length - 26) * 0.2;
    svg += label(x + BOX.region - 10, base, detail, Math.max(8, size), '#4d5a66', 'text-anchor="end"');
  }
  const left = lines.length - shown.length;
  if (left > 0) svg += label(x + 10, y + height - BOX.inset - 4, `and ${left} more ranges`, 11, '#4d5a66');
  return svg;
}

function mono(x: number, y: number, text: string, colour: string): string {
  return `<text x="${x}" y="${y}" ${MONO} font-size="12.5" fill="${colour}">${escape(text)}</text>\n`;
}

function edge(x1: number, y1: number, x2: number, y2: number, colour: string): string {
  const bend = (x2 - x1) / 2;
  const path = `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return `<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.4" stroke-opacity="0.7"/>\n`;
}

/** A dashed arc beside two boxes: ranges of theirs overlap. */
function overlapArc(x: number, y1: number, y2: number): string {
  const path = `M${x} ${y1} C${x + 18} ${y1} ${x + 18} ${y2} ${x} ${y2}`;
  return `<path d="${path}" fill="none" stroke="#a93226" stroke-width="1.6" stroke-dasharray="4 3"><title>overlap</title></path>\n`;
}

function drawHeader(report: RmrrReport): string {
  let svg = label(MARGIN, 34, 'Devices tied by reserved memory', 20, '#17202a', 'font-weight="700"');
  const kernel = `Linux ${report.kernel.major}.${report.kernel.minor}`;
  const count = `${report.components.length} components, ${report.regions.filter(isFirmwareMemory).length} regions`;
  svg += label(MARGIN, 58, `${count}. Verdicts for ${kernel}. IOMMU groups do not hold this relation.`, 13, '#4d5a66');
  let x = WIDTH - MARGIN - 4 * 104;
  for (const [name, { fill, stroke }] of Object.entries(COLOURS)) {
    svg += `<rect x="${x}" y="24" width="13" height="13" rx="3" fill="${fill}" stroke="${stroke}"/>\n`;
    svg += label(x + 19, 35, name, 12, '#4d5a66');
    x += 104;
  }
  return svg;
}

function label(x: number, y: number, text: string, size: number, colour: string, extra = ''): string {
  const style = extra === '' ? '' : ` ${extra}`;
  return `<text x="${x}" y="${y}" ${FONT} font-size="${size}" fill="${colour}"${style}>${escape(text)}</text>\n`;
}

function clip(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
