// The rows of the main job: recorded traces, then L2 sizes and layouts. Small enough to run in a minute on two cores.
import type { L2PageSize, L2Pattern } from '../testing/l2-memory.ts';

/** One L2 row; `refused` is how many requests must be refused at the default limit. */
export interface L2Row {
  readonly l2Bytes: number;
  readonly pattern: L2Pattern;
  readonly page: L2PageSize;
  /** Requests that the host has to refuse when the limit is the kernel's default. */
  readonly refused: number;
}

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** The kernel's default of vfio_iommu_type1.dma_entry_limit. */
export const DEFAULT_LIMIT = 65_535;

/** Recorded traces that ship with the package, in test/traces. */
export const SHIPPED_TRACES = [
  'vfio-user-rng.ndjson',
  'vfio-user-blk.ndjson.gz',
  'vfio-user-dma.ndjson.gz',
  'l2-boot.ndjson.gz',
  'vfio64-mask-0x40201000.ndjson.gz',
] as const;

/** What is run when nothing is asked for. */
export const DEFAULT_ROWS: readonly L2Row[] = [
  { l2Bytes: 256 * MIB, pattern: 'contiguous', page: '4k', refused: 0 },
  { l2Bytes: 256 * MIB, pattern: 'mean8', page: '4k', refused: 0 },
  // 65,536 pages that cannot be joined need one entry more than the host has: what 1:1 forwarding does.
  { l2Bytes: 256 * MIB, pattern: 'scattered', page: '4k', refused: 1 },
  { l2Bytes: 1 * GIB, pattern: 'mix90', page: '4k', refused: 0 },
  { l2Bytes: 1 * GIB, pattern: 'mix75', page: '4k', refused: 0 },
  { l2Bytes: 4 * GIB, pattern: 'scattered', page: '2m', refused: 0 },
  { l2Bytes: 16 * GIB, pattern: 'contiguous', page: '4k', refused: 0 },
];
