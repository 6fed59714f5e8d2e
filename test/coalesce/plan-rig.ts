// A machine for the unit tests of the host plan: one domain, guest memory of any kind, host contexts with limits of any
// size, a driver that kicks whole batches, and a VMM that forwards bus-master writes in the legal order.
// What devices reach is asked of the simulated host's prober. Unit: 4 KiB page numbers.
import type { AddressRange } from '../../src/base/ranges.ts';
import type { ContextMirror } from '../../src/coalesce/mirror.ts';
import type { IommufdMode, SimulatedIommufdContext, SimulatedType1Context } from '../../src/host/simulated.ts';
import { SimulatedAddressSpace, SimulatedHost } from '../../src/host/simulated.ts';
import type { HostLimitOptions } from '../../src/host/simulated/host-options.ts';
import type { MmapOptions } from '../../src/host/simulated/address-space.ts';
import type { IommuCore } from '../../src/iommu/core.ts';
import type { IommuEvent } from '../../src/iommu/events.ts';
import type { ContextStats } from '../../src/iommu/stats.ts';
import { statusName } from '../../src/iommu/status.ts';
import type { VirtioIommuOptions } from '../../src/iommu/virtio-iommu.ts';
import { VirtioIommu } from '../../src/iommu/virtio-iommu.ts';
import { NONE } from '../../src/intervals/table.ts';
import { IommuDriver } from '../../src/testing/iommu-driver.ts';
import type { DriverCommand } from '../../src/testing/requests.ts';
import type { FileSeal, MemoryRegion } from '../../src/virtio/memory-types.ts';
import { GuestMemory } from '../../src/virtio/memory.ts';

const PAGE = 4096n;
/** Guest-physical address of the driver's rings, in RAM that no host context sees. */
const RINGS = 1n << 44n;
const QUEUE = 1024;
const PROBE = 512;
const RING_BYTES = Math.ceil(IommuDriver.byteLength(QUEUE, 16, PROBE) / 4096) * 4096;
/** The rings of one rig after the other: a rig is done with before the next one is made. */
const RING_MEMORY = new Uint8Array(RING_BYTES);

/** Bytes of every region of every rig: pages are told apart by the simulated host, nobody looks into them. */
let anyBytes = new Uint8Array(0);
function bytesOf(pages: number): Uint8Array {
  if (anyBytes.length < pages * 4096) anyBytes = new Uint8Array(pages * 4096);
  return anyBytes.subarray(0, pages * 4096);
}

/** One region: first guest-physical page and pages. */
export interface RamSpec {
  readonly page: number;
  readonly pages: number;
  /** Default memfd with pages of 4 KiB, told to the device as a file. */
  readonly kind?: 'memfd' | 'anonymous' | 'hugetlb';
  readonly seals?: readonly FileSeal[];
  readonly readOnly?: boolean;
  /** Host virtual page to map it at. */
  readonly at?: number;
  readonly layout?: MmapOptions['layout'];
}

export interface ContextSpec extends HostLimitOptions {
  readonly endpoints: readonly number[];
  readonly flavour?: 'type1' | 'iommufd';
  /** Of iommufd. */
  readonly mode?: IommufdMode;
  readonly mediated?: boolean;
  /** The context says that it cuts entries, which type1 refuses to do. */
  readonly claimsCuts?: boolean;
}

export interface PlanRigOptions {
  /** Default one type1 context with endpoint 1. */
  readonly contexts?: readonly ContextSpec[];
  /** Default 4096 pages of memfd from page 0x10000 on. */
  readonly ram?: readonly RamSpec[];
  readonly maxMapCount?: number;
  /** Bus-master bit of every endpoint at the start; undefined: on, and the device is never told. Default false. */
  readonly busMaster?: boolean | 'unknown';
  /** Device options; config.bypass is off unless given. */
  readonly device?: Partial<Omit<VirtioIommuOptions, 'memory' | 'endpoints' | 'interrupt'>>;
  /** Leaves the endpoints out of domain 1. */
  readonly detached?: boolean;
}

/** A MAP of pages onto guest-physical page `target`, or an UNMAP. */
export type Change =
  | readonly ['map', iova: number, pages: number, target: number, flags?: number]
  | readonly ['unmap', iova: number, pages: number];

/** First page of the default memory. */
export const RAM = 0x10000;

export class PlanRig {
  readonly host: SimulatedHost;
  readonly memory = new GuestMemory();
  readonly contexts: (SimulatedType1Context | SimulatedIommufdContext)[] = [];
  readonly iommu: VirtioIommu;
  readonly driver: IommuDriver;
  readonly events: IommuEvent[] = [];
  /** Guest-physical page -> host virtual page. */
  readonly #ram = new Map<number, number>();
  readonly #ids: number[] = [];

  constructor(options: PlanRigOptions = {}) {
    const addressSpace = new SimulatedAddressSpace({ maxMapCount: options.maxMapCount ?? 65530 });
    this.host = new SimulatedHost({ addressSpace, writeOnlyReadable: false });
    for (const spec of options.ram ?? [{ page: RAM, pages: 4096 }]) this.addRam(spec);
    this.memory.addRegion({ gpa: RINGS, size: BigInt(RING_BYTES), windows: [RING_MEMORY.fill(0)] });
    const told = options.busMaster ?? false;
    (options.contexts ?? [{ endpoints: [1] }]).forEach((spec, group) => {
      const { flavour, mode = 'large', endpoints, mediated, claimsCuts, ...limits } = spec;
      const on = { busMaster: told !== false };
      this.contexts.push(
        flavour === 'iommufd'
          ? this.host.createContext({ ...limits, ...on, group, endpoints, flavour, mode })
          : this.host.createContext({ ...limits, ...on, group, endpoints, ...(mediated === true ? { mediated } : {}) }),
      );
      if (claimsCuts === true) claimCuts(this.contexts[group]!);
      this.#ids.push(...endpoints);
    });
    this.iommu = new VirtioIommu({
      memory: this.memory,
      interrupt: { queue: () => undefined, config: () => undefined },
      requestQueueSize: QUEUE,
      eventQueueSize: 16,
      probeSize: PROBE,
      bypass: false,
      now: () => 0,
      endpoints: this.#ids.map((id) => ({
        id,
        host: this.contextOf(id),
        ...(told === 'unknown' ? {} : { busMaster: told }),
      })),
      ...options.device,
    });
    this.core.onEvent((event) => this.events.push(event));
    this.driver = new IommuDriver({ device: this.iommu.transport, memory: this.memory, base: RINGS });
    this.driver.start();
    if (options.detached !== true) for (const id of this.#ids) this.attach(id);
  }

  get core(): IommuCore {
    return this.iommu.core;
  }

  addRam({ page, pages, kind = 'memfd', seals, readOnly = false, at, layout }: RamSpec): MemoryRegion {
    const mapped = this.host.addressSpace.mmap({
      length: BigInt(pages) * PAGE,
      kind,
      ...(seals === undefined ? {} : { seals, ...(seals.includes('write') ? { prot: 'r' as const } : {}) }),
      ...(at === undefined ? {} : { at: BigInt(at) * PAGE }),
      ...(layout === undefined ? {} : { layout }),
    });
    const first = Number(mapped.hva / PAGE);
    this.moveRam(page, pages, first);
    const pageSize = kind === 'hugetlb' ? 2 ** 21 : 4096;
    return this.memory.addRegion({
      gpa: BigInt(page) * PAGE,
      size: BigInt(pages) * PAGE,
      windows: [bytesOf(pages)],
      hva: mapped.hva,
      readOnly,
      ...(kind === 'anonymous' ? {} : { file: { pageSize, ...(seals === undefined ? {} : { seals }) } }),
    });
  }

  /** Registers of a device. */
  addMmio(page: number, pages: number): MemoryRegion {
    const mapped = this.host.addressSpace.mmap({ length: BigInt(pages) * PAGE, kind: 'pfnmap' });
    const first = Number(mapped.hva / PAGE);
    this.moveRam(page, pages, first);
    return this.memory.addMmio({ gpa: BigInt(page) * PAGE, size: BigInt(pages) * PAGE, hva: mapped.hva });
  }

  /** Memory is expected at host virtual page `first` from now on; -1: none. */
  moveRam(page: number, pages: number, first: number): void {
    for (let i = 0; i < pages; i++) {
      if (first < 0) this.#ram.delete(page + i);
      else this.#ram.set(page + i, first + i);
    }
  }

  contextOf(endpoint: number): SimulatedType1Context | SimulatedIommufdContext {
    return this.contexts.find(({ endpoints }) => endpoints.includes(endpoint))!;
  }

  attach(endpoint: number, domain = 1): string {
    return statusName(this.driver.attach(domain, endpoint).status);
  }

  detach(endpoint: number, domain = 1): string {
    return statusName(this.driver.detach(domain, endpoint).status);
  }

  /** One kick; the statuses in ring order. */
  kick(changes: readonly Change[], domain = 1): string[] {
    const commands = changes.map((change): DriverCommand => {
      const [virtStart, virtEnd] = span(change[1], change[2]);
      if (change[0] === 'unmap') return { op: 'unmap', domain, virtStart, virtEnd };
      return { op: 'map', domain, virtStart, virtEnd, physStart: BigInt(change[3]) * PAGE, flags: change[4] ?? 3 };
    });
    return this.driver.batch(commands).map(({ status }) => statusName(status));
  }

  map(iova: number, pages: number, target: number, flags = 3): string {
    return this.kick([['map', iova, pages, target, flags]])[0]!;
  }

  unmap(iova: number, pages: number): string {
    return this.kick([['unmap', iova, pages]])[0]!;
  }

  /** One-page MAPs in kicks of their own; the different answers that came. */
  mapEach(iova: number, targets: readonly number[], flags = 3): Set<string> {
    return new Set(targets.map((target, i) => this.map(iova + i, 1, target, flags)));
  }

  /** One-page MAPs in one kick; the different answers that came. */
  mapAll(iova: number, targets: readonly number[], flags = 3): Set<string> {
    return new Set(this.kick(targets.map((target, i) => ['map', iova + i, 1, target, flags])));
  }

  /** Sets bus-master bits as a guest's write does; all endpoints without `ids`. */
  busMaster(on: boolean, ...ids: number[]): void {
    for (const id of ids.length === 0 ? this.#ids : ids) {
      if (!on) this.host.setBusMaster(id, false);
      this.core.setBusMaster(id, on);
      if (on) this.host.setBusMaster(id, true);
    }
  }

  stats(group = 0): ContextStats {
    return this.core.stats().contexts[group]!;
  }

  mirror(group = 0): ContextMirror {
    return [...this.core.state.groups.all][group]!.mirror;
  }

  /** Live entries as [first page, pages, rights], as the host has them. */
  entries(group = 0): number[][] {
    return this.contexts[group]!.entries().map(({ iova, pages, rights }) => [iova, pages, rights]);
  }

  /** What the device believes of a context's entries. */
  believed(group = 0): number[][] {
    const { table } = this.mirror(group).entries;
    const rows: number[][] = [];
    for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
      rows.push([table.startAt(slot), table.endAt(slot) - table.startAt(slot), table.flagsAt(slot) & 3]);
    }
    return rows;
  }

  /** What an endpoint would reach with its bus-master bit set: I/O virtual page -> physical page and rights. */
  reach(endpoint = 1): Map<number, string> {
    const on = this.host.busMaster(endpoint);
    this.host.setBusMaster(endpoint, true);
    const reach = new Map<number, string>();
    for (const run of this.host.prober(endpoint).reachable()) {
      for (let i = 0; i < run.pages; i++) reach.set(run.iova + i, `${run.physical + i}:${run.rights}`);
    }
    this.host.setBusMaster(endpoint, on);
    return reach;
  }

  /** What the mappings of a domain give where memory is. */
  given(domain = 1): Map<number, string> {
    const reach = new Map<number, string>();
    const table = this.core.state.domains.get(domain)?.table;
    if (table === undefined) return reach;
    const unit = this.core.state.granulePages;
    for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
      const start = table.startAt(slot) * unit;
      const rights = table.flagsAt(slot) & 3;
      for (let page = start; page < table.endAt(slot) * unit; page++) {
        const va = this.#ram.get(table.valueAt(slot) * unit + (page - start));
        if (va === undefined || rights === 0) continue;
        reach.set(page, `${this.host.addressSpace.physicalPageOf(va)}:${rights}`);
      }
    }
    return reach;
  }

  /** Pages that an endpoint reaches and the domain does not give: must be none at any time. */
  excess(endpoint = 1, domain = 1): number[] {
    const given = this.given(domain);
    return [...this.reach(endpoint)].filter(([page, what]) => given.get(page) !== what).map(([page]) => page);
  }

  /** Pages that the domain gives and an endpoint does not reach. */
  missing(endpoint = 1, domain = 1): number[] {
    const reach = this.reach(endpoint);
    return [...this.given(domain)].filter(([page, what]) => reach.get(page) !== what).map(([page]) => page);
  }

  eventsOf<T extends IommuEvent['type']>(type: T): Extract<IommuEvent, { type: T }>[] {
    return this.events.filter((event): event is Extract<IommuEvent, { type: T }> => event.type === type);
  }
}

function claimCuts(context: SimulatedType1Context | SimulatedIommufdContext): void {
  Object.defineProperty(context, 'limits', { value: { ...context.limits, windowPieces: 0, cuts: true } });
}

/** Inclusive byte range of pages. */
export function span(page: number, pages: number): [bigint, bigint] {
  return [BigInt(page) * PAGE, BigInt(page + pages) * PAGE - 1n];
}

/** Byte ranges of page ranges [first, end). */
export function usable(...ranges: readonly (readonly [number, number])[]): AddressRange[] {
  return ranges.map(([first, end]) => ({ start: BigInt(first) * PAGE, end: BigInt(end) * PAGE - 1n }));
}

/** `count` pages of memory from `first` on, contiguous. */
export function contiguous(count: number, first = RAM): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

/** `count` pages of memory from `first` on of which no two neighbours are contiguous, each once. */
export function scattered(count: number, first = RAM): number[] {
  const half = Math.ceil(count / 2);
  return Array.from({ length: count }, (_, i) => first + (i % 2 === 0 ? i / 2 : half + (i - 1) / 2 + 1));
}
