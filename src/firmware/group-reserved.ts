// The reserved regions of one IOMMU group, as an endpoint of a passed-through function reports them. Text in, no file access.
// Strict where the readers of reports are lenient: what is left out here a guest could map. Region ends are INCLUSIVE.
import type { AddressRange } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { sysfsArch } from './any-source.ts';
import type { HostRegion } from './region.ts';
import { toResvMem } from './resv-mem.ts';
import { parseReservedRegions } from './sysfs.ts';

/** How regions of a group become RESV_MEM. */
export interface GroupReservedOptions {
  /** `report` (default) makes direct-relaxable regions RESERVED; `omit` leaves them out, as VFIO does. */
  readonly relaxable?: 'report' | 'omit';
  /** Doorbells of the guest to report as MSI; needed on Arm only, where the host's software window is not forwarded. */
  readonly msi?: readonly AddressRange[];
  /** Of host and guest; default what the regions tell: `arm` when the only MSI window is a software one. */
  readonly arch?: 'x86' | 'arm';
}

/** Linux prints at most a page less one byte (sysfs_emit_at); the readers here have cut the last line feed. */
const KERNEL_PAGE = 4096;

/**
 * The RESV_MEM list of every endpoint of a group, from the text of its `reserved_regions`: sorted, not overlapping, ready
 * for `addEndpoint({ reserved })`. direct, direct-relaxable and reserved are RESERVED; on x86 the window 0xfee00000-0xfeefffff
 * is MSI, also where the text does not list it; the software MSI window of an Arm host is not forwarded.
 * @throws RangeError naming the line or the reason when the text cannot be trusted: a line that is no region, a region that
 * ends before it starts, a list that the kernel cut off, more than one MSI window, nothing left to map.
 */
export function groupReserved(text: string, options: GroupReservedOptions = {}): ReservedRegion[] {
  const { relaxable, msi, arch } = options;
  const regions = groupRegions(text);
  const { reserved } = toResvMem(regions, {
    arch: arch ?? sysfsArch(regions),
    ...(relaxable === undefined ? {} : { relaxable }),
    ...(msi === undefined ? {} : { msi }),
    // Whether all of them fit a PROBE reply is for the device to say: it knows its probe_size.
    probeSize: 0xffff_ffff,
    name: 'reserved_regions',
  });
  return [...reserved];
}

/** The regions of the text. @throws RangeError as {@link groupReserved}. */
export function groupRegions(text: string): readonly HostRegion[] {
  const { regions } = parseReservedRegions(text);
  const lines = text.split('\n');
  let found = 0;
  for (const [i, line] of lines.entries()) {
    if (line.trim() === '') continue;
    const region = regions[found++];
    if (region?.where !== `line ${i + 1}`) {
      throw new RangeError(`reserved_regions, line ${i + 1}: ${JSON.stringify(line.slice(0, 80))} is no region`);
    }
    if (region.limit < region.base) throw new RangeError(`reserved_regions, line ${i + 1}: ends before it starts`);
  }
  if (text.length >= KERNEL_PAGE - 2) {
    throw new RangeError(`reserved_regions has ${text.length} bytes: the kernel prints one page, so it may be cut off`);
  }
  return regions;
}
