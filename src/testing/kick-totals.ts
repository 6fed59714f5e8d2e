// What came back for the requests of many notifications: counts by status and the first refusals.
// Units: 4 KiB pages; a range is [iovaPage, iovaPage + pages), end EXCLUSIVE.
import type { Kick } from './kick.ts';
import {
  VIRTIO_IOMMU_S_NOMEM,
  VIRTIO_IOMMU_S_OK,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from '../wire/abi.ts';

/** In place of a status: the device returned the buffer without one, or never. */
export const NO_STATUS = 0xff;

/** Refusals that are kept; later ones are counted only. */
export const MAX_KEPT_REFUSALS = 16;

/** A request that was not answered with OK; a field that its type does not have is 0. */
export interface Refusal {
  /** VIRTIO_IOMMU_S_ number or {@link NO_STATUS}. */
  readonly status: number;
  /** VIRTIO_IOMMU_T_ number. */
  readonly type: number;
  readonly domain: number;
  readonly endpoint: number;
  readonly iovaPage: number;
  readonly pages: number;
  readonly physPage: number;
}

/** Running totals of a driver. */
export class KickTotals {
  kicks = 0;
  requests = 0;
  /** Requests answered with OK. */
  ok = 0;
  /** Requests by status number 0..8. */
  readonly byStatus = new Float64Array(VIRTIO_IOMMU_S_NOMEM + 1);
  /** Requests that came back without a status of [5.13.6], or not at all. */
  withoutStatus = 0;
  /** Pages of the MAP requests that were not answered with OK. */
  refusedPages = 0;
  /** The first {@link MAX_KEPT_REFUSALS} refusals, in order of completion. */
  readonly firstRefusals: Refusal[] = [];

  /** Requests not answered with OK. */
  get refused(): number {
    return this.requests - this.ok;
  }

  /** Counts the answer to entry `index` of `kick`. */
  record(kick: Kick, index: number, status: number): void {
    this.requests++;
    if (status < this.byStatus.length) this.byStatus[status]!++;
    else this.withoutStatus++;
    if (status === VIRTIO_IOMMU_S_OK) {
      this.ok++;
      return;
    }
    if (kick.op[index] === VIRTIO_IOMMU_T_MAP) this.refusedPages += kick.pages[index]!;
    if (this.firstRefusals.length >= MAX_KEPT_REFUSALS) return;
    const type = kick.op[index]!;
    const map = type === VIRTIO_IOMMU_T_MAP;
    const range = map || type === VIRTIO_IOMMU_T_UNMAP;
    this.firstRefusals.push({
      status,
      type,
      domain: type === VIRTIO_IOMMU_T_PROBE ? 0 : kick.domain[index]!,
      endpoint: range ? 0 : kick.endpoint[index]!,
      iovaPage: range ? kick.iovaPage[index]! : 0,
      pages: range ? kick.pages[index]! : 0,
      physPage: map ? kick.physPage[index]! : 0,
    });
  }
}
