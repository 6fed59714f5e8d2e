// A server and its client on one thread, over a real pair of sockets: the server works whenever the client waits. With a real
// virtio-iommu behind PCI registers, and guest memory that is a memfd. Needs the addon.
import { closeSync } from 'node:fs';
import { loadNative } from '../../src/host/native.ts';
import { GuestRam } from '../../src/host/guest-ram.ts';
import type { EndpointInit } from '../../src/index.ts';
import { GuestMemory, VirtioIommu } from '../../src/index.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import { PciDriver } from '../../src/testing/pci-driver.ts';
import { Command } from '../../src/vfio-user/abi.ts';
import { ClientMemory } from '../../src/vfio-user/client-memory.ts';
import { Connection } from '../../src/vfio-user/connection.ts';
import { DmaTable } from '../../src/vfio-user/dma-table.ts';
import { SignalTable } from '../../src/vfio-user/interrupts.ts';
import { Session } from '../../src/vfio-user/session.ts';
import { VirtioPciFunction } from '../../src/virtio/pci/virtio-pci-function.ts';
import { dmaMap } from './payloads.ts';
import { RemoteFunction, SyncClient } from './sync-client.ts';

export const ENDPOINT = 0x18;

/** A virtio-iommu, its server side, and a client. */
export class IommuRig {
  readonly memory = new GuestMemory();
  readonly iommu: VirtioIommu;
  readonly signals = { msix: new SignalTable(), error: new SignalTable() };
  readonly table: DmaTable;
  readonly client: SyncClient;
  readonly ram: GuestRam;
  /** Guest memory as the guest's own processor sees it. */
  readonly guest = new GuestMemory();
  readonly ended: string[] = [];
  /** Name of the memfd: other tests of the same process have theirs. */
  readonly name = `rig-${performance.now()}`.slice(0, 40);
  readonly #connection: Connection;
  readonly #close: () => void;

  /** `bytes` of guest RAM at 0, mapped by the client. */
  constructor(endpoints: readonly EndpointInit[] = [{ id: ENDPOINT }], bytes = 1n << 26n) {
    const [here, there] = loadNative().NativeSocket.pair();
    this.iommu = new VirtioIommu({ memory: this.memory, endpoints });
    const pci = new VirtioPciFunction(this.iommu.transport, {
      interrupts: { msix: (vector) => this.signals.msix.raise(vector) },
      msixTable: 'vmm',
    });
    this.table = new DmaTable(this.memory, { maxMaps: 4096, maxBytes: 2 ** 43, requireSealed: false }, (notice) =>
      this.ended.push(notice),
    );
    const client = new ClientMemory(this.table, () => this.#connection.wake());
    const session = new Session({
      pci,
      table: this.table,
      signals: this.signals,
      client,
      maxMaps: 4096,
      onAgreed: () => undefined,
      onReset: () => undefined,
    });
    this.#connection = new Connection(here!, {
      session,
      client,
      traffic: { messages: 0, bytesIn: 0, bytesOut: 0 },
      keepAlive: false,
      ended: (reason) => this.ended.push(reason ?? 'left'),
    });
    this.client = new SyncClient(there!, () => this.#connection.serve());
    this.client.negotiate();
    this.ram = GuestRam.create({ size: bytes, name: this.name });
    this.guest.addRegion(this.ram.region(0n));
    this.map(0n, bytes, 0n);
    this.#close = () => there!.close();
  }

  /** DMA_MAP of a part of guest RAM; errno. */
  map(address: bigint, size: bigint, offset: bigint, flags = 3): number {
    const fd = this.ram.duplicateFd();
    try {
      return this.client.errno(Command.dmaMap, dmaMap(address, size, offset, flags), [fd]);
    } finally {
      closeSync(fd);
    }
  }

  /** A driver in the guest, with its rings at `base`. */
  driver(base = 0x100_0000n): IommuDriver {
    const remote = new RemoteFunction(this.client) as unknown as VirtioPciFunction;
    const driver = new IommuDriver({ device: new PciDriver(remote), memory: this.guest, base, requestQueueSize: 64 });
    driver.start();
    return driver;
  }

  close(): void {
    this.#connection.close();
    this.#close();
    this.signals.msix.clearAll();
    this.table.unmapAll();
    this.ram.close();
  }
}
