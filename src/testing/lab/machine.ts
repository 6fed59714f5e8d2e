// An L1 machine on the simulated host: guest RAM, the IOMMU device, endpoints with and without a host context, and the
// driver that L1's kernel would be. Nothing here decides what the guest does.
import type { AddressRange } from '../../base/ranges.ts';
import type { ReservedRegion } from '../../base/reserved.ts';
import type { BackingObject, SimulatedType1Context } from '../../host/simulated.ts';
import { SimulatedHost } from '../../host/simulated.ts';
import type { IommuEvent } from '../../iommu/events.ts';
import type { VirtioIommuOptions } from '../../iommu/virtio-iommu.ts';
import { VirtioIommu } from '../../iommu/virtio-iommu.ts';
import { GuestMemory } from '../../virtio/memory.ts';
import { IommuDriver } from '../iommu-driver.ts';
import type { MemoryRange } from '../l2-memory.ts';

/** The MSI window of a PC: reported by every endpoint, never mappable by its host. */
export const PC_MSI: ReservedRegion = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn };

/** An endpoint of the machine. */
export interface LabEndpoint {
  readonly id: number;
  /** Passed through from the host; an emulated device otherwise. */
  readonly passed: boolean;
  readonly reserved?: readonly ReservedRegion[];
}

/** What RAM is made of: memfd and hugetlb are files, of which a host can gather memfd's pages; anonymous has no file. */
export type LabBacking = 'memfd' | 'hugetlb' | 'anonymous';

/** What a machine is built of. */
export interface LabMachineOptions {
  /** L1's RAM, ascending; multiples of 4 KiB. */
  readonly ram: readonly MemoryRange[];
  readonly endpoints: readonly LabEndpoint[];
  /** Where L1's driver keeps its rings: L1 RAM that nothing else uses. */
  readonly driverBase: bigint;
  /** Most live entries per host container (vfio_iommu_type1.dma_entry_limit). */
  readonly entryLimit: number;
  /** I/O virtual addresses that the host maps; default those of an Intel host. */
  readonly usableRanges?: readonly AddressRange[];
  /** What L1's RAM is made of; default memfd. */
  readonly backing?: LabBacking;
  /** Where it lies in the host's memory: `contiguous` (default, so that I/O page tables stay small), or page by page. */
  readonly physical?: 'contiguous' | 'scattered';
  readonly requestQueueSize?: number;
  readonly driverFeatures?: bigint;
  /** Options of the device beside memory, endpoints and interrupts. */
  readonly device?: Omit<VirtioIommuOptions, 'memory' | 'interrupt' | 'endpoints'>;
}

/** Most events that a machine keeps for a report. */
const MAX_EVENTS = 1000;

/** One machine, booted as far as its firmware: the driver has not started. */
export class LabMachine {
  readonly host: SimulatedHost;
  readonly memory = new GuestMemory();
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly contexts = new Map<number, SimulatedType1Context>();
  /** The first events of the device, and how many there were by type. */
  readonly events: IommuEvent[] = [];
  readonly eventCounts = new Map<string, number>();

  constructor(options: LabMachineOptions) {
    const { usableRanges, backing = 'memfd', physical = 'contiguous' } = options;
    this.host = new SimulatedHost({
      entryLimit: options.entryLimit,
      ...(usableRanges === undefined ? {} : { usableRanges: [...usableRanges] }),
    });
    for (const range of options.ram) this.#addRam(range, backing, physical);
    const endpoints = options.endpoints.map((endpoint, group) => {
      const { id, reserved = [PC_MSI] } = endpoint;
      if (!endpoint.passed) return { id, reserved };
      const host = this.host.createContext({ group, endpoints: [id], busMaster: false });
      this.contexts.set(id, host);
      return { id, reserved, host };
    });
    this.iommu = new VirtioIommu({
      ...options.device,
      memory: this.memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      endpoints,
      requestQueueSize: options.requestQueueSize ?? 1024,
    });
    this.iommu.core.onEvent((event) => {
      this.eventCounts.set(event.type, (this.eventCounts.get(event.type) ?? 0) + 1);
      if (this.events.length < MAX_EVENTS) this.events.push(event);
    });
    this.driver = new IommuDriver({
      device: this.iommu.transport,
      memory: this.memory,
      base: options.driverBase,
      ...(options.driverFeatures === undefined ? {} : { features: options.driverFeatures }),
    });
  }

  /** Sets the bus-master bit of a passed endpoint as a VMM does: the device hears first of a 0 to 1 write. */
  setBusMaster(endpoint: number, on: boolean): void {
    if (on) this.iommu.core.setBusMaster(endpoint, true);
    this.host.setBusMaster(endpoint, on);
    if (!on) this.iommu.core.setBusMaster(endpoint, false);
  }

  /** Most entries that were live at a time in one container. */
  get entriesPeak(): number {
    let peak = 0;
    for (const context of this.contexts.values()) peak = Math.max(peak, context.stats().entriesPeak);
    return peak;
  }

  /** Entries that are live now, in all containers. */
  get entriesNow(): number {
    let entries = 0;
    for (const context of this.contexts.values()) entries += context.stats().entries;
    return entries;
  }

  /** Map and unmap calls of all containers so far. */
  get hostCalls(): { readonly map: number; readonly unmap: number } {
    let map = 0;
    let unmap = 0;
    for (const context of this.contexts.values()) {
      const stats = context.stats();
      map += stats.mapCalls;
      unmap += stats.unmapCalls + stats.unmapAllCalls;
    }
    return { map, unmap };
  }

  /** Ends the machine: the device first, then its containers. */
  close(): void {
    this.iommu.close();
    for (const context of this.contexts.values()) context.close();
  }

  #addRam(range: MemoryRange, kind: LabBacking, layout: 'contiguous' | 'scattered'): void {
    const { hva, object } = this.host.addressSpace.mmap({ length: range.size, kind, layout });
    const file = kind === 'anonymous' ? {} : { file: { pageSize: object.pageSize } };
    const { gpa, size } = range;
    this.memory.addRegion({ gpa, size, windows: windowsOf(object, Number(size)), hva, ...file });
  }
}

/** The first `size` bytes of an object that whole huge pages may have made longer. */
function windowsOf(object: BackingObject, size: number): Uint8Array[] {
  let left = size;
  return object.windows.slice(0, Math.ceil(size / object.windows[0]!.byteLength)).map((window) => {
    const bytes = new Uint8Array(window, 0, Math.min(left, window.byteLength));
    left -= bytes.length;
    return bytes;
  });
}
