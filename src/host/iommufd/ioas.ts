// One address space (IOAS) of an open iommufd, call by call, in bytes. Not here: batches and devices (iommufd.ts).
import { U32_MAX, U64_MAX, checkBigint, checkBoolean, checkInteger } from '../../base/check.ts';
import type { AddressRange } from '../../base/ranges.ts';
import type { NativeIommufd } from '../native-api.ts';
import type { IoasMapArguments, IoasUnmapArguments } from '../simulated/iommufd-rules.ts';
import { IoasFlag } from '../simulated/iommufd-rules.ts';
import type { IoctlResult } from '../simulated/type1-rules.ts';

/** struct iommu_ioas_copy. */
export interface IoasCopy {
  /** The address space that is read, of the same file: of this context, or of one that shares its file. */
  readonly source: IommufdIoas;
  /** IOMMU_IOAS_MAP_* bits. */
  readonly flags: number;
  readonly sourceIova: bigint;
  readonly iova: bigint;
  /** Bytes. */
  readonly length: bigint;
}

const ANY_RIGHT = IoasFlag.readable | IoasFlag.writeable;

/**
 * An address space. Areas of one that no device is attached to are not pinned: a "vault" for copies. After it was destroyed, or
 * no context uses it any more, its calls throw a HostError `ERR_VIOMMU_HOST_CLOSED`.
 */
export class IommufdIoas {
  readonly id: number;
  readonly #native: NativeIommufd;
  readonly #check: (syscall: string) => void;

  /** Made by a context. `check` throws when the address space is no more. */
  constructor(id: number, native: NativeIommufd, check: (syscall: string) => void) {
    this.id = id;
    this.#native = native;
    this.#check = check;
  }

  /** Number of areas: what this process has mapped and not unmapped, and each part of a cut one. */
  get areaCount(): number {
    return this.#open('areas').areaCount(this.id);
  }

  /** All areas, ascending; `end` is inclusive. */
  areas(): AddressRange[] {
    return rangesOf(this.#open('areas').areas(this.id));
  }

  /**
   * IOMMU_IOAS_MAP, or with `byFile` IOMMU_IOAS_MAP_FILE (Linux 6.13) of the file behind the memory. Memory that this
   * package has not made is never given to a device: EFAULT, at the latest when one is attached.
   * @throws TypeError or RangeError when no u32 or u64 is given, or for a map at an address of the kernel's choice.
   */
  map(args: IoasMapArguments, byFile = false): IoctlResult {
    const native = this.#open('IOMMU_IOAS_MAP');
    checkBoolean('byFile', byFile);
    const flags = checkFlags(args.flags);
    const userVa = checkBigint('userVa', args.userVa, 0n, U64_MAX);
    const length = checkBigint('length', args.length, 0n, U64_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return { errno: native.map(this.id, byFile, flags, userVa, length, iova), size: length };
  }

  /**
   * IOMMU_IOAS_COPY: the same memory once more, pinned and counted once. EFAULT also when memory of the source was given back
   * meanwhile. @throws as {@link map}.
   */
  copy(args: IoasCopy): IoctlResult {
    const native = this.#open('IOMMU_IOAS_COPY');
    const { source } = args;
    if (!(source instanceof IommufdIoas)) throw new TypeError('source must be an IommufdIoas');
    if (source.#native !== this.#native) throw new RangeError('source must belong to the same file');
    source.#open('IOMMU_IOAS_COPY');
    const flags = checkFlags(args.flags);
    const sourceIova = checkBigint('sourceIova', args.sourceIova, 0n, U64_MAX);
    const length = checkBigint('length', args.length, 0n, U64_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return { errno: native.copy(this.id, source.id, flags, sourceIova, length, iova), size: length };
  }

  /**
   * IOMMU_IOAS_UNMAP as the kernel does it: areas before one that the range cuts are gone when it is refused. `size` is what was
   * removed, and as given after a refusal. @throws TypeError or RangeError when no u64 is given.
   */
  unmap(args: IoasUnmapArguments): IoctlResult {
    const native = this.#open('IOMMU_IOAS_UNMAP');
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    return native.unmap(this.id, iova, checkBigint('length', args.length, 0n, U64_MAX));
  }

  #open(syscall: string): NativeIommufd {
    this.#check(syscall);
    return this.#native;
  }
}

/** Pairs of first and last addresses. */
export function rangesOf(numbers: BigUint64Array): AddressRange[] {
  const ranges: AddressRange[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2) ranges.push({ start: numbers[i]!, end: numbers[i + 1]! });
  return ranges;
}

/** With rights and without FIXED_IOVA the kernel would choose an address, which nobody here asks for. */
function checkFlags(value: number): number {
  const flags = checkInteger('flags', value, 0, U32_MAX);
  if (flags <= (IoasFlag.fixed | ANY_RIGHT) && (flags & ANY_RIGHT) !== 0 && (flags & IoasFlag.fixed) === 0) {
    throw new RangeError('flags must hold FIXED_IOVA');
  }
  return flags;
}
