// What happens in a guest that makes its kernel send requests; guest-kernel.ts turns it into them.
// Units: 4 KiB pages; ranges are {iovaPage, pages}, end EXCLUSIVE.
import type { PageRun } from './run-cursor.ts';

/** The IOMMU driver finds endpoints, in this order, and gives each a default domain; also the host bridge (endpoint 0). */
export interface BootOperation {
  readonly op: 'boot';
  readonly endpoints: readonly number[];
}

/** A user of vfio-pci opens a booted endpoint. */
export interface OpenVfioOperation {
  readonly op: 'openVfio';
  readonly endpoint: number;
  /** Guest-physical page, even, that the superpage test maps with its neighbour. */
  readonly scratchPage: number;
}

/** The user closes it: its domain ends with its mappings, no UNMAP is sent. */
export interface CloseVfioOperation {
  readonly op: 'closeVfio';
  readonly endpoint: number;
}

/** The user closes it and opens it again (device unbound and bound again, VMM restarted). */
export interface RebindOperation {
  readonly op: 'rebind';
  readonly endpoint: number;
  readonly scratchPage: number;
}

/** One VFIO_IOMMU_MAP_DMA. */
export interface VfioMapOperation {
  readonly op: 'vfioMap';
  readonly endpoint: number;
  /** Maximal physically contiguous runs, in order and without a gap. */
  readonly runs: readonly Readonly<PageRun>[];
  /** MAP flags, default READ and WRITE. */
  readonly flags?: number;
}

/** One VFIO_IOMMU_UNMAP_DMA of one earlier map. */
export interface VfioUnmapOperation {
  readonly op: 'vfioUnmap';
  readonly endpoint: number;
  readonly iovaPage: number;
  readonly pages: number;
}

/** A driver of the guest maps one buffer (dma_map_page). */
export interface DmaMapOperation {
  readonly op: 'dmaMap';
  readonly endpoint: number;
  readonly iovaPage: number;
  readonly physPage: number;
  readonly pages: number;
  readonly flags: number;
}

/** A driver of the guest maps a list of buffers at consecutive I/O virtual pages (dma_map_sg). */
export interface DmaMapSgOperation {
  readonly op: 'dmaMapSg';
  readonly endpoint: number;
  readonly iovaPage: number;
  readonly segments: readonly { readonly physPage: number; readonly pages: number }[];
  readonly flags: number;
}

/** A driver of the guest unmaps a buffer or a list; with lazy invalidation the UNMAP waits for the next notification. */
export interface DmaUnmapOperation {
  readonly op: 'dmaUnmap';
  readonly endpoint: number;
  readonly iovaPage: number;
  readonly pages: number;
}

/** The flush queue is full or its timer (10 ms) fires: what waits is notified. */
export interface FlushOperation {
  readonly op: 'flush';
}

/** Anything that makes the kernel send requests, or notify. */
export type GuestOperation =
  | BootOperation
  | OpenVfioOperation
  | CloseVfioOperation
  | RebindOperation
  | VfioMapOperation
  | VfioUnmapOperation
  | DmaMapOperation
  | DmaMapSgOperation
  | DmaUnmapOperation
  | FlushOperation;
