// HostContext: what the device needs from a host IOMMU, the same for the simulated host, VFIO type1 and iommufd.
// Unit everywhere in this file: 4 KiB page NUMBERS (address / 4096) held in exact numbers; ends are exclusive.
// Batches are plain typed arrays, so that one native call executes many operations and a worker could own a context.
import type { AddressRange } from '../base/ranges.ts';

/** log2 of the unit of {@link HostBatch} columns; fixed at 4 KiB also where the host's pages are larger. */
export const HOST_PAGE_SHIFT = 12;

/** Values of {@link HostBatch.kind}. */
export const HostOp = { map: 1, unmap: 2, gather: 3 } as const;

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
  /** First host virtual page (map), index of the first piece (gather). */
  va: Float64Array;
  /** Number of pieces (gather only). */
  pieces: Int32Array;
  /** Virtual page of the window that {@link HostContext.buildWindows} built; 0: none (gather only). */
  window: Float64Array;
  /** {@link HostRight} bits, and {@link HOST_MMIO} where it applies (map only). */
  rights: Uint8Array;
  /** For the caller's use; a host does not look at it. */
  note: Uint8Array;
  /** Result: 0 or a Linux errno, valid for operations that were tried. */
  errno: Int32Array;
  /** Result: pages really unmapped (unmap only). */
  done: Float64Array;
  /** Number of pieces of all gathers. */
  pieceCount = 0;
  /** First host virtual page of each piece. */
  pieceVa: Float64Array;
  /** Pages of each piece. */
  piecePages: Float64Array;

  constructor(capacity = 64) {
    this.kind = new Uint8Array(capacity);
    this.iova = new Float64Array(capacity);
    this.pages = new Float64Array(capacity);
    this.va = new Float64Array(capacity);
    this.rights = new Uint8Array(capacity);
    this.note = new Uint8Array(capacity);
    this.errno = new Int32Array(capacity);
    this.done = new Float64Array(capacity);
    this.pieces = new Int32Array(capacity);
    this.window = new Float64Array(capacity);
    this.pieceVa = new Float64Array(capacity);
    this.piecePages = new Float64Array(capacity);
  }

  /** Empties the list; columns keep their memory. */
  clear(): void {
    this.count = 0;
    this.pieceCount = 0;
  }

  /** Forgets the operations from `count` on. */
  truncate(count: number): void {
    for (let i = count; i < this.count; i++) if (this.kind[i] === HostOp.gather) this.pieceCount -= this.pieces[i]!;
    this.count = count;
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

  /**
   * Appends a map of `pages` pages at `iova` onto a virtual window that shows the pieces side by side; each piece follows
   * with {@link HostBatch.piece}, and together they have `pages` pages.
   */
  gather(iova: number, pages: number, rights: number): void {
    const i = this.#append(HostOp.gather, iova, pages);
    this.va[i] = this.pieceCount;
    this.rights[i] = rights;
    this.pieces[i] = 0;
    this.window[i] = 0;
  }

  /** Adds host virtual pages [va, va + pages) to the gather that was appended last. */
  piece(va: number, pages: number): void {
    if (this.pieceCount === this.pieceVa.length) {
      this.pieceVa = grown(new Float64Array(this.pieceCount * 2), this.pieceVa);
      this.piecePages = grown(new Float64Array(this.pieceCount * 2), this.piecePages);
    }
    this.pieceVa[this.pieceCount] = va;
    this.piecePages[this.pieceCount++] = pages;
    this.pieces[this.count - 1]!++;
  }

  #append(kind: number, iova: number, pages: number): number {
    const i = this.count;
    if (i === this.kind.length) this.#grow();
    this.kind[i] = kind;
    this.iova[i] = iova;
    this.pages[i] = pages;
    this.note[i] = 0;
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
    this.note = grown(new Uint8Array(capacity), this.note);
    this.errno = grown(new Int32Array(capacity), this.errno);
    this.done = grown(new Float64Array(capacity), this.done);
    this.pieces = grown(new Int32Array(capacity), this.pieces);
    this.window = grown(new Float64Array(capacity), this.window);
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
  /**
   * Most pieces of the virtual windows that may stand at a time (bounded by vm.max_map_count); 0: never gather. Only
   * type1 with real devices gathers: mediated ones look at the virtual address again, and iommufd has no entry limit.
   */
  readonly windowPieces: number;
  /**
   * True when an unmap may take any pages out of an entry, and what is left of it stays as it is, without any loss of access
   * (iommufd in mode `cut`). Default false: an unmap that cuts an entry is refused.
   */
  readonly cuts?: boolean;
  /**
   * False when device registers (BARs) cannot be mapped as far as is known, as on iommufd before Linux has dma-bufs of them,
   * where a map of them is refused with EFAULT: then bypass leaves them out. Default true.
   */
  readonly mmio?: boolean;
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
   * Builds the virtual window of each gather among operations `from`..`batch.count - 1`: all of them or none. Touches no
   * host entry. Returns `batch.count`, or the index of a gather whose window was refused, with its errno in `batch.errno`:
   * ENOMEM beyond {@link HostLimits.windowPieces} or vm.max_map_count, EINVAL for a piece that is not whole file pages,
   * EACCES or EPERM where the file cannot be mapped with these rights, EOPNOTSUPP where the context never gathers.
   */
  buildWindows(batch: HostBatch, from: number): number;

  /** Drops the windows that {@link buildWindows} built and {@link apply} has not used; the entries stay. */
  dropWindows(batch: HostBatch): void;

  /**
   * Executes operations `from`..`batch.count - 1` in order and stops at the first refusal. A gather maps its window as
   * one entry (EINVAL when it was not built), and then drops the window, also when the map is refused.
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

  /** Resets every device of the context (VFIO_DEVICE_RESET) and leaves its bus master off; returns 0 or errno. */
  resetDevices(): number;

  /**
   * Releases the context; entries are gone afterwards. A second call does nothing. The endpoints that name it are removed
   * first: a device that still uses it meets ERR_VIOMMU_HOST_CLOSED in the middle of requests.
   */
  close(): void;
}

/**
 * A host context whose devices can use the address space of another one: of iommufd, where an address space (IOAS) is an
 * object of its own. What {@link HostContext.apply} and {@link HostContext.unmapAll} change is the address space that the
 * devices use at the moment.
 */
export interface SharingContext extends HostContext {
  /** The same object for all contexts whose devices can use one address space. */
  readonly spaces: object;
  /**
   * The devices use the address space of `other` from now on, with the entries that are in it: nothing is mapped or pinned
   * again. What they used before is emptied, unless another context uses it. Returns 0, or errno with nothing changed
   * (EADDRINUSE when an entry lies where these devices have reserved addresses, ENOMEM); where the host refuses to put back
   * a device that it had moved already, they are attached to nothing until the next call.
   * @throws RangeError when `other` has other {@link spaces}.
   */
  attachTo(other: SharingContext): number;
  /**
   * The devices use an address space that no other context uses: an empty one, or the present one when it is theirs alone.
   * Returns 0, or errno: then they are attached to nothing and reach nothing, and the next call tries again.
   */
  attachAlone(): number;
}

/** True when the devices of a context can use the address space of others. */
export function isSharing(context: HostContext): context is SharingContext {
  return (context as Partial<SharingContext>).spaces !== undefined;
}
