// One notification's worth of requests in typed arrays, reused for every notification: millions of requests pass through
// one Kick. Units: 4 KiB pages; a range is [iovaPage, iovaPage + pages), end EXCLUSIVE.
import { checkInteger } from '../base/check.ts';
import { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_PROBE, VIRTIO_IOMMU_T_UNMAP } from '../wire/abi.ts';

/** Requests of one notification, in ring order; entries [0, count) are valid. */
export class Kick {
  /** Requests that fit into the ring at once: the queue size with indirect descriptors, half of it without. */
  readonly capacity: number;
  count = 0;
  /** Request type: a VIRTIO_IOMMU_T_ number. */
  readonly op: Uint8Array;
  /** Domain of all types but PROBE. */
  readonly domain: Uint32Array;
  /** Endpoint of ATTACH, DETACH and PROBE. */
  readonly endpoint: Uint32Array;
  /** Flags of ATTACH and MAP. */
  readonly flags: Uint32Array;
  /** First page of MAP and UNMAP. */
  readonly iovaPage: Float64Array;
  /** Length of MAP and UNMAP. */
  readonly pages: Float64Array;
  /** First guest-physical page of MAP. */
  readonly physPage: Float64Array;

  /** @param capacity an integer in [1, 32768]; RangeError or TypeError otherwise. */
  constructor(capacity: number) {
    this.capacity = checkInteger('capacity', capacity, 1, 32768);
    this.op = new Uint8Array(capacity);
    this.domain = new Uint32Array(capacity);
    this.endpoint = new Uint32Array(capacity);
    this.flags = new Uint32Array(capacity);
    this.iovaPage = new Float64Array(capacity);
    this.pages = new Float64Array(capacity);
    this.physPage = new Float64Array(capacity);
  }

  /** True when no further request fits. */
  get full(): boolean {
    return this.count === this.capacity;
  }

  clear(): void {
    this.count = 0;
  }

  pushMap(domain: number, iovaPage: number, physPage: number, pages: number, flags: number): void {
    const at = this.#next(VIRTIO_IOMMU_T_MAP);
    this.domain[at] = domain;
    this.iovaPage[at] = iovaPage;
    this.physPage[at] = physPage;
    this.pages[at] = pages;
    this.flags[at] = flags;
  }

  pushUnmap(domain: number, iovaPage: number, pages: number): void {
    const at = this.#next(VIRTIO_IOMMU_T_UNMAP);
    this.domain[at] = domain;
    this.iovaPage[at] = iovaPage;
    this.pages[at] = pages;
  }

  pushAttach(domain: number, endpoint: number, flags: number): void {
    const at = this.#next(VIRTIO_IOMMU_T_ATTACH);
    this.domain[at] = domain;
    this.endpoint[at] = endpoint;
    this.flags[at] = flags;
  }

  pushProbe(endpoint: number): void {
    this.endpoint[this.#next(VIRTIO_IOMMU_T_PROBE)] = endpoint;
  }

  #next(op: number): number {
    if (this.full) throw new RangeError(`kick holds at most ${this.capacity} requests`);
    this.op[this.count] = op;
    return this.count++;
  }
}

/** Requests as a sequence of notifications. */
export interface KickSource {
  /**
   * Replaces the contents of `kick` by the requests of the next notification; false, and `kick` empty, at the end.
   * `kick.capacity` is the room in the ring: Linux notifies when the ring is full and goes on.
   */
  next(kick: Kick): boolean;
}

/** Totals of a {@link KickSource}. */
export interface KickCounts {
  readonly kicks: number;
  readonly requests: number;
  readonly maps: number;
  readonly unmaps: number;
}

/** Runs a source dry and counts it, with a ring that takes `capacity` requests. */
export function countKicks(source: KickSource, capacity: number): KickCounts {
  const kick = new Kick(capacity);
  const counts = { kicks: 0, requests: 0, maps: 0, unmaps: 0 };
  while (source.next(kick)) {
    counts.kicks++;
    counts.requests += kick.count;
    for (let i = 0; i < kick.count; i++) {
      if (kick.op[i] === VIRTIO_IOMMU_T_MAP) counts.maps++;
      else if (kick.op[i] === VIRTIO_IOMMU_T_UNMAP) counts.unmaps++;
    }
  }
  return counts;
}

/** Sources one after the other. */
export function concatKicks(...sources: readonly KickSource[]): KickSource {
  let index = 0;
  return {
    next(kick) {
      for (; index < sources.length; index++) if (sources[index]!.next(kick)) return true;
      kick.clear();
      return false;
    },
  };
}

/** Adds the requests of one notification to an empty kick. */
export type KickStep = (kick: Kick) => void;

/** A fixed sequence of notifications; for short sequences, not for a hot path. */
export function kickSteps(...steps: readonly KickStep[]): KickSource {
  let index = 0;
  return {
    next(kick) {
      kick.clear();
      const step = steps[index];
      if (step === undefined) return false;
      index++;
      step(kick);
      return true;
    },
  };
}
