// SimulatedHost: a machine with an IOMMU, its groups and devices, and the process that opens them through VFIO.
// Not here: the rules of a container (type1-context.ts) and of an IOAS (iommufd-context.ts).
// Ranges at this edge: bigint bytes, both ends inclusive.
import { U32_MAX, checkBoolean, checkFunction, checkInteger, checkOneOf } from '../../base/check.ts';
import { Errno, HostError } from '../../base/errors.ts';
import type { HostLimits } from '../context.ts';
import { SimulatedAddressSpace } from './address-space.ts';
import { SimulatedDevice } from './device.ts';
import type { FaultSelection } from './fault-plan.ts';
import type { ContextOptions, HostLimitOptions, IommufdContextOptions, SimulatedHostOptions } from './host-options.ts';
import {
  DEFAULT_LIMITS,
  EVERY_IOVA,
  checkCosts,
  checkFlavour,
  checkHostNames,
  checkLimits,
  checkMediated,
} from './host-options.ts';
import type { IommufdFile, IommufdMode } from './iommufd-context.ts';
import { SimulatedIommufdContext } from './iommufd-context.ts';
import type { OperationObserver } from './machine.ts';
import { Machine } from './machine.ts';
import { DmaProber } from './prober.ts';
import { SimulatedType1Context } from './type1-context.ts';

export type { ContextOptions, HostLimitOptions, IommufdContextOptions, SimulatedHostOptions } from './host-options.ts';
export { VTD_PAGE_SIZES, VTD_USABLE_RANGES } from './host-options.ts';

/** Windows may take this part of the mappings that the process may have: the rest is for everything else in it. */
const WINDOW_SHARE = 4;

/** A simulated host: contexts by group, devices by endpoint, one process address space. */
export class SimulatedHost {
  readonly addressSpace: SimulatedAddressSpace;
  readonly #defaults: Required<HostLimitOptions>;
  readonly #machine: Machine;
  readonly #contexts = new Map<number, SimulatedType1Context | SimulatedIommufdContext>();
  readonly #devices = new Map<number, SimulatedDevice>();
  readonly #groupOf = new Map<number, number>();
  /** The iommufd file that contexts share. */
  readonly #file = newFile();

  /** @throws TypeError or RangeError that names the wrong option. */
  constructor(options: SimulatedHostOptions = {}) {
    checkHostNames(options);
    const costs = checkCosts(options.costs ?? {});
    if (options.clock !== undefined) checkFunction('clock', options.clock);
    this.addressSpace = options.addressSpace ?? new SimulatedAddressSpace();
    const windowPieces = Math.floor(this.addressSpace.maxMapCount / WINDOW_SHARE);
    this.#defaults = checkLimits(options, { ...DEFAULT_LIMITS, windowPieces });
    this.#machine = new Machine(this.addressSpace, costs, options.clock);
  }

  /** Simulated nanoseconds spent in host calls. */
  get elapsedNs(): number {
    return this.#machine.elapsedNs;
  }

  /**
   * Pages that contexts keep locked. Type1 (VmLck of the process): per entry, so a page mapped twice counts twice; device
   * memory not. iommufd (locked_vm of the user): per map, however many copies show a page.
   */
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
   * Opens a group in a container, or attaches it to an IOAS (`flavour: 'iommufd'`), of its own; the limits are sampled now.
   * Contexts of iommufd with one mode can use each other's IOAS later on, unless `share` is false.
   * @throws TypeError or RangeError for wrong options; HostError ERR_VIOMMU_HOST_UNAVAILABLE with EBUSY when the
   * group is open already, with ENOENT when the kernel has no iommufd.
   */
  createContext(options: IommufdContextOptions): SimulatedIommufdContext;
  createContext(options: ContextOptions): SimulatedType1Context;
  createContext(options: ContextOptions | IommufdContextOptions): SimulatedType1Context | SimulatedIommufdContext;
  createContext(options: ContextOptions | IommufdContextOptions): SimulatedType1Context | SimulatedIommufdContext {
    checkFlavour(options);
    const group = checkInteger('group', options.group, 0, 2 ** 31 - 1);
    const busMaster = checkBoolean('busMaster', options.busMaster ?? true);
    const mediated = checkMediated(options);
    const checked = checkLimits(options, this.#defaults);
    const iommufd = options.flavour === 'iommufd' ? checkIommufd(options, this.#file) : undefined;
    this.#checkEndpoints(group, options.endpoints);
    if (this.#contexts.has(group)) throw unavailable(`group ${group} is already open`, Errno.EBUSY);
    if (iommufd !== undefined && checked.kernel === '6.1') throw unavailable('kernel 6.1 has no iommufd', Errno.ENOENT);
    const settings = {
      ...checked,
      limits: contextLimits(checked, iommufd?.mode, mediated),
      group,
      devices: options.endpoints.map((endpoint) => this.#addDevice(endpoint, group, busMaster)),
      onClose: () => this.#contexts.delete(group),
    };
    const context =
      iommufd === undefined
        ? new SimulatedType1Context(this.#machine, settings)
        : new SimulatedIommufdContext(this.#machine, { ...settings, ...iommufd });
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
   * Plans that the `n`-th host operation from now (1 = the next one) fails with `errno` and changes nothing; maps, gathers
   * and unmaps of a batch, windows that are built, unmapAll, clearBusMaster, resetDevices and calls that attach devices (also
   * attachTo and attachAlone) count one each; `selection` narrows what counts. A gather that fails drops its window like every other.
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

function contextLimits(
  options: Required<HostLimitOptions>,
  mode: IommufdMode | undefined,
  mediated: boolean,
): HostLimits {
  const iommufd = mode !== undefined;
  return {
    pageSizes: options.pageSizes,
    usableRanges: mediated ? EVERY_IOVA : options.usableRanges,
    entryLimit: iommufd ? Infinity : options.entryLimit,
    windowPieces: iommufd || mediated ? 0 : options.windowPieces,
    ...(iommufd ? { mmio: false } : {}),
    ...(mode === 'cut' ? { cuts: true } : {}),
  };
}

function newFile(): IommufdFile {
  return { large: {}, cut: {} };
}

function checkIommufd(
  { mode, attached, share }: IommufdContextOptions,
  file: IommufdFile,
): { mode: IommufdMode; attached: boolean; file: IommufdFile } {
  return {
    mode: checkOneOf('mode', mode ?? 'large', ['large', 'cut']),
    attached: checkBoolean('attached', attached ?? true),
    file: checkBoolean('share', share ?? true) ? file : newFile(),
  };
}

function unavailable(message: string, errno: number): HostError {
  return new HostError('ERR_VIOMMU_HOST_UNAVAILABLE', message, { errno, syscall: 'open' });
}
