// Checks a counted row against the whole device: ring, driver, simulated container, bus master on, every page read.
import { LARGE_PAGES } from './counting-context.ts';
import type { CountRow } from './count-matrix.ts';
import { runNested } from './nested-run.ts';

/** Largest L2 that is run live: more takes minutes for a matrix. */
export const MAX_LIVE_BYTES = 2 ** 30;

const PAGE = 4096n;
const LARGE = PAGE * BigInt(LARGE_PAGES);

/** What a live run came to, by names of {@link CountRow}, and its checks that failed. */
export interface LiveResult {
  readonly hostEntriesPeak: number;
  readonly hostEntries: number;
  readonly hostMapCalls: number;
  readonly refused: number;
  readonly refusedBytes: number;
  readonly ioptes: number;
  readonly failedChecks: readonly string[];
}

const COMPARED = [
  'hostEntriesPeak',
  'hostEntries',
  'hostMapCalls',
  'refused',
  'refusedBytes',
  'ioptes',
] as const satisfies readonly (keyof LiveResult & keyof CountRow)[];

/** Runs the row's L2 through the device. */
export function runLive(row: CountRow, limit: number, seed: number): LiveResult {
  const { l2Bytes, pattern, policy, backing } = row;
  const result = runNested({
    l2Bytes,
    pattern,
    policy,
    limit,
    seed,
    page: '4k',
    kernel: '6.12',
    backing: backing === 'memfd+thp' ? 'memfd' : backing,
    // One physical run is as good as huge pages everywhere, for what is counted.
    physical: backing === 'memfd+thp' ? 'contiguous' : 'scattered',
    clock: () => 0,
  });
  let ioptes = 0;
  // 1 GiB stands for 512 of 2 MiB: huge pages are 2 MiB.
  for (const [size, count] of result.l2.ioptes) ioptes += count * (size > LARGE ? Number(size / LARGE) : 1);
  return {
    hostEntriesPeak: result.hostEntriesPeak,
    hostEntries: result.l2.entries,
    hostMapCalls: result.l2.mapCalls,
    refused: result.refused,
    refusedBytes: result.unreachablePages * Number(PAGE),
    ioptes,
    failedChecks: result.failedChecks,
  };
}

/** What differs between the count and the live run, one line each; none when they agree. */
export function liveDifferences(row: CountRow, live: LiveResult): string[] {
  const differences = COMPARED.filter((name) => row[name] !== live[name]).map(
    (name) => `${name}: counted ${row[name]}, live ${live[name]}`,
  );
  return [...differences, ...live.failedChecks];
}
