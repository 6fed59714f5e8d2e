// Options of the simulated host and of its contexts: their types, defaults and checks.
// Ranges at this edge: bigint bytes, both ends inclusive.
import {
  U32_MAX,
  U64_MAX,
  checkBigint,
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
} from '../../base/check.ts';
import type { AddressRange } from '../../base/ranges.ts';
import { checkRange } from '../../base/ranges.ts';
import type { SimulatedAddressSpace } from './address-space.ts';
import type { IommufdMode } from './iommufd-context.ts';
import type { HostCosts } from './machine.ts';
import type { KernelVersion } from './type1-rules.ts';

/** What can be set for the host and overridden for each context. */
export interface HostLimitOptions {
  /** vfio_iommu_type1.dma_entry_limit, default 65535; not for iommufd, which has none. */
  readonly entryLimit?: number;
  /** IOVA_RANGE; default VT-d with 47 bits: [0, 0xfedfffff] and [0xfef00000, 2^47-1]. */
  readonly usableRanges?: readonly AddressRange[];
  /** iova_pgsizes in bytes, default 0x40201000 (4K, 2M, 1G); lowest bit >= 4096. */
  readonly pageSizes?: bigint;
  /**
   * RLIMIT_MEMLOCK in 4 KiB pages; default Infinity (CAP_IPC_LOCK). Type1 compares it with the locked pages of the process,
   * iommufd with those of the user: the two do not add up.
   */
  readonly memlockLimit?: number;
  /** Default `6.12`; `6.1` has no iommufd. */
  readonly kernel?: KernelVersion;
  /** Whether a device can read a write-only entry: true on VT-d (default), false on AMD-Vi and virtio-iommu. */
  readonly writeOnlyReadable?: boolean;
  /**
   * {@link HostLimits.windowPieces}, default a quarter of the process's vm.max_map_count; 0: never gather. Not for iommufd
   * and for mediated devices, which never gather.
   */
  readonly windowPieces?: number;
  /** Added to the reported DMA_AVAIL: a host that lies; default 0. Not for iommufd. */
  readonly entriesLeftOffset?: number;
}

/** Options of a simulated host. */
export interface SimulatedHostOptions extends HostLimitOptions {
  /** Memory of the process, default a new one. */
  readonly addressSpace?: SimulatedAddressSpace;
  readonly costs?: HostCosts;
  /** Called with the nanoseconds of each simulated cost, for example to advance a test clock. */
  readonly clock?: (ns: number) => void;
}

interface GroupOptions {
  /** Group number. */
  readonly group: number;
  /** Endpoint ids of the group's devices, at least one. */
  readonly endpoints: readonly number[];
  /** Bus-master bit of devices that were not seen before; default true, the worst case for isolation. */
  readonly busMaster?: boolean;
}

/** Options of a type1 container. */
export interface ContextOptions extends HostLimitOptions, GroupOptions {
  readonly flavour?: 'type1';
  /**
   * A container of mediated devices only: no IOVA_RANGE capability, so that every I/O virtual address can be mapped, and
   * no gathers. Default false. What a mediated device reaches is simulated as for a real one.
   */
  readonly mediated?: boolean;
}

/** Options of an attachment to an IOAS. */
export interface IommufdContextOptions
  extends Omit<HostLimitOptions, 'entryLimit' | 'entriesLeftOffset' | 'windowPieces'>, GroupOptions {
  readonly flavour: 'iommufd';
  /** Default `large`; `cut` = IOMMU_OPTION_HUGE_PAGES 0. */
  readonly mode?: IommufdMode;
  /** Whether the devices are attached at once, default true; else nothing is pinned before attach(). */
  readonly attached?: boolean;
  /** Whether the iommufd file is the one of the host's other contexts, default true; false: a file of its own. */
  readonly share?: boolean;
}

/** Usable ranges of VT-d with 47 address bits (first-level tables of a 48-bit unit). */
export const VTD_USABLE_RANGES: readonly AddressRange[] = [
  { start: 0n, end: 0xfedf_ffffn },
  { start: 0xfef0_0000n, end: (1n << 47n) - 1n },
];

/** Page sizes of VT-d: 4K, 2M, 1G. */
export const VTD_PAGE_SIZES = 0x4020_1000n;

/** What a container without the IOVA_RANGE capability maps. */
export const EVERY_IOVA: readonly AddressRange[] = [{ start: 0n, end: U64_MAX }];

/** Defaults of {@link HostLimitOptions}; `windowPieces` depends on the process. */
export const DEFAULT_LIMITS: Required<HostLimitOptions> = {
  entryLimit: 65535,
  usableRanges: VTD_USABLE_RANGES,
  pageSizes: VTD_PAGE_SIZES,
  memlockLimit: Infinity,
  kernel: '6.12',
  writeOnlyReadable: true,
  entriesLeftOffset: 0,
  windowPieces: 0,
};

const LIMIT_OPTIONS = Object.keys(DEFAULT_LIMITS);
const GROUP_OPTIONS = ['group', 'endpoints', 'flavour', 'busMaster'];
const COST_OPTIONS = ['perCallNs', 'perMapNs', 'perUnmapNs', 'perPageNs', 'perPieceNs'] as const;

/** @throws TypeError when `options` has a name that {@link SimulatedHostOptions} does not have. */
export function checkHostNames(options: SimulatedHostOptions): void {
  checkOptions('options', options, [...LIMIT_OPTIONS, 'addressSpace', 'costs', 'clock']);
}

/** The flavour of a context; @throws TypeError or RangeError for a wrong one, or for an option that it does not have. */
export function checkFlavour(options: ContextOptions | IommufdContextOptions): 'type1' | 'iommufd' {
  const names = [...LIMIT_OPTIONS, ...GROUP_OPTIONS, 'mode', 'attached', 'share', 'mediated'];
  checkOptions('options', options, names);
  const flavour = checkOneOf('flavour', options.flavour ?? 'type1', ['type1', 'iommufd']);
  const foreign =
    flavour === 'type1'
      ? ['mode', 'attached', 'share']
      : ['entryLimit', 'entriesLeftOffset', 'windowPieces', 'mediated'];
  checkOptions(
    'options',
    options,
    names.filter((name) => !foreign.includes(name)),
  );
  return flavour;
}

/** Limits with what is missing taken from `defaults`; @throws TypeError or RangeError naming the wrong option. */
export function checkLimits(
  options: HostLimitOptions,
  defaults: Required<HostLimitOptions>,
): Required<HostLimitOptions> {
  const memlock = options.memlockLimit ?? defaults.memlockLimit;
  return {
    entryLimit: checkInteger('entryLimit', options.entryLimit ?? defaults.entryLimit, 0, U32_MAX),
    usableRanges: checkUsableRanges(options.usableRanges ?? defaults.usableRanges),
    pageSizes: checkPageSizes(options.pageSizes ?? defaults.pageSizes),
    memlockLimit: memlock === Infinity ? memlock : checkInteger('memlockLimit', memlock, 0, Number.MAX_SAFE_INTEGER),
    kernel: checkOneOf('kernel', options.kernel ?? defaults.kernel, ['6.1', '6.12', '7.2']),
    writeOnlyReadable: checkBoolean('writeOnlyReadable', options.writeOnlyReadable ?? defaults.writeOnlyReadable),
    entriesLeftOffset: checkInteger(
      'entriesLeftOffset',
      options.entriesLeftOffset ?? defaults.entriesLeftOffset,
      -U32_MAX,
      U32_MAX,
    ),
    windowPieces: checkInteger('windowPieces', options.windowPieces ?? defaults.windowPieces, 0, 2 ** 31 - 1),
  };
}

/** Whether the container holds mediated devices only. @throws TypeError for a wrong option, or one that such a container lacks. */
export function checkMediated(options: ContextOptions | IommufdContextOptions): boolean {
  const mediated = options.flavour !== 'iommufd' && checkBoolean('mediated', options.mediated ?? false);
  for (const name of ['usableRanges', 'windowPieces'] as const) {
    if (mediated && name in options) throw new TypeError(`${name} must not be given together with mediated`);
  }
  return mediated;
}

function checkUsableRanges(ranges: readonly AddressRange[]): AddressRange[] {
  if (!Array.isArray(ranges)) throw new TypeError('usableRanges must be an array');
  if (ranges.length === 0) throw new RangeError('usableRanges must hold at least one range');
  // Neighbours stay apart: type1 refuses a map over the border of two ranges even when they touch.
  const checked = ranges.map((range, i) => checkRange(`usableRanges[${i}]`, range));
  for (let i = 1; i < checked.length; i++) {
    if (checked[i]!.start <= checked[i - 1]!.end) throw new RangeError('usableRanges must be sorted and disjoint');
  }
  return checked;
}

function checkPageSizes(value: bigint): bigint {
  checkBigint('pageSizes', value, 1n, U64_MAX);
  if ((value & 0xfffn) !== 0n) throw new RangeError(`pageSizes must not hold sizes below 4096`);
  return value;
}

/** @throws TypeError or RangeError naming the wrong cost. */
export function checkCosts(costs: HostCosts): HostCosts {
  checkOptions('costs', costs, COST_OPTIONS);
  for (const name of COST_OPTIONS) {
    const value = costs[name] ?? 0;
    if (typeof value !== 'number') throw new TypeError(`costs.${name} must be a number`);
    if (!(value >= 0 && value < Infinity)) throw new RangeError(`costs.${name} must be finite and not negative`);
  }
  return costs;
}
