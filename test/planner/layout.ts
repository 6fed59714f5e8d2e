// Guest memory of a run and what is behind it in the host: adds and removes regions, and knows for every guest-physical
// page the host's physical page and the rights. Also counts what a 1:1 engine needs. Unit: 4 KiB page numbers.
import type { SimulatedHost } from '../../src/host/simulated.ts';
import type { GuestMemory, MemoryRegion } from '../../src/virtio/memory.ts';
import { mmapOptions, regionOptions } from './options.ts';
import type { Mapping } from './engine.ts';
import { FOREVER } from './engine.ts';
import type { RegionSetup, Setup } from './setup.ts';
import { GPA_FIRST, GPA_PAGES } from './setup.ts';

/** Behind every RAM region: what is in it does not matter. */
const BYTES = new Uint8Array(1 << 24);

interface LiveRegion {
  readonly setup: RegionSetup;
  readonly region: MemoryRegion;
  readonly page: number;
  readonly hva: bigint;
}

/** Physical pages and rights by guest-physical page. */
export interface Backing {
  /** -1: nothing. */
  readonly physical: Float64Array;
  readonly rights: Uint8Array;
}

/** What a context needs to hold something 1:1. */
export interface Need {
  entries: number;
  /** RAM pages. */
  ram: number;
  /** Pages of device memory. */
  mmio: number;
}

export class Layout {
  backing: Backing = { physical: new Float64Array(GPA_PAGES).fill(-1), rights: new Uint8Array(GPA_PAGES) };
  ramPages = 0;
  /** Virtual memory areas that the embedder itself has. */
  areas: number;
  readonly #setup: Setup;
  readonly #host: SimulatedHost;
  readonly #memory: GuestMemory;
  #live: (LiveRegion | undefined)[] = [];

  constructor(setup: Setup, host: SimulatedHost, memory: GuestMemory) {
    this.#setup = setup;
    this.#host = host;
    this.#memory = memory;
    this.areas = host.addressSpace.mapCount;
    setup.regions.forEach((region, i) => {
      this.#live.push(undefined);
      if (region.present) this.add(i);
    });
  }

  has(index: number): boolean {
    return this.#live[index] !== undefined;
  }

  /** Adds region `index`; false when its place is taken. */
  add(index: number, page = this.#setup.regions[index]!.page): boolean {
    const setup = this.#setup.regions[index]!;
    if (this.#taken(page, setup.pages)) return false;
    const hva = this.#mmap(index, setup);
    const gpa = BigInt(page) * 4096n;
    const size = BigInt(setup.pages) * 4096n;
    const fill = (): void => this.#fill(setup, page, hva, true);
    fill();
    const region =
      setup.kind === 'mmio'
        ? this.#memory.addMmio({ gpa, size, hva })
        : this.#memory.addRegion(
            regionOptions(
              { gpa, size, hva, windows: [BYTES.subarray(0, setup.pages * 4096)], readOnly: setup.readOnly },
              setup,
            ),
          );
    this.#live[index] = { setup, region, page, hva };
    return true;
  }

  /** Removes region `index` from the guest and then from the process. */
  remove(index: number): void {
    const { setup, region, page, hva } = this.#live[index]!;
    this.#live[index] = undefined;
    this.#fill(setup, page, hva, false);
    this.#memory.removeRegion(region);
    const { addressSpace } = this.#host;
    const before = addressSpace.mapCount;
    addressSpace.munmap(hva, BigInt(setup.pages) * 4096n);
    this.areas += addressSpace.mapCount - before;
  }

  /** Moves device memory; false when the new place is taken. */
  move(index: number, page: number): boolean {
    const live = this.#live[index];
    if (live?.setup.kind !== 'mmio') return false;
    if (this.#taken(page, live.setup.pages, index)) return false;
    this.#fill(live.setup, live.page, live.hva, false);
    this.#fill(live.setup, page, live.hva, true);
    const region = this.#memory.moveMmio(live.region, BigInt(page) * 4096n);
    this.#live[index] = { ...live, region, page };
    return true;
  }

  /** From now on changes go into a copy; returns what was there. */
  fork(): Backing {
    const before = this.backing;
    this.backing = { physical: before.physical.slice(), rights: before.rights.slice() };
    return before;
  }

  /** What bypass gives: all of memory at its own address, cut at `holes` and where it would touch their edges; with registers or not. */
  bypassMaps(holes: readonly (readonly [number, number])[], mmio: boolean): Mapping[] {
    const maps: Mapping[] = [];
    const add = (start: number, end: number): void => {
      if (start < end) maps.push({ start, end, target: start, flags: 3, from: 0, until: FOREVER });
    };
    for (const { page, setup } of this.#sorted()) {
      if (setup.kind === 'mmio' && !mmio) continue;
      let at = page;
      const end = page + setup.pages;
      for (const [first, behind] of holes) {
        if (behind <= at || first >= end) continue;
        add(at, Math.min(first, end));
        at = Math.max(at, behind);
      }
      add(at, end);
    }
    return maps;
  }

  /** Adds what a mapping takes 1:1. */
  addNeed(
    need: Need,
    map: { readonly start: number; readonly end: number; readonly target: number; flags: number },
  ): void {
    const end = map.target + map.end - map.start;
    for (const live of this.#live) {
      if (live === undefined) continue;
      const { page, setup } = live;
      const pages = Math.min(end, page + setup.pages) - Math.max(map.target, page);
      if (pages <= 0 || (map.flags & (setup.readOnly ? 1 : 3)) === 0) continue;
      need.entries++;
      if (setup.kind === 'mmio') need.mmio += pages;
      else need.ram += pages;
    }
  }

  #sorted(): LiveRegion[] {
    return this.#live.filter((live) => live !== undefined).sort((a, b) => a.page - b.page);
  }

  #taken(page: number, pages: number, except = -1): boolean {
    if (page < GPA_FIRST || page + pages > GPA_FIRST + GPA_PAGES) return true;
    return this.#live.some(
      (live, i) =>
        live !== undefined && i !== except && page < live.page + live.setup.pages && live.page < page + pages,
    );
  }

  #mmap(index: number, setup: RegionSetup): bigint {
    const { addressSpace } = this.#host;
    const before = addressSpace.mapCount;
    const previous = this.#live[index - 1];
    const at =
      setup.follows && previous !== undefined && setup.kind !== 'hugetlb'
        ? previous.hva + BigInt(previous.setup.pages) * 4096n
        : undefined;
    const free = at !== undefined && this.#isFree(at, setup.pages);
    const { hva } = addressSpace.mmap({ ...mmapOptions(setup, index), ...(free ? { at } : {}) });
    this.areas += addressSpace.mapCount - before;
    return hva;
  }

  #isFree(hva: bigint, pages: number): boolean {
    const first = Number(hva / 4096n);
    for (let i = 0; i < pages; i++) if (this.#host.addressSpace.protectionOf(first + i) !== undefined) return false;
    return true;
  }

  #fill(setup: RegionSetup, page: number, hva: bigint, there: boolean): void {
    const { physical, rights } = this.backing;
    const first = Number(hva / 4096n);
    for (let i = 0; i < setup.pages; i++) {
      const at = page - GPA_FIRST + i;
      physical[at] = there ? this.#host.addressSpace.physicalPageOf(first + i) : -1;
      rights[at] = there ? (setup.readOnly ? 1 : 3) : 0;
    }
    if (setup.kind !== 'mmio') this.ramPages += there ? setup.pages : -setup.pages;
  }
}
