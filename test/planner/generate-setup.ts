// Draws the machine of a run. Everything is small and close together, so that neighbours, refusals and partial UNMAPs are
// common; now and then a region and a stretch of addresses are large enough for whole 2 MiB windows.
// Unit: 4 KiB page numbers.
import type { Random } from '../../src/testing/random.ts';
import { POLICIES } from '../../src/coalesce/settings.ts';
import type { ContextSetup, EndpointSetup, RegionSetup, Setup } from './setup.ts';
import { GPA_FIRST } from './setup.ts';

/** Behind the last page of a 64-bit address space. */
const PAGE_END = 2 ** 52;

/** What the command line, or a test, asks for. */
export interface Wishes {
  readonly policy?: string;
  /** Limits to draw from instead of the usual ones. */
  readonly limits?: readonly number[];
  /** Only hosts that cut entries, each context with an address space of its own. */
  readonly cuts?: boolean;
  /** Only contexts of one mode whose address spaces can be shared. */
  readonly share?: boolean;
}

export function chance(random: Random, percent: number): boolean {
  return random.below(100) < percent;
}

export function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.below(values.length)]!;
}

const LIMITS = [8, 8, 16, 16, 16, 64, 64, 65_535];
/** Limits that are already reached by one mapping, or by bypass. */
const TIGHT = [0, 1, 2, 3, 4, 5, 6];

const CUTTING = { flavour: 'iommufd', mode: 'cut', share: false, mediated: false } as const;

/** A machine for one run. */
export function generateSetup(random: Random, wishes: Wishes = {}): Setup {
  const large = chance(random, 12);
  const span = large ? 1600 : pick(random, [24, 40, 64]);
  const iova = chance(random, 12) ? PAGE_END - span : pick(random, [0, GPA_FIRST, GPA_FIRST, 0x200, 0x10_0000]);
  const groups = pick(random, [[1], [1], [2], [1, 1], [1, 1], [2, 1], [1, 2], [3], [1, 1, 1]]);
  const hole = chance(random, 15) && iova < 0x1000;
  const limits = wishes.limits ?? (chance(random, 8) ? TIGHT : LIMITS);
  const mode = pick(random, ['large', 'cut'] as const);
  const shared = { flavour: 'iommufd', mode, share: true, mediated: false } as const;
  let next = 1;
  const contexts = groups.map((members): ContextSetup => {
    const endpoints = Array.from({ length: members }, () => next++);
    const drawn = generateContext(random, endpoints, limits, iova, span, hole);
    return { ...drawn, ...(wishes.cuts === true ? CUTTING : {}), ...(wishes.share === true ? shared : {}) };
  });
  const iommufd = contexts.some(({ flavour }) => flavour === 'iommufd');
  const emulated = chance(random, 20) ? 1 : 0;
  const quiet = pick(random, [0, 1, 1, 1, 2]);
  const endpoints = Array.from({ length: next - 1 + emulated }, (_, i) => generateEndpoint(random, i + 1, quiet, iova));
  const policy = wishes.policy ?? pick(random, POLICIES);
  return {
    contexts,
    endpoints,
    regions: generateRegions(random, large, !iommufd || chance(random, 50)),
    policy,
    gather: pick(random, ['auto', 'auto', 'always', 'always', 'always', 'never']),
    maxEntryPages: chance(random, 25) ? pick(random, [1, 2, 4, 16, 600]) : 0,
    lowWater: chance(random, 40) ? pick(random, [0, 1, 2, 4, 8]) : -1,
    pause: pick(random, ['none', 'none', 'none', 'none', 'yes', 'no']),
    bypass: chance(random, 50),
    cap: pick(random, [4, 4, 4, 2, 1]),
    maxMapCount: chance(random, 12) ? 8 + random.below(24) : 65_530,
    memlock: chance(random, 4) ? 16 + random.below(100) : Infinity,
    iova,
    span,
  };
}

function generateContext(
  random: Random,
  endpoints: readonly number[],
  limits: readonly number[],
  iova: number,
  span: number,
  hole: boolean,
): ContextSetup {
  const flavour = chance(random, 22) ? 'iommufd' : 'type1';
  const mode = flavour === 'iommufd' && chance(random, 50) ? 'cut' : 'large';
  const top = iova > 2 ** 40 ? PAGE_END : 2 ** 35;
  const middle = Math.max(iova, GPA_FIRST) + random.below(span);
  const mediated = flavour === 'type1' && chance(random, 6);
  return {
    flavour,
    mode,
    share: flavour === 'iommufd' && chance(random, 60),
    endpoints,
    entryLimit: pick(random, limits),
    lie: chance(random, 6) ? pick(random, [-4, -1, 1, 4, 100]) : 0,
    mediated,
    windowPieces: chance(random, 10) ? pick(random, [0, 1, 2, 3, 20]) : -1,
    writeOnlyReadable: chance(random, 50),
    usable: mediated
      ? [[0, PAGE_END]]
      : hole
        ? [
            [0, middle],
            [middle + 1 + random.below(3), top],
          ]
        : [[0, top]],
  };
}

/** `quiet`: 0 nobody tells, 1 all devices start stopped, 2 mixed. */
function generateEndpoint(random: Random, id: number, quiet: number, iova: number): EndpointSetup {
  const mixed = pick(random, [undefined, false, false, true]);
  const reserved: [number, number][] = [];
  if (chance(random, 12)) {
    const first = Math.max(iova, GPA_FIRST) + random.below(20);
    reserved.push([first, first + 1 + random.below(2)]);
  }
  return { id, busMaster: quiet === 0 ? undefined : quiet === 1 ? false : mixed, reserved };
}

function generateRegions(random: Random, large: boolean, mmio: boolean): RegionSetup[] {
  const regions: RegionSetup[] = [];
  let page = GPA_FIRST;
  const add = (kind: RegionSetup['kind'], pages: number): void => {
    page += chance(random, 60) ? 0 : 1 + random.below(3);
    if (kind === 'hugetlb') page = Math.ceil(page / 512) * 512 + (chance(random, 50) ? 0 : random.below(4));
    regions.push({
      page,
      pages,
      kind,
      readOnly: kind !== 'mmio' && chance(random, 8),
      scattered: pages < 100 && kind !== 'mmio' && chance(random, 15),
      follows: chance(random, 30),
      sealed: chance(random, 10) ? pick(random, ['told', 'untold']) : 'no',
      present: chance(random, 85),
    });
    page += pages;
  };
  const count = 1 + random.below(4);
  for (let i = 0; i < count; i++) add(pick(random, ['memfd', 'memfd', 'memfd', 'anonymous']), 4 + random.below(24));
  if (mmio && chance(random, 30)) add('mmio', 2 + random.below(4));
  if (large) add(pick(random, ['memfd', 'memfd', 'memfd', 'hugetlb', 'anonymous']), 1024);
  if (chance(random, 30)) add('memfd', 4 + random.below(8));
  return regions;
}
