// Argument checks of VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA (type1 v2) in the kernel's order, as errno.
// Not here: what depends on the entries that exist (type1-context.ts). Byte values are bigint, page values numbers.
import { U32_MAX, U64_MAX, checkBigint, checkInteger } from '../../base/check.ts';
import { Errno } from '../../base/errors.ts';

/** Flags of {@link MapArguments}, VFIO_DMA_MAP_FLAG_*. */
export const MapFlag = { read: 1, write: 2, vaddr: 4 } as const;

/** Flags of {@link UnmapArguments}, VFIO_DMA_UNMAP_FLAG_*. */
export const UnmapFlag = { getDirty: 1, all: 2, vaddr: 4 } as const;

/** Kernel versions whose rules are known; they differ in the errno of a wrap and in pins of file pages. */
export type KernelVersion = '6.1' | '6.12' | '7.2';

/** struct vfio_iommu_type1_dma_map. */
export interface MapArguments {
  /** Default 32, the size of the struct. */
  readonly argsz?: number;
  readonly flags: number;
  readonly vaddr: bigint;
  readonly iova: bigint;
  /** Bytes. */
  readonly size: bigint;
}

/** struct vfio_iommu_type1_dma_unmap. */
export interface UnmapArguments {
  /** Default 24, the size of the struct. */
  readonly argsz?: number;
  /** Default 0. */
  readonly flags?: number;
  readonly iova: bigint;
  /** Bytes. */
  readonly size: bigint;
}

/** Result of a byte-level call: `size` as the kernel leaves it in the struct (unmap: bytes removed on success). */
export interface IoctlResult {
  readonly errno: number;
  readonly size: bigint;
}

/** First page number past the 64-bit address space. */
export const PAGE_END = 2 ** 52;

/** The rules of one context: errno of a wrap, smallest page size, usable ranges. */
export class Type1Rules {
  readonly #wrap: number;
  readonly #unitPages: number;
  readonly #unitMask: bigint;

  constructor(kernel: KernelVersion, pageSizes: bigint) {
    const unit = pageSizes & -pageSizes;
    this.#wrap = kernel === '7.2' ? Errno.EOVERFLOW : Errno.EINVAL;
    this.#unitPages = Number(unit / 4096n);
    this.#unitMask = unit - 1n;
  }

  /** Checks the arguments of a map; 0 also for the VADDR flag alone, which is no map. */
  checkMap(args: MapArguments): number {
    const argsz = checkInteger('argsz', args.argsz ?? 32, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    const vaddr = checkBigint('vaddr', args.vaddr, 0n, U64_MAX);
    const size = checkBigint('size', args.size, 0n, U64_MAX);
    if (argsz < 32 || flags > (MapFlag.read | MapFlag.write | MapFlag.vaddr)) return Errno.EINVAL;
    if (size === 0n) return Errno.EINVAL;
    if (iova + size - 1n > U64_MAX || vaddr + size - 1n > U64_MAX) return this.#wrap;
    const hasRights = (flags & (MapFlag.read | MapFlag.write)) !== 0;
    if (hasRights === ((flags & MapFlag.vaddr) !== 0)) return Errno.EINVAL;
    return ((iova | vaddr | size) & this.#unitMask) === 0n ? 0 : Errno.EINVAL;
  }

  /** {@link checkMap} for page numbers, each in [0, 2^52]. */
  checkMapPages(iova: number, pages: number, va: number, rights: number): number {
    if (pages === 0) return Errno.EINVAL;
    if (iova + pages > PAGE_END || va + pages > PAGE_END) return this.#wrap;
    if (rights === 0) return Errno.EINVAL;
    return this.#isUnaligned(iova) || this.#isUnaligned(va) || this.#isUnaligned(pages) ? Errno.EINVAL : 0;
  }

  /** Checks the arguments of an unmap; the flag ALL is allowed with iova = size = 0. */
  checkUnmap(args: UnmapArguments): number {
    const argsz = checkInteger('argsz', args.argsz ?? 24, 0, U32_MAX);
    const flags = checkInteger('flags', args.flags ?? 0, 0, U32_MAX);
    const iova = checkBigint('iova', args.iova, 0n, U64_MAX);
    const size = checkBigint('size', args.size, 0n, U64_MAX);
    if (argsz < 24 || flags > (UnmapFlag.getDirty | UnmapFlag.all | UnmapFlag.vaddr)) return Errno.EINVAL;
    // Dirty tracking is never started here, and the kernel then refuses the flag.
    if ((flags & UnmapFlag.getDirty) !== 0) return Errno.EINVAL;
    if ((flags & UnmapFlag.vaddr) !== 0) throw new RangeError('flags: VFIO_DMA_UNMAP_FLAG_VADDR is not simulated');
    if ((flags & UnmapFlag.all) !== 0) return iova === 0n && size === 0n ? 0 : Errno.EINVAL;
    if (size === 0n || ((iova | size) & this.#unitMask) !== 0n) return Errno.EINVAL;
    return iova + size - 1n > U64_MAX ? this.#wrap : 0;
  }

  /** {@link checkUnmap} for page numbers, each in [0, 2^52]. */
  checkUnmapPages(iova: number, pages: number): number {
    if (pages === 0 || this.#isUnaligned(iova) || this.#isUnaligned(pages)) return Errno.EINVAL;
    return iova + pages > PAGE_END ? this.#wrap : 0;
  }

  #isUnaligned(pages: number): boolean {
    return pages % this.#unitPages !== 0;
  }
}
