// The transport-independent half of a virtio device: status, features, queues, configuration space [2, 3].
// Not here: registers (the PCI and MMIO transports wrap this), and what the device does (its model).
//
// Re-entry. Interrupts are callbacks of the embedder and may run guest code at once, so the driver can write status or kick
// while the model is at work. A reset acts at once: queues go idle, so what the model still pushes is dropped, and
// `model.reset` runs inside the call. A kick and a DRIVER_OK are remembered and delivered when the model returns; a kick
// is remembered once per queue. Nested resets inside `model.reset` do not call it again.
import type { ConfigWidth } from './config-access.ts';
import type { VirtioDeviceModel } from './device-model.ts';
import type { DeviceQueue } from './device-queues.ts';
import type { RingMemory } from './memory-types.ts';
import type { QueueSetup } from './split-queue.ts';
import type { Virtqueue } from './virtqueue.ts';
import { hex } from '../base/check.ts';
import { ConfigAccess } from './config-access.ts';
import { DeviceQueues } from './device-queues.ts';
import { DEVICE_FEATURE_MASK, Feature, Status } from './features.ts';

export type { ConfigWidth } from './config-access.ts';
export type { VirtioDeviceModel } from './device-model.ts';
export type { QueueSetup } from './split-queue.ts';

/** Reserved features that a device can offer beside VERSION_1; `accessPlatform`: its DMA goes through an IOMMU. */
export type RingFeatureName = 'indirect' | 'eventIdx' | 'ringReset' | 'packed' | 'accessPlatform';

const RING_FEATURES: Readonly<Partial<Record<RingFeatureName, bigint>>> = {
  indirect: Feature.indirectDesc,
  eventIdx: Feature.eventIdx,
  ringReset: Feature.ringReset,
  packed: Feature.ringPacked,
  accessPlatform: Feature.accessPlatform,
};

/** Status bits that a driver may set; NEEDS_RESET belongs to the device. */
const DRIVER_BITS = Status.acknowledge | Status.driver | Status.driverOk | Status.featuresOk | Status.failed;

/** What a device needs of its surroundings. */
export interface VirtioDeviceOptions {
  /** Where the rings and buffers are. */
  readonly memory: RingMemory;
  /** Interrupt towards the driver, for a used buffer of a queue, for a change of configuration, until a function connects. */
  readonly interrupt: { queue(index: number): void; config(): void };
  /** Reserved features offered beside VERSION_1; default `['indirect', 'eventIdx', 'ringReset']`. */
  readonly ringFeatures?: readonly RingFeatureName[];
}

/** What a register model (PCI, MMIO) wants to hear of the device behind it; see {@link VirtioDevice.connect}. */
export interface TransportPort {
  /** Interrupt for a used buffer of a queue. */
  queue(index: number): void;
  /** Interrupt for a change of configuration. */
  config(): void;
  /** The device was reset, by the driver or by the embedder: registers go back to what they are after a reset. */
  reset(): void;
}

const IDLE_SETUP: QueueSetup = { size: 0, desc: 0n, avail: 0n, used: 0n };

/** One virtio device as its transport sees it. Nothing that a driver can do makes a method throw. */
export class VirtioDevice {
  /** Feature bits that the device offers. */
  readonly offeredFeatures: bigint;
  readonly #model: VirtioDeviceModel;
  readonly #config: ConfigAccess;
  readonly #rings: DeviceQueues;
  /** The queues of the ring format that is negotiated; split until then. */
  #queues: readonly DeviceQueue[];
  #port: TransportPort;
  #connected = false;
  readonly #setups: QueueSetup[];
  readonly #enabled: boolean[];
  readonly #kicked: boolean[];
  #driverFeatures = 0n;
  #status = 0;
  #generation = 0;
  /** Counts resets, so that a status write notices that a callback reset the device under it. */
  #epoch = 0;
  #startPending = false;
  #modelRuns = false;
  #resetting = false;

  /** @throws RangeError naming `model.deviceFeatures`, `model.queueMaxSizes` or `options.ringFeatures` when out of range. */
  constructor(model: VirtioDeviceModel, options: VirtioDeviceOptions) {
    if ((model.deviceFeatures & ~DEVICE_FEATURE_MASK) !== 0n) {
      throw new RangeError(`model.deviceFeatures must be in bits 0..23 and 50..63, got ${hex(model.deviceFeatures)}`);
    }
    this.#model = model;
    const { interrupt } = options;
    this.#port = {
      queue: (index) => interrupt.queue(index),
      config: () => interrupt.config(),
      reset: () => undefined,
    };
    this.offeredFeatures = offered(model.deviceFeatures, options.ringFeatures ?? ['indirect', 'eventIdx', 'ringReset']);
    this.#config = new ConfigAccess(model);
    this.#rings = new DeviceQueues(model.queueMaxSizes, options.memory);
    this.#queues = this.#rings.split;
    this.#setups = this.#queues.map(() => IDLE_SETUP);
    this.#enabled = this.#queues.map(() => false);
    this.#kicked = this.#queues.map(() => false);
  }

  /** Virtio device id. */
  get deviceId(): number {
    return this.#model.deviceId;
  }

  /** Bytes of the device-specific configuration space. */
  get configLength(): number {
    return this.#model.configLength;
  }

  /**
   * Hands interrupts to a register model, in place of `options.interrupt`, and tells it of resets.
   * @throws Error when a register model is connected already.
   */
  connect(port: TransportPort): void {
    if (this.#connected) throw new Error('the device has a transport already');
    this.#connected = true;
    this.#port = port;
  }

  /**
   * Whether the device may access guest memory of its own accord (PCI: bus master). While it may not, a DRIVER_OK and kicks
   * are remembered, `pop` finds every queue empty and nothing is armed; chains taken before are still given back. When it
   * may again, all enabled queues are looked at. True from the beginning.
   */
  setDmaAllowed(allowed: boolean): void {
    if (this.#rings.gate.open === allowed) return;
    this.#rings.gate.open = allowed;
    if (!allowed) return;
    if (this.#live()) this.#enabled.forEach((enabled, index) => (this.#kicked[index] = enabled));
    this.#runModel();
  }

  /** Number of queues. */
  get queueCount(): number {
    return this.#queues.length;
  }

  /** Feature bits that the driver last wrote; binding once {@link VirtioDevice.status} shows FEATURES_OK. */
  get driverFeatures(): bigint {
    return this.#driverFeatures;
  }

  /** Takes what the driver accepts; ignored after FEATURES_OK [2.2.1]. */
  setDriverFeatures(features: bigint): void {
    if ((this.#status & Status.featuresOk) === 0) this.#driverFeatures = BigInt.asUintN(64, features);
  }

  /** Device status bits [2.1]. */
  get status(): number {
    return this.#status;
  }

  /**
   * A driver's write of the status field: 0 resets, any other value adds the bits it holds (a missing bit takes nothing
   * away, and NEEDS_RESET is the device's). FEATURES_OK stays clear when the features are refused [2.2.2]; DRIVER_OK is
   * ignored without FEATURES_OK and while a reset is needed.
   */
  writeStatus(value: number): void {
    if ((value & 0xff) === 0) {
      this.#reset();
      return;
    }
    const epoch = this.#epoch;
    const added = value & ~this.#status & DRIVER_BITS;
    this.#status |= added & ~(Status.featuresOk | Status.driverOk);
    if ((added & Status.featuresOk) !== 0 && this.#featuresAcceptable() && epoch === this.#epoch) {
      this.#status |= Status.featuresOk;
      if ((this.#driverFeatures & Feature.ringPacked) !== 0n) this.#queues = this.#rings.packed();
    }
    if (epoch !== this.#epoch || (added & Status.driverOk) === 0) return;
    if ((this.#status & (Status.featuresOk | Status.needsReset)) !== Status.featuresOk) return;
    this.#status |= Status.driverOk;
    this.#startPending = true;
    this.#runModel();
  }

  /** Reads the configuration space; [2.5.2] D-VIO-1: MUST be allowed before FEATURES_OK. Bytes outside read as 0. */
  readConfig(offset: number, size: ConfigWidth): bigint {
    return this.#config.read(offset, size);
  }

  /** Writes the configuration space; ignored unless wholly inside. */
  writeConfig(offset: number, size: ConfigWidth, value: bigint): void {
    this.#config.write(offset, size, value);
  }

  /** Changes with every {@link VirtioDevice.configChanged}; modulo 2^32, transports show its low bits. */
  get configGeneration(): number {
    return this.#generation;
  }

  /** The model's configuration space changed by itself; `notify`: interrupt the driver if it runs. */
  configChanged(notify: boolean): void {
    this.#generation = (this.#generation + 1) >>> 0;
    // [2.1.2] D-VQ-1: MUST NOT notify before DRIVER_OK.
    if (notify && (this.#status & Status.driverOk) !== 0) this.#port.config();
  }

  /** Notes what the driver wrote about a queue; ignored for a bad index and while the queue is enabled. Bad values make it broken. */
  setupQueue(index: number, setup: QueueSetup): void {
    if (this.#enabled[index] !== false) return;
    const { size, desc, avail, used } = setup;
    this.#setups[index] = { size, desc, avail, used };
  }

  /** The driver enables a queue; it starts at DRIVER_OK, or at once when that was before. Ignored for a bad index. */
  enableQueue(index: number): void {
    if (this.#enabled[index] !== false) return;
    this.#enabled[index] = true;
    if ((this.#status & Status.driverOk) !== 0 && !this.#startPending) this.#startQueue(index);
  }

  /** True while the driver has the queue enabled. */
  queueEnabled(index: number): boolean {
    return this.#enabled[index] === true;
  }

  /**
   * Resets or disables one queue: it is idle until set up and enabled again [2.6.1]. The transport decides whether the
   * driver may (VIRTIO_F_RING_RESET for PCI, QueueReady = 0 for MMIO). Ignored for a bad index.
   */
  resetQueue(index: number): void {
    const queue = this.#queues[index];
    if (queue === undefined) return;
    const started = queue.ready;
    queue.reset();
    this.#setups[index] = IDLE_SETUP;
    this.#enabled[index] = false;
    this.#kicked[index] = false;
    if (started) this.#model.queueReset(index);
  }

  /**
   * Queue `index` in the ring format that is negotiated: another object once FEATURES_OK has settled on packed rings.
   * @throws RangeError naming `index` when there is no such queue.
   */
  queue(index: number): Virtqueue {
    const queue = this.#queues[index];
    if (queue === undefined) throw new RangeError(`index must be in [0, ${this.#queues.length - 1}], got ${index}`);
    return queue;
  }

  /**
   * A kick. [2.1.2] D-VQ-1: MUST NOT consume buffers before DRIVER_OK: ignored then, and while a reset is needed, for a
   * bad index and for a queue that is not enabled.
   */
  notify(index: number): void {
    if (!this.#live() || this.#enabled[index] !== true) return;
    this.#kicked[index] = true;
    this.#runModel();
  }

  /**
   * A fatal error of the model. [2.1.2] D-VQ-2: sets DEVICE_NEEDS_RESET, with a config interrupt if DRIVER_OK.
   * Queues are not touched. Ignored in status 0, where the driver waits to read 0, and when already set.
   */
  needsReset(): void {
    if (this.#status === 0 || (this.#status & Status.needsReset) !== 0) return;
    this.#status |= Status.needsReset;
    if ((this.#status & Status.driverOk) !== 0) this.#port.config();
  }

  /** Used-buffer interrupt, after publish() said that the driver wants one; ignored before DRIVER_OK. */
  signalQueue(index: number): void {
    if ((this.#status & Status.driverOk) !== 0 && this.#queues[index] !== undefined) this.#port.queue(index);
  }

  #live(): boolean {
    return (this.#status & (Status.driverOk | Status.needsReset)) === Status.driverOk;
  }

  #featuresAcceptable(): boolean {
    const features = this.#driverFeatures;
    // [2.2.2] D-VIO-2: any subset will do; what was not offered is refused (a driver MUST NOT accept it, [2.2.1]);
    // [6.2] a device MAY refuse to work without VERSION_1.
    if ((features & ~this.offeredFeatures) !== 0n || (features & Feature.version1) === 0n) return false;
    // [6.2] a device that offers ACCESS_PLATFORM MAY refuse to work without: such a driver would give it addresses that are
    // not translated.
    if ((~features & this.offeredFeatures & Feature.accessPlatform) !== 0n) return false;
    return this.#model.featuresNegotiated(features);
  }

  #startQueue(index: number): void {
    this.#queues[index]!.start(this.#setups[index]!, {
      indirect: (this.#driverFeatures & Feature.indirectDesc) !== 0n,
      eventIdx: (this.#driverFeatures & Feature.eventIdx) !== 0n,
    });
  }

  /** Delivers a pending start and pending kicks, unless the model is already at work further up the stack. */
  #runModel(): void {
    if (this.#modelRuns) return;
    this.#modelRuns = true;
    try {
      while (this.#rings.gate.open) {
        if (this.#startPending) this.#startModel();
        const index = this.#kicked.indexOf(true);
        if (index < 0 || !this.#live()) return;
        this.#kicked[index] = false;
        this.#model.notified(index);
      }
    } finally {
      this.#modelRuns = false;
    }
  }

  #startModel(): void {
    this.#startPending = false;
    for (const queue of this.#queues) if (this.#enabled[queue.index] === true) this.#startQueue(queue.index);
    this.#model.driverReady(this.#queues);
  }

  #reset(): void {
    this.#epoch++;
    this.#status = 0;
    this.#driverFeatures = 0n;
    this.#startPending = false;
    for (const queue of this.#queues) {
      queue.reset();
      this.#setups[queue.index] = IDLE_SETUP;
      this.#enabled[queue.index] = false;
      this.#kicked[queue.index] = false;
    }
    this.#queues = this.#rings.split;
    this.#port.reset();
    if (this.#resetting) return;
    this.#resetting = true;
    try {
      this.#model.reset();
    } finally {
      this.#resetting = false;
    }
  }
}

function offered(deviceFeatures: bigint, names: readonly RingFeatureName[]): bigint {
  let features = deviceFeatures | Feature.version1;
  for (const name of names) {
    const bit = RING_FEATURES[name];
    if (bit === undefined)
      throw new RangeError(`options.ringFeatures holds ${JSON.stringify(name)}, which is not known`);
    features |= bit;
  }
  return features;
}
