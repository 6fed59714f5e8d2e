// GuestKernel: a Linux 6.12 guest with its state, from what happens in it (guest-operations.ts) to the requests that its
// virtio-iommu driver puts on the ring and when it notifies. It follows drivers/iommu/virtio-iommu.c, iommu.c and
// dma-iommu.c, and drivers/vfio/vfio_iommu_type1.c. Not here: bytes and rings (iommu-driver.ts).
// Units: 4 KiB pages; ranges are {iovaPage, pages}, end EXCLUSIVE.
import { U32_MAX, checkBoolean, checkInteger, checkOptions } from '../base/check.ts';
import { NONE } from '../intervals/table.ts';
import {
  VIRTIO_IOMMU_MAP_F_READ,
  VIRTIO_IOMMU_MAP_F_WRITE,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from '../wire/abi.ts';
import { DomainIds, GuestDomain } from './guest-domain.ts';
import type { DmaMapSgOperation, GuestOperation, VfioMapOperation } from './guest-operations.ts';
import { IommuPageSizes } from './iommu-page-sizes.ts';
import type { Kick, KickSource } from './kick.ts';

/** What a kernel is told by its command line and by the device's configuration. */
export interface GuestKernelOptions {
  /** page_size_mask that the device shows; its lowest bit is at most 4 KiB. */
  readonly pageSizeMask: bigint;
  /** First id of domain_range, default 0. */
  readonly firstDomain?: number;
  /** `iommu.strict=1`: each dma_unmap notifies and waits. Default false (lazy). */
  readonly strict?: boolean;
}

const READ_WRITE = VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE;
/** VFIO_IOMMU_TLB_SYNC_MAX of vfio_iommu_type1.c. */
const REGIONS_PER_SYNC = 512;
const SUPERPAGE_TEST_PAGES = 2;

/** A request on its way into the ring; one record is reused for all. */
interface Request {
  op: number;
  domain: number;
  endpoint: number;
  iovaPage: number;
  pages: number;
  physPage: number;
  flags: number;
}

/** A request to queue, or undefined: notify when something is queued, and wait. */
type Step = Request | undefined;

interface Group {
  readonly endpoint: number;
  readonly standard: GuestDomain;
  /** Made when VFIO first takes the endpoint, kept ever after. */
  blocking: GuestDomain | undefined;
  vfio: GuestDomain | undefined;
}

/** The kernel of one guest; operations change its state as their requests are taken. */
export class GuestKernel {
  readonly #sizes: IommuPageSizes;
  readonly #strict: boolean;
  readonly #ids: DomainIds;
  readonly #groups = new Map<number, Group>();
  readonly #request: Request = { op: 0, domain: 0, endpoint: 0, iovaPage: 0, pages: 0, physPage: 0, flags: 0 };

  /** @throws RangeError or TypeError naming the wrong option. */
  constructor(options: GuestKernelOptions) {
    checkOptions('options', options, ['pageSizeMask', 'firstDomain', 'strict']);
    this.#sizes = new IommuPageSizes(options.pageSizeMask);
    this.#strict = checkBoolean('strict', options.strict ?? false);
    this.#ids = new DomainIds(checkInteger('firstDomain', options.firstDomain ?? 0, 0, U32_MAX));
  }

  /** Domain of the DMA API of an endpoint, and of VFIO while it is open; undefined for an endpoint that was not booted. */
  domainsOf(endpoint: number): { readonly standard: number; readonly vfio: number | undefined } | undefined {
    const group = this.#groups.get(endpoint);
    return group === undefined ? undefined : { standard: group.standard.id, vfio: group.vfio?.id };
  }

  /**
   * The requests of `operations` by notification. A request that finds the ring full notifies first. UNMAPs of the DMA API
   * wait for the next request that notifies; what waits at the end is notified last, as the flush queue's timer does.
   * @throws RangeError from the source, at the operation that is not possible (endpoint not booted, range mapped already).
   */
  run(operations: Iterable<GuestOperation>): KickSource {
    const steps = this.#all(operations);
    let held: Request | undefined;
    return {
      next(kick) {
        kick.clear();
        for (;;) {
          if (held === undefined) {
            const { done, value } = steps.next();
            if (done === true) return kick.count > 0;
            if (value === undefined) {
              if (kick.count > 0) return true;
              continue;
            }
            held = value;
          }
          if (kick.full) return true;
          push(kick, held);
          held = undefined;
        }
      },
    };
  }

  *#all(operations: Iterable<GuestOperation>): Generator<Step, undefined> {
    for (const operation of operations) yield* this.#one(operation);
    return undefined;
  }

  #one(operation: GuestOperation): Iterable<Step> {
    switch (operation.op) {
      case 'boot':
        return this.#boot(operation.endpoints);
      case 'openVfio':
        return this.#openVfio(this.#group(operation.endpoint), operation.scratchPage);
      case 'closeVfio':
        return this.#closeVfio(this.#group(operation.endpoint));
      case 'rebind':
        return this.#rebind(this.#group(operation.endpoint), operation.scratchPage);
      case 'vfioMap':
        return this.#vfioMap(operation);
      case 'vfioUnmap':
        return this.#vfioUnmap(this.#vfio(operation.endpoint), operation.iovaPage, operation.pages);
      case 'dmaMap':
        return this.#dmaMapSg({ ...operation, op: 'dmaMapSg', segments: [operation] });
      case 'dmaMapSg':
        return this.#dmaMapSg(operation);
      case 'dmaUnmap':
        return this.#dmaUnmap(this.#group(operation.endpoint).standard, operation.iovaPage, operation.pages);
      case 'flush':
        return [undefined];
    }
  }

  *#boot(endpoints: readonly number[]): Generator<Step> {
    for (const endpoint of endpoints) {
      if (this.#groups.has(endpoint)) throw new RangeError(`endpoint ${endpoint} is booted already`);
      yield this.#probe(endpoint);
      yield undefined;
      const standard = new GuestDomain(this.#ids.take());
      this.#groups.set(endpoint, { endpoint, standard, blocking: undefined, vfio: undefined });
      yield this.#attach(standard, endpoint);
      yield undefined;
    }
  }

  /** ATTACH to the blocking domain (DMA ownership), then to a new one, and vfio_test_domain_fgsp(). */
  *#openVfio(group: Group, scratchPage: number): Generator<Step> {
    if (group.vfio !== undefined) throw new RangeError(`endpoint ${group.endpoint} is open already`);
    group.blocking ??= new GuestDomain(this.#ids.take());
    yield this.#attach(group.blocking, group.endpoint);
    yield undefined;
    const domain = new GuestDomain(this.#ids.take());
    group.vfio = domain;
    yield this.#attach(domain, group.endpoint);
    yield undefined;
    yield* this.#map(domain, 0, scratchPage, SUPERPAGE_TEST_PAGES, READ_WRITE);
    yield undefined;
    yield* this.#unmap(domain, 0, 1);
    yield undefined;
  }

  *#closeVfio(group: Group): Generator<Step> {
    const { vfio, blocking } = group;
    if (vfio === undefined || blocking === undefined) throw new RangeError(`endpoint ${group.endpoint} is not open`);
    yield this.#attach(blocking, group.endpoint);
    yield undefined;
    this.#ids.free(vfio.id);
    group.vfio = undefined;
    yield this.#attach(group.standard, group.endpoint);
    yield undefined;
    yield* this.#replay(group.standard);
  }

  *#rebind(group: Group, scratchPage: number): Generator<Step> {
    yield* this.#closeVfio(group);
    yield* this.#openVfio(group, scratchPage);
  }

  /** viommu_replay_mappings(): the domain had no endpoint, so the device has forgotten what it maps. */
  *#replay({ id, mappings }: GuestDomain): Generator<Step> {
    for (let slot = mappings.first(); slot !== NONE; slot = mappings.next(slot)) {
      const start = mappings.startAt(slot);
      yield this.#mapRequest(id, start, mappings.valueAt(slot), mappings.endAt(slot) - start, mappings.flagsAt(slot));
      yield undefined;
    }
  }

  /** One iommu_map() and one notification per run. */
  *#vfioMap({ endpoint, runs, flags = READ_WRITE }: VfioMapOperation): Generator<Step> {
    const domain = this.#vfio(endpoint);
    for (const { iovaPage, physPage, pages } of runs) {
      yield* this.#map(domain, iovaPage, physPage, pages, flags);
      yield undefined;
    }
  }

  /** Page by page, since the superpage test found that an unmap may remove more than was asked; a sync every 512 regions. */
  *#vfioUnmap(domain: GuestDomain, iovaPage: number, pages: number): Generator<Step> {
    let regions = 0;
    for (let at = iovaPage; at < iovaPage + pages;) {
      const removed = domain.remove(at, 1);
      if (removed === 0) break;
      yield this.#unmapRequest(domain.id, at, removed);
      at += removed;
      if (++regions % REGIONS_PER_SYNC === 0) yield undefined;
    }
    yield undefined;
  }

  /** iommu_map_sg(): segments that continue each other are mapped together, all of them before the one notification. */
  *#dmaMapSg({ endpoint, iovaPage, segments, flags }: DmaMapSgOperation): Generator<Step> {
    const domain = this.#group(endpoint).standard;
    let at = iovaPage;
    for (let i = 0; i < segments.length;) {
      const { physPage } = segments[i]!;
      let pages = 0;
      while (i < segments.length && segments[i]!.physPage === physPage + pages) pages += segments[i++]!.pages;
      yield* this.#map(domain, at, physPage, pages, flags);
      at += pages;
    }
    yield undefined;
  }

  *#dmaUnmap(domain: GuestDomain, iovaPage: number, pages: number): Generator<Step> {
    yield* this.#unmap(domain, iovaPage, pages);
    if (this.#strict) yield undefined;
  }

  /** __iommu_map(): one MAP per piece of iommu_pgsize(). */
  *#map(domain: GuestDomain, iovaPage: number, physPage: number, pages: number, flags: number): Generator<Step> {
    for (let done = 0; done < pages;) {
      const piece = this.#sizes.firstPiece(iovaPage + done, physPage + done, pages - done);
      domain.add(iovaPage + done, piece, physPage + done, flags);
      yield this.#mapRequest(domain.id, iovaPage + done, physPage + done, piece, flags);
      done += piece;
    }
  }

  /** __iommu_unmap(): one UNMAP per piece of iommu_pgsize(), over the whole mappings found; none when they are too short. */
  *#unmap(domain: GuestDomain, iovaPage: number, pages: number): Generator<Step> {
    for (let done = 0; done < pages;) {
      const at = iovaPage + done;
      const piece = this.#sizes.firstPiece(at, at, pages - done);
      const removed = domain.remove(at, piece);
      if (removed < piece) return;
      yield this.#unmapRequest(domain.id, at, removed);
      done += removed;
    }
  }

  #group(endpoint: number): Group {
    const group = this.#groups.get(endpoint);
    if (group === undefined) throw new RangeError(`endpoint ${endpoint} is not booted`);
    return group;
  }

  #vfio(endpoint: number): GuestDomain {
    const { vfio } = this.#group(endpoint);
    if (vfio === undefined) throw new RangeError(`endpoint ${endpoint} is not open`);
    return vfio;
  }

  #probe(endpoint: number): Request {
    return this.#fill(VIRTIO_IOMMU_T_PROBE, { endpoint });
  }

  #attach(domain: GuestDomain, endpoint: number): Request {
    return this.#fill(VIRTIO_IOMMU_T_ATTACH, { domain: domain.id, endpoint, flags: 0 });
  }

  #mapRequest(domain: number, iovaPage: number, physPage: number, pages: number, flags: number): Request {
    return this.#fill(VIRTIO_IOMMU_T_MAP, { domain, iovaPage, physPage, pages, flags });
  }

  #unmapRequest(domain: number, iovaPage: number, pages: number): Request {
    return this.#fill(VIRTIO_IOMMU_T_UNMAP, { domain, iovaPage, pages });
  }

  #fill(op: number, fields: Partial<Request>): Request {
    return Object.assign(this.#request, fields, { op });
  }
}

function push(kick: Kick, request: Request): void {
  const { op, domain, endpoint, iovaPage, pages, physPage, flags } = request;
  if (op === VIRTIO_IOMMU_T_MAP) kick.pushMap(domain, iovaPage, physPage, pages, flags);
  else if (op === VIRTIO_IOMMU_T_UNMAP) kick.pushUnmap(domain, iovaPage, pages);
  else if (op === VIRTIO_IOMMU_T_ATTACH) kick.pushAttach(domain, endpoint, flags);
  else kick.pushProbe(endpoint);
}
