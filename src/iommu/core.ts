// IommuCore: the device without queues. Holds the state, translates, and takes single requests as bytes.
// The full virtio device (virtio-iommu.ts) adds queues, features and resets of the transport.
import { U32_MAX, U64_MAX, checkBigint, checkBoolean, checkFunction, checkInteger, checkOneOf } from '../base/check.ts';
import { Errno, HostError } from '../base/errors.ts';
import type { Listener } from '../base/events.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import type { Policy } from '../coalesce/settings.ts';
import { POLICIES } from '../coalesce/settings.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import { DirectRequests } from './direct-requests.ts';
import type { MsiSink } from './dma-view.ts';
import { DmaView } from './dma-view.ts';
import type { EndpointInit } from './endpoints.ts';
import { Endpoints, geometryOf } from './endpoints.ts';
import type { IommuEvent } from './events.ts';
import { reportFault } from './fault-report.ts';
import { groupObserver } from './group-observer.ts';
import { MemoryLink } from './memory-link.ts';
import type { IommuOptions, ResolvedOptions } from './options.ts';
import { FEATURES, resolveOptions } from './options.ts';
import { settleEndpoint } from './settle.ts';
import { IommuState } from './state.ts';
import type { IommuStats } from './stats.ts';
import { snapshotCounters } from './stats.ts';
import { contextStats } from './stats-contexts.ts';
import { translateAccess } from './translate.ts';
import { PieceKind, Translation } from './translation.ts';

/** One piece of a translated access: bytes [gpa, gpa + length) of guest-physical space, or an MSI write. */
export interface AccessPiece {
  readonly kind: 'memory' | 'msi';
  readonly gpa: bigint;
  readonly length: number;
}

/** Why an access was refused; `iova` is the first address that could not be reached. */
export interface AccessFault {
  readonly reason: 'domain' | 'mapping';
  readonly iova: bigint;
}

/** Result of {@link IommuCore.translate}. */
export type TranslateResult =
  { readonly ok: true; readonly pieces: readonly AccessPiece[] } | { readonly ok: false; readonly fault: AccessFault };

/**
 * The queue-less virtio-iommu. Not reentrant: event listeners and observers of its host must not change it, such a call
 * throws an Error. What a driver does in such a moment (`driverReset`, `driverFeatures`, `driverBypass`) waits instead.
 */
export class IommuCore {
  /** For the rooms of this package; not part of the public interface. */
  readonly state: IommuState;
  readonly memory: GuestMemory;
  readonly #endpoints: Endpoints;
  readonly #direct: DirectRequests;
  readonly #disconnect: () => void;
  readonly #scratch = new Translation();
  #busy = false;
  #closed = false;
  #resetWaits = false;
  #featuresWait: bigint | undefined = undefined;
  #bypassWaits: number | undefined = undefined;

  /**
   * @param memory guest memory; regions with `hva` are what host contexts can be given.
   * @throws TypeError or RangeError that names the option.
   */
  constructor(memory: GuestMemory, options: IommuOptions = {}) {
    const resolved: ResolvedOptions = resolveOptions(options);
    checkMemory(memory);
    const geometry = geometryOf(
      resolved.pageSizeMask,
      resolved.inputRange,
      (resolved.features & 1n) !== 0n, // bit 0 = INPUT_RANGE
      [],
    );
    this.memory = memory;
    this.state = new IommuState(
      resolved,
      geometry,
      groupObserver(() => this.state),
    );
    this.#endpoints = new Endpoints(this.state);
    this.#direct = new DirectRequests(this.state);
    this.#disconnect = new MemoryLink(this.state, this).connect(memory);
  }

  /** Subscribes to events; returns the function that ends it. */
  onEvent(listener: Listener<IommuEvent>): () => void {
    return this.state.events.subscribe(checkFunction('listener', listener));
  }

  /**
   * Adds an endpoint; `running` when the driver has read the configuration, so that it must fit what is there. A core
   * that has domains is running in any case.
   * @throws TypeError or RangeError that names what is wrong, before anything changes.
   */
  addEndpoint(init: EndpointInit, running = false): void {
    this.#work('addEndpoint', () => this.#endpoints.add(init, running || this.state.domains.size > 0));
  }

  /** Removes an endpoint; its last domain ends with it. @throws RangeError when `id` is not an endpoint. */
  removeEndpoint(id: number): void {
    this.#work('removeEndpoint', () => this.#endpoints.remove(id));
  }

  /** The reserved regions that an endpoint reports: normalised, inclusive ends. @throws RangeError for an unknown id. */
  reservedRegions(id: number): readonly ReservedRegion[] {
    const endpoint = this.state.endpoints.get(checkInteger('id', id, 0, U32_MAX));
    if (endpoint === undefined) throw new RangeError(`id ${id} is not an endpoint`);
    return endpoint.regions;
  }

  /**
   * Tells that a device's bus-master bit changes: call it before a 0 to 1 write is forwarded, and after a 1 to 0 write.
   * @throws RangeError for an unknown id, HostError when the context was blocked by clearing this very bit and the host
   * still will not drop its entries: the bit must then stay clear.
   */
  setBusMaster(id: number, on: boolean): void {
    this.assertIdle('setBusMaster');
    checkBoolean('on', on);
    const endpoint = this.state.endpoints.get(checkInteger('id', id, 0, U32_MAX));
    if (endpoint === undefined) throw new RangeError(`id ${id} is not an endpoint`);
    const { group } = endpoint;
    if (on && group !== undefined && !group.mirror.mayEnableBusMaster()) throw blockedByBusMaster(group.name);
    const known = endpoint.busMaster;
    this.#work('setBusMaster', () => {
      endpoint.busMaster = on;
      group?.updateQuiet();
    });
    // What was planned is installed now; if that blocked the context by this very bit, it must stay clear.
    if (!on || group === undefined || group.mirror.mayEnableBusMaster()) return;
    endpoint.busMaster = known;
    this.#work('setBusMaster', () => group.updateQuiet());
    throw blockedByBusMaster(group.name);
  }

  /** Changes the policy of the host plan: it rules entries made from now on. @throws RangeError for an unknown name. */
  setPolicy(policy: Policy): void {
    checkOneOf('policy', policy, POLICIES);
    this.#work('setPolicy', () => {
      for (const mirror of this.state.groups.mirrors) mirror.policyChanges(policy);
      this.state.plan.policy = policy;
    });
  }

  /**
   * Translates an access of `length` >= 1 bytes at `iova`; a refused access is reported to the guest as a fault.
   * @throws TypeError or RangeError that names the argument.
   */
  translate(endpointId: number, iova: bigint, length: number, access: 'read' | 'write'): TranslateResult {
    checkBigint('iova', iova, 0n, U64_MAX);
    checkOneOf('access', access, ['read', 'write']);
    const out = this.#scratch;
    const high = Number(iova >> 32n);
    if (!this.translateInto(endpointId, high, Number(iova & 0xffff_ffffn), length, access === 'write', out)) {
      const reason = out.reason === 1 ? 'domain' : 'mapping';
      return { ok: false, fault: { reason, iova: (BigInt(out.faultHigh) << 32n) | BigInt(out.faultLow) } };
    }
    const pieces: AccessPiece[] = [];
    for (let i = 0; i < out.count; i++) {
      pieces.push({
        kind: out.kind[i] === PieceKind.msi ? 'msi' : 'memory',
        gpa: this.state.unit.addressOf(out.unit[i]!) + BigInt(out.offset[i]!),
        length: out.length[i]!,
      });
    }
    return { ok: true, pieces };
  }

  /**
   * {@link translate} without allocation: the address in two 32-bit words, the pieces or the fault in `out`.
   * @throws TypeError or RangeError that names the argument.
   */
  translateInto(
    endpointId: number,
    iovaHigh: number,
    iovaLow: number,
    length: number,
    write: boolean,
    out: Translation,
  ): boolean {
    if (!(length >= 1 && length <= Number.MAX_SAFE_INTEGER && Number.isInteger(length))) {
      checkInteger('length', length, 1, Number.MAX_SAFE_INTEGER);
    }
    const { state } = this;
    const endpoint = state.endpoints.get(endpointId);
    state.counters.translations++;
    if (translateAccess(state, endpoint, iovaHigh >>> 0, iovaLow >>> 0, length, write, out)) return true;
    reportFault(state, endpointId, endpoint, write, out);
    return false;
  }

  /** A view for DMA of an emulated device; `msi` gets writes into its MSI region, `memory` is the guest as it sees it. */
  dmaView(endpointId: number, msi: MsiSink = () => undefined, memory: GuestMemory = this.memory): DmaView {
    checkInteger('endpointId', endpointId, 0, U32_MAX);
    checkMemory(memory);
    return new DmaView(this.state, memory, endpointId, checkFunction('msi', msi));
  }

  /**
   * Carries out one request given as bytes and writes the reply into `writable`; returns the used length.
   * For embedders with rings of their own; features are those of {@link setFeatures}.
   * @throws TypeError that names the argument.
   */
  request(readable: Uint8Array, writable: Uint8Array): number {
    checkBytes('readable', readable);
    checkBytes('writable', writable);
    this.enter('request');
    try {
      return this.#direct.handle(readable, writable);
    } finally {
      this.leave();
    }
  }

  /** Takes over the features that the driver accepted; bits that are not offered are dropped. */
  setFeatures(features: bigint): void {
    checkBigint('features', features, 0n, U64_MAX);
    this.#work('setFeatures', () => {
      this.state.setNegotiated(features);
      this.#settleAll('features');
    });
  }

  /** Sets config.bypass (0 or 1): endpoints without a domain are in bypass, or reach nothing. */
  setBypass(bypass: number): void {
    checkInteger('bypass', bypass, 0, 1);
    this.#work('setBypass', () => {
      this.state.bypass = bypass;
      this.#settleAll('bypass');
    });
  }

  /**
   * Device reset [5.13.5, T-INIT-1]: no endpoint is attached, no domain is left; contexts go to bypass or are blocked.
   * D-CFG-4: config.bypass stays.
   */
  reset(): void {
    this.#work('reset', () => {
      this.state.counters.deviceResets++;
      this.#detachAll();
    });
  }

  /** System reset: a device reset after which config.bypass has its initial value (D-CFG-4) and fatal blocks end. */
  systemReset(): void {
    this.#work('systemReset', () => {
      this.state.counters.systemResets++;
      this.state.bypass = this.state.initialBypass;
      this.state.groups.forgive();
      this.#detachAll();
    });
  }

  /** {@link reset} by the driver: never throws, waits for the work at hand, ignored after close. */
  driverReset(): void {
    this.#featuresWait = undefined;
    if (this.#busy) this.#resetWaits = true;
    else if (!this.#closed) this.reset();
  }

  /** {@link setFeatures} by the driver, as {@link driverReset}; false after close. */
  driverFeatures(features: bigint): boolean {
    if (this.#busy) this.#featuresWait = features;
    else if (!this.#closed) this.setFeatures(features);
    return !this.#closed;
  }

  /** {@link setBypass} by the driver, as {@link driverReset}; ignored unless BYPASS_CONFIG is negotiated (DRV-CFG-1). */
  driverBypass(bypass: number): void {
    if (this.#closed || !this.#bypassConfigNegotiated) return;
    if (this.#busy) this.#bypassWaits = bypass;
    else this.setBypass(bypass);
  }

  /** config.bypass as the driver reads it: what it wrote last, also when that still waits. */
  get shownBypass(): number {
    return this.#bypassWaits ?? this.state.bypass;
  }

  /** A snapshot of all counters. */
  stats(): IommuStats {
    const { state } = this;
    return {
      ...snapshotCounters(state.counters),
      domains: state.domains.size,
      endpoints: state.endpoints.size,
      mappings: state.mappings,
      listenerErrors: state.events.listenerErrors,
      contexts: contextStats(state),
    };
  }

  /** Blocks every host context and lets go of guest memory; contexts are not closed. Later calls throw. */
  close(): void {
    if (this.#closed) return;
    this.enter('close');
    this.#closed = true;
    try {
      this.state.groups.close();
    } finally {
      this.#disconnect();
      this.leave();
    }
  }

  get busy(): boolean {
    return this.#busy;
  }

  /**
   * Begins work that must not be nested; {@link leave} ends it.
   * @throws Error when there is work already (a call from an event listener), or after close.
   */
  enter(operation: string): void {
    this.assertIdle(operation);
    this.#busy = true;
  }

  /** Ends the work, and then carries out what the driver asked for meanwhile. */
  leave(): void {
    this.#busy = false;
    if (this.#closed) return;
    if (this.#resetWaits) {
      this.#resetWaits = false;
      this.reset();
    }
    if (this.#featuresWait !== undefined) {
      const features = this.#featuresWait;
      this.#featuresWait = undefined;
      this.setFeatures(features);
    }
    if (this.#bypassWaits !== undefined) {
      const bypass = this.#bypassWaits;
      this.#bypassWaits = undefined;
      this.setBypass(bypass);
    }
  }

  /** @throws Error when called from inside a request (an event listener), or after close. */
  assertIdle(operation: string): void {
    if (this.#busy) throw new Error(`${operation} was called from inside a request`);
    if (this.#closed) throw new Error(`${operation} was called after close`);
  }

  get #bypassConfigNegotiated(): boolean {
    const { bypassConfigNegotiated, options } = this.state;
    if (this.#featuresWait !== undefined)
      return ((this.#featuresWait & options.features) >> BYPASS_CONFIG_BIT) % 2n === 1n;
    return bypassConfigNegotiated && !this.#resetWaits;
  }

  #work(operation: string, action: () => void): void {
    this.enter(operation);
    try {
      action();
    } finally {
      this.leave();
    }
  }

  /** Brings all contexts in step after a change that concerns endpoints without a domain. */
  #settleAll(operation: string): void {
    for (const group of this.state.groups.all) {
      const [member] = group.members;
      if (member !== undefined) settleEndpoint(this.state, member, operation);
    }
  }

  #detachAll(): void {
    const { state } = this;
    for (const endpoint of state.endpoints.values()) endpoint.domain = undefined;
    state.setNegotiated(0n);
    this.#settleAll('reset');
    for (const domain of [...state.domains.values()]) {
      domain.endpoints.clear();
      state.dropDomain(domain);
    }
  }
}

function blockedByBusMaster(context: string): HostError {
  return new HostError('ERR_VIOMMU_HOST_REFUSED', `${context} is blocked and its entries cannot be removed`, {
    errno: Errno.EIO,
    syscall: 'UNMAP_ALL',
  });
}

const BYPASS_CONFIG_BIT = BigInt(FEATURES.bypassConfig);

function checkMemory(memory: unknown): void {
  const { observe } = (memory ?? {}) as Partial<GuestMemory>;
  if (typeof observe !== 'function') throw new TypeError('memory must be a GuestMemory');
}

function checkBytes(name: string, bytes: unknown): void {
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${name} must be a Uint8Array`);
}
