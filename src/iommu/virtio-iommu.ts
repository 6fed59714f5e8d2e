// VirtioIommu: the full virtio device. Wires the core to two virtqueues and to the lifecycle of a virtio device.
// A transport (PCI, MMIO, or the embedder's own registers) drives `transport`.
import { checkFunction, checkInteger, checkOptions } from '../base/check.ts';
import type { GuestMemory } from '../virtio/memory.ts';
import type { VirtioDeviceModel, VirtioDeviceOptions } from '../virtio/device.ts';
import { VirtioDevice } from '../virtio/device.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import * as abi from '../wire/abi.ts';
import { encodeConfig } from '../wire/config.ts';
import { IommuCore } from './core.ts';
import type { EndpointInit } from './endpoints.ts';
import type { IommuOptions } from './options.ts';
import { OPTION_NAMES } from './options.ts';
import { RequestQueue, Served } from './request-queue.ts';

/** Options of {@link VirtioIommu}. */
export interface VirtioIommuOptions extends IommuOptions {
  readonly memory: GuestMemory;
  /** Interrupts towards the driver. */
  readonly interrupt: VirtioDeviceOptions['interrupt'];
  readonly endpoints?: readonly EndpointInit[];
  /** Entries of the request queue, a power of two; default 1024: larger queues mean fewer partial teardowns. */
  readonly requestQueueSize?: number;
  /** Entries of the event queue, a power of two; default 64. */
  readonly eventQueueSize?: number;
  readonly ringFeatures?: VirtioDeviceOptions['ringFeatures'];
  /**
   * Runs a function soon, outside the present call: what a kick leaves over goes on through it without another kick.
   * Without it a kick serves the whole queue length. Needed when the guest runs on another thread.
   */
  readonly defer?: (run: () => void) => void;
  /** Milliseconds after which a kick leaves the rest to `defer`; default 5, ignored without `defer`. */
  readonly hostTimeBudget?: number;
}

/** Queue lengths served in one kick without `defer`, when the guest keeps adding. */
const ROUNDS_WITHOUT_DEFER = 16;

const OWN_OPTIONS = [
  'memory',
  'interrupt',
  'endpoints',
  'requestQueueSize',
  'eventQueueSize',
  'ringFeatures',
  'defer',
  'hostTimeBudget',
] as const satisfies readonly (keyof VirtioIommuOptions)[];

/** A complete virtio-iommu. */
export class VirtioIommu implements VirtioDeviceModel {
  /** State, translation, endpoints, statistics. */
  readonly core: IommuCore;
  /** Registers as a transport sees them. */
  readonly transport: VirtioDevice;
  readonly deviceId = abi.VIRTIO_ID_IOMMU;
  readonly deviceFeatures: bigint;
  readonly queueMaxSizes: readonly number[];
  readonly configLength = abi.Config.SIZE;
  readonly #options: VirtioIommuOptions;
  readonly #budget: number;
  #requests: RequestQueue | undefined;
  #requestQueue: Virtqueue | undefined;
  #running = false;
  #paused = false;
  #pending = false;
  #resetWanted = false;
  #scheduled = false;

  /** @throws TypeError or RangeError that names the option, before anything is built. */
  constructor(options: VirtioIommuOptions) {
    checkOptions('options', options, [...OWN_OPTIONS, ...OPTION_NAMES]);
    if (options.defer !== undefined) checkFunction('defer', options.defer);
    this.#options = options;
    this.#budget = checkInteger('hostTimeBudget', options.hostTimeBudget ?? 5, 0, 2 ** 31);
    this.queueMaxSizes = [
      checkQueueSize('requestQueueSize', options.requestQueueSize ?? 1024),
      checkQueueSize('eventQueueSize', options.eventQueueSize ?? 64),
    ];
    this.core = new IommuCore(options.memory, options);
    this.deviceFeatures = this.core.state.options.features;
    for (const endpoint of options.endpoints ?? []) this.core.addEndpoint(endpoint, false);
    this.transport = new VirtioDevice(this, {
      memory: options.memory,
      interrupt: options.interrupt,
      ...(options.ringFeatures === undefined ? {} : { ringFeatures: options.ringFeatures }),
    });
  }

  /** Adds an endpoint at run time. @throws TypeError or RangeError that names what is wrong, before anything changes. */
  addEndpoint(init: EndpointInit): void {
    const { geometry } = this.core.state;
    this.core.addEndpoint(init, this.#running);
    if (this.core.state.geometry !== geometry) this.transport.configChanged(false);
  }

  /** Removes an endpoint at run time. @throws RangeError when `id` is not an endpoint. */
  removeEndpoint(id: number): void {
    this.core.removeEndpoint(id);
  }

  /** Stops serving requests; translation goes on. What the driver sends meanwhile waits for {@link resume}. */
  pause(): void {
    this.#paused = true;
  }

  /** Serves what has waited, and goes on. */
  resume(): void {
    this.#paused = false;
    if (this.#running) this.#serve();
  }

  /** What a reset of the whole machine does: device reset, and config.bypass has its initial value again (D-CFG-4). */
  systemReset(): void {
    this.core.assertIdle('systemReset');
    this.transport.writeStatus(0);
    this.core.systemReset();
    this.transport.configChanged(false);
  }

  /** Resets the device and blocks every host context; later calls throw. The embedder closes its contexts. */
  close(): void {
    this.transport.writeStatus(0);
    this.core.close();
  }

  /** T-CFG-0: the configuration as the driver reads it, also before FEATURES_OK. */
  readConfig(into: Uint8Array): void {
    const { state } = this.core;
    encodeConfig(
      {
        pageSizeMask: state.geometry.pageSizeMask,
        inputRange: state.geometry.inputRange,
        domainRange: state.options.domainRange,
        probeSize: state.offers('probe') ? state.options.probeSize : 0,
        bypass: state.offers('bypassConfig') ? state.bypass : 0,
      },
      into,
    );
  }

  /** The driver may write `bypass` only, and only with BYPASS_CONFIG negotiated (DRV-CFG-1); the rest is ignored. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    const at = abi.Config.bypass - offset;
    const value = bytes[at];
    // [5.13.4] D-CFG-5: MUST NOT show anything but 0 or 1: other values are ignored (DRV-CFG-2).
    if (value === undefined || value > 1 || !this.core.state.bypassConfigNegotiated) return;
    this.core.setBypass(value);
  }

  featuresNegotiated(features: bigint): boolean {
    this.core.setFeatures(features & this.deviceFeatures);
    return true;
  }

  driverReady(queues: readonly Virtqueue[]): void {
    const requests = queues[abi.VIRTIO_IOMMU_REQUESTQ]!;
    const events = queues[abi.VIRTIO_IOMMU_EVENTQ]!;
    const { memory } = this.core;
    this.#requestQueue = requests;
    this.#requests = new RequestQueue(this.core.state, {
      queue: requests,
      memory,
      signal: () => this.transport.signalQueue(abi.VIRTIO_IOMMU_REQUESTQ),
    });
    this.core.state.faults.sink = {
      queue: events,
      memory,
      signal: () => this.transport.signalQueue(abi.VIRTIO_IOMMU_EVENTQ),
      broken: () => this.#broken(abi.VIRTIO_IOMMU_EVENTQ),
    };
    this.#running = true;
    this.#serve();
  }

  notified(queue: number): void {
    // Buffers of the event queue are found when there is something to report.
    if (queue !== abi.VIRTIO_IOMMU_REQUESTQ || !this.#running) return;
    const { counters } = this.core.state;
    counters.kicks++;
    if (this.#requestQueue?.available() === 0) counters.emptyKicks++;
    this.#serve();
  }

  reset(): void {
    this.#running = false;
    this.#requests = undefined;
    this.#requestQueue = undefined;
    this.core.state.faults.sink = undefined;
    // A listener may reset the device in the middle of a request: the state follows when the request is done.
    if (this.core.busy) this.#resetWanted = true;
    else this.core.reset();
  }

  queueReset(): void {
    // Chains in flight are forgotten by the queue itself; nothing of them is kept here between two calls.
  }

  /** Serves the request queue: one queue length or one time budget at a time. */
  #serve(): void {
    if (this.core.busy) return; // a listener kicked: the loop below finds it
    if (this.#paused) {
      this.#pending = true;
      return;
    }
    this.#pending = false;
    const { defer } = this.#options;
    for (let round = 0; round < (defer === undefined ? ROUNDS_WITHOUT_DEFER : 1); round++) {
      if (!this.#serveOnce(defer !== undefined)) return;
    }
    if (defer !== undefined) this.#schedule(defer);
    else this.#requestQueue?.armNotification();
  }

  /** One queue length; true when more is waiting. */
  #serveOnce(budgeted: boolean): boolean {
    const requests = this.#requests;
    const queue = this.#requestQueue;
    if (requests === undefined || queue?.ready !== true) return false;
    const deadline = budgeted ? this.core.state.options.now() + this.#budget : Infinity;
    let served: number = Served.all;
    this.core.run('serve', () => (served = requests.serve(queue.size, deadline)));
    if (this.#resetWanted) {
      this.#resetWanted = false;
      this.core.reset();
      return false;
    }
    if (served === Served.broken) {
      this.#broken(abi.VIRTIO_IOMMU_REQUESTQ);
      return false;
    }
    return served === Served.more || queue.armNotification();
  }

  #schedule(defer: (run: () => void) => void): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    defer(() => {
      this.#scheduled = false;
      if (this.#running) this.#serve();
    });
  }

  #broken(queue: number): void {
    // [2.1.2] D-VQ-2: a damaged ring is a fatal error: DEVICE_NEEDS_RESET, and stop.
    const { state } = this.core;
    state.counters.brokenRings++;
    this.transport.needsReset();
    if (state.events.active) state.events.emit({ type: 'ring-broken', queue });
  }

  /** True while requests wait because the device is paused. */
  get pending(): boolean {
    return this.#pending;
  }
}

function checkQueueSize(name: string, value: number): number {
  checkInteger(name, value, 1, 32_768);
  if ((value & (value - 1)) !== 0) throw new RangeError(`${name} must be a power of two, got ${value}`);
  return value;
}
