// HostContext: what the device needs from a host IOMMU, the same for the simulated host, VFIO type1 and iommufd.
// Unit everywhere in this file: 4 KiB page NUMBERS (address / 4096) held in exact numbers; ends are exclusive.
// Batches are plain typed arrays, so that one native call executes many operations and a worker could own a context.
import type { AddressRange } from '../base/ranges.ts';

/** log2 of the unit of {@link HostBatch} columns; fixed at 4 KiB also where the host's pages are larger. */
export const HOST_PAGE_SHIFT = 12;

/** Values of {@link HostBatch.kind}. */
export const HostOp = { map: 1, unmap: 2 } as const;

/** Bits of {@link HostBatch.rights}: what the device may do (VFIO_DMA_MAP_FLAG_READ and _WRITE have these values). */
export const HostRight = { read: 1, write: 2 } as const;

/** Hint beside the rights of a map: device registers (a BAR), not RAM. Gives no access; backends may need another call. */
export const HOST_MMIO = 4;

/** A list of host operations in order, and their results; columns are reused, grown by doubling, never shrunk. */
export class HostBatch {
  /** Number of operations. */
  count = 0;
  /** {@link HostOp} of each operation. */
  kind: Uint8Array;
  /** First I/O virtual page. */
  iova: Float64Array;
  /** Number of pages, > 0. */
  pages: Float64Array;
  /** First host virtual page (map only). */
  va: Float64Array;
  /** {@link HostRight} bits, and {@link HOST_MMIO} where it applies (map only). */
  rights: Uint8Array;
  /** Result: 0 or a Linux errno, valid for operations that were tried. */
  errno: Int32Array;
  /** Result: pages really unmapped (unmap only). */
  done: Float64Array;

  constructor(capacity = 64) {
    this.kind = new Uint8Array(capacity);
    this.iova = new Float64Array(capacity);
    this.pages = new Float64Array(capacity);
    this.va = new Float64Array(capacity);
    this.rights = new Uint8Array(capacity);
    this.errno = new Int32Array(capacity);
    this.done = new Float64Array(capacity);
  }

  /** Empties the list; columns keep their memory. */
  clear(): void {
    this.count = 0;
  }

  /** Appends a map of `pages` pages of I/O virtual memory at `iova` onto host virtual pages at `va`. */
  map(iova: number, pages: number, va: number, rights: number): void {
    const i = this.#append(HostOp.map, iova, pages);
    this.va[i] = va;
    this.rights[i] = rights;
  }

  /** Appends an unmap of every entry inside [iova, iova + pages). */
  unmap(iova: number, pages: number): void {
    const i = this.#append(HostOp.unmap, iova, pages);
    this.va[i] = 0;
    this.rights[i] = 0;
  }

  #append(kind: number, iova: number, pages: number): number {
    const i = this.count;
    if (i === this.kind.length) this.#grow();
    this.kind[i] = kind;
    this.iova[i] = iova;
    this.pages[i] = pages;
    this.errno[i] = 0;
    this.done[i] = 0;
    this.count = i + 1;
    return i;
  }

  #grow(): void {
    const capacity = this.kind.length * 2;
    this.kind = grown(new Uint8Array(capacity), this.kind);
    this.iova = grown(new Float64Array(capacity), this.iova);
    this.pages = grown(new Float64Array(capacity), this.pages);
    this.va = grown(new Float64Array(capacity), this.va);
    this.rights = grown(new Uint8Array(capacity), this.rights);
    this.errno = grown(new Int32Array(capacity), this.errno);
    this.done = grown(new Float64Array(capacity), this.done);
  }
}

function grown<T extends Uint8Array | Float64Array | Int32Array>(to: T, from: T): T {
  to.set(from);
  return to;
}

/** What a host context can do; read when an endpoint is added and after each attach of a group. */
export interface HostLimits {
  /** Bit set of page sizes in bytes, lowest bit = smallest (VFIO iova_pgsizes; iommufd: out_iova_alignment and up). */
  readonly pageSizes: bigint;
  /** I/O virtual addresses that may be mapped; inclusive ends, sorted; a map must lie inside ONE of them. */
  readonly usableRanges: readonly AddressRange[];
  /** Most live entries (vfio_iommu_type1.dma_entry_limit), Infinity when there is no limit (iommufd). */
  readonly entryLimit: number;
}

/**
 * One host IOMMU context: a VFIO container (one group) or an attachment to an IOAS.
 * No method throws for a refusal of the host: refusals are errno numbers. All methods throw a HostError
 * `ERR_VIOMMU_HOST_CLOSED` after {@link HostContext.close}.
 */
export interface HostContext {
  /** For messages and statistics, for example `type1 group 7`. */
  readonly name: string;
  /** Which rules hold: type1 UNMAP is atomic (EINVAL when it cuts), iommufd's is not (ENOENT). */
  readonly flavour: 'type1' | 'iommufd';
  readonly limits: HostLimits;

  /**
   * Executes operations `from`..`batch.count - 1` in order and stops at the first refusal.
   * Returns the index of the refused operation, whose errno is in `batch.errno`, or `batch.count` when all were done.
   * A refused operation has changed nothing (the caller has checked both ends before an iommufd unmap).
   */
  apply(batch: HostBatch, from: number): number;

  /** Removes every entry (VFIO_DMA_UNMAP_FLAG_ALL, IOMMU_IOAS_UNMAP of everything); returns 0 or errno. */
  unmapAll(): number;

  /** Entries that can still be made, read from the host (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL), Infinity without a limit. */
  entriesLeft(): number;

  /** Clears the bus-master bit of every device of the context, so that none can do DMA; returns 0 or errno. */
  clearBusMaster(): number;

  /** Resets every device of the context (VFIO_DEVICE_RESET); returns 0 or errno. */
  resetDevices(): number;

  /** Releases the context; entries are gone afterwards. A second call does nothing. */
  close(): void;
}
