// One reserved range of the host as a source states it, and the sanity checks all sources share.
// Addresses are bigint, `limit` INCLUSIVE. `base` and `limit` are literal: what is odd is flagged, never repaired.
import type { AddressRange } from '../base/ranges.ts';
import { overlaps } from '../base/ranges.ts';
import { hex } from '../base/check.ts';
import type { DeviceRef } from './device-ref.ts';
import type { WarningList } from './warnings.ts';

/** Where a region was read. */
export type RegionSource = 'dmar' | 'ivrs' | 'iort' | 'sysfs' | 'dmesg';

/** Linux's names of region types, as its `reserved_regions` files print them. */
export type RegionType = 'direct' | 'direct-relaxable' | 'reserved' | 'msi';

/** Whose IOMMU rules apply to a region: RMRR, IVMD or RMR. */
export type Platform = 'intel' | 'amd' | 'arm';

/** One reserved range of the host. */
export interface HostRegion {
  readonly source: RegionSource;
  /** First address, literally as in the source. */
  readonly base: bigint;
  /** Last address, literally as in the source; below `base` in a broken entry, which is kept and flagged. */
  readonly limit: bigint;
  /** PCI segment; 0 where the source names none (log lines with a range only, one sysfs file). */
  readonly segment: number;
  readonly type: RegionType;
  readonly devices: readonly DeviceRef[];
  /** `offset 0x50` or `line 3` in its source. */
  readonly where: string;
  /** What Linux uses, where it is not base..limit: IVMD starts are aligned upwards, RMRs outwards. */
  readonly effective?: AddressRange;
  /** Whose rules apply; undefined for sysfs regions that tell nothing of it. */
  readonly platform?: Platform;
  /** An IVMD exclusion range: Linux prints it as `direct` all the same. */
  readonly exclusion?: boolean;
  /** The 0-16 MiB map that Linux makes for an ISA bridge: in no table, locks and ties no device. */
  readonly pseudo?: boolean;
  /** IOMMU group, for regions of sysfs. */
  readonly group?: string;
}

/** Interrupt address window of x86, in which a DMA write is an interrupt. */
export const X86_MSI_WINDOW: AddressRange = { start: 0xfee0_0000n, end: 0xfeef_ffffn };

/** What Linux maps for an ISA bridge when its floppy workaround is on. */
export const ISA_WINDOW: AddressRange = { start: 0n, end: 0xff_ffffn };

/** Linux reserves it in every group of an AMD host; no table names it. */
export const HYPERTRANSPORT: AddressRange = { start: 0xfd_0000_0000n, end: 0xff_ffff_ffffn };

/** Above the largest RMRR of 304 distinct tables, 1032 MiB. */
export const LARGEST_KNOWN = 1100n << 20n;

const PAGE = 4096n;
const MIB = 1n << 20n;
const FOUR_GIB = 1n << 32n;

/** The addresses a region really covers; undefined when its limit lies below its base. */
export function regionRange(region: HostRegion): AddressRange | undefined {
  if (region.effective !== undefined) return region.effective;
  return region.limit < region.base ? undefined : { start: region.base, end: region.limit };
}

/** True for the types that stand for firmware memory, which tie devices and lock them. */
export function isFirmwareMemory(region: HostRegion): boolean {
  return region.type === 'direct' || region.type === 'direct-relaxable';
}

/**
 * Flags everything odd about one range: order, alignment, place and size. `addressBits` is the host's physical width;
 * undefined skips that check.
 */
export function flagRange(
  name: string,
  base: bigint,
  limit: bigint,
  where: string,
  addressBits: number | undefined,
  warnings: WarningList,
): void {
  const what = `${name} [${hex(base)}-${hex(limit)}]`;
  if (limit < base) {
    warnings.add(where, `${what} ends before it starts; Linux warns and still uses it`);
    return;
  }
  if (limit === base) warnings.add(where, `${what} is one byte long, which Linux calls bad and still uses`);
  else if (base % PAGE !== 0n || (limit + 1n) % PAGE !== 0n) {
    warnings.add(where, `${what} is not aligned to 4 KiB, which Linux calls bad and still uses`);
  }
  if (addressBits !== undefined && addressBits < 64 && limit >> BigInt(addressBits) !== 0n) {
    warnings.add(where, `${what} exceeds the address width of ${addressBits} bits`);
  }
  if (overlaps({ start: base, end: limit }, X86_MSI_WINDOW)) {
    const how = base <= X86_MSI_WINDOW.start && limit >= X86_MSI_WINDOW.end ? 'contains' : 'touches';
    warnings.add(where, `${what} ${how} the MSI window 0xfee00000-0xfeefffff`);
  }
  if (base < MIB) warnings.add(where, `${what} starts below 1 MiB`);
  if (base < FOUR_GIB && limit >= FOUR_GIB) warnings.add(where, `${what} crosses 4 GiB`);
  if (limit - base >= LARGEST_KNOWN)
    warnings.add(where, `${what} is larger than any known one${likelyTypo(base, limit)}`);
}

/** Flags ranges of one table that overlap; sorted sweep, O(n log n). */
export function flagOverlaps(name: string, regions: readonly HostRegion[], warnings: WarningList): void {
  const sorted = regions
    .map((region) => ({ region, range: regionRange(region) }))
    .filter((item): item is { region: HostRegion; range: AddressRange } => item.range !== undefined)
    .sort((a, b) => (a.range.start < b.range.start ? -1 : a.range.start > b.range.start ? 1 : 0));
  let widest = sorted[0];
  for (const item of sorted.slice(1)) {
    if (widest !== undefined && item.range.start <= widest.range.end) {
      const of = `[${hex(item.range.start)}-${hex(item.range.end)}]`;
      const other = `[${hex(widest.range.start)}-${hex(widest.range.end)}]`;
      warnings.add(item.region.where, `${name} ${of} overlaps ${other} at ${widest.region.where}`);
    }
    if (widest === undefined || item.range.end > widest.range.end) widest = item;
  }
}

/** A limit with one hex digit too many reads as a huge region: names the value that leaving one digit out gives. */
function likelyTypo(base: bigint, limit: bigint): string {
  const digits = limit.toString(16);
  const expected = base.toString(16).length;
  if (digits.length !== expected + 1) return '';
  let best: bigint | undefined;
  for (let i = 0; i < digits.length; i++) {
    const value = BigInt(`0x${digits.slice(0, i)}${digits.slice(i + 1)}`);
    if (value > base && value % PAGE === PAGE - 1n && (best === undefined || value < best)) best = value;
  }
  const guess = best !== undefined && best - base < LARGEST_KNOWN ? `, perhaps a typo of ${hex(best)}` : '';
  return ` and its limit has ${digits.length} hex digits where the base has ${expected}${guess}`;
}
