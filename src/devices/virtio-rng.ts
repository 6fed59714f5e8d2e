// Virtio entropy device [5.4] behind an IOMMU: ring and buffer addresses are I/O virtual. Not here: registers (wrap
// `transport` in a VirtioPciFunction), translation (DmaView), where bytes come from (entropy.ts).
// A buffer is taken, and later filled: with `defer` outside the kick. Its addresses are translated again when it is filled,
// so that an UNMAP in between holds, and nothing is filled while the function may not do DMA.
import type { VirtioDeviceModel } from '../virtio/device-model.ts';
import type { RingFeatureName, VirtioDeviceOptions } from '../virtio/device.ts';
import type { DmaResult } from '../iommu/dma-view.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import type { DmaAccess } from './dma-access.ts';
import type { EntropyName, EntropySource } from './entropy.ts';
import { U64_MAX, checkBigint, checkFunction, checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import { DescriptorChain } from '../virtio/chain.ts';
import { VirtioDevice } from '../virtio/device.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import { DmaRingMemory } from './dma-ring-memory.ts';
import { MAX_ENTROPY_BYTES, entropySource } from './entropy.ts';

/** Options of {@link VirtioRng}. */
export interface VirtioRngOptions {
  /** The endpoint's way to memory, normally `core.dmaView(id)`. */
  readonly dma: DmaAccess;
  /** Interrupts towards the driver; a PCI function takes their place. Default none. */
  readonly interrupt?: VirtioDeviceOptions['interrupt'];
  /** Default `crypto`. */
  readonly entropy?: EntropyName | EntropySource;
  /** Entries of the queue, a power of two; default 64. */
  readonly queueSize?: number;
  /** Most bytes that one buffer gets, 1 to 65536; default 4096. [5.4.6.1] MAY use less than the entire buffer. */
  readonly maxBytes?: number;
  /** Ring features offered beside VERSION_1 and ACCESS_PLATFORM; default `['indirect', 'eventIdx', 'ringReset']`. */
  readonly ringFeatures?: readonly RingFeatureName[];
  /** Runs a function soon, outside the present call: buffers are filled there. Default: they are filled inside the kick. */
  readonly defer?: (run: () => void) => void;
  /** For tests: before the first buffer is filled, 4 bytes at this address are accessed once. */
  readonly probeUnmapped?: bigint;
  /** Direction of that access; default `read`. */
  readonly probeAccess?: 'read' | 'write';
}

/** What a {@link VirtioRng} has done. */
export interface VirtioRngStats {
  /** Buffers that were given back, and bytes written to them. */
  readonly requests: number;
  readonly bytes: number;
  /** Buffers given back with nothing in them: not writable, refused by the IOMMU, or without memory. */
  readonly unfilled: number;
  /** Buffers that are taken and wait to be filled. */
  readonly pending: number;
  /** Rings found damaged or out of reach. */
  readonly brokenRings: number;
  /** How the access of `probeUnmapped` ended; undefined before it. */
  readonly probe: DmaResult | undefined;
}

const OPTIONS = [
  'dma',
  'interrupt',
  'entropy',
  'queueSize',
  'maxBytes',
  'ringFeatures',
  'defer',
  'probeUnmapped',
  'probeAccess',
] as const satisfies readonly (keyof VirtioRngOptions)[];

/** VIRTIO_ID_RNG. */
const ENTROPY_DEVICE = 4;
/** Buffers that are taken at a time. */
const BATCH = 64;
/** Queue lengths that are filled in one kick without `defer`, when the guest keeps adding. */
const ROUNDS_WITHOUT_DEFER = 16;
const DEFAULT_RING_FEATURES: readonly RingFeatureName[] = ['indirect', 'eventIdx', 'ringReset'];
const NO_INTERRUPT = { queue: () => undefined, config: () => undefined };

/** An entropy device. Nothing that a driver does makes a method throw. */
export class VirtioRng implements VirtioDeviceModel {
  /** Registers as a transport sees them. */
  readonly transport: VirtioDevice;
  readonly deviceId = ENTROPY_DEVICE;
  readonly deviceFeatures = 0n;
  readonly queueMaxSizes: readonly number[];
  readonly configLength = 0;
  readonly #dma: DmaAccess;
  readonly #source: EntropySource;
  readonly #bytes: Uint8Array;
  readonly #defer: VirtioRngOptions['defer'];
  readonly #probeAddress: bigint | undefined;
  readonly #probeWrites: boolean;
  /** Chains that are taken, in order, and those that are free for the next ones. */
  #pending: DescriptorChain[] = [];
  #idle: DescriptorChain[] = [];
  #queue: Virtqueue | undefined;
  #dmaAllowed = true;
  #damaged = false;
  #scheduled = false;
  /** Counts resets, so that filling notices that the guest reset the device under it. */
  #epoch = 0;
  #requests = 0;
  #written = 0;
  #unfilled = 0;
  #brokenRings = 0;
  #probed: DmaResult | undefined;

  /** @throws TypeError or RangeError that names the option. */
  constructor(options: VirtioRngOptions) {
    checkOptions('options', options, OPTIONS);
    const { dma, interrupt, entropy, queueSize, maxBytes, ringFeatures, defer, probeUnmapped, probeAccess } = options;
    this.#dma = dma;
    this.#source = entropySource(entropy ?? 'crypto');
    this.#bytes = new Uint8Array(checkInteger('maxBytes', maxBytes ?? 4096, 1, MAX_ENTROPY_BYTES));
    this.#defer = defer === undefined ? undefined : checkFunction('defer', defer);
    this.#probeAddress =
      probeUnmapped === undefined ? undefined : checkBigint('probeUnmapped', probeUnmapped, 0n, U64_MAX);
    this.#probeWrites = checkOneOf('probeAccess', probeAccess ?? 'read', ['read', 'write']) === 'write';
    this.queueMaxSizes = [checkQueueSize(queueSize ?? 64)];
    this.transport = new VirtioDevice(this, {
      memory: new DmaRingMemory(dma),
      interrupt: interrupt ?? NO_INTERRUPT,
      ringFeatures: [...(ringFeatures ?? DEFAULT_RING_FEATURES), 'accessPlatform'],
    });
  }

  /** A snapshot of the counters. */
  stats(): VirtioRngStats {
    return {
      requests: this.#requests,
      bytes: this.#written,
      unfilled: this.#unfilled,
      pending: this.#pending.length,
      brokenRings: this.#brokenRings,
      probe: this.#probed,
    };
  }

  /**
   * Whether the function may do DMA (bus master): what is taken and not filled waits while it may not. To be called from
   * `onBusMaster` of the function, which stops the rings by itself.
   */
  setDmaAllowed(allowed: boolean): void {
    this.#dmaAllowed = allowed;
    if (allowed && this.#pending.length > 0) this.#continue();
  }

  readConfig(): void {
    // An entropy device has no configuration space.
  }

  writeConfig(): void {
    // As above.
  }

  featuresNegotiated(): boolean {
    return true;
  }

  driverReady(queues: readonly Virtqueue[]): void {
    this.#queue = queues[0];
    this.#take();
    this.#continue();
  }

  notified(): void {
    this.#take();
    this.#continue();
  }

  reset(): void {
    this.#forget();
    this.#queue = undefined;
    this.#damaged = false;
  }

  queueReset(): void {
    this.#forget();
    this.#damaged = false;
  }

  /** Chains in flight are the driver's again. */
  #forget(): void {
    this.#epoch++;
    this.#idle.push(...this.#pending);
    this.#pending = [];
  }

  /** Takes up to one batch of buffers, and asks for a kick when that was all. */
  #take(): void {
    const queue = this.#queue;
    if (queue === undefined || this.#damaged) return;
    // A driver that adds while the ring is armed is looked at again, but not without end.
    for (let looks = 0; looks < 2 * BATCH && this.#pending.length < BATCH; looks++) {
      const chain = this.#idle.pop() ?? new DescriptorChain();
      const popped = queue.pop(chain);
      if (popped === PopResult.chain) {
        this.#pending.push(chain);
        continue;
      }
      this.#idle.push(chain);
      if (popped === PopResult.broken) {
        this.#broken();
        return;
      }
      if (!queue.armNotification()) return;
    }
  }

  /** Fills what is taken, now or soon. */
  #continue(): void {
    const defer = this.#defer;
    if (defer !== undefined) {
      if (this.#pending.length > 0 && !this.#scheduled) this.#schedule(defer);
      return;
    }
    const rounds = ROUNDS_WITHOUT_DEFER * Math.ceil((this.#queue?.size ?? 0) / BATCH);
    for (let round = 0; round < rounds && this.#pending.length > 0 && this.#dmaAllowed; round++) {
      this.#fillAll();
      this.#take();
    }
  }

  #schedule(defer: (run: () => void) => void): void {
    this.#scheduled = true;
    defer(() => {
      this.#scheduled = false;
      if (!this.#dmaAllowed) return; // setDmaAllowed goes on
      this.#fillAll();
      this.#take();
      this.#continue();
    });
  }

  /** Fills every buffer that is taken and gives all back with one interrupt. */
  #fillAll(): void {
    const queue = this.#queue;
    const epoch = this.#epoch;
    if (queue === undefined || this.#pending.length === 0) return;
    this.#probe();
    for (const chain of this.#pending) {
      const bytes = this.#fill(chain);
      if (epoch !== this.#epoch) return; // a write reached registers whose handler reset the device
      queue.push(chain.head, bytes);
      this.#requests++;
      this.#written += bytes;
      if (bytes === 0) this.#unfilled++;
    }
    this.#idle.push(...this.#pending);
    this.#pending = [];
    if (queue.publish()) this.transport.signalQueue(queue.index);
  }

  /** Random bytes into one buffer; returns how many. [5.4.6.1] one or more, unless none of it can be written. */
  #fill(chain: DescriptorChain): number {
    if (chain.malformed) return 0;
    const length = Math.min(chain.writableLength, this.#bytes.length);
    if (length === 0) return 0;
    try {
      this.#source(this.#bytes.subarray(0, length));
    } catch {
      return 0; // what the source throws is not the guest's doing, and must not end its kick
    }
    return chain.write(0, this.#bytes, length);
  }

  #probe(): void {
    if (this.#probeAddress === undefined || this.#probed !== undefined) return;
    const bytes = new Uint8Array(4);
    this.#probed = this.#probeWrites
      ? this.#dma.write(this.#probeAddress, bytes)
      : this.#dma.read(this.#probeAddress, bytes);
  }

  /** [2.1.2] D-VQ-2: a ring that is damaged or out of reach is a fatal error: DEVICE_NEEDS_RESET, and stop. */
  #broken(): void {
    this.#damaged = true;
    this.#brokenRings++;
    this.transport.needsReset();
  }
}

function checkQueueSize(value: number): number {
  checkInteger('queueSize', value, 1, 32_768);
  if ((value & (value - 1)) !== 0) throw new RangeError(`queueSize must be a power of two, got ${value}`);
  return value;
}
