// One reader for a file of unknown kind: an ACPI table, a reserved_regions text, or a kernel log. Not a guesser of
// anything else: what is none of these is undefined.
import { acpiSignature } from './acpi-table.ts';
import { parseDmar } from './dmar.ts';
import { parseIort } from './iort.ts';
import { parseIvrs } from './ivrs.ts';
import { parseKernelLog } from './kernel-log.ts';
import type { HostRegion, RegionSource } from './region.ts';
import { parseReservedRegions } from './sysfs.ts';
import type { Warning } from './warnings.ts';

/** Regions of a file, with what kind of file it was. */
export interface AnySource {
  readonly kind: RegionSource;
  /** What {@link toResvMem} wants: `arm` for an IORT table or a sysfs text with a software MSI window. */
  readonly arch: 'x86' | 'arm';
  readonly regions: readonly HostRegion[];
  readonly warnings: readonly Warning[];
}

/**
 * Reads a file of any kind that names reserved memory; undefined when it is none of them.
 * @throws TypeError when `bytes` is not a Uint8Array.
 */
export function parseAnySource(bytes: Uint8Array): AnySource | undefined {
  if (!(bytes instanceof Uint8Array)) throw new TypeError('bytes must be a Uint8Array');
  const signature = acpiSignature(bytes);
  if (signature === 'DMAR') return ofTable(parseDmar(bytes), 'x86');
  if (signature === 'IVRS') return ofTable(parseIvrs(bytes), 'x86');
  if (signature === 'IORT') return ofTable(parseIort(bytes), 'arm');
  const text = new TextDecoder().decode(bytes);
  const sysfs = parseReservedRegions(text);
  if (sysfs.regions.length > 0) return { kind: 'sysfs', arch: sysfsArch(sysfs.regions), ...sysfs };
  const log = parseKernelLog(text);
  if (log.knownLines === 0) return undefined;
  const arch = log.regions.some((region) => region.platform === 'arm') ? 'arm' : 'x86';
  return { kind: 'dmesg', arch, regions: log.regions, warnings: log.warnings };
}

/** `arm` when the only MSI windows are software ones, else `x86`. */
export function sysfsArch(regions: readonly HostRegion[]): 'x86' | 'arm' {
  const msi = regions.filter((region) => region.type === 'msi');
  const onX86 = msi.some((region) => region.base <= 0xfeef_ffffn && region.limit >= 0xfee0_0000n);
  return msi.length > 0 && !onX86 ? 'arm' : 'x86';
}

function ofTable(
  table: { readonly kind: RegionSource; readonly header: object | undefined } & Pick<AnySource, 'regions' | 'warnings'>,
  arch: 'x86' | 'arm',
): AnySource | undefined {
  const { kind, regions, warnings } = table;
  return table.header === undefined ? undefined : { kind, arch, regions, warnings };
}
