// Entanglement as an SVG picture: devices left, regions right, one panel per component. Deterministic, no dependency.
// Units are SVG user units (pixels at 100 %). All text is escaped: names may come from a hostile table.
import { hex } from '../base/check.ts';
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
const BOX = { height: 40, gap: 10, device: 320, region: 390 };
const HEADER = 88;
const FONT = 'font-family="ui-sans-serif, system-ui, Segoe UI, Helvetica, Arial, sans-serif"';
const MONO = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"';

const COLOURS = {
  refused: { fill: '#fdecea', stroke: '#c0392b' },
  relaxable: { fill: '#fff4dc', stroke: '#b9770e' },
  assignable: { fill: '#e8f6ec', stroke: '#1e8449' },
  unknown: { fill: '#eef0f2', stroke: '#6b7480' },
} as const;

interface Node {
  readonly title: string;
  readonly detail: string;
  readonly fill: string;
  readonly stroke: string;
  readonly key: string;
}

interface Panel {
  readonly title: string;
  readonly devices: readonly Node[];
  readonly regions: readonly Node[];
  readonly edges: readonly (readonly [device: string, region: string, colour: string])[];
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
    if (room < 0) break;
    panels.push(panelOf(component.devices, regionsOf.get(i) ?? [], byName));
  }
  return { panels, leftOut: order.length - panels.length };
}

function panelOf(
  names: readonly string[],
  regions: readonly HostRegion[],
  byName: ReadonlyMap<string, ReportDevice>,
): Panel {
  const nodes = new Map<string, { node: Node; region: HostRegion; sources: Set<string> }>();
  const edges = new Map<string, [string, string, string]>();
  for (const region of [...regions].sort((a, b) => (a.base < b.base ? -1 : a.base > b.base ? 1 : 0))) {
    const key = `${region.base}-${region.limit}`;
    const known = nodes.get(key);
    if (known === undefined && nodes.size >= MAX_BOXES) continue;
    if (known !== undefined) known.sources.add(region.source);
    else nodes.set(key, { node: regionNode(region, key, region.source), region, sources: new Set([region.source]) });
    const colour = region.type === 'direct-relaxable' ? COLOURS.relaxable.stroke : '#7a8794';
    for (const device of region.devices) {
      const name = formatDevice(device);
      edges.set(`${name} ${key}`, [name, key, colour]);
    }
  }
  const title =
    names.length === 1 ? 'Alone: shares memory with no other device' : `${names.length} devices tied by shared memory`;
  return {
    title,
    devices: [...names].sort(compareNames).map((name) => deviceNode(name, byName.get(name))),
    regions: [...nodes.values()].map(({ region, node, sources }) =>
      regionNode(region, node.key, [...sources].join(', ')),
    ),
    edges: [...edges.values()],
  };
}

function deviceNode(name: string, device: ReportDevice | undefined): Node {
  const verdict = device?.eligibility.verdict ?? 'unknown';
  const group = device?.group === undefined ? [] : [`group ${device.group}`];
  const kind = device?.classCode === undefined ? [] : [pciClassName(device.classCode)];
  const errno = device?.eligibility.errno === undefined ? verdict : `${verdict} (${device.eligibility.errno})`;
  return { title: name, detail: [...kind, ...group, errno].join(' · '), ...COLOURS[verdict], key: name };
}

function regionNode(region: HostRegion, key: string, sources: string): Node {
  const range = regionRange(region);
  const size = range === undefined ? 'ends before it starts' : sizeText(range.end - range.start + 1n);
  const title = `${hex(region.base)}-${hex(region.limit)}`;
  return { title, detail: `${size} · ${region.type} · ${sources}`, fill: '#eaf1fb', stroke: '#2c5d9b', key };
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

function panelHeight(panel: Panel): number {
  const rows = Math.max(panel.devices.length, panel.regions.length, 1);
  return PAD + TITLE + rows * (BOX.height + BOX.gap) - BOX.gap + PAD;
}

function drawPanel(panel: Panel, top: number): string {
  const height = panelHeight(panel);
  const inner = top + PAD + TITLE;
  const room = height - 2 * PAD - TITLE;
  const left = MARGIN + PAD;
  const right = WIDTH - MARGIN - PAD - BOX.region;
  const devices = placed(panel.devices, inner, room);
  const regions = placed(panel.regions, inner, room);
  let svg = `<rect x="${MARGIN}" y="${top}" width="${WIDTH - 2 * MARGIN}" height="${height}" rx="10" fill="#f8fafc" stroke="#d5dce4"/>\n`;
  svg += label(left, top + PAD + 8, panel.title, 14, '#22303c', 'font-weight="600"');
  for (const [device, region, colour] of panel.edges) {
    const from = devices.get(device);
    const to = regions.get(region);
    if (from !== undefined && to !== undefined) svg += edge(left + BOX.device, from.y + 20, right, to.y + 20, colour);
  }
  for (const { node, y } of devices.values()) svg += box(left, y, BOX.device, node);
  for (const { node, y } of regions.values()) svg += box(right, y, BOX.region, node);
  return svg;
}

/** Boxes of one column, centred in the panel. */
function placed(nodes: readonly Node[], top: number, room: number): Map<string, { node: Node; y: number }> {
  const used = nodes.length * (BOX.height + BOX.gap) - BOX.gap;
  const first = top + Math.max(0, (room - used) / 2);
  return new Map(nodes.map((node, i) => [node.key, { node, y: first + i * (BOX.height + BOX.gap) }]));
}

function box(x: number, y: number, width: number, node: Node): string {
  const frame = `<rect x="${x}" y="${y}" width="${width}" height="${BOX.height}" rx="6" fill="${node.fill}" stroke="${node.stroke}"/>\n`;
  const title = `<text x="${x + 10}" y="${y + 17}" ${MONO} font-size="12.5" fill="#17202a">${escape(clip(node.title, 46))}</text>\n`;
  return frame + title + label(x + 10, y + 32, clip(node.detail, Math.floor(width / 6.2)), 11, '#4d5a66');
}

function edge(x1: number, y1: number, x2: number, y2: number, colour: string): string {
  const bend = (x2 - x1) / 2;
  const path = `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return `<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.4" stroke-opacity="0.75"/>\n`;
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
