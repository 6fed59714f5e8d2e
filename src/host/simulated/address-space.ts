// SimulatedAddressSpace: the virtual memory of the VMM process, with mmap, munmap and mprotect of the kernel.
// Public edge: bytes as bigint, [hva, hva + length). Fast paths: 4 KiB page numbers as exact numbers.
import { checkBigint, checkInteger, checkOneOf, checkOptions } from '../../base/check.ts';
import { Errno } from '../../base/errors.ts';
import type { BackingObject } from './backing-object.ts';
import { PROTECTION, VA_END_PAGE, checkMmap, checkSpan, refusal } from './mmap-request.ts';
import type { MemoryProtection, MmapOptions } from './mmap-request.ts';
import { PhysicalMemory } from './physical-memory.ts';
import type { PinList } from './pin-list.ts';
import { Protection, VirtualMappings } from './virtual-mappings.ts';

export type { MemoryProtection, MmapOptions } from './mmap-request.ts';

const PAGE = 4096n;
const FIRST_PAGE = 2 ** 32;
const PAGES_2M = 512;
const PAGES_1G = 512 * 512;

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

  /** vm.max_map_count. */
  get maxMapCount(): number {
    return this.#maxMapCount;
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
   * page would be cut, ENOMEM when address space or vm.max_map_count is exhausted, EACCES or EPERM when the file cannot
   * be mapped writable, and EBUSY when it cannot be sealed; nothing has changed then.
   */
  mmap(options: MmapOptions): MappedMemory {
    const request = checkMmap(options);
    const { granule, pages } = request;
    const start = request.at ?? this.#place(pages, granule);
    const end = start + pages;
    if (end > VA_END_PAGE) throw refusal('mmap', Errno.ENOMEM, 'the address space is exhausted');
    if (this.#mappings.size > this.#maxMapCount) throw refusal('mmap', Errno.ENOMEM, 'vm.max_map_count is reached');
    if (request.at !== undefined) this.#checkCut('mmap', start, end);
    else this.#nextPage = end + 1;
    const object = request.object ?? this.#memory.create(request.kind, pages, granule, request.seed, request.file);
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

  /**
   * Changes the protection of [hva, hva + length). @throws HostError ENOMEM when a page is not mapped; RangeError for
   * addresses that {@link reserve} or {@link drop} mapped, whose memory is not simulated.
   */
  mprotect(hva: bigint, length: bigint, prot: MemoryProtection): void {
    const [start, end] = checkSpan(hva, length);
    const protection = PROTECTION[checkOneOf('prot', prot, ['rw', 'r', 'none'])];
    if (!this.#mappings.covers(start, end)) throw refusal('mprotect', Errno.ENOMEM, 'a page is not mapped');
    this.#checkCut('mprotect', start, end);
    if (this.#mappings.hasReserved(start, end)) throw new RangeError('hva must not be in reserved addresses');
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

  /** What the process may do with virtual page `page`, undefined where nothing is mapped. */
  protectionOf(page: number): MemoryProtection | undefined {
    const bits = this.#mappings.protectionAt(page);
    if (bits < 0) return undefined;
    return (bits & Protection.write) !== 0 ? 'rw' : (bits & Protection.read) !== 0 ? 'r' : 'none';
  }

  /** The object that owns physical page `physical`. */
  objectAt(physical: number): BackingObject | undefined {
    return this.#memory.objectAt(physical);
  }

  /** Pins virtual pages [page, page + pages) for a device into `pins`; 0, EFAULT or ENOMEM. */
  pin(page: number, pages: number, write: boolean, pins: PinList): number {
    return this.#mappings.pin(page, pages, write, pins);
  }

  /**
   * mmap(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) at an address of the simulation's choice.
   * Returns its first page, or a negative errno (ENOMEM).
   */
  reserve(pages: number): number {
    const start = this.#place(pages, 1);
    if (start + pages > VA_END_PAGE || this.#mappings.size > this.#maxMapCount) return -Errno.ENOMEM;
    this.#nextPage = start + pages + 1;
    this.#mappings.reserve(start, start + pages);
    return start;
  }

  /**
   * mmap(MAP_SHARED | MAP_FIXED) at page `at` of the file pages behind [va, va + pages), readable, and writable with
   * `write`; one call for each area of the source. Returns 0, or the errno of the first part that was refused, with the
   * parts before it mapped: EFAULT (nothing mapped at the source), EINVAL (not whole pages of a file; also for anonymous
   * memory, as from mremap(2), and for device registers), ENOMEM (vm.max_map_count), EACCES or EPERM (no writable mapping).
   */
  alias(at: number, pages: number, va: number, write: boolean): number {
    const end = va + pages;
    for (let page = va; page < end;) {
      if (!this.#mappings.seekSource(page)) return Errno.EFAULT;
      const part = Math.min(end, this.#mappings.sourceEnd) - page;
      const errno = this.#aliasPart(at + page - va, part, page, write);
      if (errno !== 0) return errno;
      page += part;
    }
    return 0;
  }

  /**
   * {@link alias} of [vas[i], vas[i] + lengths[i]) for `first` <= i < `last` side by side from page `at` on, up to the first
   * that is refused; much faster on reserved addresses that go on before and behind.
   */
  aliasAll(at: number, vas: Float64Array, lengths: Float64Array, first: number, last: number, write: boolean): number {
    let [i, page] = [first, at];
    for (let left = this.#openRun(at, lengths, first, last); left > 0 && i < last; left--) {
      if (!this.#appendRun(page, lengths[i]!, vas[i]!, write)) break;
      page += lengths[i++]!;
    }
    this.#mappings.closeRun();
    // The rest, and what is refused, one by one as the kernel takes it.
    for (; i < last; i++) {
      const errno = this.alias(page, lengths[i]!, vas[i]!, write);
      if (errno !== 0) return errno;
      page += lengths[i]!;
    }
    return 0;
  }

  /** mmap(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED) over [at, at + pages); 0, ENOMEM or EINVAL (a huge page cut). */
  drop(at: number, pages: number): number {
    const errno = this.#fixedErrno(at, at + pages);
    if (errno === 0) this.#mappings.reserve(at, at + pages);
    return errno;
  }

  /** {@link munmap} of [at, at + pages); 0, ENOMEM or EINVAL. */
  release(at: number, pages: number): number {
    const errno = this.#cutErrno(at, at + pages);
    if (errno === 0) this.#mappings.remove(at, at + pages);
    return errno;
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

  /** Opens [at, the end of all pieces) for {@link #appendRun}; returns how many pieces fit without another question. */
  #openRun(at: number, lengths: Float64Array, first: number, last: number): number {
    let end = at;
    for (let i = first; i < last; i++) end += lengths[i]!;
    return this.#mappings.openRun(at, end) ? this.#maxMapCount - this.#mappings.size : 0;
  }

  /** Maps one piece in an open run; false, with nothing done, when it must be looked at closely. */
  #appendRun(at: number, pages: number, va: number, write: boolean): boolean {
    const mappings = this.#mappings;
    if (!mappings.seekSource(va) || va + pages > mappings.sourceEnd) return false;
    const object = mappings.sourceObject;
    const { granule } = object.layout;
    if (!object.isFile || (write && object.writeRefusal !== 0)) return false;
    if (granule > 1 && !isWhole(granule, at, pages, va - mappings.sourceOrigin)) return false;
    mappings.appendRun(object, pages, va, write ? PROTECTION.rw : PROTECTION.r);
    return true;
  }

  #aliasPart(at: number, pages: number, va: number, write: boolean): number {
    const mappings = this.#mappings;
    const { isFile, layout, writeRefusal } = mappings.sourceObject;
    if (!isFile || !isWhole(layout.granule, at, pages, va - mappings.sourceOrigin)) return Errno.EINVAL;
    const errno = this.#fixedErrno(at, at + pages) || (write ? writeRefusal : 0);
    if (errno === 0) mappings.alias(at, pages, va, write ? PROTECTION.rw : PROTECTION.r);
    return errno;
  }

  /** What mmap(MAP_FIXED) over [start, end) answers before it looks at a file. */
  #fixedErrno(start: number, end: number): number {
    return this.#mappings.size > this.#maxMapCount ? Errno.ENOMEM : this.#cutErrno(start, end);
  }

  /** Whether [start, end) can be unmapped: EINVAL inside a huge page, ENOMEM when one area would become two too many. */
  #cutErrno(start: number, end: number): number {
    const mappings = this.#mappings;
    if (mappings.cutsHugePage(start) || mappings.cutsHugePage(end)) return Errno.EINVAL;
    return mappings.size >= this.#maxMapCount && mappings.isStrictlyInside(start, end) ? Errno.ENOMEM : 0;
  }

  #checkCut(syscall: string, start: number, end: number): void {
    const errno = this.#cutErrno(start, end);
    if (errno === Errno.EINVAL) throw refusal(syscall, errno, 'a huge page would be cut');
    if (errno !== 0) throw refusal(syscall, errno, 'vm.max_map_count is reached');
  }
}

function isWhole(granule: number, at: number, pages: number, filePage: number): boolean {
  return at % granule === 0 && pages % granule === 0 && filePage % granule === 0;
}
