// The matrix of entry counts: L2 sizes, layouts, what L1's RAM is made of, and policies. Each row says how many host
// entries, host calls and IOPTEs L2's RAM takes. Nothing is simulated beyond the plan: see plan-count.ts.
import type { Policy } from '../../coalesce/settings.ts';
import { joinsWhenQuiet } from '../../coalesce/settings.ts';
import type { L2Pattern } from '../l2-memory.ts';
import { MAX_L2_BYTES, l2Layout } from '../l2-memory.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import { LARGE_PAGES } from './counting-context.ts';
import type { PlanCounts } from './plan-count.ts';
import { countPlan } from './plan-count.ts';

/**
 * What L1's RAM is made of, and so where the host's IOMMU finds it: `memfd` 4 KiB pages anywhere; `memfd+thp` huge pages
 * wherever a 2 MiB piece of the file is aligned; `hugetlb` huge pages of 2 MiB; `anonymous` as memfd, but no file.
 */
export const COUNT_BACKINGS = ['memfd', 'memfd+thp', 'hugetlb', 'anonymous'] as const;

/** Name of a backing. */
export type CountBacking = (typeof COUNT_BACKINGS)[number];

/** What to count. */
export interface CountOptions {
  /** Bytes of L2 RAM. */
  readonly sizes: readonly number[];
  readonly patterns: readonly L2Pattern[];
  readonly backings: readonly CountBacking[];
  readonly policies: readonly Policy[];
  /** Most live entries of the container. */
  readonly limit: number;
  readonly seed: number;
  /** Called before each plan. */
  readonly progress?: (l2Bytes: number, pattern: L2Pattern, done: number, total: number) => void;
}

/** One row. */
export interface CountRow {
  readonly l2Bytes: number;
  readonly pattern: L2Pattern;
  readonly backing: CountBacking;
  readonly policy: Policy;
  /** MAP requests of the guest. */
  readonly maps: number;
  /** Most live host entries at a time, and those that are live when the device does DMA. */
  readonly hostEntriesPeak: number;
  readonly hostEntries: number;
  /** Map calls, refused ones included. */
  readonly hostMapCalls: number;
  /** MAP requests that were refused, and the bytes that the device does not reach for it. */
  readonly refused: number;
  readonly refusedBytes: number;
  /** IOPTEs, those of 2 MiB among them, and the share of L2's RAM that these show. */
  readonly ioptes: number;
  readonly largeIoptes: number;
  readonly largeShare: number;
}

/**
 * Counts all rows, in the order of the options.
 * @throws RangeError of {@link l2Layout} for an impossible size.
 */
export function countMatrix(options: CountOptions): CountRow[] {
  const { sizes, patterns, seed } = options;
  const total = sizes.length * patterns.length;
  const rows: CountRow[] = [];
  let done = 0;
  // Wrong sizes are told before minutes are spent.
  for (const bytes of sizes) checkSize(bytes, patterns);
  for (const l2Bytes of sizes) {
    for (const pattern of patterns) {
      options.progress?.(l2Bytes, pattern, done++, total);
      const layout = l2Layout({ bytes: l2Bytes, pattern, page: '4k', seed });
      rows.push(...rowsOf(l2Bytes, pattern, options, planCache(layout, options.limit)));
    }
  }
  return rows;
}

function checkSize(bytes: number, patterns: readonly L2Pattern[]): void {
  l2Layout({ bytes, pattern: 'contiguous', page: '4k' });
  const most = Number(MAX_L2_BYTES.paged4k);
  if (bytes > most && patterns.some((pattern) => pattern !== 'contiguous')) {
    throw new RangeError(`bytes must be at most ${most} for a pattern of 4 KiB pages, got ${bytes}`);
  }
}

type PlanOf = (policy: Policy, backing: CountBacking) => PlanCounts;

/** Rows that must plan alike are planned once: policies that join on a quiet context, and backings that can be gathered. */
function planCache(layout: ReturnType<typeof l2Layout>, limit: number): PlanOf {
  const plans = new Map<string, PlanCounts>();
  return (policy, backing) => {
    const joins = joinsWhenQuiet(policy);
    const gatherable = joins && backing.startsWith('memfd');
    const key = `${joins} ${gatherable}`;
    const known = plans.get(key) ?? countPlan(layout, { policy, gatherable, limit });
    plans.set(key, known);
    return known;
  };
}

function rowsOf(l2Bytes: number, pattern: L2Pattern, options: CountOptions, planOf: PlanOf): CountRow[] {
  return options.backings.flatMap((backing) =>
    options.policies.map((policy) => {
      const plan = planOf(policy, backing);
      const huge = backing === 'memfd+thp' || backing === 'hugetlb';
      const largeIoptes = huge ? plan.largeStretches : 0;
      return {
        l2Bytes,
        pattern,
        backing,
        policy,
        maps: plan.maps,
        hostEntriesPeak: plan.entriesPeak,
        hostEntries: plan.entries,
        hostMapCalls: plan.mapCalls,
        refused: plan.refused,
        refusedBytes: plan.refusedPages * PAGE_BYTES,
        ioptes: plan.pages - largeIoptes * (LARGE_PAGES - 1),
        largeIoptes,
        largeShare: (largeIoptes * LARGE_PAGES) / (l2Bytes / PAGE_BYTES),
      };
    }),
  );
}
