// A small machine for the unit tests of src/iommu and src/coalesce: the device, a driver on its rings, and a simulated host
// with groups of any size. Endpoint ids, pages and domains are small numbers; everything is counted in 4 KiB pages.
// The driver's rings lie in RAM that host contexts cannot see, so that bypass and the cap know only the guest's pages.
import type { AddressRange } from '../../src/base/ranges.ts';
import type { ReservedRegion } from '../../src/base/reserved.ts';
import type { ContextMirror } from '../../src/coalesce/mirror.ts';
import type {
  ContextOptions,
  IommufdContextOptions,
  SimulatedHostOptions,
  SimulatedIommufdContext,
  SimulatedType1Context,
} from '../../src/host/simulated.ts';
import { SimulatedHost } from '../../src/host/simulated.ts';
import type { IommuCore, TranslateResult } from '../../src/iommu/core.ts';
import type { IommuEvent } from '../../src/iommu/events.ts';
import type { VirtioIommuOptions } from '../../src/iommu/virtio-iommu.ts';
import { statusName } from '../../src/iommu/status.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { NONE } from '../../src/intervals/table.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import type { FaultReport } from '../../src/testing/requests.ts';
import { LINUX_DRIVER_FEATURES } from '../../src/testing/driver-setup.ts';
import type { MemoryRegion } from '../../src/virtio/memory.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';

export const PAGE = 4096n;
/** Guest-physical address of the driver's rings. */
export const RINGS = 1n << 40n;

export interface RigOptions {
  /** Endpoint ids of each host group. */
  readonly groups?: readonly (readonly number[])[];
  /** Endpoints without a host context. */
  readonly emulated?: readonly number[];
  /** RAM that the host can see: [first page, pages]. Default 64 pages from page 0x100 on. */
  readonly ram?: readonly (readonly [number, number])[];
  readonly reserved?: Readonly<Record<number, readonly ReservedRegion[]>>;
  readonly host?: SimulatedHostOptions;
  readonly usableRanges?: readonly AddressRange[];
  /** More about the context of a group, for example its flavour; default type1. */
  readonly context?: (group: number) => Partial<ContextOptions | IommufdContextOptions>;
  readonly device?: Partial<Omit<VirtioIommuOptions, 'memory' | 'endpoints'>>;
  /** Features that the driver accepts. */
  readonly accept?: bigint;
  /** Leaves the driver unstarted. */
  readonly cold?: boolean;
  readonly wait?: () => boolean;
  readonly queueSize?: number;
}

/** Everything that an endpoint reaches: I/O virtual page -> physical page and rights. */
export type Reach = ReadonlyMap<number, string>;

export class Rig {
  readonly host: SimulatedHost;
  readonly memory = new GuestMemory();
  readonly contexts: (SimulatedType1Context | SimulatedIommufdContext)[] = [];
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly events: IommuEvent[] = [];
  readonly fatal: string[] = [];
  readonly interrupts = { queue: [0, 0] as [number, number], config: 0 };
  readonly ramPages = new Map<number, number>();
  /** Called in the device's interrupts. */
  onInterrupt: (queue: number) => void = () => undefined;

  constructor(options: RigOptions = {}) {
    this.host = new SimulatedHost({
      entryLimit: 1000,
      ...(options.usableRanges === undefined ? {} : { usableRanges: options.usableRanges }),
      ...options.host,
    });
    for (const [page, pages] of options.ram ?? [[0x100, 64]]) this.addRam(page, pages);
    const queueSize = options.queueSize ?? 64;
    const ringBytes = BigInt(IommuDriver.byteLength(queueSize, 16, options.device?.probeSize ?? 512));
    this.memory.addRegion({ gpa: RINGS, size: ((ringBytes + PAGE - 1n) / PAGE) * PAGE });
    const reserved = (id: number): { reserved?: readonly ReservedRegion[] } =>
      options.reserved?.[id] === undefined ? {} : { reserved: options.reserved[id] };
    const passed = (options.groups ?? []).flatMap((endpoints, group) => {
      const host = this.host.createContext({ group, endpoints, ...options.context?.(group) });
      this.contexts.push(host);
      return endpoints.map((id) => ({ id, host, ...reserved(id) }));
    });
    const emulated = (options.emulated ?? []).map((id) => ({ id, ...reserved(id) }));
    this.iommu = new VirtioIommu({
      memory: this.memory,
      interrupt: {
        queue: (index) => {
          this.interrupts.queue[index]!++;
          this.onInterrupt(index);
        },
        config: () => this.interrupts.config++,
      },
      endpoints: [...passed, ...emulated],
      requestQueueSize: queueSize,
      eventQueueSize: 16,
      onFatal: (context) => this.fatal.push(context),
      ...options.device,
    });
    this.iommu.core.onEvent((event) => this.events.push(event));
    this.driver = new IommuDriver({
      device: this.iommu.transport,
      memory: this.memory,
      base: RINGS,
      features: options.accept ?? LINUX_DRIVER_FEATURES,
      ...(options.wait === undefined ? {} : { wait: options.wait }),
    });
    if (options.cold !== true) this.driver.start();
  }

  get core(): IommuCore {
    return this.iommu.core;
  }

  get counters(): Readonly<Record<string, number>> {
    return this.core.stats().counters;
  }

  /** RAM behind guest-physical pages, visible to the host. */
  addRam(page: number, pages: number, readOnly = false): MemoryRegion {
    const mapped = this.host.addressSpace.mmap({ length: BigInt(pages) * PAGE, kind: 'memfd' });
    for (let i = 0; i < pages; i++)
      this.ramPages.set(page + i, this.host.addressSpace.physicalPageOf(Number(mapped.hva / PAGE) + i));
    return this.memory.addRegion({
      gpa: BigInt(page) * PAGE,
      size: BigInt(pages) * PAGE,
      windows: mapped.windows,
      hva: mapped.hva,
      readOnly,
    });
  }

  /** Device registers behind guest-physical pages, visible to the host. */
  addMmio(page: number, pages: number): MemoryRegion {
    const mapped = this.host.addressSpace.mmap({ length: BigInt(pages) * PAGE, kind: 'pfnmap' });
    return this.memory.addMmio({ gpa: BigInt(page) * PAGE, size: BigInt(pages) * PAGE, hva: mapped.hva });
  }

  attach(domain: number, endpoint: number, flags = 0): string {
    return statusName(this.driver.attach(domain, endpoint, flags).status);
  }

  detach(domain: number, endpoint: number): string {
    return statusName(this.driver.detach(domain, endpoint).status);
  }

  /** MAP of pages. */
  map(domain: number, page: number, pages: number, target: number, flags = 3): string {
    return statusName(this.driver.map(domain, ...span(page, pages), BigInt(target) * PAGE, flags).status);
  }

  unmap(domain: number, page: number, pages: number): string {
    return statusName(this.driver.unmap(domain, ...span(page, pages)).status);
  }

  /** What a passed-through endpoint reaches now. */
  reach(endpoint: number): Reach {
    const reach = new Map<number, string>();
    for (const run of this.host.prober(endpoint).reachable()) {
      for (let i = 0; i < run.pages; i++) reach.set(run.iova + i, `${run.physical + i}:${run.rights}`);
    }
    return reach;
  }

  /** Guest pages at their own addresses, as bypass gives them. */
  get allRam(): Reach {
    return new Map([...this.ramPages].map(([page, physical]) => [page, `${physical}:3`]));
  }

  /** What `[iova page, guest-physical page, rights]` rows reach. */
  reachOf(...rows: readonly (readonly [number, number, number])[]): Reach {
    return new Map(rows.map(([iova, page, rights]) => [iova, `${this.ramPages.get(page)}:${rights}`]));
  }

  /** What the host can see behind guest-physical pages: physical page, rights, and whether it is RAM. */
  backing(): Map<number, { readonly physical: number; readonly rights: number; readonly ram: boolean }> {
    const backing = new Map<number, { physical: number; rights: number; ram: boolean }>();
    for (const { gpa, size, hva, readOnly, kind } of this.memory.regions) {
      if (hva === undefined) continue;
      for (let i = 0; i < Number(size / PAGE); i++) {
        const physical = this.host.addressSpace.physicalPageOf(Number(hva / PAGE) + i);
        backing.set(Number(gpa / PAGE) + i, { physical, rights: readOnly ? 1 : 3, ram: kind === 'ram' });
      }
    }
    return backing;
  }

  mirror(group: number): ContextMirror {
    return [...this.core.state.groups.all][group]!.mirror;
  }

  translate(endpoint: number, iova: bigint, length: number, access: 'read' | 'write' = 'read'): TranslateResult {
    return this.core.translate(endpoint, iova, length, access);
  }

  faults(): FaultReport[] {
    return this.driver.events();
  }

  eventTypes(): string[] {
    return this.events.map((event) => event.type);
  }

  lastEvent<T extends IommuEvent['type']>(type: T): Extract<IommuEvent, { type: T }> | undefined {
    return this.events.findLast((event): event is Extract<IommuEvent, { type: T }> => event.type === type);
  }

  /** Rows [first page, pages, target page, flags] of a domain's table. */
  mappings(domain: number): number[][] {
    const table = this.core.state.domains.get(domain)?.table;
    const rows: number[][] = [];
    if (table === undefined) return rows;
    for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
      const start = table.startAt(slot);
      rows.push([start, table.endAt(slot) - start, table.valueAt(slot), table.flagsAt(slot)]);
    }
    return rows;
  }

  /** What the device believes of a host context, and what the context says, in the same form. */
  tables(group: number): { readonly believed: number[][]; readonly real: number[][] } {
    const entries = this.mirror(group).entries.table;
    const believed: number[][] = [];
    for (let slot = entries.first(); slot !== NONE; slot = entries.next(slot)) {
      const start = entries.startAt(slot);
      believed.push([start, entries.endAt(slot) - start, entries.flagsAt(slot) & 3]);
    }
    return { believed, real: this.contexts[group]!.entries().map((entry) => [entry.iova, entry.pages, entry.rights]) };
  }
}

/** Inclusive byte range of pages. */
export function span(page: number, pages: number): [bigint, bigint] {
  return [BigInt(page) * PAGE, BigInt(page + pages) * PAGE - 1n];
}
