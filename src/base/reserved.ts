// Reserved memory regions of an endpoint (RESV_MEM) and their normalisation.
// Ranges are bigint with INCLUSIVE ends. [5.13.6.8.1.2] at most one MSI region and no overlap per endpoint.
import type { AddressRange } from './ranges.ts';
import { checkRange, clipRanges, cutRanges, mergeRanges, roundOutward } from './ranges.ts';
import { checkOneOf } from './check.ts';

/** `reserved`: never mapped, never reached. `msi`: writes are interrupts and pass untranslated. */
export type ReservedKind = 'reserved' | 'msi';

const KINDS: readonly ReservedKind[] = ['reserved', 'msi'];

/** One reserved region; both ends inclusive. */
export interface ReservedRegion extends AddressRange {
  readonly kind: ReservedKind;
}

/** Checks the list that an embedder hands in; errors name `name[i]`. */
export function checkReservedRegions(name: string, value: unknown): ReservedRegion[] {
  if (!Array.isArray(value)) throw new TypeError(`${name} must be an array`);
  return value.map((item: unknown, i) => {
    const range = checkRange(`${name}[${i}]`, item);
    const kind = checkOneOf(`${name}[${i}].kind`, (item as Partial<ReservedRegion>).kind, KINDS);
    return { ...range, kind };
  });
}

/**
 * Turns any list of regions into what an endpoint may report: rounded outward to `granule` (bytes, a power of two),
 * merged per kind, reserved cut by MSI (MSI wins), clipped to `inputRange`, sorted by start.
 * @throws RangeError naming `name` when more than one MSI region is left, since an endpoint may report only one.
 */
export function normaliseReserved(
  regions: readonly ReservedRegion[],
  options: { readonly granule: bigint; readonly inputRange: AddressRange; readonly name?: string },
): ReservedRegion[] {
  const outward = (kind: ReservedKind): AddressRange[] =>
    mergeRanges(
      regions.filter((region) => region.kind === kind).map((region) => roundOutward(region, options.granule)),
    );
  const msi = outward('msi');
  // [5.13.6.8.1.2] D-RES-3: SHOULD NOT overlap: each kind is merged, and MSI is cut out of the reserved regions.
  const reserved = cutRanges(outward('reserved'), msi);
  const clippedMsi = clipRanges(msi, options.inputRange);
  // [5.13.6.8.1.2] D-RES-2: SHOULD NOT report more than one MSI region per endpoint.
  if (clippedMsi.length > 1) {
    throw new RangeError(
      `${options.name ?? 'reserved'} holds ${clippedMsi.length} separate MSI regions, at most one can be reported`,
    );
  }
  return [
    ...clipRanges(reserved, options.inputRange).map((range): ReservedRegion => ({ ...range, kind: 'reserved' })),
    ...clippedMsi.map((range): ReservedRegion => ({ ...range, kind: 'msi' })),
  ].sort((a, b) => (a.start < b.start ? -1 : 1));
}
