// An entropy device behind a real virtio-iommu, and the drivers of both. The entropy driver's ring lies in guest RAM at one
// place and has I/O virtual addresses of another: its page table is mapped page by page, so that single pages can go.
import { GuestMemory } from '../../src/virtio/memory.ts';
import { Feature } from '../../src/virtio/features.ts';
import { VirtioPciFunction } from '../../src/virtio/pci/virtio-pci-function.ts';
import { VirtioRng } from '../../src/devices/virtio-rng.ts';
import type { VirtioRngOptions } from '../../src/devices/virtio-rng.ts';
import { DriverQueue } from '../../src/testing/driver-queue.ts';
import { negotiate, runQueues } from '../../src/testing/driver-setup.ts';
import type { CompletedChain } from '../../src/testing/driver-request.ts';
import { LabMachine } from '../../src/testing/lab/machine.ts';
import { PackedDriverQueue } from '../../src/testing/packed-driver-queue.ts';
import { PciDriver } from '../../src/testing/pci-driver.ts';
import type { FaultReport } from '../../src/testing/requests.ts';

export const ENDPOINT = 24;
export const DOMAIN = 1;
export const PAGE = 4096n;
/** Where the ring and its buffers have I/O virtual addresses, and where they are. */
export const RING_IOVA = 0x12_3400_0000n;
export const RING_GPA = 0x10_0000n;
export const RING_BYTES = 0x4_0000n;
/** Flags of MAP. */
const READ_WRITE = 3;

export type RingKind = 'split' | 'packed';

export interface RngRigOptions extends Partial<Omit<VirtioRngOptions, 'dma' | 'defer'>> {
  readonly ring?: RingKind;
  /** Buffers are filled by {@link RngRig.runLater}. */
  readonly deferred?: boolean;
  readonly features?: bigint;
}

export class RngRig {
  readonly machine: LabMachine;
  readonly rng: VirtioRng;
  readonly pci: VirtioPciFunction;
  readonly driver: PciDriver;
  readonly queue: DriverQueue | PackedDriverQueue;
  readonly vectors: number[] = [];
  /** What `defer` was given. */
  readonly later: (() => void)[] = [];
  readonly #features: bigint;

  constructor({ ring = 'split', features, deferred = false, ...options }: RngRigOptions = {}) {
    this.machine = new LabMachine({
      ram: [{ gpa: 0n, size: 0x100_0000n }],
      endpoints: [{ id: ENDPOINT, passed: false }],
      driverBase: 0x80_0000n,
      entryLimit: 65_535,
      requestQueueSize: 64,
      device: { faults: { perSecond: Infinity } },
    });
    const { core } = this.machine.iommu;
    this.rng = new VirtioRng({
      dma: core.dmaView(ENDPOINT),
      entropy: 'counter',
      queueSize: 16,
      ringFeatures: ['indirect', 'eventIdx', 'ringReset', 'packed'],
      ...(deferred ? { defer: (run: () => void): unknown => this.later.push(run) } : {}),
      ...options,
    });
    this.pci = new VirtioPciFunction(this.rng.transport, {
      interrupts: { msix: (vector) => this.vectors.push(vector) },
      msixTable: 'vmm',
      onBusMaster: (on) => this.rng.setDmaAllowed(on),
    });
    const packed = ring === 'packed';
    this.#features =
      features ?? Feature.version1 | Feature.accessPlatform | Feature.indirectDesc | (packed ? Feature.ringPacked : 0n);
    this.machine.driver.start();
    this.machine.driver.attach(DOMAIN, ENDPOINT);
    this.map(RING_IOVA, RING_BYTES, RING_GPA);
    this.driver = new PciDriver(this.pci);
    const view = this.#driverView();
    const init = { size: 16, base: RING_IOVA, bufferBytes: 0x2_0000 };
    this.queue = packed ? new PackedDriverQueue(view, init) : new DriverQueue(view, init);
  }

  /** The device is given its ring: FEATURES_OK, DRIVER_OK. */
  start(): this {
    negotiate(this.driver, this.#features);
    runQueues(this.driver, [this.queue]);
    return this;
  }

  /** One mapping for each page. */
  map(iova: bigint, bytes: bigint, gpa: bigint, flags = READ_WRITE): void {
    for (let at = 0n; at < bytes; at += PAGE)
      this.machine.driver.map(DOMAIN, iova + at, iova + at + PAGE - 1n, gpa + at, flags);
  }

  unmap(iova: bigint, bytes = PAGE): void {
    this.machine.driver.unmap(DOMAIN, iova, iova + bytes - 1n);
  }

  /** Replaces one page's mapping by one with other rights. */
  remap(iova: bigint, flags: number): void {
    this.unmap(iova);
    this.map(iova, PAGE, RING_GPA + (iova - RING_IOVA), flags);
  }

  /** Offers a buffer without a kick; `at` puts it at an address of its own. */
  offer(bytes: number, at?: bigint): number {
    const { queue } = this;
    const head = queue.add({ readable: new Uint8Array(0), writableLength: bytes });
    if (at === undefined) {
      queue.makeAvailable(head);
    } else if (queue instanceof DriverQueue) {
      const [index = 0] = queue.descriptorsOf(head);
      queue.writeDescriptor(index, { ...queue.readDescriptor(index), addr: at });
      queue.makeAvailable(head);
    } else {
      queue.makeAvailable(head);
      for (let i = 0; i < queue.size; i++) {
        const descriptor = queue.readDescriptor(i);
        if (descriptor.id === head && descriptor.len === bytes) queue.writeDescriptor(i, { ...descriptor, addr: at });
      }
    }
    return head;
  }

  /** Offers a buffer, kicks, and returns what came back. */
  ask(bytes: number, at?: bigint): CompletedChain[] {
    this.offer(bytes, at);
    this.kick();
    return this.queue.poll();
  }

  kick(): void {
    this.driver.notify(0);
  }

  /** Runs what was deferred, with all that it defers in its turn. */
  runLater(): void {
    for (let run = this.later.shift(); run !== undefined; run = this.later.shift()) run();
  }

  faults(): FaultReport[] {
    return this.machine.driver.events();
  }

  /** Memory as the entropy driver's processor names it: the same bytes, at their I/O virtual addresses. */
  #driverView(): GuestMemory {
    const window = this.machine.memory.windowAt(Number(RING_GPA));
    const offset = Number(RING_GPA) - window.start;
    const view = new GuestMemory();
    const windows = [window.bytes.subarray(offset, offset + Number(RING_BYTES))];
    view.addRegion({ gpa: RING_IOVA, size: RING_BYTES, windows });
    return view;
  }
}
