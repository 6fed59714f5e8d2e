// The queues of one device in both ring formats, and the gate that holds them while the device may not do DMA.
// Not here: the rings (split-queue.ts, packed-queue.ts), when a queue starts (device.ts).
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import type { QueueSetup, RingFeatures } from './split-queue.ts';
import type { Virtqueue } from './virtqueue.ts';
import { PackedQueue } from './packed-queue.ts';
import { SplitQueue } from './split-queue.ts';
import { PopResult } from './virtqueue.ts';

/** A virtqueue as its device handles it: what the model sees, and the two ends of its life. */
export interface DeviceQueue extends Virtqueue {
  /** Starts the queue from its first entry; values that cannot work make it broken. */
  start(setup: QueueSetup, features: RingFeatures): void;
  /** Makes it idle. Nothing is written to guest memory. */
  reset(): void;
}

/** Whether a device may look at its rings. */
export interface DmaGate {
  open: boolean;
}

/** Both sets of queues; the packed ones are made when a driver first asks for them. */
export class DeviceQueues {
  readonly gate: DmaGate = { open: true };
  readonly split: readonly DeviceQueue[];
  readonly #sizes: readonly number[];
  readonly #memory: RingMemory;
  #packed: readonly DeviceQueue[] | undefined;

  /** @throws RangeError when a size is no power of two in [1, 32768]. */
  constructor(maxSizes: readonly number[], memory: RingMemory) {
    this.#sizes = maxSizes;
    this.#memory = memory;
    this.split = maxSizes.map((size, index) => new GatedSplitQueue(index, size, memory, this.gate));
  }

  /** The packed queues. */
  packed(): readonly DeviceQueue[] {
    this.#packed ??= this.#sizes.map((size, index) => new GatedPackedQueue(index, size, this.#memory, this.gate));
    return this.#packed;
  }
}

class GatedSplitQueue extends SplitQueue {
  readonly #gate: DmaGate;

  constructor(index: number, maxSize: number, memory: RingMemory, gate: DmaGate) {
    super(index, maxSize, memory);
    this.#gate = gate;
  }

  override pop(chain: DescriptorChain): number {
    return this.#gate.open ? super.pop(chain) : PopResult.empty;
  }

  override available(): number {
    return this.#gate.open ? super.available() : 0;
  }

  override armNotification(): boolean {
    return this.#gate.open && super.armNotification();
  }
}

class GatedPackedQueue extends PackedQueue {
  readonly #gate: DmaGate;

  constructor(index: number, maxSize: number, memory: RingMemory, gate: DmaGate) {
    super(index, maxSize, memory);
    this.#gate = gate;
  }

  override pop(chain: DescriptorChain): number {
    return this.#gate.open ? super.pop(chain) : PopResult.empty;
  }

  override available(): number {
    return this.#gate.open ? super.available() : 0;
  }

  override armNotification(): boolean {
    return this.#gate.open && super.armNotification();
  }
}
