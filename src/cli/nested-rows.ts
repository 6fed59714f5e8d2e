// The rows of the main job: recorded traces, then L2 sizes and layouts, 1:1 forwarding beside the default where that
// matters. Small enough to run in seconds on two cores.
import type { Policy } from '../coalesce/settings.ts';
import type { GuestModelName } from '../testing/guest-model.ts';
import type { L2PageSize, L2Pattern } from '../testing/l2-memory.ts';

/** An L2. */
export interface L2Case {
  readonly l2Bytes: number;
  readonly pattern: L2Pattern;
  readonly page: L2PageSize;
}

/** One L2 row and what is expected of it. */
export interface L2Row extends L2Case {
  readonly policy: Policy;
  /** Requests that the host has to refuse. */
  readonly refused: number;
  /** Most host entries that the row may take. */
  readonly entriesMost: number;
}

/** An L2 of the main job; what is expected holds at the default limit. */
interface JobCase extends L2Case {
  /** Requests that the host has to refuse when every mapping is an entry of its own. */
  readonly refused: number;
  /** Most host entries when mappings are put together. */
  readonly entriesMost: number;
  /** True for a row of 1:1 forwarding beside the default policy. */
  readonly beside: boolean;
}

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** The kernel's default of vfio_iommu_type1.dma_entry_limit. */
export const DEFAULT_LIMIT = 65_535;

/** The device's default. */
export const DEFAULT_POLICY: Policy = 'exact';

/** Recorded traces that ship with the package, in test/traces. */
export const SHIPPED_TRACES = [
  'vfio-user-rng.ndjson',
  'vfio-user-blk.ndjson.gz',
  'vfio-user-dma.ndjson.gz',
  'l2-boot.ndjson.gz',
  'vfio64-mask-0x40201000.ndjson.gz',
] as const;

const CASES: readonly JobCase[] = [
  { l2Bytes: 256 * MIB, pattern: 'contiguous', page: '4k', refused: 0, entriesMost: 2, beside: false },
  { l2Bytes: 256 * MIB, pattern: 'mean8', page: '4k', refused: 0, entriesMost: 130, beside: true },
  // 65,536 pages that are no neighbours: 1:1 forwarding needs one entry more than the host has.
  { l2Bytes: 256 * MIB, pattern: 'scattered', page: '4k', refused: 1, entriesMost: 130, beside: true },
  { l2Bytes: 1 * GIB, pattern: 'mix90', page: '4k', refused: 0, entriesMost: 515, beside: true },
  { l2Bytes: 1 * GIB, pattern: 'scattered', page: '4k', refused: 196_609, entriesMost: 515, beside: false },
  { l2Bytes: 4 * GIB, pattern: 'scattered', page: '2m', refused: 0, entriesMost: 2050, beside: false },
  { l2Bytes: 16 * GIB, pattern: 'contiguous', page: '4k', refused: 0, entriesMost: 66, beside: false },
];

/** The rows of the main job: under `policy`, or under the default with some of 1:1 forwarding beside them. */
export function jobRows(policy: Policy | undefined): L2Row[] {
  return CASES.flatMap(({ beside, ...each }) => {
    const policies: Policy[] =
      policy !== undefined ? [policy] : beside ? ['forward', DEFAULT_POLICY] : [DEFAULT_POLICY];
    return policies.map((own) => expectedUnder(own, each));
  });
}

function expectedUnder(policy: Policy, each: Omit<JobCase, 'beside'>): L2Row {
  return policy === 'forward' ? oneToOne({ ...each, policy }, '6.12') : { ...each, policy, refused: 0 };
}

/** What is expected of `row` of the job when nothing can be put together. */
export function oneToOne(row: L2Row, kernel: GuestModelName): L2Row {
  const known = CASES.find((each) => isSame(each, row))?.refused ?? 0;
  // The 4k model maps page by page, whatever the layout.
  const refused = kernel === '4k' ? Math.max(0, row.l2Bytes / 4096 - DEFAULT_LIMIT) : known;
  return { ...row, refused, entriesMost: DEFAULT_LIMIT };
}

function isSame(a: L2Case, b: L2Case): boolean {
  return a.l2Bytes === b.l2Bytes && a.pattern === b.pattern && a.page === b.page;
}
