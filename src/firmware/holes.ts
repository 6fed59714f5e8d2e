// Holes that a VMM must leave in guest RAM because of reserved host memory, and the rule for hot-added devices.
// Not a memory-map builder: ranges in, ranges out. All ranges have INCLUSIVE ends.
import type { AddressRange } from '../base/ranges.ts';
import { cutRanges, intersect, intersectLists, invertRanges, mergeRanges, rangeSize } from '../base/ranges.ts';
import { U64_MAX, checkOneOf, hex } from '../base/check.ts';
import type { ReservedKind, ReservedRegion } from '../base/reserved.ts';

/**
 * How guest-physical addresses become I/O addresses. `translated`: the guest's driver picks them, no hole is needed once
 * it runs. `bypass`: they are equal (bypass, identity, no vIOMMU, or before the driver attaches). `nested`: the RAM of an
 * L2 that this guest starts, which its VFIO refuses to map over reserved regions (EINVAL).
 */
export type GuestMode = 'translated' | 'bypass' | 'nested';

/** All modes. */
export const GUEST_MODES: readonly GuestMode[] = ['translated', 'bypass', 'nested'];

/** A range where no guest RAM may lie; `beyond` lies outside the addresses that an endpoint translates. */
export interface Hole extends AddressRange {
  readonly kind: ReservedKind | 'beyond';
}

/** What is left of a RAM layout. */
export interface RamLayout {
  readonly ram: readonly AddressRange[];
  /** RAM that lies in holes: must be moved elsewhere or given up. */
  readonly conflicts: readonly AddressRange[];
  /** Bytes of the conflicts. */
  readonly lost: bigint;
}

/** Answer of {@link checkHotAdd}. */
export interface HotAdd {
  readonly allowed: boolean;
  readonly conflicts: readonly AddressRange[];
  readonly rule: string;
}

/**
 * Holes for a set of endpoints: the union of their reserved regions, MSI cut out of RESERVED, and what lies outside
 * `inputRange` (all 64 bits by default). Empty in mode `translated`.
 * @throws RangeError when `mode` is none of {@link GUEST_MODES}.
 */
export function guestHoles(
  endpoints: readonly (readonly ReservedRegion[])[],
  mode: GuestMode,
  inputRange: AddressRange = { start: 0n, end: U64_MAX },
): Hole[] {
  if (checkOneOf('mode', mode, GUEST_MODES) === 'translated') return [];
  const all = endpoints.flat();
  const msi = mergeRanges(all.filter((region) => region.kind === 'msi'));
  const reserved = cutRanges(
    all.filter((region) => region.kind === 'reserved'),
    msi,
  );
  return [
    ...reserved.map((range): Hole => ({ ...range, kind: 'reserved' })),
    ...msi.map((range): Hole => ({ ...range, kind: 'msi' })),
    ...invertRanges([inputRange], { start: 0n, end: U64_MAX }).map((range): Hole => ({ ...range, kind: 'beyond' })),
  ].sort((a, b) => (a.start < b.start ? -1 : 1));
}

/** Cuts holes out of a RAM layout and says what is lost. */
export function layRam(ram: readonly AddressRange[], holes: readonly AddressRange[]): RamLayout {
  const conflicts = intersectLists(ram, holes);
  return { ram: cutRanges(ram, holes), conflicts, lost: conflicts.reduce((sum, range) => sum + rangeSize(range), 0n) };
}

/** RAM as PC machines place it: up to `low` bytes (default 3 GiB) from 0, the rest from 4 GiB. */
export function pcRam(size: bigint, low = 3n << 30n): AddressRange[] {
  if (size <= 0n) return [];
  if (size <= low) return [{ start: 0n, end: size - 1n }];
  const above = 1n << 32n;
  return [
    { start: 0n, end: low - 1n },
    { start: above, end: above + size - low - 1n },
  ];
}

/**
 * Whether an endpoint may be added to a running guest: its holes must not lie in RAM that the guest already uses, unless
 * every DMA of it is translated from its first moment (bypass = 0, boot bypass off).
 */
export function checkHotAdd(
  reserved: readonly ReservedRegion[],
  ram: readonly AddressRange[],
  mode: GuestMode,
): HotAdd {
  if (mode === 'translated') {
    return {
      allowed: true,
      conflicts: [],
      rule: 'allowed as long as bypass stays 0 and the endpoint never attaches to a bypass domain',
    };
  }
  const conflicts: AddressRange[] = [];
  for (const region of reserved) {
    for (const range of ram) {
      const part = intersect(region, range);
      if (part !== undefined) conflicts.push(part);
    }
  }
  const first = conflicts[0];
  if (first === undefined)
    return { allowed: true, conflicts: [], rule: 'allowed: no RAM lies in its reserved regions' };
  const where = `[${hex(first.start)}, ${hex(first.end)}]`;
  return {
    allowed: false,
    conflicts: mergeRanges(conflicts),
    rule: `refuse it: the guest has RAM at ${where}; leave that hole at boot, or require translation and bypass = 0`,
  };
}
