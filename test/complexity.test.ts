// Complexity on operation counts, never on time: how many nodes of the interval tables MAP and UNMAP visit, and how many
// calls and operations reach the host, through the real ring at 1 Ki and at 64 Ki mappings.
// Units: 4 KiB pages; ranges are [start, start + pages).
import { describe, expect, it } from 'vitest';
import type { HostBatch, HostContext, HostLimits } from '../src/host/context.ts';
import type { IntervalTable } from '../src/intervals/table.ts';
import { VirtioIommu } from '../src/iommu/virtio-iommu.ts';
import { IommuDriver } from '../src/testing/iommu-driver.ts';
import { Kick } from '../src/testing/kick.ts';
import { Random } from '../src/testing/random.ts';
import { GuestMemory } from '../src/virtio/memory.ts';

const SMALL = 2 ** 10;
const LARGE = 2 ** 16;
const PER_KICK = 128;
const FIRST_PAGE = 2 ** 20;
const RAM_PAGES = 2 ** 10;
const ENDPOINT = 8;
const DOMAIN = 1;
/** Fewest entries of a node of the table, from which the bounds follow. */
const FANOUT = 24;

/** Accepts everything and counts. */
class CountingHost implements HostContext {
  readonly name = 'counting host';
  readonly flavour = 'type1';
  readonly limits: HostLimits = {
    pageSizes: 0x4020_1000n,
    usableRanges: [{ start: 0n, end: (1n << 64n) - 1n }],
    entryLimit: Infinity,
    windowPieces: 0,
  };
  calls = 0;
  operations = 0;

  apply(batch: HostBatch, from: number): number {
    this.calls++;
    this.operations += batch.count - from;
    return batch.count;
  }
  buildWindows = (batch: HostBatch): number => batch.count;
  dropWindows = (): void => undefined;
  unmapAll = (): number => 0;
  entriesLeft = (): number => Infinity;
  clearBusMaster = (): number => 0;
  resetDevices = (): number => 0;
  close = (): void => undefined;
}

interface Machine {
  readonly host: CountingHost;
  readonly guest: IntervalTable;
  readonly mirror: IntervalTable;
  /** Sends what `fill` puts into a kick; every request must be answered with OK. */
  send(fill: (kick: Kick) => void): void;
}

/** A running device with `mappings` mappings of one page each, from {@link FIRST_PAGE} on. */
function machine(mappings: number): Machine {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 2n ** 22n });
  memory.addRegion({ gpa: 2n ** 32n, size: BigInt(RAM_PAGES) * 4096n, hva: 2n ** 40n });
  const host = new CountingHost();
  const iommu = new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    endpoints: [{ id: ENDPOINT, host }],
    maxInstalled: 256,
  });
  const driver = new IommuDriver({ device: iommu.transport, memory, base: 0n });
  driver.start();
  expect(driver.attach(DOMAIN, ENDPOINT).status).toBe(0);
  const domain = iommu.core.state.domains.get(DOMAIN)!;
  const kick = new Kick(1024);
  const send = (fill: (kick: Kick) => void): void => {
    kick.clear();
    fill(kick);
    expect(driver.sendKick(kick)).toBe(0);
  };
  for (let at = 0; at < mappings; at += PER_KICK) {
    send((kick) => {
      for (let page = at; page < at + PER_KICK; page++) map(kick, page);
    });
  }
  return { host, guest: domain.table, mirror: domain.mirrors[0]!.entries.table, send };
}

function map(kick: Kick, page: number, pages = 1): void {
  kick.pushMap(DOMAIN, FIRST_PAGE + page, 2 ** 20 + (page % RAM_PAGES), pages, 3);
}

function unmap(kick: Kick, page: number, pages = 1): void {
  kick.pushUnmap(DOMAIN, FIRST_PAGE + page, pages);
}

/** Nodes that both tables of the domain visit during `work`. */
function visits({ guest, mirror }: Machine, work: () => void): number {
  guest.visits = 0;
  mirror.visits = 0;
  work();
  return guest.visits + mirror.visits;
}

/** Upper bound of the levels of a table of `size` intervals. */
function levels(size: number): number {
  return 1 + Math.ceil(Math.log(size) / Math.log(FANOUT));
}

const small = machine(SMALL);
const large = machine(LARGE);

describe('one UNMAP and one MAP of a page', () => {
  /** Mean and most visits of single requests at random pages. */
  function single(target: Machine, size: number): Record<'map' | 'unmap', { mean: number; most: number }> {
    const random = new Random(size);
    const rounds = 512;
    const result = { map: { mean: 0, most: 0 }, unmap: { mean: 0, most: 0 } };
    for (let i = 0; i < rounds; i++) {
      const page = random.below(size);
      for (const op of ['unmap', 'map'] as const) {
        const seen = visits(target, () => target.send((kick) => (op === 'map' ? map(kick, page) : unmap(kick, page))));
        result[op].mean += seen / rounds;
        result[op].most = Math.max(result[op].most, seen);
      }
    }
    return result;
  }
  const few = single(small, SMALL);
  const many = single(large, LARGE);

  for (const op of ['map', 'unmap'] as const) {
    it(`${op.toUpperCase()} visits nodes like the logarithm of the mappings`, () => {
      expect(few[op].mean).toBeGreaterThan(0);
      // 64 times the mappings are at most two levels more, in each of two tables; a linear part would be 64 times.
      expect(many[op].mean / few[op].mean).toBeLessThan(levels(LARGE) / levels(SMALL) + 0.5);
      expect(many[op].most).toBeLessThanOrEqual(20 * levels(LARGE));
    });
  }
});

describe('kicks of 128', () => {
  for (const order of ['sequential', 'shuffled'] as const) {
    it(`${order}: cost per request grows like the logarithm, and the host is called once per kick`, () => {
      const perRequest = (target: Machine, size: number): number => {
        const pages = Uint32Array.from({ length: size }, (_, i) => i);
        if (order === 'shuffled') new Random(1).shuffle(pages);
        target.host.calls = target.host.operations = 0;
        const kicks = 8;
        const seen = visits(target, () => {
          for (let k = 0; k < kicks; k++) {
            for (const request of [unmap, map]) {
              target.send((kick) => {
                for (let i = 0; i < PER_KICK; i++) request(kick, pages[k * PER_KICK + i]!);
              });
            }
          }
        });
        expect(target.host.calls).toBe(2 * kicks);
        // Neighbouring UNMAPs of a kick are one operation: never more than one for each request.
        expect(target.host.operations).toBeGreaterThan(kicks * PER_KICK);
        expect(target.host.operations).toBeLessThanOrEqual(2 * kicks * PER_KICK);
        return seen / (2 * kicks * PER_KICK);
      };
      const ratio = perRequest(large, LARGE) / perRequest(small, SMALL);
      expect(ratio).toBeLessThan(levels(LARGE) / levels(SMALL) + 0.5);
    });
  }
});

describe('one UNMAP of k mappings', () => {
  it('visits O(log n + k / fanout) nodes and is one host operation', () => {
    const fresh = machine(LARGE);
    let at = 0;
    for (const count of [1, 64, 1024, 4096, 16_384]) {
      fresh.host.calls = fresh.host.operations = 0;
      const before = fresh.guest.size;
      const seen = visits(fresh, () => fresh.send((kick) => unmap(kick, at, count)));
      expect(before - fresh.guest.size).toBe(count);
      expect(seen, `${count} mappings`).toBeLessThanOrEqual(2 * (20 * levels(LARGE) + (2 * count) / FANOUT));
      expect(fresh.host).toMatchObject({ calls: 1, operations: 1 });
      at += count;
    }
    // Everything that is left, by a range that is far larger than what it holds.
    const left = fresh.guest.size;
    const seen = visits(fresh, () => fresh.send((kick) => unmap(kick, 0, 2 ** 30)));
    expect([fresh.guest.size, fresh.mirror.size]).toEqual([0, 0]);
    expect(seen).toBeLessThanOrEqual(2 * (20 * levels(LARGE) + (2 * left) / FANOUT));
    // An UNMAP of nothing costs no more than a search, however large its range.
    expect(visits(fresh, () => fresh.send((kick) => unmap(kick, 0, 2 ** 30)))).toBeLessThanOrEqual(levels(LARGE));
  });
});

describe('hostile orders', () => {
  it('filling and draining takes O(n log n) visits in every order', () => {
    const orders: Record<string, (size: number) => Uint32Array> = {
      ascending: (size) => Uint32Array.from({ length: size }, (_, i) => i),
      descending: (size) => Uint32Array.from({ length: size }, (_, i) => size - 1 - i),
      'from both ends': (size) =>
        Uint32Array.from({ length: size }, (_, i) => (i % 2 === 0 ? i / 2 : size - (i + 1) / 2)),
      shuffled: (size) => {
        const pages = Uint32Array.from({ length: size }, (_, i) => i);
        new Random(2).shuffle(pages);
        return pages;
      },
    };
    const sizes = [2 ** 9, 2 ** 11, 2 ** 13];
    for (const [name, order] of Object.entries(orders)) {
      const counts = sizes.map((size) => {
        const empty = machine(0);
        const pages = order(size);
        return visits(empty, () => {
          for (const request of [map, unmap]) {
            for (let at = 0; at < size; at += PER_KICK) {
              empty.send((kick) => {
                for (let i = at; i < at + PER_KICK; i++) request(kick, pages[i]!);
              });
            }
          }
        });
      });
      // T(n) = n^e: n log n has an exponent of 1.1 here, n^2 has 2.
      const exponent = Math.log(counts[2]! / counts[0]!) / Math.log(sizes[2]! / sizes[0]!);
      expect(exponent, `${name}: ${counts.join(', ')} visits`).toBeLessThan(1.25);
    }
  });

  it('mapping and unmapping one page in turn calls the host at most once per request', () => {
    small.host.calls = small.host.operations = 0;
    const rounds = 512;
    const seen = visits(small, () =>
      small.send((kick) => {
        for (let i = 0; i < rounds; i++) {
          unmap(kick, 500);
          map(kick, 500);
        }
      }),
    );
    expect(small.host.operations).toBe(2 * rounds);
    expect(small.host.calls).toBeLessThanOrEqual(2 * rounds);
    expect(seen / (2 * rounds)).toBeLessThanOrEqual(20 * levels(SMALL));
  });

  it('1024 UNMAPs of everything are searches', () => {
    const empty = machine(0);
    empty.host.operations = 0;
    const seen = visits(empty, () =>
      empty.send((kick) => {
        for (let i = 0; i < 1024; i++) unmap(kick, 0, 2 ** 30);
      }),
    );
    expect(seen).toBeLessThanOrEqual(1024 * 4);
    expect(empty.host.operations).toBe(0);
  });
});
