// Keeps host contexts in step when guest memory comes, goes or moves, before the caller of GuestMemory returns.
// Unit: 4 KiB page numbers, half-open.
import type { Backing } from '../coalesce/backing.ts';
import { REGION_GATHERABLE } from '../coalesce/backing.ts';
import { reinstallRevoked } from '../coalesce/revocation.ts';
import type { Place } from '../coalesce/memory-change.ts';
import { installMemory, removeMemory } from '../coalesce/memory-change.ts';
import type { MirrorSource } from '../coalesce/source.ts';
import { HOST_MMIO, HOST_PAGE_SHIFT, HostRight } from '../host/context.ts';
import type { GuestMemory, MemoryObserver, MemoryRegion } from '../virtio/memory.ts';
import type { IommuState } from './state.ts';

/** Brackets around work that must not be nested; `enter` throws when there is work already. */
export interface DeviceWork {
  enter(operation: string): void;
  leave(): void;
}

/** Observes guest memory for one IOMMU. */
export class MemoryLink implements MemoryObserver {
  readonly #state: IommuState;
  readonly #work: DeviceWork;

  constructor(state: IommuState, work: DeviceWork) {
    this.#state = state;
    this.#work = work;
  }

  /** Takes over the regions that are there and follows changes; returns the function that stops that. */
  connect(memory: GuestMemory): () => void {
    for (const region of memory.regions) this.added(region);
    return memory.observe(this);
  }

  added(region: MemoryRegion): void {
    this.#work.enter('adding a memory region');
    try {
      const place = placeOf(region);
      if (place !== undefined) this.#add(place);
    } finally {
      this.#work.leave();
    }
  }

  removing(region: MemoryRegion): void {
    this.#work.enter('removing a memory region');
    try {
      const place = placeOf(region);
      if (place !== undefined) this.#remove(place);
    } finally {
      this.#work.leave();
    }
  }

  #add(place: BackedPlace): void {
    const { backing, groups } = this.#state;
    backing.add(place.gpa, place.pages, place.va, place.flags);
    for (const mirror of groups.mirrors) installMemory(mirror, place);
    if ((place.flags & HOST_MMIO) !== 0) groups.tellMmio();
  }

  #remove(place: BackedPlace): void {
    const { backing, groups } = this.#state;
    for (const mirror of groups.mirrors) removeMemory(mirror, place);
    backing.remove(place.gpa);
    for (const mirror of groups.mirrors) if (!mirror.quiet) reinstallRevoked(mirror);
  }

  discarding(gpa: bigint, size: bigint): string | undefined {
    const start = Number(gpa >> BigInt(HOST_PAGE_SHIFT));
    const end = Number((gpa + size - 1n) >> BigInt(HOST_PAGE_SHIFT)) + 1;
    const { backing, groups } = this.#state;
    for (const group of groups.all) {
      // Pinned pages would stay with the device while the guest gets new ones.
      if (covers(backing, group.mirror.source, start, end)) return `host context ${group.name} covers it`;
    }
    return undefined;
  }
}

/** True when a source installs RAM of guest-physical pages [start, end). */
function covers(backing: Backing, source: MirrorSource | undefined, start: number, end: number): boolean {
  const found = { ram: 0 };
  source?.walk((_iova, pages, gpa, rights) => {
    const first = Math.max(gpa, start);
    const last = Math.min(gpa + pages, end);
    if (first < last) found.ram += backing.ramPagesIn(first, last - first, rights);
    return found.ram === 0;
  });
  return found.ram > 0;
}

interface BackedPlace extends Place {
  readonly va: number;
  readonly flags: number;
}

/** True when a virtual window can show single pages of a region: file pages of 4 KiB that may be mapped as they are. */
function isGatherable({ file, readOnly }: MemoryRegion): boolean {
  if (file?.pageSize !== 4096) return false;
  const sealed = file.seals?.some((seal) => seal === 'write' || seal === 'future-write') === true;
  return readOnly || !sealed;
}

/** Where a region lies in pages; undefined when no host context may see it. */
function placeOf(region: MemoryRegion): BackedPlace | undefined {
  if (region.hva === undefined) return undefined;
  const shift = BigInt(HOST_PAGE_SHIFT);
  const rights = region.readOnly ? HostRight.read : HostRight.read | HostRight.write;
  return {
    gpa: Number(region.gpa >> shift),
    pages: Number(region.size >> shift),
    va: Number(region.hva >> shift),
    flags: rights | (region.kind === 'mmio' ? HOST_MMIO : 0) | (isGatherable(region) ? REGION_GATHERABLE : 0),
  };
}
