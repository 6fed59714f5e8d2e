// The firmware's memory map as the kernel log prints it, and the check that one entry of it covers an RMRR.
// Ends are INCLUSIVE here; the old form of the line prints exclusive ends.
import type { AddressRange } from '../base/ranges.ts';
import { hex } from '../base/check.ts';
import type { HostRegion } from './region.ts';
import { regionRange } from './region.ts';
import type { WarningList } from './warnings.ts';

/** One entry of the memory map. */
export interface E820Entry extends AddressRange {
  /** `usable`, `reserved`, `ACPI NVS` and so on. */
  readonly type: string;
}

const NEW_FORM = /^e820: \[mem 0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\] ([A-Za-z0-9 ]{1,40})/i;
const OLD_FORM = /^e820: ([0-9a-f]{16}) - ([0-9a-f]{16}) \(([A-Za-z0-9 ]{1,40})\)/i;

/** Reads `e820: [mem 0x…-0x…] reserved` or `e820: 000… - 000… (reserved)`; undefined for other lines. */
export function e820Entry(text: string): E820Entry | undefined {
  const now = NEW_FORM.exec(text);
  if (now !== null) return entry(BigInt(`0x${now[1]!}`), BigInt(`0x${now[2]!}`), now[3]!);
  const old = OLD_FORM.exec(text);
  if (old === null) return undefined;
  return entry(BigInt(`0x${old[1]!}`), BigInt(`0x${old[2]!}`) - 1n, old[3]!);
}

/** Flags a region that no ONE reserved (or, on newer kernels, ACPI NVS) entry covers. */
export function checkE820(region: HostRegion, map: readonly E820Entry[], warnings: WarningList): void {
  const range = regionRange(region);
  if (range === undefined) return;
  const cover = map.filter((item) => item.start <= range.start && item.end >= range.end);
  if (cover.some((item) => item.type === 'reserved')) return;
  const name = `RMRR [${hex(range.start)}-${hex(range.end)}]`;
  if (cover.some((item) => item.type.startsWith('ACPI NVS'))) {
    warnings.add(region.where, `${name} lies in ACPI NVS memory, which older kernels call bad`);
  } else {
    warnings.add(
      region.where,
      `${name} is not inside one reserved entry of the memory map; Linux warns and still uses it`,
    );
  }
}

function entry(start: bigint, end: bigint, type: string): E820Entry | undefined {
  return start <= end ? { start, end, type: type.trim() } : undefined;
}
