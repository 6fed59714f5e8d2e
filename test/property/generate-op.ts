// Makes the next operation of a sequence from a random source and the model's state, so that interesting states are hit:
// overlaps, exact edges, cuts, moves, last detaches, edges of ranges. Not here: the setup (generate-setup.ts).
// Ends INCLUSIVE; all arithmetic is cut to 64 bits at the end.
import type { ModelDevice } from '../../spec/model/device.ts';
import type { ModelMapping } from '../../spec/model/state.ts';
import { allDomains } from '../../spec/model/state.ts';
import type { Random } from '../../src/testing/random.ts';
import { oneIn, pick, randomU64 } from './generate-setup.ts';
import type { AccessOp, ConfigOp, Op, RequestOp, ResetOp, Setup } from './sequence.ts';
import { T, U64, granuleOf } from './sequence.ts';

const ARENA_GRANULES = 64;
const BLANK: RequestOp = {
  op: 'request',
  type: 0,
  domain: 0,
  endpoint: 0,
  flags: 0,
  start: 0n,
  end: 0n,
  phys: 0n,
  reserved: 0,
  headReserved: 0,
  readableDelta: 0,
  writableDelta: 0,
  framing: 0,
  more: false,
};

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/** Makes operations one after the other. */
export class OpGenerator {
  readonly #random: Random;
  readonly #setup: Setup;
  readonly #model: ModelDevice;
  readonly #granule: bigint;
  #kickLeft = 0;

  constructor(random: Random, setup: Setup, model: ModelDevice) {
    this.#random = random;
    this.#setup = setup;
    this.#model = model;
    this.#granule = granuleOf(setup);
  }

  /** True when the next operation starts a new kick (or is no request). */
  get atKickStart(): boolean {
    return this.#kickLeft === 0;
  }

  next(): Op {
    const random = this.#random;
    if (this.#kickLeft === 0) {
      const choice = random.below(100);
      if (choice < 6) return this.#access();
      if (choice < 8) return this.#reset();
      if (choice < 11) return this.#config();
      this.#kickLeft = kickLength(random);
    }
    this.#kickLeft--;
    return { ...this.#spoiled(this.#request()), framing: this.#framing(), more: this.#kickLeft > 0 };
  }

  #request(): RequestOp {
    const random = this.#random;
    const attached = this.#model.state.endpoints.some(({ domain }) => domain !== undefined);
    // Nothing can be mapped before something is attached.
    const choice = attached ? random.below(100) : random.below(2) * 80;
    if (choice < 46) return this.#map();
    if (choice < 72) return this.#unmap();
    if (choice < 88) return this.#attach();
    if (choice < 93) return this.#detach();
    if (choice < 98)
      return { ...BLANK, type: T.PROBE, endpoint: this.#endpoint(), reserved: oneIn(random, 4) ? random.next() : 0 };
    return { ...this.#map(), type: pick(random, [0, 6, 7, 8, 0x80, 0xff, random.below(256)]) };
  }

  #attach(): RequestOp {
    const random = this.#random;
    const flags = oneIn(random, 8) ? 1 : oneIn(random, 60) ? random.next() : 0;
    return {
      ...BLANK,
      type: T.ATTACH,
      domain: this.#domain(),
      endpoint: this.#endpoint(),
      flags,
      reserved: oneIn(random, 60) ? 1 << random.below(31) : 0,
    };
  }

  #detach(): RequestOp {
    const random = this.#random;
    const endpoint = pick(random, this.#model.state.endpoints);
    const right = !oneIn(random, 4);
    return {
      ...BLANK,
      type: T.DETACH,
      endpoint: right ? endpoint.id : this.#endpoint(),
      domain: right && endpoint.domain !== undefined ? endpoint.domain.id : this.#domain(),
      reserved: oneIn(random, 8) ? random.next() : 0,
    };
  }

  #map(): RequestOp {
    const random = this.#random;
    const domain = this.#domain();
    const range = this.#mapRange(this.#mappings(domain));
    const flags = oneIn(random, 8) ? random.below(8) : oneIn(random, 60) ? random.next() : 1 + random.below(3);
    const phys = this.#phys(range);
    return { ...BLANK, type: T.MAP, domain, start: cut(range.start), end: cut(range.end), phys: cut(phys), flags };
  }

  #mapRange(mappings: readonly ModelMapping[]): Range {
    const random = this.#random;
    const granule = this.#granule;
    const size = BigInt(oneIn(random, 4) ? 1 + random.below(12) : 1 + random.below(2)) * granule;
    const { inputRange, arena } = this.#setup;
    const near = mappings.length > 0 ? pick(random, mappings) : undefined;
    switch (random.below(20)) {
      case 0:
      case 1:
        if (near !== undefined) return { start: near.virtEnd + 1n, end: near.virtEnd + size };
        break;
      case 2:
      case 3:
        if (near !== undefined) return { start: near.virtStart - size, end: near.virtStart - 1n };
        break;
      case 4:
        // One granule of it is taken.
        if (near !== undefined) return { start: near.virtEnd + 1n - granule, end: near.virtEnd + size };
        break;
      case 5:
        if (near !== undefined) return { start: near.virtStart - granule, end: near.virtEnd + granule };
        break;
      case 6: {
        // Edges of the input range, the last granule inside and the first outside.
        const edge = oneIn(random, 2) ? inputRange.start : inputRange.end + 1n;
        const start = (edge / granule) * granule + BigInt(random.below(3) - 1) * granule;
        return { start, end: start + size - 1n };
      }
      case 7:
      case 8: {
        const regions = this.#model.state.endpoints.flatMap((endpoint) => endpoint.regions);
        if (regions.length === 0) break;
        const region = pick(random, regions);
        const edge = oneIn(random, 2) ? region.start - size : region.end + 1n;
        const start = edge + BigInt(random.below(3) - 1) * granule;
        return { start, end: start + size - 1n };
      }
      case 9: {
        const start = arena + BigInt(random.below(ARENA_GRANULES)) * granule;
        return { start: start + BigInt(random.below(3) - 1), end: start + size - BigInt(random.below(3)) };
      }
      case 10:
        if (oneIn(random, 3)) return this.#oddRange();
    }
    const start = arena + BigInt(random.below(ARENA_GRANULES)) * granule;
    return { start, end: start + size - 1n };
  }

  #oddRange(): Range {
    const random = this.#random;
    const granule = this.#granule;
    const start = (randomU64(random) / granule) * granule;
    switch (random.below(6)) {
      case 0:
        return { start: 0n, end: U64 };
      case 1:
        return { start, end: start - 1n };
      case 2:
        return { start, end: U64 };
      case 3:
        return { start: 0n, end: start + granule - 1n };
      case 4:
        return { start: start + granule, end: start };
      default:
        return { start: U64 - granule + 1n, end: U64 };
    }
  }

  #phys(range: Range): bigint {
    const random = this.#random;
    const granule = this.#granule;
    const length = range.end - range.start + 1n;
    const limit = granule < 4096n && oneIn(random, 2) ? 1n << 53n : U64 + 1n;
    switch (random.below(12)) {
      case 0:
        return ((limit - length) / granule) * granule + BigInt(random.below(3) - 1) * granule;
      case 1:
        return (randomU64(random) / granule) * granule;
      case 2:
        return 0x10_0000n + BigInt(random.below(0x4_0000));
      case 3:
        return (0x1_0000_0000n / granule) * granule;
      default:
        // Around the regions of memory: RAM, a seam, a hole, read-only memory.
        return ((0x9_0000n + BigInt(random.below(0x18_0000))) / granule) * granule;
    }
  }

  #unmap(): RequestOp {
    const random = this.#random;
    const domain = this.#domain();
    const range = this.#unmapRange(this.#mappings(domain));
    return {
      ...BLANK,
      type: T.UNMAP,
      domain,
      start: cut(range.start),
      end: cut(range.end),
      reserved: oneIn(random, 50) ? 1 << random.below(31) : 0,
    };
  }

  #unmapRange(mappings: readonly ModelMapping[]): Range {
    const random = this.#random;
    const granule = this.#granule;
    const one = mappings.length > 0 ? pick(random, mappings) : undefined;
    const two = mappings.length > 0 ? pick(random, mappings) : undefined;
    if (one !== undefined && two !== undefined) {
      const low = one.virtStart < two.virtStart ? one : two;
      const high = one.virtStart < two.virtStart ? two : one;
      switch (random.below(16)) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
        case 5:
          return { start: one.virtStart, end: one.virtEnd };
        case 6:
        case 7:
          return { start: low.virtStart, end: high.virtEnd };
        case 8:
          return {
            start: low.virtStart + BigInt(random.below(3) - 1),
            end: high.virtEnd + BigInt(random.below(3) - 1),
          };
        case 9:
          return { start: low.virtStart + BigInt(random.below(3) - 1) * granule, end: high.virtEnd };
        case 10:
          return { start: low.virtStart, end: high.virtEnd + BigInt(random.below(3) - 1) * granule };
        case 11:
          return { start: low.virtEnd + 1n, end: high.virtStart - 1n };
        case 12:
          return { start: 0n, end: high.virtEnd };
        case 13:
          return { start: low.virtStart, end: U64 };
      }
    }
    if (oneIn(random, 6)) return this.#oddRange();
    const start = this.#setup.arena + BigInt(random.below(ARENA_GRANULES)) * granule;
    return { start, end: start + BigInt(1 + random.below(16)) * granule - BigInt(random.below(3)) };
  }

  #mappings(domain: number): readonly ModelMapping[] {
    return allDomains(this.#model.state).find(({ id }) => id === domain)?.mappings ?? [];
  }

  #endpoint(): number {
    const random = this.#random;
    return oneIn(random, 25) ? pick(random, [7, 0xffff_fffe, random.next()]) : pick(random, this.#setup.endpoints).id;
  }

  /** Mostly a domain that exists, else one of a few ids and of those at the ends of the domain range. */
  #domain(): number {
    const random = this.#random;
    const domains = allDomains(this.#model.state);
    if (domains.length > 0 && random.below(10) < 7) return pick(random, domains).id;
    const { start, end } = this.#setup.domainRange;
    const ids = [start, start + 1, start + 2, start + 1, end, end - 1, end + 1, start - 1, random.next()];
    return pick(random, ids) >>> 0;
  }

  /** Now and then a request that the driver should not send, or in a shape of its own. */
  #spoiled(op: RequestOp): RequestOp {
    const random = this.#random;
    switch (random.below(60)) {
      case 0:
        return { ...op, readableDelta: pick(random, [-1, -4, -8, -16, -36, -72]) };
      case 1:
        return { ...op, readableDelta: pick(random, [1, 4, 8, 100]) };
      case 2:
        return { ...op, writableDelta: pick(random, [-1, -2, -3, -4, -24]) };
      case 3:
        return { ...op, writableDelta: pick(random, [1, 2, 3, 4, 8, 100]) };
      case 4:
        return { ...op, headReserved: random.below(1 << 24) };
      case 5:
        return { ...op, type: random.below(8) };
      case 6:
        return oneIn(random, 20) ? { ...op, writableDelta: pick(random, [65_535, 65_536, 65_537]) } : op;
      default:
        return op;
    }
  }

  #framing(): number {
    const random = this.#random;
    const writableFirst = oneIn(random, 100) ? 31 << 4 : 0;
    return oneIn(random, 2) ? 0 : (random.below(16) | writableFirst | (random.below(1 << 14) << 9)) >>> 0;
  }

  #access(): AccessOp {
    const random = this.#random;
    const granule = this.#granule;
    const most = granule > 0x1_0000n ? 0x1_0000 : Number(granule) * 3;
    const domains = allDomains(this.#model.state);
    const mappings = domains.length > 0 ? pick(random, domains).mappings : [];
    const base =
      mappings.length > 0 && !oneIn(random, 3)
        ? pick(random, mappings).virtStart
        : this.#setup.arena + BigInt(random.below(ARENA_GRANULES)) * granule;
    return {
      op: 'access',
      endpoint: this.#endpoint(),
      iova: cut(base + BigInt(random.below(5) - 2)),
      length: 1 + random.below(most + 2),
      write: oneIn(random, 2),
    };
  }

  #reset(): ResetOp {
    const random = this.#random;
    return { op: 'reset', system: oneIn(random, 2), accepted: oneIn(random, 4) ? random.below(128) : 127 };
  }

  #config(): ConfigOp {
    const random = this.#random;
    const width = pick(random, [1, 1, 1, 2, 4, 8] as const);
    if (!oneIn(random, 4)) return { op: 'config', offset: 36, width: 1, value: BigInt(random.below(3)) };
    return {
      op: 'config',
      offset: random.below(41 - width),
      width,
      value: BigInt(random.below(3)) << BigInt(8 * random.below(8)),
    };
  }
}

function kickLength(random: Random): number {
  const choice = random.below(100);
  if (choice < 50) return 1;
  if (choice < 80) return 2 + random.below(7);
  if (choice < 96) return 9 + random.below(24);
  return 33 + random.below(32);
}

function cut(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}
