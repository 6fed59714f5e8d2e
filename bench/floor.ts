// The floor: a bare loop that pops and completes the chains that Linux makes, with no device behind it.
// It believes everything that it reads (one buffer, indirect tables of two descriptors, tail in the second one), checks
// nothing and decodes nothing: what is above it is what a trustworthy device costs. Addresses are offsets in the buffer.
import type { DriverDevice } from '../src/testing/driver-setup.ts';
import { LINUX_DRIVER_FEATURES } from '../src/testing/driver-setup.ts';
import { Descriptor, Ring, RingEntry } from '../src/virtio/ring-layout.ts';
import { SplitQueue } from '../src/virtio/split-queue.ts';
import type { QueueSetup } from '../src/virtio/split-queue.ts';
import type { GuestMemory } from '../src/virtio/memory.ts';
import { Config, Tail, VIRTIO_IOMMU_REQUESTQ } from '../src/wire/abi.ts';

/** A device that an IommuDriver can start and kick, and that answers every request with OK. */
export class FloorDevice implements DriverDevice {
  readonly offeredFeatures = LINUX_DRIVER_FEATURES;
  status = 0;
  readonly #words: Uint16Array;
  readonly #longs: Uint32Array;
  /** Tell the driver their size, and are never started. */
  readonly #queues: readonly SplitQueue[];
  #next = 0;
  #mask = 0;
  #descLong = 0;
  #availWord = 0;
  #usedLong = 0;

  /** `ring` is the guest memory from guest-physical address 0 on that holds rings and buffers. */
  constructor(memory: GuestMemory, ring: ArrayBuffer, requestQueueSize: number) {
    this.#words = new Uint16Array(ring);
    this.#longs = new Uint32Array(ring);
    this.#queues = [requestQueueSize, 64].map((size, index) => new SplitQueue(index, size, memory));
  }

  writeStatus(value: number): void {
    this.status = value;
  }

  setDriverFeatures(): void {
    // Takes what Linux takes; the loop knows no other way.
  }

  readConfig(offset: number): bigint {
    return offset === Config.page_size_mask ? 0x4020_1000n : 0n;
  }

  writeConfig(): void {
    // Nothing to configure.
  }

  setupQueue(index: number, { size, desc, avail, used }: QueueSetup): void {
    if (index !== VIRTIO_IOMMU_REQUESTQ) return;
    this.#next = 0;
    this.#mask = size - 1;
    this.#descLong = Number(desc) / 4;
    this.#availWord = Number(avail) / 2;
    this.#usedLong = Number(used) / 4;
  }

  enableQueue(): void {
    // Runs from the first kick on.
  }

  queue(index: number): SplitQueue {
    return this.#queues[index]!;
  }

  notify(): void {
    const words = this.#words;
    const longs = this.#longs;
    const mask = this.#mask;
    const entries = this.#availWord + Ring.entries / 2;
    const usedEntries = this.#usedLong + Ring.entries / 4;
    const end = Atomics.load(words, this.#availWord + Ring.idx / 2);
    let next = this.#next;
    for (; next !== end; next = (next + 1) & 0xffff) {
      const head = words[entries + (next & mask)]!;
      const table = longs[this.#descLong + head * (Descriptor.SIZE / 4)]! >>> 2;
      const tail = longs[table + Descriptor.SIZE / 4]! >>> 2;
      longs[tail] = 0;
      const used = usedEntries + (next & mask) * (RingEntry.usedSize / 4);
      longs[used] = head;
      longs[used + 1] = Tail.SIZE;
    }
    this.#next = next;
    Atomics.store(words, this.#usedLong * 2 + Ring.idx / 2, next);
    Atomics.store(words, (usedEntries + (mask + 1) * (RingEntry.usedSize / 4)) * 2, next); // avail_event
  }
}
