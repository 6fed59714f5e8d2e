// SimulatedHost: a machine with an IOMMU, its groups and devices, and the process that opens them through VFIO.
// Not here: the rules of a container (type1-context.ts). Ranges at this edge: bigint bytes, both ends inclusive.
import { U32_MAX, U64_MAX, checkBigint, checkBoolean, checkFunction } from '../../base/check.ts';
import { checkInteger, checkOneOf, checkOptions } from '../../base/check.ts';
import { Errno, HostError } from '../../base/errors.ts';
import type { AddressRange } from '../../base/ranges.ts';
import { checkRange } from '../../base/ranges.ts';
import { SimulatedAddressSpace } from './address-space.ts';
import { SimulatedDevice } from './device.ts';
import type { FaultSelection } from './fault-plan.ts';
import type { HostCosts, OperationObserver } from './machine.ts';
import { Machine } from './machine.ts';
import { DmaProber } from './prober.ts';
import { SimulatedType1Context } from './type1-context.ts';
import type { KernelVersion } from './type1-rules.ts';

/** What can be set for the host and overridden for each context. */
export interface HostLimitOptions {
  /** vfio_iommu_type1.dma_entry_limit, default 65535. */
  readonly entryLimit?: number;
  /** IOVA_RANGE; default VT-d with 47 bits: [0, 0xfedfffff] and [0xfef00000, 2^47-1]. */
  readonly usableRanges?: readonly AddressRange[];
  /** iova_pgsizes in bytes, default 0x40201000 (4K, 2M, 1G); lowest bit >= 4096. */
  readonly pageSizes?: bigint;
  /** RLIMIT_MEMLOCK in 4 KiB pages, compared with the locked pages of the process; default Infinity (CAP_IPC_LOCK). */
  readonly memlockLimit?: number;
  /** Default `6.12`. */
  readonly kernel?: KernelVersion;
  /** Whether a device can read a write-only entry: true on VT-d (default), false on AMD-Vi and virtio-iommu. */
  readonly writeOnlyReadable?: boolean;
  /** Added to the reported DMA_AVAIL: a host that lies; default 0. */
  readonly entriesLeftOffset?: number;
}

/** Options of {@link SimulatedHost}. */
export interface SimulatedHostOptions extends HostLimitOptions {
  /** Memory of the process, default a new one. */
  readonly addressSpace?: SimulatedAddressSpace;
  readonly costs?: HostCosts;
  /** Called with the nanoseconds of each simulated cost, for example to advance a test clock. */
  readonly clock?: (ns: number) => void;
}

/** Options of {@link SimulatedHost.createContext}. */
export interface ContextOptions extends HostLimitOptions {
  /** Group number. */
  readonly group: number;
  /** Endpoint ids of the group's devices, at least one. */
  readonly endpoints: readonly number[];
  readonly flavour?: 'type1';
  /** Bus-master bit of devices that were not seen before; default true, the worst case for isolation. */
  readonly busMaster?: boolean;
}

/** Usable ranges of VT-d with 47 address bits (first-level tables of a 48-bit unit). */
export const VTD_USABLE_RANGES: readonly AddressRange[] = [
  { start: 0n, end: 0xfedf_ffffn },
  { start: 0xfef0_0000n, end: (1n << 47n) - 1n },
];

/** Page sizes of VT-d: 4K, 2M, 1G. */
export const VTD_PAGE_SIZES = 0x4020_1000n;

const LIMIT_OPTIONS = [
  'entryLimit',
  'usableRanges',
  'pageSizes',
  'memlockLimit',
  'kernel',
  'writeOnlyReadable',
  'entriesLeftOffset',
];
const COST_OPTIONS = ['perCallNs', 'perMapNs', 'perUnmapNs', 'perPageNs'] as const;

/** A simulated host: contexts by group, devices by endpoint, one process address space. */
export class SimulatedHost {
  readonly addressSpace: SimulatedAddressSpace;
  readonly #defaults: Required<HostLimitOptions>;
  readonly #machine: Machine;
  readonly #contexts = new Map<number, SimulatedType1Context>();
  readonly #devices = new Map<number, SimulatedDevice>();
  readonly #groupOf = new Map<number, number>();

  /** @throws TypeError or RangeError that names the wrong option. */
  constructor(options: SimulatedHostOptions = {}) {
    checkOptions('options', options, [...LIMIT_OPTIONS, 'addressSpace', 'costs', 'clock']);
    this.#defaults = checkLimits(options, {
      entryLimit: 65535,
      usableRanges: VTD_USABLE_RANGES,
      pageSizes: VTD_PAGE_SIZES,
      memlockLimit: Infinity,
      kernel: '6.12',
      writeOnlyReadable: true,
      entriesLeftOffset: 0,
    });
    const costs = checkCosts(options.costs ?? {});
    if (options.clock !== undefined) checkFunction('clock', options.clock);
    this.addressSpace = options.addressSpace ?? new SimulatedAddressSpace();
    this.#machine = new Machine(this.addressSpace, costs, options.clock);
  }

  /** Simulated nanoseconds spent in host calls. */
  get elapsedNs(): number {
    return this.#machine.elapsedNs;
  }

  /** Locked pages of the process (VmLck): per entry, so a page mapped twice counts twice; device memory not. */
  get lockedPages(): number {
    return this.#machine.lockedPages;
  }

  get lockedPagesPeak(): number {
    return this.#machine.lockedPagesPeak;
  }

  /** Operations refused by {@link failAt} so far, and failures still planned. */
  get faults(): { readonly injected: number; readonly pending: number } {
    return { injected: this.#machine.faults.injected, pending: this.#machine.faults.pending };
  }

  /**
   * Opens a group in a container of its own; the limits are sampled now.
   * @throws TypeError or RangeError for wrong options; HostError ERR_VIOMMU_HOST_UNAVAILABLE with EBUSY when the
   * group is open already.
   */
  createContext(options: ContextOptions): SimulatedType1Context {
    checkOptions('options', options, [...LIMIT_OPTIONS, 'group', 'endpoints', 'flavour', 'busMaster']);
    const group = checkInteger('group', options.group, 0, 2 ** 31 - 1);
    checkOneOf('flavour', options.flavour ?? 'type1', ['type1']);
    const busMaster = checkBoolean('busMaster', options.busMaster ?? true);
    const limits = checkLimits(options, this.#defaults);
    this.#checkEndpoints(group, options.endpoints);
    if (this.#contexts.has(group)) {
      throw new HostError('ERR_VIOMMU_HOST_UNAVAILABLE', `group ${group} is already open`, {
        errno: Errno.EBUSY,
        syscall: 'open',
      });
    }
    const { entryLimit, usableRanges, pageSizes, ...rest } = limits;
    const context = new SimulatedType1Context(this.#machine, {
      ...rest,
      group,
      devices: options.endpoints.map((endpoint) => this.#addDevice(endpoint, group, busMaster)),
      limits: { entryLimit, usableRanges, pageSizes },
      onClose: () => this.#contexts.delete(group),
    });
    this.#contexts.set(group, context);
    return context;
  }

  /** Sets the bus-master bit of a device, as a write of its Command register does. */
  setBusMaster(endpoint: number, on: boolean): void {
    this.#device(endpoint).busMaster = checkBoolean('on', on);
  }

  /** The bus-master bit of a device. */
  busMaster(endpoint: number): boolean {
    return this.#device(endpoint).busMaster;
  }

  /** Number of resets of a device. */
  resets(endpoint: number): number {
    return this.#device(endpoint).resets;
  }

  /** What a device reaches at any moment, also while its group is closed (nothing) and after it is opened again. */
  prober(endpoint: number): DmaProber {
    return new DmaProber(this.#device(endpoint), this.addressSpace);
  }

  /**
   * Plans that the `n`-th host operation from now (1 = the next one) fails with `errno` and changes nothing; maps and
   * unmaps of a batch, unmapAll, clearBusMaster and resetDevices count one each; `selection` narrows what counts.
   */
  failAt(n: number, errno: number, selection: FaultSelection = {}): void {
    this.#machine.faults.failAt(n, errno, selection);
  }

  /** Forgets the failures planned with {@link failAt}. */
  clearFaults(): void {
    this.#machine.faults.clear();
  }

  /**
   * Calls `observer` after every single host operation, also inside a batch; returns the function that ends it.
   * The observer may look at everything; an exception from it reaches the caller of the host operation.
   */
  onOperation(observer: OperationObserver): () => void {
    return this.#machine.observe(checkFunction('observer', observer));
  }

  #device(endpoint: number): SimulatedDevice {
    const device = this.#devices.get(endpoint);
    if (device === undefined) throw new RangeError(`endpoint ${endpoint} is not a device of this host`);
    return device;
  }

  #checkEndpoints(group: number, endpoints: readonly number[]): void {
    const list: unknown = endpoints;
    if (!Array.isArray(list)) throw new TypeError('endpoints must be an array');
    if (endpoints.length === 0) throw new RangeError('endpoints must name at least one device');
    if (new Set(endpoints).size !== endpoints.length) throw new RangeError('endpoints must be different');
    endpoints.forEach((endpoint, i) => {
      checkInteger(`endpoints[${i}]`, endpoint, 0, U32_MAX);
      const other = this.#groupOf.get(endpoint);
      if (other !== undefined && other !== group) {
        throw new RangeError(`endpoints[${i}]: ${endpoint} belongs to group ${other}`);
      }
    });
  }

  #addDevice(endpoint: number, group: number, busMaster: boolean): SimulatedDevice {
    const device = this.#devices.get(endpoint) ?? new SimulatedDevice(endpoint, busMaster);
    this.#devices.set(endpoint, device);
    this.#groupOf.set(endpoint, group);
    return device;
  }
}

function checkLimits(options: HostLimitOptions, defaults: Required<HostLimitOptions>): Required<HostLimitOptions> {
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
  };
}

function checkUsableRanges(ranges: readonly AddressRange[]): AddressRange[] {
  if (!Array.isArray(ranges)) throw new TypeError('usableRanges must be an array');
  if (ranges.length === 0) throw new RangeError('usableRanges must hold at least one range');
  // Neighbours stay apart: the kernel refuses a map over the border of two ranges even when they touch.
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

function checkCosts(costs: HostCosts): HostCosts {
  checkOptions('costs', costs, COST_OPTIONS);
  for (const name of COST_OPTIONS) {
    const value = costs[name] ?? 0;
    if (typeof value !== 'number') throw new TypeError(`costs.${name} must be a number`);
    if (!(value >= 0 && value < Infinity)) throw new RangeError(`costs.${name} must be finite and not negative`);
  }
  return costs;
}
