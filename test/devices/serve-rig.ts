// The functions of `virtio-iommu serve` without sockets: servers that a test answers for, and the guest's drivers on them.
import type { FunctionServer, FunctionServerOptions, ServedPci } from '../../src/cli/serve-machine.ts';
import { ServeMachine } from '../../src/cli/serve-machine.ts';
import { ServeLog } from '../../src/cli/serve-log.ts';
import type { ServeFlags } from '../../src/cli/serve-options.ts';
import { serveSettings } from '../../src/cli/serve-options.ts';
import { DriverQueue } from '../../src/testing/driver-queue.ts';
import { negotiate, runQueues } from '../../src/testing/driver-setup.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import { PciDriver } from '../../src/testing/pci-driver.ts';
import { Feature } from '../../src/virtio/features.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';
import type { VirtioPciFunction } from '../../src/virtio/pci/virtio-pci-function.ts';

export const RAM_BYTES = 0x100_0000;
const DRIVER_BASE = 0x80_0000n;
export const RING_IOVA = 0xffff_0000_0000n;
export const RING_GPA = 0x10_0000n;
export const RING_BYTES = 0x2_0000n;

/** A server that only remembers. */
export class FakeServer implements FunctionServer {
  readonly options: FunctionServerOptions;
  readonly vectors: number[] = [];
  readonly interrupts = { msix: (vector: number): unknown => this.vectors.push(vector) };
  pci: ServedPci | undefined;
  closed = false;

  constructor(options: FunctionServerOptions) {
    this.options = options;
  }

  serve(pci: ServedPci): Promise<void> {
    this.pci = pci;
    return Promise.resolve();
  }

  stats(): ReturnType<FunctionServer['stats']> {
    return { connected: this.pci !== undefined, connections: 1, messages: 2, badMessages: 3, mappedBytes: RAM_BYTES };
  }

  close(): Promise<void> {
    this.pci?.reset();
    this.closed = true;
    return Promise.resolve();
  }
}

/** Configuration space and BARs as the driver's processor reaches them. */
function asFunction(pci: ServedPci): VirtioPciFunction {
  const face = {
    readConfig: (offset: number, size: number): number => {
      const bytes = new Uint8Array(size);
      pci.readConfigBytes(offset, bytes);
      return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
    },
    writeConfig: (offset: number, size: number, value: number): void => {
      pci.writeConfigBytes(
        offset,
        Uint8Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 0xff),
      );
    },
    readBar: (bar: number, offset: number, into: Uint8Array): void => pci.readBar(bar, offset, into),
    writeBar: (bar: number, offset: number, bytes: Uint8Array): void => pci.writeBar(bar, offset, bytes),
    bars: pci.bars,
  };
  return face as unknown as VirtioPciFunction;
}

/** A machine that is served, and its guest. */
export class ServeRig {
  readonly lines: string[] = [];
  readonly servers: FakeServer[] = [];
  readonly machine: ServeMachine;
  readonly log = new ServeLog((line) => this.lines.push(line));
  readonly #ram = new ArrayBuffer(RAM_BYTES);
  iommu!: IommuDriver;
  rng!: PciDriver;
  ring!: DriverQueue;

  constructor(dir: string, flags: Partial<ServeFlags> = {}) {
    const settings = serveSettings({ dir, translation: true, entropy: 'counter', ...flags });
    this.machine = new ServeMachine(
      settings,
      (options) => {
        const server = new FakeServer(options);
        options.memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES), windows: [this.#ram] });
        this.servers.push(server);
        return server;
      },
      this.log,
      {}, // everything inside a kick, so that a test needs no patience
    );
  }

  /** The guest boots: its firmware has done nothing, its drivers find their devices. */
  async boot(): Promise<this> {
    if (this.servers[0]!.pci === undefined) await this.machine.listen();
    this.iommu = new IommuDriver({
      device: new PciDriver(asFunction(this.servers[0]!.pci!)),
      memory: this.servers[0]!.options.memory,
      base: DRIVER_BASE,
      requestQueueSize: 64,
    });
    this.iommu.start();
    return this;
  }

  /** The entropy driver: ring memory mapped page by page, and a ring in it. */
  startRng(domain: number): void {
    for (let at = 0n; at < RING_BYTES; at += 4096n)
      this.iommu.map(domain, RING_IOVA + at, RING_IOVA + at + 4095n, RING_GPA + at);
    this.rng = new PciDriver(asFunction(this.servers[1]!.pci!));
    const view = new GuestMemory();
    const windows = [new Uint8Array(this.#ram, Number(RING_GPA), Number(RING_BYTES))];
    view.addRegion({ gpa: RING_IOVA, size: RING_BYTES, windows });
    this.ring = new DriverQueue(view, { size: 16, base: RING_IOVA, bufferBytes: 0x1_0000 });
    negotiate(this.rng, Feature.version1 | Feature.accessPlatform);
    runQueues(this.rng, [this.ring]);
  }

  /** Random bytes; `at` puts the buffer at an address of its own. */
  ask(bytes: number, at?: bigint): { usedLength: number; writable: Uint8Array } | undefined {
    const head = this.ring.add({ readable: new Uint8Array(0), writableLength: bytes });
    const [index = 0] = this.ring.descriptorsOf(head);
    if (at !== undefined) this.ring.writeDescriptor(index, { ...this.ring.readDescriptor(index), addr: at });
    this.ring.makeAvailable(head);
    this.rng.notify(0);
    return this.ring.poll()[0];
  }

  /** What the client of every function says when the machine is reset. */
  resetMachine(): void {
    for (const { pci } of this.servers) pci?.reset();
  }
}
