// Arithmetic on address ranges at the public edge: bigint, both ends INCLUSIVE, as the standard and sysfs write them.
// Hot paths use granule numbers instead (see intervals/ and iommu/granule.ts).
import { U64_MAX, checkBigint } from './check.ts';

/** An address range; both ends inclusive. */
export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * Checks that `value` is a range of unsigned 64-bit addresses with start <= end.
 * @throws TypeError or RangeError that names `name.start` or `name.end`.
 */
export function checkRange(name: string, value: unknown): AddressRange {
  if (typeof value !== 'object' || value === null) throw new TypeError(`${name} must be {start, end}`);
  const { start, end } = value as Partial<AddressRange>;
  const first = checkBigint(`${name}.start`, start, 0n, U64_MAX);
  return { start: first, end: checkBigint(`${name}.end`, end, first, U64_MAX) };
}

/** True when the two ranges share at least one address. */
export function overlaps(a: AddressRange, b: AddressRange): boolean {
  return a.start <= b.end && b.start <= a.end;
}

/** The common part of two ranges, undefined when they are disjoint. */
export function intersect(a: AddressRange, b: AddressRange): AddressRange | undefined {
  if (!overlaps(a, b)) return undefined;
  return { start: a.start > b.start ? a.start : b.start, end: a.end < b.end ? a.end : b.end };
}

/** Rounds a range outward to multiples of `unit` (a power of two); the end stays inclusive and never passes 2^64-1. */
export function roundOutward(range: AddressRange, unit: bigint): AddressRange {
  const mask = unit - 1n;
  return { start: range.start & ~mask, end: range.end | mask };
}

/** Rounds a range inward to multiples of `unit` (a power of two); undefined when nothing is left. */
export function roundInward(range: AddressRange, unit: bigint): AddressRange | undefined {
  const mask = unit - 1n;
  const start = (range.start + mask) & ~mask;
  const end = ((range.end + 1n) & ~mask) - 1n;
  return start <= end ? { start, end } : undefined;
}

/** Sorts by start and merges ranges that overlap or touch; O(n log n). */
export function mergeRanges(ranges: readonly AddressRange[]): AddressRange[] {
  const sorted = [...ranges].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
  const merged: { start: bigint; end: bigint }[] = [];
  for (const range of sorted) {
    const last = merged.at(-1);
    if (last !== undefined && range.start <= last.end + 1n) {
      if (range.end > last.end) last.end = range.end;
    } else {
      merged.push({ start: range.start, end: range.end });
    }
  }
  return merged;
}

/** Removes `cuts` from `ranges`; the result is sorted and merged; O((n + m) log (n + m)). */
export function cutRanges(ranges: readonly AddressRange[], cuts: readonly AddressRange[]): AddressRange[] {
  const holes = mergeRanges(cuts);
  const left: AddressRange[] = [];
  let first = 0;
  for (const range of mergeRanges(ranges)) {
    let start = range.start;
    while (first < holes.length && holes[first]!.end < range.start) first++;
    for (let i = first; i < holes.length && holes[i]!.start <= range.end; i++) {
      const hole = holes[i]!;
      if (hole.start > start) left.push({ start, end: hole.start - 1n });
      if (hole.end >= start) start = hole.end + 1n;
    }
    if (start <= range.end) left.push({ start, end: range.end });
  }
  return left;
}

/** Clips ranges to `limit` and drops what lies outside; order is kept. */
export function clipRanges(ranges: readonly AddressRange[], limit: AddressRange): AddressRange[] {
  const clipped: AddressRange[] = [];
  for (const range of ranges) {
    const part = intersect(range, limit);
    if (part !== undefined) clipped.push(part);
  }
  return clipped;
}

/** The addresses of `within` that no range covers: sorted, merged. */
export function invertRanges(ranges: readonly AddressRange[], within: AddressRange): AddressRange[] {
  return cutRanges([within], ranges);
}

/** Common addresses of two lists of ranges: sorted, merged. */
export function intersectLists(a: readonly AddressRange[], b: readonly AddressRange[]): AddressRange[] {
  const all: AddressRange = { start: 0n, end: U64_MAX };
  return cutRanges(a, invertRanges(b, all));
}

/** Number of addresses in a range. */
export function rangeSize(range: AddressRange): bigint {
  return range.end - range.start + 1n;
}
