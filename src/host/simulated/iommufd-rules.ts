// Argument checks of IOMMU_IOAS_MAP, _COPY and _UNMAP in the kernel's order, as errno, and the addresses that may be used.
// Not here: what depends on the areas that exist (iommufd-context.ts). Byte values are bigint, page values numbers.
// Sub-page areas, which an IOAS without a domain takes, and addresses chosen by the kernel are not simulated.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../../base/check.ts';
import { Errno } from '../../base/errors.ts';
import type { AddressRange } from '../../base/ranges.ts';
import { HostRight } from '../context.ts';
import type { KernelVersion } from './type1-rules.ts';
import { PAGE_END } from './type1-rules.ts';

/** Flags of {@link IoasMapArguments} and of a copy, IOMMU_IOAS_MAP_*. */
export const IoasFlag = { fixed: 1, writeable: 2, readable: 4 } as const;

const ANY_RIGHT = IoasFlag.writeable | IoasFlag.readable;

/** struct iommu_ioas_map. */
export interface IoasMapArguments {
  /** {@link IoasFlag} bits; `fixed` must be among them. */
  readonly flags: number;
  readonly userVa: bigint;
  readonly iova: bigint;
  /** Bytes. */
  readonly length: bigint;
}

/** struct iommu_ioas_unmap. */
export interface IoasUnmapArguments {
  readonly iova: bigint;
  /** Bytes; 0 and 2^64 - 1 together mean everything. */
  readonly length: bigint;
}

/** {@link HostRight} bits of map flags. */
export function rightsOf(flags: number): number {
  return (flags & IoasFlag.readable ? HostRight.read : 0) | (flags & IoasFlag.writeable ? HostRight.write : 0);
}

/** Flags as iommufd_ioas_map() and iommufd_ioas_copy() check them; `values` are its u64 fields but the address. */
export function checkIoasFlags(flags: number, ...values: readonly bigint[]): number {
  checkInteger('flags', flags, 0, U32_MAX);
  if (flags > (IoasFlag.fixed | ANY_RIGHT)) return Errno.EOPNOTSUPP;
  if (values.includes(U64_MAX)) return Errno.EOVERFLOW;
  if ((flags & ANY_RIGHT) === 0) return Errno.EINVAL;
  if ((flags & IoasFlag.fixed) === 0) throw new RangeError('flags: a map without FIXED_IOVA is not simulated');
  return 0;
}

/** The rules of one IOAS. */
export class IommufdRules {
  /** Smallest page size of the IOMMU, which is also PAGE_SIZE of the host, in 4 KiB pages. */
  readonly unit: number;
  readonly #lengthFirst: boolean;
  readonly #usable: readonly (readonly [first: number, end: number])[];

  constructor(kernel: KernelVersion, pageSizes: bigint, usableRanges: readonly AddressRange[]) {
    this.unit = Number((pageSizes & -pageSizes) / 4096n);
    this.#lengthFirst = kernel === '6.12';
    this.#usable = usablePages(usableRanges);
  }

  /** Checks the arguments of a map up to the alignment. */
  checkMap(args: IoasMapArguments): number {
    checkBigint('iova', args.iova, 0n, U64_MAX);
    const va = checkBigint('userVa', args.userVa, 0n, U64_MAX);
    const length = checkBigint('length', args.length, 0n, U64_MAX);
    const refused = checkIoasFlags(args.flags, args.iova, length);
    if (refused !== 0) return refused;
    const tooLong = length === 0n || length > U64_MAX - BigInt(this.unit) * 4096n;
    // The end of the memory is exclusive here, so memory up to 2^64 overflows as well.
    const wraps = va + length > U64_MAX;
    if (this.#lengthFirst && tooLong) return Errno.EINVAL;
    if (wraps) return Errno.EOVERFLOW;
    return tooLong ? Errno.EINVAL : 0;
  }

  /** iopt_check_iova() and the alignment of the length; `unit` pages is the IOAS's alignment now, 0 = none (1 byte). */
  checkPlace(iova: bigint, length: bigint, unit: number): number {
    if (unit > 0 && length % (BigInt(unit) * 4096n) !== 0n) return Errno.EINVAL;
    if (unit > 0 && iova % (BigInt(unit) * 4096n) !== 0n) return Errno.EINVAL;
    if (iova + length - 1n > U64_MAX) return Errno.EOVERFLOW;
    if (((iova | length) & 4095n) !== 0n) {
      throw new RangeError('iova and length must be multiples of 4096: sub-page areas are not simulated');
    }
    return 0;
  }

  /** {@link checkMap} and {@link checkPlace} for page numbers, each in [0, 2^52]. */
  checkMapPages(iova: number, pages: number, va: number, rights: number, unit: number): number {
    if (iova === PAGE_END || pages === PAGE_END) return Errno.EOVERFLOW;
    if (rights === 0 || pages === 0) return Errno.EINVAL;
    if (va + pages >= PAGE_END) return Errno.EOVERFLOW;
    if (unit > 0 && (pages % unit !== 0 || iova % unit !== 0)) return Errno.EINVAL;
    return iova + pages > PAGE_END ? Errno.EOVERFLOW : 0;
  }

  /** Checks the arguments of an unmap; "everything" is not an error. */
  checkUnmap(args: IoasUnmapArguments): number {
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    const length = checkBigint('length', args.length, 0n, U64_MAX);
    if (iova === 0n && length === U64_MAX) return 0;
    if (iova === U64_MAX || length === U64_MAX) return Errno.EOVERFLOW;
    if (length === 0n) return Errno.EINVAL;
    return iova + length - 1n > U64_MAX ? Errno.EOVERFLOW : 0;
  }

  /** {@link checkUnmap} for page numbers, each in [0, 2^52]. */
  checkUnmapPages(iova: number, pages: number): number {
    if (iova === 0 && pages === PAGE_END) return 0;
    if (iova === PAGE_END || pages === PAGE_END) return Errno.EOVERFLOW;
    if (pages === 0) return Errno.EINVAL;
    return iova + pages > PAGE_END ? Errno.EOVERFLOW : 0;
  }

  /** True when [iova, end) lies between the lowest and the highest usable address, reserved ones or not. */
  isInAperture(iova: number, end: number): boolean {
    return iova >= this.#usable[0]![0] && end <= this.#usable.at(-1)![1];
  }

  /** True when no reserved address lies in [iova, end): usable ranges that touch are one, unlike in type1. */
  isUsable(iova: number, end: number): boolean {
    for (const [first, limit] of this.#usable) if (iova >= first && end <= limit) return true;
    return false;
  }
}

function usablePages(ranges: readonly AddressRange[]): [first: number, end: number][] {
  const joined: { start: bigint; end: bigint }[] = [];
  for (const { start, end } of ranges) {
    const last = joined.at(-1);
    if (last !== undefined && last.end + 1n === start) last.end = end;
    else joined.push({ start, end });
  }
  return joined.map(({ start, end }) => [Number((start + 4095n) / 4096n), Number((end + 1n) / 4096n)]);
}
