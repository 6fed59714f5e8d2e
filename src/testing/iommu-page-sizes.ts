// How Linux cuts an iommu_map() call into driver calls: iommu_pgsize() of drivers/iommu/iommu.c, the same text in 6.1 to
// 7.2. Each driver call of virtio-iommu (viommu_map_pages) is one MAP request of page size x count.
// Units: 4 KiB pages as exact numbers; a page size below 4 KiB is a fraction of a page, which a number holds exactly.
import { U64_MAX, checkBigint, hex } from '../base/check.ts';
import { PAGE_BYTES } from './run-cursor.ts';

/** The page sizes of a domain (`domain->pgsize_bitmap`). */
export class IommuPageSizes {
  /** The mask as given. */
  readonly mask: bigint;
  /** Page sizes in pages of 4 KiB, ascending. */
  readonly #sizes: Float64Array;

  /**
   * @param mask page_size_mask of the device's configuration. RangeError naming `pageSizeMask` when it is 0, above 64 bits,
   * or its lowest bit is above 4 KiB (Linux refuses such a device, viommu_domain_finalise).
   */
  constructor(mask: bigint) {
    this.mask = checkBigint('pageSizeMask', mask, 1n, U64_MAX);
    const sizes: number[] = [];
    for (let bit = 0n; bit < 64n; bit++) if ((mask >> bit) & 1n) sizes.push(2 ** Number(bit) / PAGE_BYTES);
    if (sizes[0]! > 1) throw new RangeError(`pageSizeMask must have a bit at or below 4 KiB, got ${hex(mask)}`);
    this.#sizes = Float64Array.from(sizes);
  }

  /**
   * Pages that the first driver call of a mapping of `pages` pages takes: page size x count of iommu_pgsize().
   * `pages` >= 1; the three numbers are whole pages.
   */
  firstPiece(iovaPage: number, physPage: number, pages: number): number {
    if (pages === 1) return 1;
    const sizes = this.#sizes;
    let chosen = sizes.length - 1;
    // The largest size that fits into the mapping and to which both addresses are aligned; the smallest always does.
    while (sizes[chosen]! > pages || iovaPage % sizes[chosen]! !== 0 || physPage % sizes[chosen]! !== 0) chosen--;
    const size = sizes[chosen]!;
    const next = chosen + 1 < sizes.length ? sizes[chosen + 1]! : 0;
    let length = pages;
    if (next !== 0) {
      const offset = iovaPage % next;
      // A larger size helps only from its next boundary on, and only if both addresses reach it together.
      if (offset === physPage % next && next - offset + next <= pages) length = next - offset;
    }
    return Math.floor(length / size) * size;
  }
}
