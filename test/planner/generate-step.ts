// Draws the steps of a run one by one, with the guest's state of the moment in view: most requests extend a run of
// mappings or take parts of one away again. Unit: 4 KiB page numbers.
import type { Random } from '../../src/testing/random.ts';
import type { Engine, GuestDomain } from './engine.ts';
import { POLICIES } from '../../src/coalesce/settings.ts';
import { chance, pick } from './generate-setup.ts';
import type { RegionSetup, Request, Setup, Step } from './setup.ts';
import { GPA_FIRST } from './setup.ts';

const DOMAINS = 3;
const RIGHTS = 3;

/** Where the next mapping of a domain continues the last one. */
interface Cursor {
  page: number;
  target: number;
  flags: number;
}

export class StepGenerator {
  readonly #random: Random;
  readonly #setup: Setup;
  readonly #engine: Engine;
  readonly #cursors = new Map<number, Cursor>();
  /** How guest-physical pages follow each other. */
  readonly #pattern: 'contiguous' | 'scattered' | 'mixed';
  /** Most requests of a kick come in one kind of size. */
  readonly #kicks: 'single' | 'batch' | 'mixed';
  /** The only policy, when one was asked for. */
  readonly #fixed: string | undefined;
  /** Devices that tell, and those of them that are bus masters. */
  readonly #known = new Set<number>();
  readonly #masters = new Set<number>();
  #first = true;

  constructor(random: Random, setup: Setup, engine: Engine, fixed: string | undefined) {
    this.#fixed = fixed;
    for (const { id, busMaster } of setup.endpoints) {
      if (busMaster === undefined || !setup.contexts.some(({ endpoints }) => endpoints.includes(id))) continue;
      this.#known.add(id);
      if (busMaster) this.#masters.add(id);
    }
    this.#random = random;
    this.#setup = setup;
    this.#engine = engine;
    this.#pattern = pick(random, ['contiguous', 'scattered', 'mixed']);
    this.#kicks = pick(random, ['single', 'batch', 'mixed']);
  }

  next(): Step {
    const random = this.#random;
    if (this.#first) {
      this.#first = false;
      if (chance(random, 90)) return this.#attachAll();
    }
    const draw = random.below(100);
    if (draw < 72) return this.#kick();
    if (draw < 86) return this.#master();
    if (draw < 92) return this.#memory();
    if (draw < 94 && this.#fixed === undefined) return { do: 'policy', policy: pick(random, POLICIES) };
    if (draw < 96) return { do: 'bypass', value: random.below(2) };
    if (draw < 98) return { do: 'reset', system: chance(random, 40) };
    return this.#kick();
  }

  #attachAll(): Step {
    const random = this.#random;
    const same = chance(random, 60);
    const requests = this.#setup.endpoints.map(({ id }): Request => {
      const domain = same ? 1 : 1 + random.below(DOMAINS);
      return { op: 'attach', domain, endpoint: id, flags: chance(random, 4) ? 1 : 0 };
    });
    return { do: 'kick', requests };
  }

  #kick(): Step {
    const random = this.#random;
    const batch = this.#kicks === 'batch' || (this.#kicks === 'mixed' && chance(random, 50));
    let count = 1;
    if (batch) count = chance(random, 85) ? 1 + random.below(8) : 1 + random.below(40);
    if (chance(random, 1)) count = 64;
    const requests: Request[] = [];
    // A kick is mostly of one kind, as a real driver's is.
    const domain = this.#domain();
    // A driver maps before it lets its device do DMA.
    const stopped = this.#isStopped(domain);
    if (stopped && count < 3 && chance(random, 60)) count = 2 + random.below(14);
    const kind = stopped && chance(random, 65) ? 0 : random.below(100);
    for (let i = 0; i < count; i++) {
      const own = chance(random, 85) ? domain : this.#domain();
      const draw = chance(random, 80) ? kind : random.below(100);
      if (draw < 58) requests.push(this.#map(own));
      else if (draw < 90) requests.push(this.#unmap(own));
      else requests.push(this.#move());
    }
    return { do: 'kick', requests };
  }

  #domain(): number {
    const known = [...this.#engine.domains.keys()];
    return known.length > 0 && chance(this.#random, 95) ? pick(this.#random, known) : 1 + this.#random.below(DOMAINS);
  }

  #map(domain: number): Request {
    const random = this.#random;
    const { iova, span } = this.#setup;
    const large = span > 1000;
    let pages = chance(random, 65) ? 1 : 1 + random.below(4);
    if (large && chance(random, 45)) pages = pick(random, [511, 512, 256, 100, 37, 1024]);
    const cursor = this.#cursors.get(domain);
    let page = iova + random.below(span);
    let target = this.#target();
    let flags = chance(random, 82) ? RIGHTS : pick(random, [1, 1, 1, 2, 2, 2, 7, 7, 0]);
    if (cursor !== undefined && chance(random, 80)) {
      page = cursor.page;
      if (chance(random, 85)) flags = cursor.flags;
      const follows = this.#pattern === 'contiguous' ? 96 : this.#pattern === 'scattered' ? 10 : 55;
      if (chance(random, follows)) target = cursor.target;
    }
    // Memory ends: the next page comes from elsewhere.
    if (!this.#isMemory(target) && chance(random, 90)) target = this.#target();
    if (chance(random, 85)) page = this.#free(domain, page, pages);
    if (page + pages > iova + span) {
      page = chance(random, 85) ? this.#free(domain, iova, pages) : iova;
      pages = Math.min(pages, iova + span - page);
      if (pages < 1) [page, pages] = [iova, 1];
    }
    this.#cursors.set(domain, { page: page + pages, target: target + pages, flags });
    return { op: 'map', domain, page, pages, target, flags };
  }

  /** Whether all devices of a domain are known to be stopped. */
  #isStopped(domain: number): boolean {
    const members = [...(this.#engine.domains.get(domain)?.members ?? [])];
    return members.length > 0 && members.every(({ id }) => this.#known.has(id) && !this.#masters.has(id));
  }

  #isMemory(target: number): boolean {
    return this.#setup.regions.some(({ page, pages }) => page <= target && target < page + pages);
  }

  /** First page from `page` on where `pages` pages met no mapping when the kick began. */
  #free(domain: number, page: number, pages: number): number {
    let at = page;
    for (const { start, end } of this.#engine.domains.get(domain)?.maps ?? [])
      if (start < at + pages && at < end) at = end;
    return at;
  }

  /** A guest-physical page, mostly in a region. */
  #target(): number {
    const random = this.#random;
    if (chance(random, 6)) return GPA_FIRST + random.below(80);
    const region = pick(random, this.#setup.regions);
    return region.page + random.below(region.pages);
  }

  #unmap(domain: number): Request {
    const random = this.#random;
    const { iova, span } = this.#setup;
    const { maps } = this.#engine.domains.get(domain) ?? { maps: [] as GuestDomain['maps'] };
    const draw = random.below(100);
    if (maps.length === 0 || draw < 4) {
      const page = iova + random.below(span);
      return { op: 'unmap', domain, page, pages: Math.min(1 + random.below(6), iova + span - page) };
    }
    if (draw < 7) return { op: 'unmap', domain, page: iova, pages: span };
    const i = random.below(maps.length);
    const first = maps[i]!;
    let last = first;
    if (draw >= 60) last = maps[Math.min(maps.length - 1, i + random.below(6))]!;
    let page = first.start;
    let end = last.end;
    if (draw >= 84 && draw < 92) {
      // Over holes on both sides.
      page = Math.max(iova, i > 0 ? maps[i - 1]!.end : iova);
      end = Math.min(iova + span, end + random.below(3));
    } else if (draw >= 92) {
      if (chance(random, 50) && first.end - first.start > 1) page++;
      else if (end - page > 1) end--;
    }
    return { op: 'unmap', domain, page, pages: end - page };
  }

  #move(): Request {
    const random = this.#random;
    const endpoint = chance(random, 3) ? 99 : pick(random, this.#setup.endpoints).id;
    const at = this.#engine.endpoints.get(endpoint)?.domain?.id;
    if (at !== undefined && chance(random, 35)) return { op: 'detach', domain: at, endpoint };
    if (chance(random, 5)) return { op: 'detach', domain: 1 + random.below(DOMAINS), endpoint };
    // A domain that is there already makes the host take all of its mappings at once.
    const domain = chance(random, 50) ? this.#domain() : 1 + random.below(DOMAINS);
    return { op: 'attach', domain, endpoint, flags: chance(random, 6) ? 1 : 0 };
  }

  /** A write of a Command register of a device that tells. */
  #master(): Step {
    const random = this.#random;
    if (this.#known.size === 0) return this.#kick();
    const endpoint = pick(random, [...this.#known]);
    const on = this.#masters.has(endpoint) ? chance(random, 15) : chance(random, 65);
    if (on) this.#masters.add(endpoint);
    else this.#masters.delete(endpoint);
    return { do: 'master', endpoint, on };
  }

  #memory(): Step {
    const random = this.#random;
    const { regions } = this.#setup;
    const index = random.below(regions.length);
    const region: RegionSetup = regions[index]!;
    if (region.kind === 'mmio' && chance(random, 50))
      return { do: 'move', index, page: GPA_FIRST + random.below(0x80) };
    return { do: 'region', index };
  }
}
