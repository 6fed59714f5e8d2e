// From host regions to what a virtio-iommu endpoint reports (RESV_MEM properties of PROBE) [5.13.6.8.1.2].
// Regions of an endpoint are those of its whole IOMMU group. Ranges are bigint with INCLUSIVE ends.
import type { AddressRange } from '../base/ranges.ts';
import { checkRange, cutRanges, mergeRanges, overlaps, rangeSize, roundOutward } from '../base/ranges.ts';
import { U64_MAX, checkBigint, checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { normaliseReserved } from '../base/reserved.ts';
import type { DeviceRef } from './device-ref.ts';
import { refNames } from './device-ref.ts';
import type { HostRegion } from './region.ts';
import { X86_MSI_WINDOW, regionRange } from './region.ts';

/** Bytes of one RESV_MEM property: 4 of header, 20 of value. */
export const RESV_MEM_BYTES = 24;

/** Options of {@link toResvMem}. */
export interface ResvMemOptions {
  /** Smallest unit of the device in bytes, a power of two; 4096 by default. */
  readonly granule?: bigint;
  /** Addresses the endpoint can translate; all 64 bits by default. */
  readonly inputRange?: AddressRange;
  /** `x86` (default) adds the window 0xfee00000-0xfeefffff; `arm` adds none, since an Arm host's software window is the host's own. */
  readonly arch?: 'x86' | 'arm';
  /** MSI doorbells to report beside the default of `arch`: at most one window may be left after merging. */
  readonly msi?: readonly AddressRange[];
  /** `report` (default) makes direct-relaxable regions RESERVED; `omit` leaves them out, as VFIO does. */
  readonly relaxable?: 'report' | 'omit';
  /** Bytes that PROBE has for properties; 512 by default. */
  readonly probeSize?: number;
  /** What to do with more regions than `probeSize` holds: `throw` (default), or `merge` nearest neighbours (reserves more). */
  readonly overflow?: 'throw' | 'merge';
  /** How errors call the list; `regions` by default. */
  readonly name?: string;
}

/** What an endpoint would report. */
export interface ResvMem {
  /** Sorted by start, not overlapping: ready for `addEndpoint({ reserved })`. */
  readonly reserved: readonly ReservedRegion[];
  /** Bytes of the properties. */
  readonly bytes: number;
  /** RAM that a guest with GPA = IOVA (an L2, or bypass) loses because relaxable regions are reported, in bytes. */
  readonly relaxableBytes: bigint;
  /** Addresses that are reserved only because neighbours were merged, in bytes. */
  readonly mergedBytes: bigint;
}

const OPTIONS = ['granule', 'inputRange', 'arch', 'msi', 'relaxable', 'probeSize', 'overflow', 'name'];

/**
 * Normalises host regions into the RESV_MEM list of one endpoint. Regions that end before they start are left out.
 * @throws RangeError naming the list when more than one MSI window is left, when `probeSize` is too small (with the size
 * needed) and `overflow` is `throw`, or when nothing is left to map: [0, 2^64-1] makes Linux fail with EOVERFLOW.
 */
export function toResvMem(regions: readonly HostRegion[], options: ResvMemOptions = {}): ResvMem {
  const checked = checkResvOptions(options);
  const { granule, inputRange, name } = checked;
  const all: ReservedRegion[] = [];
  const relaxable: AddressRange[] = [];
  const firm: AddressRange[] = [];
  for (const region of regions) {
    for (const range of coveredRanges(region)) {
      if (region.type === 'msi') {
        // The window itself is in `checked.msi`: what a source lists beyond it must not pass untranslated.
        if (checked.arch === 'x86' && overlaps(range, X86_MSI_WINDOW)) all.push({ ...range, kind: 'reserved' });
        continue;
      }
      if (region.type === 'direct-relaxable') {
        if (checked.relaxable === 'omit') continue;
        relaxable.push(roundOutward(range, granule));
      } else firm.push(roundOutward(range, granule));
      all.push({ ...range, kind: 'reserved' });
    }
  }
  for (const range of checked.msi) all.push({ ...range, kind: 'msi' });
  const normal = normaliseReserved(all, { granule, inputRange, name });
  const reserved = fit(normal, checked);
  // [5.13.6.8.1.2] Linux computes end - start + 1 and answers EOVERFLOW for the whole address space.
  if (reserved.some((region) => region.start === 0n && region.end === U64_MAX)) {
    throw new RangeError(`${name} cover all of [0x0, 0xffffffffffffffff]: nothing is left to map`);
  }
  return {
    reserved,
    bytes: reserved.length * RESV_MEM_BYTES,
    relaxableBytes: total(cutRanges(relaxable, firm)),
    mergedBytes: total(reserved) - total(normal),
  };
}

/**
 * The reserved regions of one endpoint, from the regions of a table, a sysfs text or a log: ready for
 * `addEndpoint({ reserved })`. Without `devices` every region counts; with it only those that name one of them (give all
 * members of the group) and, unless `nameless` is `omit`, those that name no device at all (log lines with a range only).
 * @throws as {@link toResvMem}.
 */
export function endpointReserved(
  regions: readonly HostRegion[],
  options: ResvMemOptions & { readonly devices?: readonly DeviceRef[]; readonly nameless?: 'report' | 'omit' } = {},
): ReservedRegion[] {
  const { devices, nameless = 'report', ...rest } = options;
  const own =
    devices === undefined
      ? regions
      : regions.filter((region) => {
          if (region.devices.length === 0) return nameless === 'report';
          return region.devices.some((ref) => devices.some((device) => refNames(ref, device)));
        });
  return [...toResvMem(own, rest).reserved];
}

/** Bytes that `count` properties need, for a `probeSize`. */
export function probeBytes(count: number): number {
  return count * RESV_MEM_BYTES;
}

/** The literal range and, where Linux aligns it differently, what Linux uses: both are kept free. */
function coveredRanges(region: HostRegion): AddressRange[] {
  const used = regionRange(region);
  if (used === undefined) return [];
  if (region.effective === undefined || region.limit < region.base) return [used];
  return [used, { start: region.base, end: region.limit }];
}

type Checked = Required<ResvMemOptions>;

function checkResvOptions(options: ResvMemOptions): Checked {
  checkOptions('options', options, OPTIONS);
  const granule = checkBigint('granule', options.granule ?? 4096n, 1n, 1n << 62n);
  if ((granule & (granule - 1n)) !== 0n) throw new RangeError(`granule must be a power of two, got ${granule}`);
  const arch = checkOneOf('arch', options.arch ?? 'x86', ['x86', 'arm']);
  const doorbells = (options.msi ?? []).map((range, i) => checkRange(`msi[${i}]`, range));
  return {
    granule,
    inputRange: checkRange('inputRange', options.inputRange ?? { start: 0n, end: U64_MAX }),
    arch,
    msi: arch === 'x86' ? [X86_MSI_WINDOW, ...doorbells] : doorbells,
    relaxable: checkOneOf('relaxable', options.relaxable ?? 'report', ['report', 'omit']),
    probeSize: checkInteger('probeSize', options.probeSize ?? 512, 0, 0xffff_ffff),
    overflow: checkOneOf('overflow', options.overflow ?? 'throw', ['throw', 'merge']),
    name: options.name ?? 'regions',
  };
}

function fit(regions: readonly ReservedRegion[], options: Checked): readonly ReservedRegion[] {
  const needed = probeBytes(regions.length);
  if (needed <= options.probeSize) return regions;
  const merged = options.overflow === 'merge' ? mergeNearest(regions, options.probeSize) : regions;
  if (probeBytes(merged.length) <= options.probeSize) return merged;
  throw new RangeError(
    `${options.name} need ${merged.length} properties: probeSize must be at least ${probeBytes(merged.length)}, got ${options.probeSize}`,
  );
}

/** Joins reserved neighbours across the smallest gaps until the list fits; never across an MSI window. */
function mergeNearest(regions: readonly ReservedRegion[], probeSize: number): ReservedRegion[] {
  const room = Math.floor(probeSize / RESV_MEM_BYTES);
  const gaps: { index: number; size: bigint }[] = [];
  for (let i = 1; i < regions.length; i++) {
    if (regions[i]!.kind !== 'reserved' || regions[i - 1]!.kind !== 'reserved') continue;
    gaps.push({ index: i, size: regions[i]!.start - regions[i - 1]!.end });
  }
  gaps.sort((a, b) => (a.size < b.size ? -1 : a.size > b.size ? 1 : a.index - b.index));
  const joined = new Set(gaps.slice(0, regions.length - room).map((gap) => gap.index));
  const merged: ReservedRegion[] = [];
  for (const [i, region] of regions.entries()) {
    const last = merged.at(-1);
    if (joined.has(i) && last !== undefined) merged[merged.length - 1] = { ...last, end: region.end };
    else merged.push(region);
  }
  return merged;
}

function total(ranges: readonly AddressRange[]): bigint {
  return mergeRanges(ranges).reduce((sum, range) => sum + rangeSize(range), 0n);
}
