// What one plan costs the host: the real planner is fed with the MAPs that the guest model sends, and a host that only
// counts takes its operations. No ring, no memory: a live run (nested-run.ts) must come to the same numbers.
// Unit: 4 KiB page numbers, half-open.
import type { MirrorObserver } from '../../coalesce/mirror.ts';
import { ContextMirror } from '../../coalesce/mirror.ts';
import { Backing, REGION_GATHERABLE } from '../../coalesce/backing.ts';
import { DomainPlanner } from '../../coalesce/planner.ts';
import type { PlanSettings, Policy } from '../../coalesce/settings.ts';
import { LOW_WATER, MAX_ENTRY_PAGES } from '../../coalesce/settings.ts';
import { DomainSource } from '../../coalesce/source.ts';
import { HostRight } from '../../host/context.ts';
import { SimulatedHost } from '../../host/simulated.ts';
import { IntervalTable } from '../../intervals/table.ts';
import { DEFAULT_PAGE_SIZE_MASK } from '../../iommu/options.ts';
import { guestModel } from '../guest-model.ts';
import { Kick } from '../kick.ts';
import type { L2Layout } from '../l2-memory.ts';
import { PAGE_BYTES } from '../run-cursor.ts';
import { CountingContext } from './counting-context.ts';

const RIGHTS = HostRight.read | HostRight.write;
/** Default of the device: RAM that a context may hold, as a multiple of guest RAM. */
const CAP_FACTOR = 4;
const RING = 1024;
/** L1's RAM stands at this host virtual page; 2 MiB edges of both address spaces meet. */
const VA_BASE = 2 ** 32;

/** How L2's RAM is mapped. */
export interface PlanCountOptions {
  readonly policy: Policy;
  /** True when L1's RAM is a file of 4 KiB pages, which a host can show in a window. */
  readonly gatherable: boolean;
  /** Most live entries of the container. */
  readonly limit: number;
  /** Also asks the planner for MAPs that it cannot but refuse; default false. */
  readonly askAlways?: boolean;
}

/** What a plan came to. */
export interface PlanCounts {
  /** MAP requests, and how many of them were refused, with their pages. */
  readonly maps: number;
  readonly refused: number;
  readonly refusedPages: number;
  /** Entries that are live when the device does DMA, and most at a time. */
  readonly entries: number;
  readonly entriesPeak: number;
  /** Map calls of the host, refused ones included. */
  readonly mapCalls: number;
  /** Pages that the device reaches. */
  readonly pages: number;
  /** Stretches of 2 MiB that take one IOPTE where the memory is a huge page. */
  readonly largeStretches: number;
}

/** Counts what mapping all of `layout` takes on a context that is quiet meanwhile, as a Linux L1 does it. */
export function countPlan(layout: L2Layout, options: PlanCountOptions): PlanCounts {
  return new PlanCount(layout, options).run();
}

/** A plan that blocks its context counts nothing. */
const OBSERVER: MirrorObserver = {
  blocked: (_mirror, operation, errno) => {
    throw new Error(`the counted context was blocked: ${operation}, errno ${errno}`);
  },
  fatal: () => undefined,
  window: () => undefined,
  budgetLow: () => undefined,
  compacted: () => undefined,
};

class PlanCount {
  readonly #layout: L2Layout;
  readonly #options: PlanCountOptions;
  readonly #context: CountingContext;
  readonly #mirror: ContextMirror;
  readonly #planner = new DomainPlanner();
  /** The guest's mappings. */
  readonly #table = new IntervalTable();
  readonly #kick = new Kick(RING);
  #maps = 0;
  #refused = 0;
  #refusedPages = 0;
  #askedInVain = 0;
  /** Ends of the last MAP that was not refused, as far as known. */
  #iovaEnd = -1;
  #physEnd = -1;

  constructor(layout: L2Layout, options: PlanCountOptions) {
    this.#layout = layout;
    this.#options = options;
    const limits = new SimulatedHost({ entryLimit: options.limit }).createContext({ group: 0, endpoints: [0] }).limits;
    this.#context = new CountingContext(limits);
    const backing = new Backing();
    for (const { gpa, size } of layout.l1RamRanges) {
      const page = Number(gpa) / PAGE_BYTES;
      const flags = RIGHTS | (options.gatherable ? REGION_GATHERABLE : 0);
      backing.add(page, Number(size) / PAGE_BYTES, VA_BASE + page, flags);
    }
    this.#mirror = new ContextMirror(this.#context, backing, OBSERVER, CAP_FACTOR, settingsOf(options.policy));
  }

  run(): PlanCounts {
    const mirror = this.#mirror;
    mirror.setQuiet(true);
    mirror.switchTo(new DomainSource(this.#table, 1), false);
    const source = guestModel('6.12', { pageSizeMask: DEFAULT_PAGE_SIZE_MASK }).mapL2(this.#layout, 0);
    while (source.next(this.#kick)) this.#serve();
    mirror.setQuiet(false);
    const { entries, entriesPeak, mapCalls, pages, largeStretches } = this.#context;
    return {
      maps: this.#maps,
      refused: this.#refused,
      refusedPages: this.#refusedPages,
      entries,
      entriesPeak,
      mapCalls: mapCalls + this.#askedInVain,
      pages,
      largeStretches,
    };
  }

  /** One notification: the MAPs enter the guest's table and the plan, as the device does it. */
  #serve(): void {
    const { count, iovaPage, physPage, pages } = this.#kick;
    this.#maps += count;
    for (let i = 0; i < count; i++) {
      const iova = iovaPage[i]!;
      const phys = physPage[i]!;
      if (this.#isHopeless(iova, phys)) {
        this.#count(pages[i]!);
        if (this.#options.policy === 'forward') this.#askedInVain++;
        continue;
      }
      this.#iovaEnd = iova + pages[i]!;
      this.#physEnd = phys + pages[i]!;
      this.#table.insert(iova, this.#iovaEnd, phys, RIGHTS);
      this.#planner.map(i, iova, pages[i]!, phys, RIGHTS);
    }
    if (this.#planner.pending > 0) this.#planner.commit([this.#mirror], this);
  }

  /** See RefusalSink: request `token` of the kick leaves the guest's table. */
  mapRefused(token: number): void {
    const { iovaPage, pages } = this.#kick;
    this.#table.remove(iovaPage[token]!);
    this.#count(pages[token]!);
    if (this.#iovaEnd === iovaPage[token]! + pages[token]!) this.#iovaEnd = -1;
  }

  /**
   * True for a MAP that needs an entry of its own when there are none and nothing can free any: there is no UNMAP, and no
   * compaction will be tried. Asking the planner millions of times for the same answer takes most of the time otherwise.
   */
  #isHopeless(iova: number, phys: number): boolean {
    const { policy, gatherable, askAlways } = this.#options;
    if (this.#refused === 0 || askAlways === true) return false;
    if (policy === 'forward') return true;
    if (gatherable || !this.#mirror.budget.exhausted) return false;
    return iova !== this.#iovaEnd || phys !== this.#physEnd;
  }

  #count(pages: number): void {
    this.#refused++;
    this.#refusedPages += pages;
  }
}

function settingsOf(policy: Policy): PlanSettings {
  return {
    policy,
    gather: 'auto',
    maxEntryPages: MAX_ENTRY_PAGES,
    lowWater: LOW_WATER,
    now: () => 0,
    pauseDma: undefined,
    resumeDma: undefined,
  };
}
