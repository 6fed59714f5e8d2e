// Which devices are tied by shared firmware memory: they name one region or their regions overlap, transitively.
// IOMMU groups do not hold this relation: Linux never grouped by RMRR. Ranges have INCLUSIVE ends.
import type { AddressRange } from '../base/ranges.ts';
import type { DeviceRef } from './device-ref.ts';
import { compareNames, formatDevice } from './device-ref.ts';
import type { HostRegion } from './region.ts';
import { isFirmwareMemory, regionRange } from './region.ts';

/** Devices that share memory, directly or through others. A device that shares with nobody is alone in one. */
export interface Component {
  /** Sorted by name. */
  readonly devices: readonly string[];
  /** The ranges behind it: sorted, not merged. */
  readonly ranges: readonly AddressRange[];
}

/** Ranges that tie two devices directly. */
export interface SharedPair {
  readonly a: string;
  readonly b: string;
  readonly ranges: readonly AddressRange[];
}

/** Most pairs that {@link sharedPairs} lists. */
export const MAX_PAIRS = 1 << 12;

/**
 * Connected components over devices that regions name; `direct` and `direct-relaxable` regions tie, MSI windows and the
 * 0-16 MiB map of an ISA bridge do not. O(n log n) in regions and device names.
 */
export function entangle(regions: readonly HostRegion[]): Component[] {
  const sets = new DisjointNames();
  const memory = regions.filter((region) => isFirmwareMemory(region) && region.devices.length > 0);
  const refs = new Map<string, DeviceRef>();
  for (const region of memory) {
    for (const device of region.devices) refs.set(formatDevice(device), device);
    const first = formatDevice(region.devices[0]!);
    for (const device of region.devices) sets.join(first, formatDevice(device));
  }
  joinRanges(refs, sets);
  joinOverlaps(memory, sets);
  return collect(memory, sets);
}

/** For each two devices that share memory directly, the shared ranges; at most {@link MAX_PAIRS} pairs. */
export function sharedPairs(regions: readonly HostRegion[]): SharedPair[] {
  const byPair = new Map<string, { a: string; b: string; ranges: AddressRange[] }>();
  const memory = regions.filter((region) => isFirmwareMemory(region) && region.pseudo !== true);
  for (const region of memory) {
    const range = regionRange(region);
    if (range === undefined) continue;
    const names = [...new Set(region.devices.map(formatDevice))].sort(compareNames);
    for (const [i, a] of names.entries()) {
      for (const b of names.slice(i + 1)) {
        const key = `${a} ${b}`;
        const pair = byPair.get(key);
        if (pair !== undefined) pair.ranges.push(range);
        else if (byPair.size < MAX_PAIRS) byPair.set(key, { a, b, ranges: [range] });
        else return [...byPair.values()];
      }
    }
  }
  return [...byPair.values()];
}

/** Ranges of functions are tied to each function and range that they share an id with; sorted sweep. */
function joinRanges(refs: ReadonlyMap<string, DeviceRef>, sets: DisjointNames): void {
  const ids: { name: string; segment: number; first: number; last: number }[] = [];
  for (const [name, ref] of refs) {
    if (ref.kind === 'pci') ids.push({ name, segment: ref.segment, first: ref.rid, last: ref.rid });
    else if (ref.kind === 'pci-range') ids.push({ name, segment: ref.segment, first: ref.first, last: ref.last });
  }
  ids.sort((a, b) => a.segment - b.segment || a.first - b.first);
  let widest = ids[0];
  for (const item of ids) {
    if (widest?.segment !== item.segment) widest = item;
    if (item.first <= widest.last) sets.join(widest.name, item.name);
    if (item.last > widest.last) widest = item;
  }
}

function joinOverlaps(memory: readonly HostRegion[], sets: DisjointNames): void {
  const sorted = memory
    .filter((region) => region.pseudo !== true)
    .map((region) => ({ name: formatDevice(region.devices[0]!), range: regionRange(region) }))
    .filter((item): item is { name: string; range: AddressRange } => item.range !== undefined)
    .sort((a, b) => (a.range.start < b.range.start ? -1 : a.range.start > b.range.start ? 1 : 0));
  let widest = sorted[0];
  for (const item of sorted) {
    if (widest !== undefined && item.range.start <= widest.range.end) sets.join(widest.name, item.name);
    if (widest === undefined || item.range.end > widest.range.end) widest = item;
  }
}

function collect(memory: readonly HostRegion[], sets: DisjointNames): Component[] {
  const found = new Map<string, { devices: Set<string>; ranges: Map<string, AddressRange> }>();
  for (const region of memory) {
    const root = sets.root(formatDevice(region.devices[0]!));
    let component = found.get(root);
    if (component === undefined) found.set(root, (component = { devices: new Set(), ranges: new Map() }));
    for (const device of region.devices) component.devices.add(formatDevice(device));
    const range = regionRange(region);
    if (range !== undefined) component.ranges.set(`${range.start}-${range.end}`, range);
  }
  return [...found.values()]
    .map(({ devices, ranges }) => ({
      devices: [...devices].sort(compareNames),
      ranges: [...ranges.values()].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0)),
    }))
    .sort((a, b) => compareNames(a.devices[0] ?? '', b.devices[0] ?? ''));
}

/** Union-find over names, with path halving. */
class DisjointNames {
  readonly #parent = new Map<string, string>();

  root(name: string): string {
    let at = name;
    for (;;) {
      const up = this.#parent.get(at) ?? at;
      if (up === at) return at;
      const above = this.#parent.get(up) ?? up;
      this.#parent.set(at, above);
      at = above;
    }
  }

  join(a: string, b: string): void {
    const [first, second] = [this.root(a), this.root(b)];
    if (first !== second) this.#parent.set(second, first);
  }
}
