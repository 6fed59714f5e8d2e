// The request streams behind the guest models (guest-model.ts says where each rule comes from). Each walks a run cursor once
// and fills one reused Kick per call; nothing is allocated per request. Units: 4 KiB pages, ends EXCLUSIVE.
import type { Kick, KickSource } from './kick.ts';
import type { IommuPageSizes } from './iommu-page-sizes.ts';
import type { PageRun, RunCursor } from './run-cursor.ts';

/** VFIO_IOMMU_TLB_SYNC_MAX of vfio_iommu_type1.c. */
const REGIONS_PER_SYNC = 512;

/** The part of the current run that is not yet sent; `pages` 0 = the next run is needed. */
class Rest {
  readonly #runs: RunCursor;
  readonly run: PageRun = { iovaPage: 0, physPage: 0, pages: 0 };

  constructor(runs: RunCursor) {
    this.#runs = runs;
  }

  /** True when pages are left, after taking the next run if needed. */
  fill(): boolean {
    return this.run.pages > 0 || this.#runs.next(this.run);
  }

  take(pages: number): void {
    this.run.iovaPage += pages;
    this.run.physPage += pages;
    this.run.pages -= pages;
  }
}

/** MAPs as Linux sends them: one call per run, notified at its end or when the ring is full. */
export class LinuxMapSource implements KickSource {
  readonly #rest: Rest;
  readonly #domain: number;
  readonly #flags: number;
  readonly #sizes: IommuPageSizes;

  constructor(runs: RunCursor, domain: number, flags: number, sizes: IommuPageSizes) {
    this.#rest = new Rest(runs);
    this.#domain = domain;
    this.#flags = flags;
    this.#sizes = sizes;
  }

  next(kick: Kick): boolean {
    kick.clear();
    if (!this.#rest.fill()) return false;
    const { run } = this.#rest;
    while (run.pages > 0 && !kick.full) {
      const piece = this.#sizes.firstPiece(run.iovaPage, run.physPage, run.pages);
      kick.pushMap(this.#domain, run.iovaPage, run.physPage, piece, this.#flags);
      this.#rest.take(piece);
    }
    return true;
  }
}

/** MAPs of one iommu_map_sg() call: the runs are its merged segments, and one notification comes after all of them. */
export class LinuxSgSource implements KickSource {
  readonly #rest: Rest;
  readonly #domain: number;
  readonly #flags: number;
  readonly #sizes: IommuPageSizes;

  constructor(runs: RunCursor, domain: number, flags: number, sizes: IommuPageSizes) {
    this.#rest = new Rest(runs);
    this.#domain = domain;
    this.#flags = flags;
    this.#sizes = sizes;
  }

  next(kick: Kick): boolean {
    kick.clear();
    const { run } = this.#rest;
    while (!kick.full && this.#rest.fill()) {
      const piece = this.#sizes.firstPiece(run.iovaPage, run.physPage, run.pages);
      kick.pushMap(this.#domain, run.iovaPage, run.physPage, piece, this.#flags);
      this.#rest.take(piece);
    }
    return kick.count > 0;
  }
}

/** UNMAPs as Linux sends them: one per mapping, notified when the ring is full, every 512 regions, at the end of a range. */
export class LinuxUnmapSource implements KickSource {
  readonly #rest: Rest;
  readonly #domain: number;
  readonly #sizes: IommuPageSizes;
  #regions = 0;
  /** Page behind the last unmapped one. */
  #rangeEnd = -1;

  constructor(runs: RunCursor, domain: number, sizes: IommuPageSizes) {
    this.#rest = new Rest(runs);
    this.#domain = domain;
    this.#sizes = sizes;
  }

  next(kick: Kick): boolean {
    kick.clear();
    const { run } = this.#rest;
    while (!kick.full && this.#rest.fill()) {
      if (run.iovaPage !== this.#rangeEnd) {
        this.#regions = 0;
        this.#rangeEnd = run.iovaPage;
        if (kick.count > 0) return true;
      }
      const piece = this.#sizes.firstPiece(run.iovaPage, run.physPage, run.pages);
      kick.pushUnmap(this.#domain, run.iovaPage, piece);
      this.#rest.take(piece);
      this.#rangeEnd = run.iovaPage;
      if (++this.#regions === REGIONS_PER_SYNC) {
        this.#regions = 0;
        return true;
      }
    }
    return kick.count > 0;
  }
}

/** One MAP per 4 KiB page, the ring filled for each notification. */
export class PageMapSource implements KickSource {
  readonly #rest: Rest;
  readonly #domain: number;
  readonly #flags: number;

  constructor(runs: RunCursor, domain: number, flags: number) {
    this.#rest = new Rest(runs);
    this.#domain = domain;
    this.#flags = flags;
  }

  next(kick: Kick): boolean {
    kick.clear();
    const { run } = this.#rest;
    while (!kick.full && this.#rest.fill()) {
      kick.pushMap(this.#domain, run.iovaPage, run.physPage, 1, this.#flags);
      this.#rest.take(1);
    }
    return kick.count > 0;
  }
}

/** One UNMAP per 4 KiB page, the ring filled for each notification. */
export class PageUnmapSource implements KickSource {
  readonly #rest: Rest;
  readonly #domain: number;

  constructor(runs: RunCursor, domain: number) {
    this.#rest = new Rest(runs);
    this.#domain = domain;
  }

  next(kick: Kick): boolean {
    kick.clear();
    const { run } = this.#rest;
    while (!kick.full && this.#rest.fill()) {
      kick.pushUnmap(this.#domain, run.iovaPage, 1);
      this.#rest.take(1);
    }
    return kick.count > 0;
  }
}
