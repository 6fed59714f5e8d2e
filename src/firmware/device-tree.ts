// Device-tree fragments for a virtio-iommu: text for a .dts file and the cells of `iommu-map` as bytes.
// Linux bindings: virtio/pci-iommu.yaml, virtio/mmio.yaml, pci-iommu.txt. Ranges are {start, count}; cells are 32-bit BIG endian.
import { U32_MAX, checkBigint, checkInteger } from '../base/check.ts';

/** One entry of `iommu-map`: requester ids [rid, rid + length) become endpoints [endpoint, endpoint + length). */
export interface IommuMapEntry {
  readonly rid: number;
  readonly endpoint: number;
  readonly length: number;
}

const LABEL = /^[A-Za-z_][A-Za-z0-9_]{0,30}$/;
const RIDS = 0x10000;

/**
 * The map of a root complex whose virtio-iommu translates every function but itself, endpoint id = requester id; with
 * `iommuRid` undefined (the IOMMU is an MMIO device) one entry covers all.
 * @throws RangeError or TypeError naming `iommuRid`.
 */
export function iommuMapAround(iommuRid: number | undefined): IommuMapEntry[] {
  if (iommuRid === undefined) return [{ rid: 0, endpoint: 0, length: RIDS }];
  const rid = checkInteger('iommuRid', iommuRid, 0, RIDS - 1);
  const entries = [
    { rid: 0, endpoint: 0, length: rid },
    { rid: rid + 1, endpoint: rid + 1, length: RIDS - rid - 1 },
  ];
  return entries.filter((entry) => entry.length > 0);
}

/**
 * The property as bytes of a flattened tree: four cells per entry.
 * @throws RangeError or TypeError naming the argument; entries that overlap are refused, since Linux takes the first.
 */
export function encodeIommuMap(entries: readonly IommuMapEntry[], phandle: number): Uint8Array {
  checkMap(entries);
  const cell = checkInteger('phandle', phandle, 1, U32_MAX - 1);
  const bytes = new Uint8Array(entries.length * 16);
  const view = new DataView(bytes.buffer);
  for (const [i, { rid, endpoint, length }] of entries.entries()) {
    for (const [j, value] of [rid, cell, endpoint, length].entries()) view.setUint32(i * 16 + j * 4, value);
  }
  return bytes;
}

/**
 * `iommu-map = <…>;` of a root complex, one line per entry.
 * @throws RangeError or TypeError naming the argument.
 */
export function iommuMapText(entries: readonly IommuMapEntry[], label: string): string {
  checkMap(entries);
  checkLabel(label);
  const rows = entries.map(
    ({ rid, endpoint, length }) => `${cellText(rid)} &${label} ${cellText(endpoint)} ${cellText(length)}`,
  );
  return `iommu-map = <${rows.join('\n             ')}>;\n`;
}

/**
 * The node of a virtio-iommu that is a PCI function, a child of its root complex; `reg` is 5 cells, the first bdf << 8.
 * @throws RangeError or TypeError naming the argument.
 */
export function pciIommuNode(options: { readonly rid: number; readonly label: string }): string {
  const rid = checkInteger('rid', options.rid, 0, RIDS - 1);
  checkLabel(options.label);
  const device = (rid >> 3) & 0x1f;
  const unit = `${device.toString(16)},${(rid & 7).toString(16)}`;
  return node(`${options.label}: iommu@${unit}`, [
    'compatible = "pci1af4,1057"',
    `reg = <${cellText(rid * 256)} 0x0 0x0 0x0 0x0>`,
    '#iommu-cells = <1>',
  ]);
}

/**
 * The node of a virtio-iommu that is a virtio-mmio device; `interrupts` are the cells the parent controller wants.
 * @throws RangeError or TypeError naming the argument.
 */
export function mmioIommuNode(options: {
  readonly base: bigint;
  readonly size: bigint;
  readonly interrupts: readonly number[];
  readonly label: string;
  readonly addressCells?: 1 | 2;
}): string {
  const { addressCells = 2 } = options;
  const limit = (1n << BigInt(checkInteger('addressCells', addressCells, 1, 2) * 32)) - 1n;
  const base = checkBigint('base', options.base, 0n, limit);
  const size = checkBigint('size', options.size, 1n, limit);
  if (base + size - 1n > limit) throw new RangeError('size passes the end of the address space');
  checkLabel(options.label);
  const interrupts = options.interrupts.map((cell, i) => cellText(checkInteger(`interrupts[${i}]`, cell, 0, U32_MAX)));
  const reg = [...addressText(base, addressCells), ...addressText(size, addressCells)];
  return node(`${options.label}: iommu@${base.toString(16)}`, [
    'compatible = "virtio,mmio"',
    `reg = <${reg.join(' ')}>`,
    ...(interrupts.length === 0 ? [] : [`interrupts = <${interrupts.join(' ')}>`]),
    '#iommu-cells = <1>',
  ]);
}

/**
 * `iommus = <&label endpoint>;` of a platform device.
 * @throws RangeError or TypeError naming the argument.
 */
export function iommusText(label: string, endpoint: number): string {
  checkLabel(label);
  return `iommus = <&${label} ${cellText(checkInteger('endpoint', endpoint, 0, U32_MAX))}>;\n`;
}

function node(name: string, properties: readonly string[]): string {
  return `${name} {\n${properties.map((property) => `\t${property};\n`).join('')}};\n`;
}

function addressText(value: bigint, cells: number): string[] {
  const low = cellText(Number(value & 0xffff_ffffn));
  return cells === 1 ? [low] : [cellText(Number(value >> 32n)), low];
}

function cellText(value: number): string {
  return `0x${value.toString(16)}`;
}

function checkLabel(label: unknown): void {
  if (typeof label !== 'string' || !LABEL.test(label)) throw new RangeError('label must be a device-tree label');
}

function checkMap(entries: readonly IommuMapEntry[]): void {
  const list: unknown = entries;
  if (!Array.isArray(list)) throw new TypeError('entries must be an array');
  for (const [i, entry] of entries.entries()) {
    checkInteger(`entries[${i}].rid`, entry.rid, 0, RIDS - 1);
    checkInteger(`entries[${i}].length`, entry.length, 1, RIDS - entry.rid);
    checkInteger(`entries[${i}].endpoint`, entry.endpoint, 0, U32_MAX - entry.length + 1);
  }
  const sorted = entries.map((entry, index) => ({ ...entry, index })).sort((a, b) => a.rid - b.rid);
  for (const [i, entry] of sorted.entries()) {
    const next = sorted[i + 1];
    if (next !== undefined && next.rid < entry.rid + entry.length) {
      throw new RangeError(`entries[${Math.max(next.index, entry.index)}].rid lies in another entry`);
    }
  }
}
