// What a guest sends to a virtio-iommu when it gives a device to a nested guest: requests, grouped by notification.
// '6.12' follows Linux 6.12: VFIO type1 (drivers/vfio/vfio_iommu_type1.c) over the IOMMU core (drivers/iommu/iommu.c) and
// the driver (drivers/iommu/virtio-iommu.c). '4k' maps page by page and fills the ring, for the worst case.
// A kernel with its state (boot, DMA API, lazy unmaps, domain ids) is in guest-kernel.ts; nothing here has a state.
// Units: 4 KiB pages; ranges are {iovaPage, pages}, end EXCLUSIVE.
import type { KickSource, KickStep } from './kick.ts';
import type { L2Layout } from './l2-memory.ts';
import type { RunCursor } from './run-cursor.ts';
import { U32_MAX, checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import { VIRTIO_IOMMU_MAP_F_READ, VIRTIO_IOMMU_MAP_F_WRITE } from '../wire/abi.ts';
import { LinuxMapSource, LinuxSgSource, LinuxUnmapSource, PageMapSource, PageUnmapSource } from './guest-sources.ts';
import { IommuPageSizes } from './iommu-page-sizes.ts';
import { kickSteps } from './kick.ts';

/** Names of the models. */
export type GuestModelName = '6.12' | '4k';

/** What {@link guestModel} needs. */
export interface GuestModelOptions {
  /** page_size_mask that the device shows; its lowest bit is at most 4 KiB. */
  readonly pageSizeMask: bigint;
  /** MAP flags; default READ and WRITE. */
  readonly flags?: number;
}

/** An endpoint that changes to a domain. */
export interface AttachStep {
  readonly endpoint: number;
  readonly domain: number;
}

/** VFIO takes an endpoint. */
export interface VfioOpenStep extends AttachStep {
  /** Domain without mappings to which Linux moves the endpoint first (DMA ownership); omitted: left out. */
  readonly blockingDomain?: number;
  /** Guest-physical page, even, that the superpage test maps with its neighbour. */
  readonly scratchPage: number;
  /** IOVA page, even, of that test: the first where VFIO has a usable range of two pages; default 0. */
  readonly testPage?: number;
}

/** VFIO gives an endpoint back: its domain ends with its mappings, no UNMAP is sent. */
export interface VfioCloseStep {
  readonly endpoint: number;
  readonly blockingDomain?: number;
  readonly defaultDomain: number;
}

const NAMES: readonly GuestModelName[] = ['6.12', '4k'];
const SUPERPAGE_TEST_PAGES = 2;

/** Turns what a guest wants into requests. A model keeps no state; the sources that it returns are used once. */
export class GuestModel {
  readonly name: GuestModelName;
  readonly #sizes: IommuPageSizes;
  readonly #flags: number;

  /** Use {@link guestModel}. */
  constructor(name: GuestModelName, sizes: IommuPageSizes, flags: number) {
    this.name = name;
    this.#sizes = sizes;
    this.#flags = flags;
  }

  /** The IOMMU driver finds the endpoint: PROBE, then ATTACH to its default domain, a notification each. */
  bringUp({ endpoint, domain }: AttachStep): KickSource {
    return kickSteps(
      (kick) => kick.pushProbe(endpoint),
      (kick) => kick.pushAttach(domain, endpoint, 0),
    );
  }

  /**
   * VFIO opens the endpoint: ATTACH to a fresh domain. '6.12' then tests for superpages: MAP of 8 KiB, at IOVA 0 if that is usable, and UNMAP of
   * its first 4 KiB, for which the driver, since UNMAP must not split a mapping, sends the whole 8 KiB.
   */
  openVfio({ endpoint, domain, blockingDomain, scratchPage, testPage = 0 }: VfioOpenStep): KickSource {
    const steps: KickStep[] = [(kick) => kick.pushAttach(domain, endpoint, 0)];
    if (blockingDomain !== undefined) steps.unshift((kick) => kick.pushAttach(blockingDomain, endpoint, 0));
    if (this.name === '6.12') {
      const flags = VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE;
      steps.push(
        (kick) => kick.pushMap(domain, testPage, scratchPage, SUPERPAGE_TEST_PAGES, flags),
        (kick) => kick.pushUnmap(domain, testPage, SUPERPAGE_TEST_PAGES),
      );
    }
    return kickSteps(...steps);
  }

  /** VFIO closes the endpoint: ATTACH to the blocking and to the default domain; no DETACH and no UNMAP. */
  closeVfio({ endpoint, blockingDomain, defaultDomain }: VfioCloseStep): KickSource {
    const steps: KickStep[] = [(kick) => kick.pushAttach(defaultDomain, endpoint, 0)];
    if (blockingDomain !== undefined) steps.unshift((kick) => kick.pushAttach(blockingDomain, endpoint, 0));
    return kickSteps(...steps);
  }

  /** MAP requests for all of L2's RAM at IOVA = L2 guest-physical address. */
  mapL2(layout: L2Layout, domain: number): KickSource {
    return this.mapRuns(layout.runs(), domain);
  }

  /** UNMAP requests for all that {@link mapL2} mapped. */
  unmapL2(layout: L2Layout, domain: number): KickSource {
    return this.unmapRuns(layout.runs(), domain);
  }

  /**
   * MAP requests for runs. '6.12': one iommu_map() per run, cut by iommu_pgsize(), and a notification at its end
   * (iotlb_sync_map) or when the ring is full.
   */
  mapRuns(runs: RunCursor, domain: number): KickSource {
    checkInteger('domain', domain, 0, U32_MAX);
    return this.name === '6.12'
      ? new LinuxMapSource(runs, domain, this.#flags, this.#sizes)
      : new PageMapSource(runs, domain, this.#flags);
  }

  /**
   * MAP requests of one iommu_map_sg() call, `runs` being its segments with contiguous neighbours merged. '6.12': as
   * {@link mapRuns}, but one notification after all of them, or when the ring is full.
   */
  mapSg(runs: RunCursor, domain: number): KickSource {
    checkInteger('domain', domain, 0, U32_MAX);
    return this.name === '6.12'
      ? new LinuxSgSource(runs, domain, this.#flags, this.#sizes)
      : new PageMapSource(runs, domain, this.#flags);
  }

  /**
   * UNMAP requests for runs that {@link mapRuns} mapped. '6.12': one UNMAP per mapping, since the superpage test made VFIO
   * unmap page by page and the driver removes whole mappings; a notification when the ring is full, after 512 regions
   * (VFIO_IOMMU_TLB_SYNC_MAX) and at the end of each range without a gap, which is one VFIO_IOMMU_UNMAP_DMA.
   */
  unmapRuns(runs: RunCursor, domain: number): KickSource {
    checkInteger('domain', domain, 0, U32_MAX);
    return this.name === '6.12' ? new LinuxUnmapSource(runs, domain, this.#sizes) : new PageUnmapSource(runs, domain);
  }
}

/**
 * A guest model by name.
 * @throws RangeError naming `name`, `pageSizeMask` or `flags`; TypeError for a wrong type or an unknown option.
 */
export function guestModel(name: GuestModelName, options: GuestModelOptions): GuestModel {
  checkOneOf('name', name, NAMES);
  checkOptions('options', options, ['pageSizeMask', 'flags']);
  const flags = checkInteger('flags', options.flags ?? VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE, 0, U32_MAX);
  return new GuestModel(name, new IommuPageSizes(options.pageSizeMask), flags);
}
