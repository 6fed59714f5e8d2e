// Turns the regions of a vector file into what the endpoint of the reference model reports. Ends are INCLUSIVE.
// Not here: the reply that carries them (probe.ts). Shares no code with the device it is compared with.
import type { ModelRegion } from './state.ts';

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * Whole granules inside `within`, without overlap: looks at every piece between two neighbouring ends and asks who covers
 * it. MSI wins over reserved; pieces of one kind without a gap are one region.
 */
export function reportedRegions(given: readonly ModelRegion[], granule: bigint, within: Range): ModelRegion[] {
  const first = ((within.start + granule - 1n) / granule) * granule;
  const behind = ((within.end + 1n) / granule) * granule;
  const grown = given.map(({ kind, start, end }) => ({
    kind,
    start: (start / granule) * granule,
    behind: (end / granule + 1n) * granule,
  }));
  const cuts = [first, behind, ...grown.flatMap((each) => [each.start, each.behind])]
    .filter((cut) => cut >= first && cut <= behind)
    .sort((a, b) => (a < b ? -1 : 1));
  const reported: ModelRegion[] = [];
  for (const [i, start] of cuts.slice(0, -1).entries()) {
    const end = cuts[i + 1]! - 1n;
    const over = end < start ? [] : grown.filter((each) => each.start <= start && each.behind > end);
    if (over.length === 0) continue;
    const kind = over.some((each) => each.kind === 'msi') ? 'msi' : 'reserved';
    const last = reported.at(-1);
    if (last?.kind === kind && last.end + 1n === start) reported[reported.length - 1] = { ...last, end };
    else reported.push({ kind, start, end });
  }
  return reported;
}
