// Compares what sources say of the same host: an address that one lists as firmware memory and another does not.
// Only `direct` and `direct-relaxable` regions count: MSI windows and holes of the platform are in no table.
// Ranges have INCLUSIVE ends and are compared at page granularity.
import type { AddressRange } from '../base/ranges.ts';
import { cutRanges, intersectLists, mergeRanges, roundOutward } from '../base/ranges.ts';
import type { HostRegion, RegionSource } from './region.ts';
import { ISA_WINDOW, isFirmwareMemory, regionRange } from './region.ts';

/** What two sources disagree about. */
export interface RegionDifference extends AddressRange {
  /** The source that lists the range. */
  readonly present: RegionSource;
  /** The source that does not. */
  readonly missing: RegionSource;
  readonly why: string;
}

/** Agreement and disagreement of all sources at hand. */
export interface RegionDiff {
  readonly sources: readonly RegionSource[];
  /** Ranges that all sources list. */
  readonly common: readonly AddressRange[];
  readonly differences: readonly RegionDifference[];
}

const PAGE = 4096n;

/** Compares the firmware memory of every two sources; `sources` names those read, also when they list nothing. */
export function diffRegions(regions: readonly HostRegion[], sources: readonly RegionSource[]): RegionDiff {
  const lists = new Map<RegionSource, AddressRange[]>();
  for (const source of sources) lists.set(source, []);
  const isaMaps = new Set<RegionSource>();
  for (const region of regions) {
    const range = regionRange(region);
    if (range === undefined || !isFirmwareMemory(region)) continue;
    lists.get(region.source)?.push(roundOutward(range, PAGE));
    if (region.pseudo === true) isaMaps.add(region.source);
  }
  const merged = [...lists].map(([source, list]) => ({ source, ranges: mergeRanges(list) }));
  const differences: RegionDifference[] = [];
  for (const a of merged) {
    for (const b of merged) {
      if (a.source === b.source) continue;
      for (const range of cutRanges(a.ranges, b.ranges)) {
        differences.push({
          ...range,
          present: a.source,
          missing: b.source,
          why: explain(range, a.source, b, isaMaps.has(a.source)),
        });
      }
    }
  }
  const [first, ...rest] = merged;
  const common = rest.reduce((left, list) => intersectLists(left, list.ranges), first?.ranges ?? []);
  return { sources: merged.map(({ source }) => source), common: rest.length === 0 ? [] : common, differences };
}

function explain(
  range: AddressRange,
  present: RegionSource,
  { source: missing, ranges: other }: { readonly source: RegionSource; readonly ranges: readonly AddressRange[] },
  hasIsaMap: boolean,
): string {
  if (hasIsaMap && range.end <= ISA_WINDOW.end && !isTable(present)) {
    return 'the 0-16 MiB map of an ISA bridge is made by Linux and stands in no table';
  }
  if (other.some((near) => near.end + 1n === range.start || range.end + 1n === near.start)) {
    return 'the other source lists a neighbouring range: the two disagree about an end, or the text has a typo';
  }
  if (missing === 'sysfs') {
    return 'no group that was read lists it: its scope resolves to no device, the device is absent, or the kernel did not read the table';
  }
  if (missing === 'dmesg') return 'the log does not mention it: it may be cut off, or from a kernel without such lines';
  return 'not in the table: added by Linux, by another table, or by a kernel option';
}

function isTable(source: RegionSource): boolean {
  return source === 'dmar' || source === 'ivrs' || source === 'iort';
}
