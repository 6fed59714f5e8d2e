// Arguments of the calls of the simulated process's memory: their types, defaults and checks, and the error of a refusal.
// Not here: what a call does (address-space.ts). Public edge: bytes as bigint; checked: 4 KiB page numbers.
import { checkBigint, checkInteger, checkOneOf, checkOptions, hex } from '../../base/check.ts';
import { Errno, HostError, errnoName } from '../../base/errors.ts';
import { BackingObject } from './backing-object.ts';
import type { BackingKind, FileAccess, FileSeal } from './backing-object.ts';
import { SCATTERED_GRANULES_MAX } from './physical-layout.ts';
import { Protection } from './virtual-mappings.ts';

const PAGE = 4096n;
const VA_END = 1n << 47n;
const KINDS: readonly BackingKind[] = ['memfd', 'anonymous', 'hugetlb', 'pfnmap', 'file'];
const SEALS: readonly FileSeal[] = ['shrink', 'grow', 'seal', 'write', 'future-write'];

/** First page number past the addresses of the process (47 bits). */
export const VA_END_PAGE = Number(VA_END / PAGE);

/** What the process may do: `rw`, `r` = read only, `none` = nothing (PROT_NONE). */
export type MemoryProtection = 'rw' | 'r' | 'none';

/** {@link Protection} bits of each. */
export const PROTECTION: Readonly<Record<MemoryProtection, number>> = {
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
  /** Seals that a new memfd or hugetlb file gets right after it is mapped (F_ADD_SEALS); default none. */
  readonly seals?: readonly FileSeal[];
  /** What the file of a new object is opened for: `rw` (default) or `r` = O_RDONLY. */
  readonly fileMode?: 'rw' | 'r';
}

/** A checked {@link MmapOptions}. */
export interface MmapRequest {
  readonly kind: BackingKind;
  readonly object: BackingObject | undefined;
  readonly at: number | undefined;
  readonly pages: number;
  readonly granule: number;
  readonly offset: number;
  readonly protection: number;
  readonly seed: number | undefined;
  readonly file: FileAccess | undefined;
}

const MMAP_OPTIONS = ['length', 'kind', 'pageSize', 'prot', 'at', 'source', 'layout', 'seed', 'seals', 'fileMode'];

/**
 * Checks the arguments of mmap(2).
 * @throws TypeError or RangeError for wrong ones; HostError EINVAL inside a huge page, EACCES or EPERM for a writable mapping
 * that the file does not allow, EBUSY when it cannot be sealed.
 */
export function checkMmap(options: MmapOptions): MmapRequest {
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
  const file = object === undefined ? checkFile(kind, options) : undefined;
  const refused = (protection & Protection.write) === 0 ? 0 : (object?.writeRefusal ?? checkSealable(file));
  if (refused !== 0) throw refusal('mmap', refused, 'the file does not allow a writable mapping');
  return {
    kind,
    object,
    at,
    pages,
    granule,
    offset,
    protection,
    file,
    seed: layout === 'scattered' ? seed : undefined,
  };
}

function checkFile(kind: BackingKind, { seals, fileMode }: MmapOptions): FileAccess | undefined {
  if (seals === undefined && fileMode === undefined) return undefined;
  const list: unknown = seals ?? [];
  if (!Array.isArray(list)) throw new TypeError('seals must be an array');
  const checked = list.map((seal, i) => checkOneOf(`seals[${i}]`, seal, SEALS));
  if (checked.length > 0 && kind !== 'memfd' && kind !== 'hugetlb') throw new RangeError(`seals: ${kind} has none`);
  const readOnly = checkOneOf('fileMode', fileMode ?? 'rw', ['rw', 'r']) === 'r';
  if (readOnly && kind === 'anonymous') throw new RangeError('fileMode: anonymous memory has no file');
  return { readOnly, seals: checked };
}

/** Errno that a writable mapping and the seals that follow it bring. */
function checkSealable(file: FileAccess | undefined): number {
  if (file === undefined) return 0;
  if (file.readOnly) return Errno.EACCES;
  if (file.seals.includes('write')) throw refusal('fcntl', Errno.EBUSY, 'a writable mapping keeps F_SEAL_WRITE away');
  return 0;
}

function checkSource(options: MmapOptions): BackingObject | undefined {
  if (options.source === undefined) return undefined;
  const { object } = options.source;
  if (!(object instanceof BackingObject)) throw new TypeError('source.object must be the object of an earlier mmap');
  if (object.kind === 'anonymous') throw new RangeError('source.object must not be anonymous memory');
  for (const name of ['pageSize', 'layout', 'seed', 'seals', 'fileMode'] as const) {
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

/** First page and end of [hva, hva + length), rounded up. @throws TypeError or RangeError for wrong ones. */
export function checkSpan(hva: bigint, length: bigint): [start: number, end: number] {
  const start = checkAligned('hva', hva, PAGE);
  const bytes = checkBigint('length', length, 1n, VA_END - hva);
  return [start, start + Number((bytes + PAGE - 1n) / PAGE)];
}

/** The error of a call that the kernel refuses. */
export function refusal(syscall: string, errno: number, why: string): HostError {
  return new HostError('ERR_VIOMMU_HOST_REFUSED', `${syscall} refused with ${errnoName(errno)}: ${why}`, {
    errno,
    syscall,
  });
}
