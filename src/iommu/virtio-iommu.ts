// VirtioIommu: the full virtio device. Wires the core to two virtqueues and to the lifecycle of a virtio device.
// A transport (PCI, MMIO, or the embedder's own registers) drives `transport`.
import { checkFunction, checkInteger, checkOptions } from '../base/check.ts';
import { GuestMemory } from '../virtio/memory.ts';
import type { VirtioDeviceModel, VirtioDeviceOptions } from '../virtio/device.ts';
import { VirtioDevice } from '../virtio/device.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import * as abi from '../wire/abi.ts';
import { encodeConfig } from '../wire/config.ts';
import { IommuCore } from './core.ts';
import type { EndpointInit } from './endpoints.ts';
import type { IommuOptions } from './options.ts';
import { OPTION_NAMES, resolveOptions } from './options.ts';
import { RequestQueue, Served } from './request-queue.ts';

/** Options of {@link VirtioIommu}. */
export interface VirtioIommuOptions extends IommuOptions {
  readonly memory: GuestMemory;
  /** Interrupts towards the driver; omitted where a PCI or MMIO function, which has its own, drives the transport. */
  readonly interrupt?: VirtioDeviceOptions['interrupt'];
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

const NO_INTERRUPT: VirtioDeviceOptions['interrupt'] = { queue: () => undefined, config: () => undefined };

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
  readonly #defer: VirtioIommuOptions['defer'];
  readonly #budget: number;
  #requests: RequestQueue | undefined;
  #requestQueue: Virtqueue | undefined;
  #running = false;
  #paused = false;
  #pending = false;
  #scheduled = false;
  /** A ring was found damaged: nothing is served until the driver resets the device. */
  #damaged = false;
  #closed = false;

  /** @throws TypeError or RangeError that names the option; no memory is observed and no host context changed then. */
  constructor(options: VirtioIommuOptions) {
    checkOptions('options', options, [...OWN_OPTIONS, ...OPTION_NAMES]);
    const {
      memory,
      interrupt = NO_INTERRUPT,
      endpoints,
      requestQueueSize,
      eventQueueSize,
      ringFeatures,
      defer,
      hostTimeBudget,
      ...rest
    } = options;
    checkInterrupt(interrupt);
    this.#defer = defer === undefined ? undefined : checkFunction('defer', defer);
    this.#budget = checkInteger('hostTimeBudget', hostTimeBudget ?? 5, 0, 2 ** 31);
    this.queueMaxSizes = [
      checkQueueSize('requestQueueSize', requestQueueSize ?? 1024),
      checkQueueSize('eventQueueSize', eventQueueSize ?? 64),
    ];
    this.deviceFeatures = resolveOptions(rest).features;
    this.transport = new VirtioDevice(this, {
      memory,
      interrupt,
      ...(ringFeatures === undefined ? {} : { ringFeatures }),
    });
    checkArray('endpoints', endpoints ?? []);
    this.core = new IommuCore(memory, rest);
    try {
      for (const endpoint of endpoints ?? []) this.core.addEndpoint(endpoint, false);
    } catch (error) {
      this.core.close();
      throw error;
    }
    keepShapes();
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
    // In this order, so that no context passes through the former driver's bypass.
    this.core.systemReset();
    this.transport.writeStatus(0);
    this.transport.configChanged(false);
  }

  /**
   * Resets the device and blocks every host context. The embedder closes its contexts. Later calls throw, but for a second
   * close and for what the driver does, which has no effect.
   * @throws Error from inside a request (an event listener).
   */
  close(): void {
    if (this.#closed) return;
    this.core.assertIdle('close');
    this.#closed = true;
    // In this order, so that no context passes through bypass on its way to blocked.
    this.core.close();
    this.transport.writeStatus(0);
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
        bypass: state.offers('bypassConfig') ? this.core.shownBypass : 0,
      },
      into,
    );
  }

  /** The driver may write `bypass` only, and only with BYPASS_CONFIG negotiated (DRV-CFG-1); the rest is ignored. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    const at = abi.Config.bypass - offset;
    const value = bytes[at];
    // [5.13.4] D-CFG-5: MUST NOT show anything but 0 or 1: other values are ignored (DRV-CFG-2).
    if (value !== undefined && value <= 1) this.core.driverBypass(value);
  }

  featuresNegotiated(features: bigint): boolean {
    return this.core.driverFeatures(features & this.deviceFeatures);
  }

  driverReady(queues: readonly Virtqueue[]): void {
    const requests = queues[abi.VIRTIO_IOMMU_REQUESTQ]!;
    const events = queues[abi.VIRTIO_IOMMU_EVENTQ]!;
    const { memory } = this.core;
    this.#requestQueue = requests;
    this.#requests = this.#makeRequests(requests);
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
    // [2.7.10.2] D-RING-7: MUST handle a kick without new buffers.
    if (this.#requestQueue?.available() === 0) counters.emptyKicks++;
    this.#serve();
  }

  reset(): void {
    this.#running = false;
    this.#damaged = false;
    this.#requests?.abandon();
    this.#requests = undefined;
    this.#requestQueue = undefined;
    this.core.state.faults.sink = undefined;
    // A listener may reset the device in the middle of a request: the state follows when the request is done.
    this.core.driverReset();
  }

  queueReset(queue: number): void {
    if (queue !== abi.VIRTIO_IOMMU_REQUESTQ || this.#requestQueue === undefined) return;
    this.#requests?.abandon();
    this.#requests = this.#makeRequests(this.#requestQueue);
  }

  #makeRequests(queue: Virtqueue): RequestQueue {
    return new RequestQueue(this.core.state, {
      queue,
      memory: this.core.memory,
      signal: () => this.transport.signalQueue(abi.VIRTIO_IOMMU_REQUESTQ),
    });
  }

  /** Serves the request queue: one queue length or one time budget at a time. */
  #serve(): void {
    if (this.core.busy) return; // a listener kicked: the loop below finds it
    const defer = this.#defer;
    for (let round = 0; round < (defer === undefined ? ROUNDS_WITHOUT_DEFER : 1); round++) {
      this.#pending = this.#paused;
      if (this.#paused || !this.#serveOnce(defer !== undefined)) return;
    }
    if (defer !== undefined) this.#schedule(defer);
    else this.#requestQueue?.armNotification();
  }

  /** One queue length; true when more is waiting. */
  #serveOnce(budgeted: boolean): boolean {
    const requests = this.#requests;
    const queue = this.#requestQueue;
    if (requests === undefined || queue?.ready !== true || this.#damaged) return false;
    const deadline = budgeted ? this.core.state.options.now() + this.#budget : Infinity;
    let served: number;
    this.core.enter('serve');
    try {
      served = requests.serve(queue.size, deadline);
    } finally {
      this.core.leave();
    }
    // An interrupt or an event reset the device, and may have started it again.
    if (requests !== this.#requests) return this.#running;
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
    if (this.#damaged) return;
    this.#damaged = true;
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

let spare: VirtioIommu | 'under way' | undefined;

/**
 * Keeps one small device with a domain for good. V8 drops what it has learned of a class when it collects garbage while no
 * instance lives; after learning it anew a few times it keeps a general form, and a process that makes and drops devices
 * would serve requests several times slower (2.5 to 5 times were seen at the tenth device).
 */
function keepShapes(): void {
  if (spare !== undefined) return;
  spare = 'under way';
  const memory = new GuestMemory();
  spare = new VirtioIommu({ memory, endpoints: [{ id: 1 }], requestQueueSize: 1, eventQueueSize: 1 });
  const attach = new Uint8Array(abi.Attach.SIZE);
  attach[abi.Attach.head] = abi.VIRTIO_IOMMU_T_ATTACH;
  attach[abi.Attach.endpoint] = 1;
  spare.core.request(attach, new Uint8Array(abi.Tail.SIZE));
}

function checkInterrupt(interrupt: Partial<VirtioDeviceOptions['interrupt']> | null | undefined): void {
  if (typeof interrupt?.queue !== 'function' || typeof interrupt.config !== 'function')
    throw new TypeError('interrupt must be an object with queue and config');
}

function checkArray(name: string, value: unknown): void {
  if (!Array.isArray(value)) throw new TypeError(`${name} must be an array`);
}
