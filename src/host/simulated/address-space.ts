// SimulatedAddressSpace: the virtual memory of the VMM process, with mmap, munmap and mprotect of the kernel.
// Public edge: bytes as bigint, [hva, hva + length). Fast paths: 4 KiB page numbers as exact numbers.
import { checkBigint, checkInteger, checkOneOf, checkOptions, hex } from '../../base/check.ts';
import { Errno, HostError, errnoName } from '../../base/errors.ts';
import { BackingObject } from './backing-object.ts';
import type { BackingKind } from './backing-object.ts';
import { SCATTERED_GRANULES_MAX } from './physical-layout.ts';
import { PhysicalMemory } from './physical-memory.ts';
import type { PinList } from './pin-list.ts';
import { Protection, VirtualMappings } from './virtual-mappings.ts';

const PAGE = 4096n;
const VA_END = 1n << 47n;
const FIRST_PAGE = 2 ** 32;
const PAGES_2M = 512;
const PAGES_1G = 512 * 512;
const KINDS: readonly BackingKind[] = ['memfd', 'anonymous', 'hugetlb', 'pfnmap', 'file'];

/** What the process may do: `rw`, `r` = read only, `none` = nothing (PROT_NONE). */
export type MemoryProtection = 'rw' | 'r' | 'none';

const PROTECTION: Readonly<Record<MemoryProtection, number>> = {
  rw: Protection.read | Protection.write,
  r: Protection.read,
  none: Protection.none,
};

/** Arguments of {@link SimulatedAddressSpace.mmap}. */
export interface MmapOptions {
  /** Bytes, > 0; rounded up to the page size. */
  readonly length: bigint;
  /** Kind of a new object; may be left out when `source` is given. */
  readonly kind?: BackingKind;
  /** Page size of a new object in bytes, a power of two; default 4096, hugetlb 2 MiB. */
  readonly pageSize?: number;
  /** Default `rw`. */
  readonly prot?: MemoryProtection;
  /** MAP_FIXED: exactly here, replacing what is mapped; default an address of the simulation's choice. */
  readonly at?: bigint;
  /** Maps part of an existing object again (same file descriptor); not for anonymous memory. */
  readonly source?: { readonly object: BackingObject; readonly offset: bigint };
  /** Physical contiguity of a new object; default `contiguous`. */
  readonly layout?: 'contiguous' | 'scattered';
  /** Seed of a scattered layout, default 0. */
  readonly seed?: number;
}

/** Result of {@link SimulatedAddressSpace.mmap}. */
export interface MappedMemory {
  /** First virtual address. */
  readonly hva: bigint;
  /** Bytes really mapped. */
  readonly size: bigint;
  readonly object: BackingObject;
  /** {@link BackingObject.windows} of the object: its whole memory, also when only a part was mapped. */
  readonly windows: ArrayBuffer[];
}

/** What lies behind an address: two addresses with equal `physical` are the same byte of memory. */
export interface MemoryByte {
  /** Simulated physical address. */
  readonly physical: bigint;
  readonly object: BackingObject;
  /** Byte offset in the object. */
  readonly offset: bigint;
}

/** The virtual memory of one simulated process. */
export class SimulatedAddressSpace {
  readonly #memory = new PhysicalMemory();
  readonly #mappings = new VirtualMappings(this.#memory);
  readonly #maxMapCount: number;
  #nextPage = FIRST_PAGE;

  /** `maxMapCount` is vm.max_map_count, default 65530. */
  constructor(options: { readonly maxMapCount?: number } = {}) {
    checkOptions('options', options, ['maxMapCount']);
    this.#maxMapCount = checkInteger('maxMapCount', options.maxMapCount ?? 65530, 0, 2 ** 31 - 1);
  }

  /** Number of virtual memory areas; neighbours that continue each other count once. */
  get mapCount(): number {
    return this.#mappings.size;
  }

  /** Number of backing objects; an anonymous one goes when nothing maps it and no device ever reached it. */
  get objectCount(): number {
    return this.#memory.size;
  }

  /**
   * Maps memory (mmap(2)).
   * @throws TypeError or RangeError for wrong arguments; HostError ERR_VIOMMU_HOST_REFUSED with EINVAL when a huge
   * page would be cut and ENOMEM when address space or vm.max_map_count is exhausted; nothing has changed then.
   */
  mmap(options: MmapOptions): MappedMemory {
    const request = checkMmap(options);
    const { granule, pages } = request;
    const start = request.at ?? this.#place(pages, granule);
    const end = start + pages;
    if (end > Number(VA_END / PAGE)) throw refusal('mmap', Errno.ENOMEM, 'the address space is exhausted');
    if (this.#mappings.size > this.#maxMapCount) throw refusal('mmap', Errno.ENOMEM, 'vm.max_map_count is reached');
    if (request.at !== undefined) this.#checkCut('mmap', start, end);
    else this.#nextPage = end + 1;
    const object = request.object ?? this.#memory.create(request.kind, pages, granule, request.seed);
    this.#mappings.remove(start, end);
    this.#mappings.add(start, end, object, request.offset, request.protection);
    return {
      hva: BigInt(start) * PAGE,
      size: BigInt(pages) * PAGE,
      object,
      get windows() {
        return object.windows;
      },
    };
  }

  /** Unmaps [hva, hva + length); holes are allowed. Pages that a host entry pinned stay where the device sees them. */
  munmap(hva: bigint, length: bigint): void {
    const [start, end] = checkSpan(hva, length);
    this.#checkCut('munmap', start, end);
    this.#mappings.remove(start, end);
  }

  /** Changes the protection of [hva, hva + length). @throws HostError ENOMEM when a page is not mapped. */
  mprotect(hva: bigint, length: bigint, prot: MemoryProtection): void {
    const [start, end] = checkSpan(hva, length);
    const protection = PROTECTION[checkOneOf('prot', prot, ['rw', 'r', 'none'])];
    if (!this.#mappings.covers(start, end)) throw refusal('mprotect', Errno.ENOMEM, 'a page is not mapped');
    this.#checkCut('mprotect', start, end);
    this.#mappings.protect(start, end, protection);
  }

  /** The byte behind a virtual address whatever its protection, undefined where nothing is mapped. */
  translate(hva: bigint): MemoryByte | undefined {
    const address = checkBigint('hva', hva, 0n, 0xffff_ffff_ffff_ffffn);
    const found = this.#mappings.find(Number(address / PAGE));
    if (found === undefined) return undefined;
    const inPage = address % PAGE;
    const physical = found.object.layout.physicalPage(found.page);
    return {
      physical: BigInt(physical) * PAGE + inPage,
      object: found.object,
      offset: BigInt(found.page) * PAGE + inPage,
    };
  }

  /** Physical page behind virtual page `page` whatever its protection, -1 where nothing is mapped. */
  physicalPageOf(page: number): number {
    return this.#mappings.physicalPage(page);
  }

  /** The object that owns physical page `physical`. */
  objectAt(physical: number): BackingObject | undefined {
    return this.#memory.objectAt(physical);
  }

  /** Pins virtual pages [page, page + pages) for a device into `pins`; 0, EFAULT or ENOMEM. */
  pin(page: number, pages: number, write: boolean, pins: PinList): number {
    return this.#mappings.pin(page, pages, write, pins);
  }

  #place(pages: number, granule: number): number {
    const alignment = Math.max(granule, pages >= PAGES_1G ? PAGES_1G : pages >= PAGES_2M ? PAGES_2M : 1);
    let start = Math.ceil(this.#nextPage / alignment) * alignment;
    // A MAP_FIXED mapping may stand in the way; one page stays free between neighbours.
    for (let taken = 0; taken >= 0;) {
      taken = this.#mappings.endOfFirstIn(start - 1, start + pages + 1);
      if (taken >= 0) start = Math.ceil((taken + 1) / alignment) * alignment;
    }
    return start;
  }

  #checkCut(syscall: string, start: number, end: number): void {
    if (this.#mappings.cutsHugePage(start) || this.#mappings.cutsHugePage(end)) {
      throw refusal(syscall, Errno.EINVAL, 'a huge page would be cut');
    }
    if (this.#mappings.size >= this.#maxMapCount && this.#mappings.isStrictlyInside(start, end)) {
      throw refusal(syscall, Errno.ENOMEM, 'vm.max_map_count is reached');
    }
  }
}

interface MmapRequest {
  readonly kind: BackingKind;
  readonly object: BackingObject | undefined;
  readonly at: number | undefined;
  readonly pages: number;
  readonly granule: number;
  readonly offset: number;
  readonly protection: number;
  readonly seed: number | undefined;
}

const MMAP_OPTIONS = ['length', 'kind', 'pageSize', 'prot', 'at', 'source', 'layout', 'seed'];

function checkMmap(options: MmapOptions): MmapRequest {
  checkOptions('options', options, MMAP_OPTIONS);
  const object = checkSource(options);
  const kind = object?.kind ?? checkOneOf('kind', options.kind, KINDS);
  const granule = object?.layout.granule ?? checkPageSize(kind, options.pageSize) / Number(PAGE);
  const unit = kind === 'hugetlb' ? BigInt(granule) * PAGE : PAGE;
  const length = checkBigint('length', options.length, 1n, VA_END);
  const pages = roundUp(length, object === undefined ? BigInt(granule) * PAGE : unit);
  const at = options.at === undefined ? undefined : checkAligned('at', options.at, unit);
  const offset = options.source === undefined ? 0 : checkAligned('source.offset', options.source.offset, PAGE);
  if (kind === 'hugetlb' && offset % granule !== 0) {
    throw refusal('mmap', Errno.EINVAL, `source.offset ${hex(offset * 4096)} is inside a huge page`);
  }
  if (object !== undefined && offset + pages > object.pages) {
    throw new RangeError(`source.offset + length must be at most the object's size ${hex(object.bytes)}`);
  }
  const protection = PROTECTION[checkOneOf('prot', options.prot ?? 'rw', ['rw', 'r', 'none'])];
  const layout = checkOneOf('layout', options.layout ?? 'contiguous', ['contiguous', 'scattered']);
  const seed = checkInteger('seed', options.seed ?? 0, 0, 2 ** 32 - 1);
  if (layout === 'scattered' && pages / granule > SCATTERED_GRANULES_MAX) {
    throw new RangeError(`length must be at most ${SCATTERED_GRANULES_MAX} pages of pageSize when layout is scattered`);
  }
  return { kind, object, at, pages, granule, offset, protection, seed: layout === 'scattered' ? seed : undefined };
}

function checkSource(options: MmapOptions): BackingObject | undefined {
  if (options.source === undefined) return undefined;
  const { object } = options.source;
  if (!(object instanceof BackingObject)) throw new TypeError('source.object must be the object of an earlier mmap');
  if (object.kind === 'anonymous') throw new RangeError('source.object must not be anonymous memory');
  for (const name of ['pageSize', 'layout', 'seed'] as const) {
    if (options[name] !== undefined) throw new TypeError(`${name} must not be given together with source`);
  }
  if (options.kind !== undefined && options.kind !== object.kind) {
    throw new RangeError(`kind must be ${object.kind}, the kind of source.object, got ${options.kind}`);
  }
  return object;
}

function checkPageSize(kind: BackingKind, value: number | undefined): number {
  const size = checkInteger('pageSize', value ?? (kind === 'hugetlb' ? 2 ** 21 : 4096), 4096, 2 ** 34);
  if (!Number.isInteger(Math.log2(size))) throw new RangeError(`pageSize must be a power of two, got ${size}`);
  return size;
}

function roundUp(length: bigint, unit: bigint): number {
  return Number((((length + unit - 1n) / unit) * unit) / PAGE);
}

function checkAligned(name: string, value: bigint, unit: bigint): number {
  if (checkBigint(name, value, 0n, VA_END - 1n) % unit !== 0n) {
    throw new RangeError(`${name} must be a multiple of ${hex(unit)}, got ${hex(value)}`);
  }
  return Number(value / PAGE);
}

function checkSpan(hva: bigint, length: bigint): [start: number, end: number] {
  const start = checkAligned('hva', hva, PAGE);
  const bytes = checkBigint('length', length, 1n, VA_END - hva);
  return [start, start + Number((bytes + PAGE - 1n) / PAGE)];
}

function refusal(syscall: string, errno: number, why: string): HostError {
  return new HostError('ERR_VIOMMU_HOST_REFUSED', `${syscall} refused with ${errnoName(errno)}: ${why}`, {
    errno,
    syscall,
  });
}
