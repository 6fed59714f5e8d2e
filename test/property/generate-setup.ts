// Makes the setup of a sequence from a random source: feature subsets, granules, ranges, caps, endpoints, queue sizes.
// Not here: operations (generate-op.ts). Ends INCLUSIVE.
import { FEATURES } from '../../src/iommu/options.ts';
import type { FeatureName } from '../../src/iommu/options.ts';
import type { Random } from '../../src/testing/random.ts';
import { naiveRegions } from './regions.ts';
import type { EndpointSetup, RawRegion, Setup } from './sequence.ts';
import { U64 } from './sequence.ts';

const ODD_SHIFTS = [1, 3, 4, 8, 11, 13, 14, 21, 22, 30, 31, 32, 33, 40, 52, 60, 63];
const PROBE_SIZES = [0, 1, 23, 24, 25, 48, 72, 96, 120, 512];
const ENDPOINT_IDS = [8, 9, 0x10, 0, 0xffff_ffff, 0x1_0000];
const QUEUE_SIZES = [2, 4, 8, 16, 32, 64, 64, 128, 128, 256];
const BYTE_GRANULE_END = (1n << 53n) - 1n;

type Range = Setup['inputRange'];

export function oneIn(random: Random, n: number): boolean {
  return random.below(n) === 0;
}

export function pick<V>(random: Random, values: readonly V[]): V {
  return values[random.below(values.length)]!;
}

/** A random 64-bit value. */
export function randomU64(random: Random): bigint {
  return (BigInt(random.next()) << 32n) | BigInt(random.next());
}

/** The setup of one sequence. */
export function generateSetup(random: Random): Setup {
  const shift = chooseShift(random);
  const granule = 1n << BigInt(shift);
  const withHost = shift >= 12 && shift <= 21 && random.below(5) < 2;
  const offered = chooseFeatures(random, shift);
  const inputRange = offered.includes('inputRange') ? chooseInputRange(random, granule) : { start: 0n, end: U64 };
  const arena = chooseArena(random, granule, inputRange);
  const endpoints = chooseEndpoints(random, granule, inputRange, arena, withHost);
  const start = oneIn(random, 4) ? random.below(3) : 0;
  const all = (Object.keys(FEATURES) as FeatureName[]).reduce((mask, name) => mask | (1 << FEATURES[name]), 0);
  return {
    pageSizeMask: granule | (oneIn(random, 3) ? randomU64(random) & ~(granule - 1n) : 0n) | granule,
    inputRange,
    domainRange: offered.includes('domainRange')
      ? { start, end: oneIn(random, 3) ? start + random.below(6) : 0xffff_ffff }
      : { start: 0, end: 0xffff_ffff },
    probeSize: pick(random, PROBE_SIZES),
    bypass: oneIn(random, 2),
    offered,
    accepted: oneIn(random, 4) ? random.below(all + 1) : all,
    maxMappings: oneIn(random, 5) ? random.below(12) : 32 * 1024 * 1024,
    maxDomains: oneIn(random, 5) ? random.below(5) : 65_536,
    endpoints,
    queueSize: pick(random, QUEUE_SIZES),
    eventQueueSize: pick(random, [1, 2, 16, 64]),
    indirect: !oneIn(random, 4),
    eventIdx: !oneIn(random, 3),
    eventBuffers: pick(random, [0, 1, 4, 16, 16, 32]),
    arena,
  };
}

function chooseShift(random: Random): number {
  const choice = random.below(100);
  if (choice < 50) return 12;
  if (choice < 67) return 0;
  if (choice < 82) return 16;
  return pick(random, ODD_SHIFTS);
}

function chooseFeatures(random: Random, shift: number): FeatureName[] {
  const names = (Object.keys(FEATURES) as FeatureName[]).filter((name) => name !== 'bypass');
  const most = names.filter((name) => (name === 'mapUnmap' ? !oneIn(random, 20) : !oneIn(random, 6)));
  // D-FEAT-3: the legacy feature only without the new one.
  const list = most.includes('bypassConfig') || oneIn(random, 2) ? most : [...most, 'bypass' as const];
  // Keys stay exact below a 4 KiB granule only with an input range.
  return shift < 12 && !list.includes('inputRange') ? [...list, 'inputRange'] : list;
}

/** None, wide, tiny, at the very top, or with ends that no granule starts or ends at. */
function chooseInputRange(random: Random, granule: bigint): Range {
  const top = granule < 4096n ? BYTE_GRANULE_END : U64;
  const fit = (start: bigint, end: bigint): Range => {
    const last = end > top ? top : end;
    // At least one whole granule has to be inside.
    const first = start > last - 2n * granule + 1n ? ((last + 1n) / granule - 1n) * granule : start;
    return (first / granule + (first % granule === 0n ? 1n : 2n)) * granule - 1n <= last && first >= 0n
      ? { start: first, end: last }
      : { start: 0n, end: top };
  };
  switch (random.below(8)) {
    case 0:
      return { start: 0n, end: top };
    case 1:
      return fit(0n, 0xffff_ffffn);
    case 2:
    case 3:
      return fit(0n, 0xffff_ffff_ffffn);
    case 4: {
      const start = BigInt(random.below(64)) * granule;
      return fit(start, start + BigInt(1 + random.below(8)) * granule - 1n);
    }
    case 5:
      return fit(((top - 64n * granule) / granule) * granule, top);
    case 6: {
      const start = BigInt(random.below(64)) * granule + BigInt(random.below(4096));
      return fit(start, start + BigInt(10 + random.below(60)) * granule + BigInt(random.below(4096)));
    }
    default:
      return fit((randomU64(random) / granule) * granule, top);
  }
}

/** First of the addresses that most requests are about. */
function chooseArena(random: Random, granule: bigint, input: Range): bigint {
  const first = ((input.start + granule - 1n) / granule) * granule;
  const choice = random.below(6);
  const candidates = [first, 1n << 32n, (input.end / granule - 63n) * granule, (randomU64(random) / granule) * granule];
  const wanted = choice < 3 ? first : candidates[choice - 2]!;
  return wanted < first || wanted > input.end ? first : (wanted / granule) * granule;
}

function chooseEndpoints(
  random: Random,
  granule: bigint,
  input: Range,
  arena: bigint,
  withHost: boolean,
): EndpointSetup[] {
  const count = 1 + random.below(5);
  const list: EndpointSetup[] = [];
  for (let i = 0; i < count; i++) {
    let regions = oneIn(random, 3) ? [] : chooseRegions(random, granule, arena);
    const [only] = naiveRegions(regions, granule, input);
    // An endpoint that may reach nothing at all cannot be added.
    if (only?.start === 0n && only.end === U64) regions = [];
    list.push({ id: ENDPOINT_IDS[i]!, regions, group: withHost && random.below(3) > 0 ? random.below(2) : undefined });
  }
  return list;
}

function chooseRegions(random: Random, granule: bigint, arena: bigint): RawRegion[] {
  const list: RawRegion[] = [];
  const count = 1 + random.below(3);
  for (let i = 0; i < count; i++) {
    const kind = i === 0 && oneIn(random, 2) ? 'msi' : 'reserved';
    if (granule <= 0x10_0000n && oneIn(random, 5)) {
      list.push({ kind, start: 0xfee0_0000n, end: 0xfeef_ffffn });
      continue;
    }
    let start = arena + BigInt(random.below(64)) * granule;
    let end = start + BigInt(1 + random.below(4)) * granule - 1n;
    if (oneIn(random, 3)) {
      start += BigInt(random.below(4096)) % granule;
      end -= BigInt(random.below(4096)) % granule;
    }
    if (end > U64) end = U64;
    if (start > end) continue;
    list.push({ kind, start, end });
  }
  return list;
}
