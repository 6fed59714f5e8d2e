// `resvOverflow: 'merge'`: makes reserved regions fit into a PROBE reply by reserving more, never less.
// Ranges are bigint with inclusive ends.
import type { ReservedRegion } from '../base/reserved.ts';

/**
 * Merges the nearest neighbours among the reserved regions until `most` are left; the MSI region is never merged nor
 * spanned. Undefined when that is not possible.
 */
export function fitRegions(regions: readonly ReservedRegion[], most: number): readonly ReservedRegion[] | undefined {
  const list = [...regions];
  while (list.length > most) {
    let best = -1;
    let bestGap = 0n;
    for (let i = 0; i + 1 < list.length; i++) {
      if (list[i]!.kind === 'msi' || list[i + 1]!.kind === 'msi') continue;
      const gap = list[i + 1]!.start - list[i]!.end;
      if (best < 0 || gap < bestGap) {
        best = i;
        bestGap = gap;
      }
    }
    if (best < 0) return undefined;
    list.splice(best, 2, { kind: 'reserved', start: list[best]!.start, end: list[best + 1]!.end });
  }
  return list;
}
