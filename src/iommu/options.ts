// Options of the device: checked once, at the edge, before anything is built. Ranges are bigint with inclusive ends.
import {
  U32_MAX,
  U64_MAX,
  checkBigint,
  checkBoolean,
  checkFunction,
  checkInteger,
  checkOneOf,
  checkOptions,
  hex,
} from '../base/check.ts';
import type { AddressRange } from '../base/ranges.ts';
import { checkRange, roundInward } from '../base/ranges.ts';
import type { GatherMode, PlanSettings, Policy } from '../coalesce/settings.ts';
import { GATHER_MODES, LOW_WATER, MAX_ENTRY_PAGES, POLICIES } from '../coalesce/settings.ts';
import * as abi from '../wire/abi.ts';

/** Device features by name; the value is the bit number ([5.13.3]). */
export const FEATURES = {
  inputRange: abi.VIRTIO_IOMMU_F_INPUT_RANGE,
  domainRange: abi.VIRTIO_IOMMU_F_DOMAIN_RANGE,
  mapUnmap: abi.VIRTIO_IOMMU_F_MAP_UNMAP,
  bypass: abi.VIRTIO_IOMMU_F_BYPASS,
  probe: abi.VIRTIO_IOMMU_F_PROBE,
  mmio: abi.VIRTIO_IOMMU_F_MMIO,
  bypassConfig: abi.VIRTIO_IOMMU_F_BYPASS_CONFIG,
} as const;

/** Name of a device feature. */
export type FeatureName = keyof typeof FEATURES;

/** What happens when an endpoint has more reserved regions than a PROBE reply holds. */
export type ReservedOverflow = 'throw' | 'merge' | 'probe-error';

/** Limits on fault records; tokens refill continuously. */
export interface FaultLimits {
  /** Records that may be sent at once, per endpoint; default 256. */
  readonly burst?: number;
  /** Records per second and endpoint after a burst; default 100, Infinity = no limit. */
  readonly perSecond?: number;
}

/** Options of the device core; each is checked before anything is built. */
export interface IommuOptions {
  /** Features offered; default all but the legacy `bypass`. D-FEAT-3: `bypass` and `bypassConfig` exclude each other. */
  readonly features?: readonly FeatureName[];
  /** Page sizes in bytes as a bit set; the lowest is the granule. Default 4K|2M|1G, or what the hosts have. */
  readonly pageSizeMask?: bigint;
  /** I/O virtual addresses that can be mapped; inclusive. Default all, cut by host contexts. */
  readonly inputRange?: AddressRange;
  /** Domain ids; inclusive. Default all. */
  readonly domainRange?: { readonly start: number; readonly end: number };
  /** Bytes of properties in a PROBE reply; default 512. */
  readonly probeSize?: number;
  /** Initial value of config.bypass (with feature `bypassConfig`); default true, so that firmware can do DMA. */
  readonly bypass?: boolean;
  /** Most mappings of all domains together; default 32 Mi. */
  readonly maxMappings?: number;
  /** Most domains; default 65,536. */
  readonly maxDomains?: number;
  /** RAM installed per host context at most, as a multiple of guest RAM; default 4. */
  readonly maxInstalled?: number;
  /** Policy of the host plan; default `exact`. */
  readonly policy?: Policy;
  /** When scattered memory is gathered behind a virtual window; default `auto`: windows of more than 16 pieces. */
  readonly gather?: GatherMode;
  /** Largest host entry that joining makes, in bytes, a multiple of 4096; default 256 MiB. One MAP is never cut by it. */
  readonly maxEntryBytes?: number;
  /** Free host entries below which quiet contexts are compacted; default 8192, at most an eighth of a context's limit. */
  readonly lowWater?: number;
  /** Stalls all DMA of a host context's devices while entries are replaced; true when it did. Default: nobody can. */
  readonly pauseDma?: (context: string) => boolean;
  /** Ends a stall that `pauseDma` began. */
  readonly resumeDma?: (context: string) => void;
  /** Default `throw`. */
  readonly resvOverflow?: ReservedOverflow;
  readonly faults?: FaultLimits;
  /** Clock in milliseconds for rate limits and the host-time budget; default Date.now. */
  readonly now?: () => number;
  /** Called when nothing could stop the devices of a host context: the embedder must. */
  readonly onFatal?: (context: string, errno: number) => void;
}

/** Options with defaults filled in. */
export interface ResolvedOptions {
  readonly features: bigint;
  readonly pageSizeMask: bigint | undefined;
  readonly inputRange: AddressRange;
  readonly domainRange: { readonly start: number; readonly end: number };
  readonly probeSize: number;
  readonly bypass: boolean;
  readonly maxMappings: number;
  readonly maxDomains: number;
  readonly maxInstalled: number;
  readonly policy: Policy;
  readonly gather: GatherMode;
  readonly maxEntryPages: number;
  readonly lowWater: number;
  readonly pauseDma: ((context: string) => boolean) | undefined;
  readonly resumeDma: ((context: string) => void) | undefined;
  readonly resvOverflow: ReservedOverflow;
  readonly faultBurst: number;
  readonly faultsPerSecond: number;
  readonly now: () => number;
  readonly onFatal: (context: string, errno: number) => void;
}

/** 4 KiB, 2 MiB and 1 GiB ([5.13.4.2] D-CFG-2: MAY have several bits); more bits make Linux send more requests. */
export const DEFAULT_PAGE_SIZE_MASK = 0x4020_1000n;

// [5.13.3.2] D-FEAT-1: SHOULD offer MAP_UNMAP. D-FEAT-2: SHOULD NOT offer BYPASS: it is there only when asked for.
const DEFAULT_FEATURES: readonly FeatureName[] = [
  'inputRange',
  'domainRange',
  'mapUnmap',
  'probe',
  'mmio',
  'bypassConfig',
];

/** Names of all options, for the check against misspelling. */
export const OPTION_NAMES = [
  'features',
  'pageSizeMask',
  'inputRange',
  'domainRange',
  'probeSize',
  'bypass',
  'maxMappings',
  'maxDomains',
  'maxInstalled',
  'policy',
  'gather',
  'maxEntryBytes',
  'lowWater',
  'pauseDma',
  'resumeDma',
  'resvOverflow',
  'faults',
  'now',
  'onFatal',
] as const satisfies readonly (keyof IommuOptions)[];

/**
 * Checks options and fills in defaults.
 * @throws TypeError or RangeError that names the option.
 */
export function resolveOptions(options: IommuOptions): ResolvedOptions {
  checkOptions('options', options, OPTION_NAMES);
  const features = resolveFeatures(options.features ?? DEFAULT_FEATURES);
  const pageSizeMask =
    options.pageSizeMask === undefined
      ? undefined
      : // [5.13.4] D-CFG-1: page_size_mask MUST have at least one bit.
        checkBigint('pageSizeMask', options.pageSizeMask, 1n, U64_MAX);
  const faults = options.faults ?? {};
  checkOptions('faults', faults, ['burst', 'perSecond']);
  return {
    features,
    pageSizeMask,
    inputRange: resolveInputRange(options.inputRange, features),
    domainRange: resolveDomainRange(options.domainRange, features),
    probeSize: checkInteger('probeSize', options.probeSize ?? 512, 0, 0xffff),
    bypass: checkBoolean('bypass', options.bypass ?? true),
    maxMappings: checkInteger('maxMappings', options.maxMappings ?? 32 * 1024 * 1024, 0, 2 ** 31),
    maxDomains: checkInteger('maxDomains', options.maxDomains ?? 65_536, 0, 2 ** 24),
    maxInstalled: checkInteger('maxInstalled', options.maxInstalled ?? 4, 1, 1024),
    ...resolvePlan(options),
    resvOverflow: checkOneOf('resvOverflow', options.resvOverflow ?? 'throw', ['throw', 'merge', 'probe-error']),
    faultBurst: checkInteger('faults.burst', faults.burst ?? 256, 0, 2 ** 31),
    faultsPerSecond: checkRate('faults.perSecond', faults.perSecond ?? 100),
    now: checkFunction('now', options.now ?? Date.now),
    onFatal: checkFunction('onFatal', options.onFatal ?? (() => undefined)),
  };
}

function resolvePlan(
  options: IommuOptions,
): Pick<ResolvedOptions, 'policy' | 'gather' | 'maxEntryPages' | 'lowWater' | 'pauseDma' | 'resumeDma'> {
  const bytes = checkInteger('maxEntryBytes', options.maxEntryBytes ?? MAX_ENTRY_PAGES * 4096, 4096, 2 ** 52);
  if (bytes % 4096 !== 0) throw new RangeError(`maxEntryBytes must be a multiple of 4096, got ${bytes}`);
  return {
    policy: checkOneOf('policy', options.policy ?? 'exact', POLICIES),
    gather: checkOneOf('gather', options.gather ?? 'auto', GATHER_MODES),
    maxEntryPages: bytes / 4096,
    lowWater: checkInteger('lowWater', options.lowWater ?? LOW_WATER, 0, U32_MAX),
    pauseDma: options.pauseDma === undefined ? undefined : checkFunction('pauseDma', options.pauseDma),
    resumeDma: options.resumeDma === undefined ? undefined : checkFunction('resumeDma', options.resumeDma),
  };
}

/** What the plans of all contexts share; `failed` is called when a hook of the embedder throws. */
export function planSettings(options: ResolvedOptions, failed: () => void): PlanSettings {
  const { pauseDma, resumeDma } = options;
  const guard = <T>(call: () => T, otherwise: T): T => {
    try {
      return call();
    } catch {
      failed();
      return otherwise;
    }
  };
  return {
    policy: options.policy,
    gather: options.gather,
    maxEntryPages: options.maxEntryPages,
    lowWater: options.lowWater,
    now: () => options.now(),
    pauseDma: pauseDma && ((context) => guard(() => pauseDma(context), false)),
    resumeDma: resumeDma && ((context) => guard(() => resumeDma(context), undefined)),
  };
}

function resolveFeatures(names: readonly FeatureName[]): bigint {
  if (!Array.isArray(names)) throw new TypeError('features must be an array of feature names');
  let bits = 0n;
  for (const name of names as readonly FeatureName[]) {
    bits |= 1n << BigInt(FEATURES[checkOneOf('features', name, Object.keys(FEATURES) as FeatureName[])]);
  }
  // [5.13.3] D-FEAT-3: SHOULD NOT offer BYPASS and BYPASS_CONFIG together.
  const both = (1n << BigInt(FEATURES.bypass)) | (1n << BigInt(FEATURES.bypassConfig));
  if ((bits & both) === both) throw new RangeError('features must not hold both bypass and bypassConfig');
  return bits;
}

function resolveInputRange(range: AddressRange | undefined, features: bigint): AddressRange {
  const all = { start: 0n, end: U64_MAX };
  if (range === undefined) return all;
  const checked = checkRange('inputRange', range);
  const offered = (features & (1n << BigInt(FEATURES.inputRange))) !== 0n;
  // [5.13.6] T-CFG-2: without the feature the driver takes the whole 64-bit space for granted.
  if (!offered && (checked.start !== 0n || checked.end !== U64_MAX)) {
    throw new RangeError('inputRange needs the feature inputRange');
  }
  return checked;
}

function resolveDomainRange(
  range: { readonly start: number; readonly end: number } | undefined,
  features: bigint,
): { readonly start: number; readonly end: number } {
  if (range === undefined) return { start: 0, end: U32_MAX };
  checkOptions('domainRange', range, ['start', 'end']);
  const start = checkInteger('domainRange.start', range.start, 0, U32_MAX);
  const end = checkInteger('domainRange.end', range.end, start, U32_MAX);
  const offered = (features & (1n << BigInt(FEATURES.domainRange))) !== 0n;
  // [5.13.4] T-CFG-3: without the feature every value is a valid domain.
  if (!offered && (start !== 0 || end !== U32_MAX)) throw new RangeError('domainRange needs the feature domainRange');
  return { start, end };
}

function checkRate(name: string, value: number): number {
  if (typeof value !== 'number' || Number.isNaN(value)) throw new TypeError(`${name} must be a number`);
  if (value < 0) throw new RangeError(`${name} must not be negative, got ${value}`);
  return value;
}

/**
 * Checks the granule against the input range: keys must stay exact.
 * @throws RangeError naming `pageSizeMask` or `inputRange`.
 */
export function checkGranule(pageSizeMask: bigint, inputRange: AddressRange): void {
  const granule = pageSizeMask & -pageSizeMask;
  if (granule < 4096n && inputRange.end >= 1n << 53n) {
    throw new RangeError(
      `pageSizeMask ${hex(pageSizeMask)} has a granule of ${granule} bytes, which needs inputRange.end below 2^53`,
    );
  }
  if (roundInward(inputRange, granule) === undefined) {
    throw new RangeError(
      `inputRange [${hex(inputRange.start)}, ${hex(inputRange.end)}] holds no whole granule of ${hex(granule)} bytes`,
    );
  }
}
