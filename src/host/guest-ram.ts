// Guest RAM of a real VMM: a sealed memfd, or a given file, mapped into this process and known to host contexts.
// Not here: guest-physical addresses (virtio's GuestMemory; see GuestRam.region). Bytes; offsets with exclusive ends.
import { checkBigint, checkFunction, checkInteger, checkOneOf, checkOptions, hex } from '../base/check.ts';
import { Errno, errnoName } from '../base/errors.ts';
import type { NativeRam } from './native-api.ts';
import type { NativeFailure } from './native.ts';
import { loadNative } from './native.ts';
import type { Verdict } from './refusals.ts';
import { attempt, closedError, refusedVerdict } from './refusals.ts';

/** Called while memory is allocated; what it throws ends the allocation and reaches the caller. */
export type AllocationProgress = (doneBytes: bigint, totalBytes: bigint) => void;

/** Options of {@link GuestRam.create}. */
export interface GuestRamOptions {
  /** Bytes; a positive multiple of 4096 and of the huge page, at most 2^53. */
  readonly size: bigint;
  /** Name in /proc/self/maps, default `guest-ram`; at most 50 characters. */
  readonly name?: string;
  /** Back the memory with huge pages of hugetlbfs; the host must have them free. */
  readonly hugePages?: '2M' | '1G';
  /** Allocate all pages now, else at their first use (then a lack of memory can end the process). Default false. */
  readonly preallocate?: boolean | AllocationProgress;
}

/** Options of {@link GuestRam.adopt}. */
export interface AdoptOptions {
  /** First byte of the file that is used, default 0; a multiple of the file's pages. */
  readonly offset?: bigint;
  /** Bytes, default up to the end of the file. */
  readonly size?: bigint;
}

/** What virtio's `GuestMemory.addRegion` takes. */
export interface GuestRamRegion {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly windows: readonly ArrayBuffer[];
  readonly hva: bigint;
  /** The file behind the memory, for gather windows. */
  readonly file: { readonly pageSize: number; readonly seals: readonly SealName[] };
}

/** Names of {@link FileSeal} as guest memory takes them. */
export type SealName = 'seal' | 'shrink' | 'grow' | 'write' | 'future-write';

/** F_SEAL_* of include/uapi/linux/fcntl.h. */
export const FileSeal = { seal: 1, shrink: 2, grow: 4, write: 8, futureWrite: 16 } as const;

/**
 * Neither shrink (who touches a page that is gone is killed) nor grow, and nobody may add seals: a later WRITE or
 * FUTURE_WRITE would forbid gather windows.
 */
const SEALS = FileSeal.shrink | FileSeal.grow | FileSeal.seal;

/** Names by bit number of {@link FileSeal}. */
const SEAL_NAMES: readonly SealName[] = ['seal', 'shrink', 'grow', 'write', 'future-write'];

const HUGE_SHIFT = { none: 0, '2M': 21, '1G': 30 } as const;
/** Longest window: every JavaScript engine in use takes an ArrayBuffer of this length. */
const WINDOW_BYTES = 2 ** 30;
const ALLOCATION_STEP = 1n << 26n;
const MAX_BYTES = 1n << 53n;
const MAX_OFFSET = (1n << 63n) - 1n;
const EMEDIUMTYPE = 124;
const ERANGE = 34;
const EFBIG = 27;

/**
 * Guest RAM. The mapping stays as long as an ArrayBuffer shows it, so a window can never dangle; `close` detaches the
 * windows (they get length 0, access is an error or undefined, never a crash), after which the memory goes at once, or, where
 * another thread of Node is still reading or writing a window, when it has finished.
 */
export class GuestRam {
  readonly #native: NativeRam;
  #windows: readonly ArrayBuffer[] | undefined;
  #closed = false;

  private constructor(native: NativeRam) {
    this.#native = native;
  }

  /**
   * Makes guest RAM in a memfd with the seals SHRINK, GROW and SEAL.
   * @throws TypeError or RangeError for wrong options; HostError with the errno when the host has no such memory.
   */
  static create(options: GuestRamOptions): GuestRam {
    checkOptions('options', options, ['size', 'name', 'hugePages', 'preallocate']);
    const { hugePages, name = 'guest-ram', preallocate = false } = options;
    const kind = hugePages === undefined ? 'none' : checkOneOf('options.hugePages', hugePages, ['2M', '1G']);
    const unit = kind === 'none' ? 4096n : 1n << BigInt(HUGE_SHIFT[kind]);
    const size = checkMultiple('options.size', checkBigint('options.size', options.size, unit, MAX_BYTES), unit);
    checkName(name);
    if (typeof preallocate !== 'boolean') checkFunction('options.preallocate', preallocate);
    const { NativeRam } = loadNative();
    const native = attempt(
      () => NativeRam.create(name, size, HUGE_SHIFT[kind], SEALS),
      (failure) => createVerdict(failure, size, kind),
    );
    const ram = new GuestRam(native);
    try {
      if (preallocate !== false) ram.preallocate(typeof preallocate === 'function' ? preallocate : undefined);
    } catch (error) {
      ram.close();
      throw error;
    }
    return ram;
  }

  /**
   * Uses memory that another process made, for example a memory backend of a VMM: the file behind `fd`, of which a
   * descriptor of its own is kept, so the caller may close `fd`. Only files on tmpfs (memfd, shared memory) and hugetlbfs, open
   * for reading and writing. A file without the seal SHRINK (see {@link seals}) kills this process when it is shrunk.
   * @throws TypeError or RangeError for wrong arguments; HostError ERR_VIOMMU_HOST_INCOMPATIBLE for another kind of file,
   * ERR_VIOMMU_HOST_REFUSED with the errno for the rest.
   */
  static adopt(fd: number, options: AdoptOptions = {}): GuestRam {
    checkInteger('fd', fd, 0, 2 ** 31 - 1);
    checkOptions('options', options, ['offset', 'size']);
    const offset = checkBigint('options.offset', options.offset ?? 0n, 0n, MAX_OFFSET);
    const size = options.size === undefined ? 0n : checkBigint('options.size', options.size, 1n, MAX_BYTES);
    checkMultiple('options.offset', offset, 4096n);
    checkMultiple('options.size', size, 4096n);
    const { NativeRam } = loadNative();
    return new GuestRam(attempt(() => NativeRam.adopt(fd, offset, size), adoptVerdict));
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Bytes. */
  get size(): bigint {
    return this.#open('size').size();
  }

  /** Host virtual address of the first byte; contiguous over all windows. */
  get hva(): bigint {
    return this.#open('hva').address();
  }

  /** Size of the file's pages in bytes: gather windows are made of whole ones. */
  get pageSize(): number {
    return this.#open('pageSize').pageSize();
  }

  /** {@link FileSeal} bits of the file, -1 where it has none. */
  get seals(): number {
    return this.#open('seals').seals();
  }

  /** All bytes in order, in ArrayBuffers of 1 GiB and a shorter last one; always the same ones. They stay on this
   * thread: Node does not transfer them; other threads take {@link duplicateFd}. */
  get windows(): readonly ArrayBuffer[] {
    const native = this.#open('windows');
    this.#windows ??= Object.freeze(attempt(() => native.windows(WINDOW_BYTES), refusedVerdict));
    return this.#windows;
  }

  /** The argument of `GuestMemory.addRegion` that puts all of this memory at a guest-physical address. */
  region(gpa: bigint): GuestRamRegion {
    const { size, windows, hva, pageSize, seals } = this;
    return { gpa, size, windows, hva, file: { pageSize, seals: sealNames(seals) } };
  }

  /**
   * A new descriptor of the file, close-on-exec, that the caller owns: for another process, or a worker, which maps the same
   * memory with {@link adopt}. (An ArrayBuffer cannot be shared with a worker.)
   */
  duplicateFd(): number {
    const native = this.#open('duplicateFd');
    return attempt(() => native.duplicate(), refusedVerdict);
  }

  /**
   * Makes all pages now, in steps of 64 MiB or one huge page.
   * @throws HostError with ENOSPC or ENOMEM when the host has not enough; pages made before stay.
   */
  preallocate(progress?: AllocationProgress): void {
    if (progress !== undefined) checkFunction('progress', progress);
    const { size } = this;
    const page = BigInt(this.pageSize);
    const step = page > ALLOCATION_STEP ? page : ALLOCATION_STEP;
    for (let done = 0n; done < size;) {
      const length = size - done < step ? size - done : step;
      const native = this.#open('preallocate');
      attempt(
        () => native.allocate(done, length),
        (failure) => allocateVerdict(failure, done, size),
      );
      done += length;
      progress?.(done, size);
    }
  }

  /**
   * Gives the memory back: the windows get length 0. Remove the region from guest memory and from host contexts first: an entry
   * of a container keeps its pages. A second call does nothing.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close([...(this.#windows ?? [])]);
    this.#windows = undefined;
  }

  #open(what: string): NativeRam {
    if (this.#closed) throw closedError('guest RAM', what);
    return this.#native;
  }
}

/** -1, no seals at all, names none. */
function sealNames(bits: number): SealName[] {
  return bits < 0 ? [] : SEAL_NAMES.filter((_name, index) => (bits & (1 << index)) !== 0);
}

function createVerdict(failure: NativeFailure, size: bigint, kind: keyof typeof HUGE_SHIFT): Verdict {
  const { call, errno } = failure;
  if (kind !== 'none' && call === 'mmap' && errno === Errno.ENOMEM) {
    const kib = 2 ** (HUGE_SHIFT[kind] - 10);
    const file = `/sys/kernel/mm/hugepages/hugepages-${kib}kB/nr_hugepages`;
    return [
      'ERR_VIOMMU_HOST_REFUSED',
      `the host has no ${hex(size)} bytes of free ${kind} pages: write more to ${file}`,
    ];
  }
  if (kind !== 'none' && call === 'memfd_create') {
    const message = `the host has no huge pages of ${kind} (${errnoName(errno)}): leave out hugePages, or take the other size`;
    return ['ERR_VIOMMU_HOST_INCOMPATIBLE', message];
  }
  if (errno === Errno.ENOMEM || errno === EFBIG || errno === Errno.ENOSPC) {
    return ['ERR_VIOMMU_HOST_REFUSED', `the host has no address space for ${hex(size)} bytes (${call})`];
  }
  return refusedVerdict(failure);
}

function allocateVerdict(failure: NativeFailure, done: bigint, size: bigint): Verdict {
  const { errno } = failure;
  if (errno !== Errno.ENOSPC && errno !== Errno.ENOMEM) return refusedVerdict(failure);
  const message = `the host has no more memory after ${hex(done)} of ${hex(size)} bytes (${errnoName(errno)})`;
  return ['ERR_VIOMMU_HOST_REFUSED', message];
}

function adoptVerdict(failure: NativeFailure): Verdict {
  const { call, errno } = failure;
  if (errno === EMEDIUMTYPE) {
    const message =
      'fd must be a file on tmpfs (memfd, shared memory) or hugetlbfs: devices cannot pin pages of other files';
    return ['ERR_VIOMMU_HOST_INCOMPATIBLE', message];
  }
  if (call === 'fstat' && errno === Errno.EINVAL) {
    return ['ERR_VIOMMU_HOST_INCOMPATIBLE', 'fd must be a regular file, not a directory, pipe or device'];
  }
  if (call === 'fstat' && errno === ERANGE) {
    return ['ERR_VIOMMU_HOST_REFUSED', 'options.offset and options.size must lie inside the file'];
  }
  if (errno === Errno.EINVAL) {
    return ['ERR_VIOMMU_HOST_REFUSED', 'options.offset and the size must be whole pages of the file, and not be 0'];
  }
  if (errno === Errno.EACCES) return ['ERR_VIOMMU_HOST_REFUSED', 'fd must be open for reading and writing'];
  if (errno === Errno.EPERM) {
    return ['ERR_VIOMMU_HOST_INCOMPATIBLE', 'the file is sealed against writing (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE)'];
  }
  if (call === 'fcntl') return ['ERR_VIOMMU_HOST_REFUSED', `fd cannot be used: ${errnoName(errno)}`];
  return refusedVerdict(failure);
}

function checkMultiple(name: string, value: bigint, unit: bigint): bigint {
  if (value % unit !== 0n) throw new RangeError(`${name} must be a multiple of ${hex(unit)}, got ${hex(value)}`);
  return value;
}

function checkName(name: unknown): void {
  if (typeof name !== 'string') throw new TypeError('options.name must be a string');
  // The kernel takes 249 bytes; a character has at most 4.
  if (name.length > 50 || name.includes('\0'))
    throw new RangeError('options.name must have at most 50 characters, none of them 0');
}
