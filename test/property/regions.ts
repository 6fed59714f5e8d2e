// What an endpoint reports as reserved, worked out the slow way: every stretch between two edges is looked at alone.
// Ends INCLUSIVE. Shares no code with the device.
import type { ModelRegion } from '../../spec/model/state.ts';
import type { RawRegion } from './sequence.ts';

/** Rounded outward to `granule`, merged per kind, MSI winning over reserved, cut to the input range, sorted. */
export function naiveRegions(
  regions: readonly RawRegion[],
  granule: bigint,
  input: { readonly start: bigint; readonly end: bigint },
): ModelRegion[] {
  const rounded = regions.map(({ kind, start, end }) => ({
    kind,
    first: (start / granule) * granule,
    behind: (end / granule + 1n) * granule,
  }));
  // Whole granules of the input range only (SIL-57).
  const inputStart = ((input.start + granule - 1n) / granule) * granule;
  const inputEnd = ((input.end + 1n) / granule) * granule;
  const edges = [...new Set([inputStart, inputEnd, ...rounded.flatMap(({ first, behind }) => [first, behind])])];
  edges.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const list: { kind: 'reserved' | 'msi'; start: bigint; end: bigint }[] = [];
  for (let i = 0; i + 1 < edges.length; i++) {
    const start = edges[i]!;
    if (start < inputStart || start >= inputEnd) continue;
    const kinds = rounded.filter(({ first, behind }) => first <= start && start < behind).map(({ kind }) => kind);
    if (kinds.length === 0) continue;
    const kind = kinds.includes('msi') ? 'msi' : 'reserved';
    const end = edges[i + 1]! - 1n;
    const last = list.at(-1);
    if (last?.kind === kind && last.end + 1n === start) last.end = end;
    else list.push({ kind, start, end });
  }
  return list;
}
