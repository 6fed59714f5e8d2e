// Partial UNMAPs on a host that cuts entries: exactly what was named goes, in as few calls as possible, nothing else is
// touched for a moment; and what happens where such a host refuses a cut.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Change, PlanRigOptions } from '../../test/coalesce/plan-rig.ts';
import { PlanRig, RAM, contiguous, usable } from '../../test/coalesce/plan-rig.ts';
import { entriesDiffer } from '../../test/planner/entries.ts';
import { Errno } from '../base/errors.ts';
import type { SimulatedOperation } from '../host/simulated.ts';
import { NONE } from '../intervals/table.ts';

/** More runs by the environment variable PROPERTY_SCALE. */
const SCALE = Number(process.env['PROPERTY_SCALE'] ?? 1);

const CUTS = { endpoints: [1], flavour: 'iommufd', mode: 'cut' } as const;

/** One live entry of `count` pages at page 0, on a host that cuts. */
function live(count: number, options: PlanRigOptions = {}): PlanRig {
  const rig = new PlanRig({ contexts: [CUTS], ...options });
  rig.mapAll(0, contiguous(count));
  rig.busMaster(true);
  expect(rig.entries()).toEqual([[0, count, 3]]);
  return rig;
}

/** Host operations from now on. Whenever one is done, what the guest still has must be reached, and nothing else. */
function watch(rig: PlanRig): Omit<SimulatedOperation, 'context'>[] {
  const seen: Omit<SimulatedOperation, 'context'>[] = [];
  rig.host.onOperation(({ kind, iova, pages, errno }) => {
    seen.push({ kind, iova, pages, errno });
    expect(rig.missing()).toEqual([]);
  });
  return seen;
}

function check(rig: PlanRig): void {
  expect(rig.missing()).toEqual([]);
  expect(rig.excess()).toEqual([]);
  expect(entriesDiffer(rig.mirror(), rig.contexts[0]!)).toBeUndefined();
}

const each = (pages: readonly number[]): Change[] => pages.map((page) => ['unmap', page, 1]);
const calls = (seen: readonly Omit<SimulatedOperation, 'context'>[]): unknown[] =>
  seen.map(({ kind, iova, pages }) => [kind, iova, pages]);

describe('a live joined entry of 512 pages', () => {
  it.each([0, 1, 255, 256, 510, 511])(
    'that loses page %d alone: one call, no window, nothing is pinned again',
    (page) => {
      const rig = live(512, { device: { pauseDma: () => expect.fail('paused'), resumeDma: () => undefined } });
      const { lockedPages } = rig.host;
      const seen = watch(rig);
      expect(rig.unmap(page, 1)).toBe('OK');
      expect(calls(seen)).toEqual([['unmap', page, 1]]);
      const rest = [
        [0, page, 3],
        [page + 1, 511 - page, 3],
      ].filter(([, pages]) => pages! > 0);
      expect(rig.entries()).toEqual(rest);
      expect(rig.host.lockedPages).toBe(lockedPages - 1);
      expect(rig.stats()).toMatchObject({ entriesPeak: rest.length, domainEntriesPeak: rest.length });
      expect(rig.stats().statedPeak).toBeGreaterThanOrEqual(rest.length);
      expect(rig.stats()).toMatchObject({ demotions: 0, stalls: 0, revoked: 0, windows: { count: 0, open: 0 } });
      expect(rig.eventsOf('dma-window')).toEqual([]);
      check(rig);
    },
  );

  it('comes from the MAPs of one kick as well, and not under `forward`', () => {
    for (const policy of ['exact', 'forward'] as const) {
      const rig = new PlanRig({ contexts: [CUTS], busMaster: true, device: { policy } });
      rig.mapAll(0, contiguous(8));
      expect(rig.entries()).toHaveLength(policy === 'exact' ? 1 : 8);
      const seen = watch(rig);
      expect(rig.unmap(3, 1)).toBe('OK');
      expect([calls(seen), rig.stats().windows.count]).toEqual([[['unmap', 3, 1]], 0]);
      check(rig);
    }
  });

  it.each([
    ['ascending', (i: number) => i],
    ['descending', (i: number) => 511 - i],
    ['random', (i: number) => (i * 197) % 512],
  ])('unmapped page by page, %s: as many calls, and entries for nothing but the runs that are left', (_name, order) => {
    const rig = live(512);
    const seen: string[] = [];
    rig.host.onOperation(({ kind }) => seen.push(kind));
    const left = new Set(contiguous(512, 0));
    for (let i = 0; i < 512; i++) {
      rig.unmap(order(i), 1);
      left.delete(order(i));
      expect(rig.stats().entries).toBe([...left].filter((page) => !left.has(page - 1)).length);
      if (i % 97 === 0) check(rig);
    }
    expect(new Set(seen)).toEqual(new Set(['unmap']));
    expect(seen).toHaveLength(512);
    expect(rig.host.lockedPages).toBe(0);
    expect(rig.stats()).toMatchObject({ joined: 0, entries: 0, demotions: 0, windows: { count: 0 } });
  });

  it.each([64, 128, 256, 512])('unmapped %d pages a kick takes one call a kick', (perKick) => {
    const rig = live(512);
    const seen = watch(rig);
    for (let page = 0; page < 512; page += perKick) rig.kick(each(contiguous(perKick, page)));
    expect(seen).toHaveLength(512 / perKick);
    expect(rig.stats().callsSaved).toBe(511 + 512 - 512 / perKick);
  });
});

describe('the UNMAPs of one kick', () => {
  /** 4 joined entries of 8 pages side by side, and one apart. */
  const build = (): PlanRig => {
    const rig = new PlanRig({ contexts: [CUTS], device: { maxEntryBytes: 8 * 4096 } });
    rig.mapAll(0, contiguous(32));
    rig.mapAll(100, contiguous(8, RAM + 100));
    rig.busMaster(true);
    expect(rig.entries().map(([iova]) => iova)).toEqual([0, 8, 16, 24, 100]);
    return rig;
  };

  it.each([
    ['inside one entry', [1, 3, 5], [1, 3, 5].map((page) => ['unmap', page, 1])],
    ['in any order', [5, 1, 3], [1, 3, 5].map((page) => ['unmap', page, 1])],
    ['over entries that touch', contiguous(20, 6), [['unmap', 6, 20]]],
    ['over the hole behind the fourth', [...contiguous(2, 30), 100, 101], [['unmap', 30, 72]]],
    [
      'beside what stays in front of the hole',
      [...contiguous(2, 29), 100, 101],
      [
        ['unmap', 29, 2],
        ['unmap', 100, 2],
      ],
    ],
    [
      'with what stays behind the hole',
      [...contiguous(2, 30), 101],
      [
        ['unmap', 30, 2],
        ['unmap', 101, 1],
      ],
    ],
    [
      'at both ends of an entry',
      [0, 7, 8],
      [
        ['unmap', 0, 1],
        ['unmap', 7, 2],
      ],
    ],
    ['of everything', [...contiguous(32, 0), ...contiguous(8, 100)], [['unmap', 0, 108]]],
  ])('%s are one call for each longest span without an entry in its gaps', (_name, pages, expected) => {
    const rig = build();
    const before = rig.stats();
    const seen = watch(rig);
    expect(new Set(rig.kick(each(pages)))).toEqual(new Set(['OK']));
    expect(calls(seen)).toEqual(expected);
    expect(rig.stats().callsSaved - before.callsSaved).toBe(pages.length - expected.length);
    expect(rig.stats()).toMatchObject({ demotions: 0, windows: { count: 0 } });
    check(rig);
  });

  it('over addresses that no entry shows name only what is there', () => {
    const rig = live(8);
    rig.kick([['map', 20, 4, 0x70_0000]]);
    const seen = watch(rig);
    rig.kick([
      ['unmap', 20, 4],
      ['unmap', 2, 1],
      ['unmap', 8, 100],
    ]);
    expect(calls(seen)).toEqual([['unmap', 2, 1]]);
    check(rig);
  });

  it('that leave one mapping of an entry leave an entry that joins nothing', () => {
    const rig = live(8);
    const joins = (): number[] => [rig.mirror().entries.joined, rig.stats().entries];
    rig.kick(each([3]));
    expect(joins()).toEqual([2, 2]);
    rig.kick(each([1]));
    expect(joins()).toEqual([1, 3]);
    rig.kick(each([5, 6]));
    expect(joins()).toEqual([0, 4]);
    rig.kick(each([0, 2, 4, 7]));
    expect(joins()).toEqual([0, 0]);
  });

  it('are obeyed before they are answered', () => {
    const rig = build();
    const before = rig.driver.requestQueue.usedIndex;
    const seen: number[] = [];
    rig.host.onOperation(() => seen.push(rig.driver.requestQueue.usedIndex - before));
    rig.kick(each([2, 10]));
    expect(seen).toEqual([0, 0]);
  });

  it('cut before the MAPs that follow them take the place', () => {
    const rig = live(16);
    const seen: unknown[] = [];
    rig.host.onOperation(({ kind, iova, errno }) => seen.push([kind, iova, errno]));
    const answers = rig.kick([
      ['unmap', 4, 1],
      ['map', 4, 1, RAM + 700],
    ]);
    expect(answers).toEqual(['OK', 'OK']);
    expect(seen).toEqual([
      ['unmap', 4, 0],
      ['map', 4, 0],
    ]);
    check(rig);
  });

  it('at the end of the address space', () => {
    const top = 2 ** 52;
    const rig = new PlanRig({ contexts: [{ ...CUTS, usableRanges: usable([0, top]) }] });
    rig.mapAll(top - 4, contiguous(4));
    rig.busMaster(true);
    const seen = watch(rig);
    rig.kick(each([top - 1]));
    rig.kick(each([top - 3]));
    expect(calls(seen)).toEqual([
      ['unmap', top - 1, 1],
      ['unmap', top - 3, 1],
    ]);
    expect(rig.entries()).toEqual([
      [top - 4, 1, 3],
      [top - 2, 1, 3],
    ]);
    check(rig);
  });
});

describe('a quiet context', () => {
  it('keeps what is left of an entry that loses a part', () => {
    const rig = live(512);
    rig.busMaster(false);
    const seen = watch(rig);
    for (const page of [100, 0, 511]) rig.unmap(page, 1);
    expect(seen.map(({ kind }) => kind)).toEqual(['unmap', 'unmap', 'unmap']);
    expect(rig.stats()).toMatchObject({ entries: 2, planned: 0, demotions: 0 });
    rig.busMaster(true);
    expect(seen).toHaveLength(3);
    check(rig);
  });
});

describe('memory that goes', () => {
  it.each([true, false])('takes what shows it, live %s, and nothing else is touched', (on) => {
    const rig = new PlanRig({ contexts: [CUTS], ram: [{ page: RAM, pages: 32 }] });
    const second = rig.addRam({ page: RAM + 32, pages: 32 });
    rig.mapAll(0, contiguous(64));
    rig.map(64, 8, RAM + 28);
    rig.busMaster(true);
    rig.busMaster(on);
    expect(rig.entries().map(([iova, pages]) => [iova, pages])).toEqual([
      [0, 32],
      [32, 32],
      [64, 4],
      [68, 4],
    ]);
    rig.moveRam(RAM + 32, 32, -1);
    const seen = watch(rig);
    rig.memory.removeRegion(second);
    expect(calls(seen)).toEqual([
      ['unmap', 32, 32],
      ['unmap', 68, 4],
    ]);
    expect(rig.stats()).toMatchObject({ demotions: 0, windows: { count: 0 } });
    expect(rig.eventsOf('dma-window')).toEqual([]);
    check(rig);
  });
});

describe('a cut that the host refuses', () => {
  it.each([Errno.EOPNOTSUPP, Errno.EINVAL, Errno.ENOMEM, Errno.EIO])(
    'with errno %d takes the entry apart, which is told, and goes on with the others',
    (errno) => {
      const rig = new PlanRig({ contexts: [CUTS], device: { maxEntryBytes: 16 * 4096 } });
      rig.mapAll(0, contiguous(48));
      rig.busMaster(true);
      rig.host.failAt(2, errno, { kind: 'unmap' });
      const seen: unknown[] = [];
      rig.host.onOperation(({ kind, iova, pages, errno: refused }) => {
        if (kind === 'unmap') seen.push([iova, pages, refused]);
      });
      // The second span reaches into two entries.
      rig.kick(each([4, 14, ...contiguous(4, 30), 35, 40]));
      expect(seen.slice(0, 2)).toEqual([
        [4, 1, 0],
        [14, 1, errno],
      ]);
      expect(rig.stats()).toMatchObject({ state: 'domain', demotions: 1, windows: { count: 1, open: 0 }, blocks: 0 });
      expect(rig.eventsOf('dma-window').map(({ reason, start, end }) => [reason, start, end])).toEqual([
        ['demotion', 5n * 4096n, 16n * 4096n - 1n],
      ]);
      check(rig);
    },
  );

  it('over several entries removes those inside, and takes those at its ends apart', () => {
    const rig = new PlanRig({ contexts: [CUTS], device: { maxEntryBytes: 8 * 4096 } });
    rig.mapAll(0, contiguous(32));
    rig.busMaster(true);
    rig.host.failAt(1, Errno.EOPNOTSUPP, { kind: 'unmap' });
    rig.kick(each([...contiguous(20, 6), 28]));
    expect(rig.stats()).toMatchObject({ state: 'domain', demotions: 2, windows: { count: 2, open: 0 } });
    check(rig);
  });

  it('on a quiet context drops the entry, and the rest waits', () => {
    const rig = live(40);
    rig.busMaster(false);
    rig.host.failAt(1, Errno.EINVAL, { kind: 'unmap' });
    rig.unmap(20, 1);
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 0, planned: 2, windows: { count: 0 } });
    rig.busMaster(true);
    check(rig);
  });

  it.each([1, 2])('and neither is the whole entry given back: the context is blocked (%d unmaps fail)', (more) => {
    const rig = live(40);
    rig.map(100, 1, RAM + 500);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', times: 1 + more });
    expect(rig.unmap(20, 1)).toBe('OK');
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, planned: 0, revoked: 0 });
    expect(rig.entries()).toEqual([]);
    expect(rig.eventsOf('context-blocked')).toHaveLength(1);
  });

  it('of whole entries blocks the context as on any host', () => {
    const rig = live(40);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect(rig.unmap(0, 40)).toBe('OK');
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, demotions: 0 });
  });

  it('each time, since it never could: access is exact all the same', () => {
    // Type1 refuses every cut.
    const rig = new PlanRig({ contexts: [{ endpoints: [1], claimsCuts: true }] });
    rig.mapAll(0, contiguous(64));
    rig.busMaster(true);
    for (const pages of [[1, 9, 17], contiguous(10, 30), [63], [0, 2]]) {
      rig.kick(each(pages));
      check(rig);
    }
    expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0, revoked: 0 });
    expect(rig.stats().demotions).toBeGreaterThan(0);
  });
});

describe('entries of registers', () => {
  // Pages lie in memory as they are mapped, so that neighbours join wherever they may.
  const change = fc.oneof(
    fc.record({ op: fc.constant('map' as const), page: fc.nat(27), pages: fc.constantFrom(1, 1, 1, 2, 3, 8, 28) }),
    fc.record({ op: fc.constant('unmap' as const), page: fc.nat(27), pages: fc.constantFrom(1, 1, 2, 4, 12, 40) }),
  );
  const kick = fc.array(change, { minLength: 1, maxLength: 12 });
  const sizes = fc.array(fc.constantFrom(1, 1, 1, 1, 2, 3, 9), { minLength: 28, maxLength: 28 });

  it('are never asked to be cut, whatever is joined around them', () => {
    const [first, pages] = [RAM + 8, 4];
    let cuts = 0;
    fc.assert(
      fc.property(sizes, fc.array(fc.tuple(kick, fc.boolean()), { maxLength: 5 }), (all, steps) => {
        // The only simulated host that maps registers; it refuses all cuts.
        const rig = new PlanRig({
          contexts: [{ endpoints: [1], claimsCuts: true }],
          ram: [
            { page: RAM, pages: 8 },
            { page: RAM + 12, pages: 16 },
          ],
        });
        const registers = rig.addMmio(first, pages);
        const { backing } = rig.mirror();
        expect(backing.locate(first, pages, 3)).toBe(true);
        const va = backing.foundVa;
        rig.host.onOperation(({ kind, iova, pages: count, errno }) => {
          if (kind !== 'unmap' || errno === 0) return;
          cuts++;
          const { table } = rig.mirror().entries;
          for (const page of [iova, iova + count]) {
            const slot = table.find(page);
            if (slot === NONE || table.startAt(slot) === page) continue;
            const behind = table.valueAt(slot) + (table.endAt(slot) - table.startAt(slot));
            if (table.valueAt(slot) < va + pages && behind > va) expect.fail('an entry of registers is cut');
          }
        });
        for (let page = 0, i = 0; page < 28; page += all[i++]!) rig.map(page, all[i]!, RAM + page);
        rig.busMaster(true);
        for (const [changes, on] of steps) {
          rig.kick(
            changes.map(({ op, page, pages }): Change =>
              op === 'map' ? [op, page, pages, RAM + page] : [op, page, pages],
            ),
          );
          rig.busMaster(on);
        }
        rig.moveRam(first, pages, -1);
        rig.memory.removeRegion(registers);
        // What is planned on a quiet context is there then.
        rig.busMaster(true);
        check(rig);
      }),
      { numRuns: 150 * SCALE },
    );
    expect(cuts).toBeGreaterThan(0);
  });
});

describe.each(['cut', 'large'] as const)('random joins and partial UNMAPs in mode %s', (mode) => {
  const run = fc.record({
    at: fc.nat(60),
    pages: fc.integer({ min: 1, max: 12 }),
    size: fc.integer({ min: 1, max: 3 }),
  });
  const unmaps = fc.array(fc.tuple(fc.nat(70), fc.integer({ min: 1, max: 5 })), { minLength: 1, maxLength: 12 });
  const scenario = fc.record({
    runs: fc.array(run, { minLength: 1, maxLength: 8 }),
    kicks: fc.array(unmaps, { minLength: 1, maxLength: 6 }),
    quietFrom: fc.nat(8),
    maxEntry: fc.constantFrom(0, 4, 16),
  });
  type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

  function build({ runs, maxEntry }: Scenario): PlanRig {
    const rig = new PlanRig({
      contexts: [{ ...CUTS, mode }],
      device: maxEntry === 0 ? {} : { maxEntryBytes: maxEntry * 4096 },
    });
    for (const { at, pages, size } of runs) {
      const changes: Change[] = [];
      for (let page = at; page + size <= at + pages; page += size) changes.push(['map', page, size, RAM + page, 3]);
      rig.kick(changes);
    }
    rig.busMaster(true);
    check(rig);
    return rig;
  }

  /** Unmaps in kicks; returns host operations. `lost` is called when a live mapping is missing after one of them. */
  function tear(rig: PlanRig, { kicks, quietFrom }: Scenario, lost: (pages: readonly number[]) => void): number {
    let operations = 0;
    rig.host.onOperation(({ kind }) => {
      operations++;
      const missing = rig.missing();
      if (missing.length > 0 && kind !== 'unmapAll' && rig.host.busMaster(1)) lost(missing);
    });
    kicks.forEach((unmaps, i) => {
      if (i === quietFrom) rig.busMaster(false);
      rig.kick(unmaps.map(([page, pages]): Change => ['unmap', page, pages]));
      expect(rig.excess()).toEqual([]);
    });
    rig.busMaster(true);
    return operations;
  }

  it('lose nothing else, not even for a moment where the host cuts', () => {
    let windows = 0;
    fc.assert(
      fc.property(scenario, (each) => {
        const rig = build(each);
        tear(rig, each, (pages) => {
          if (mode === 'cut') expect.fail(`pages ${pages.join(' ')} were lost`);
        });
        windows += rig.stats().windows.count;
        expect(rig.eventsOf('dma-window')).toHaveLength(rig.stats().windows.count);
        check(rig);
      }),
      { numRuns: 120 * SCALE },
    );
    if (mode === 'cut') expect(windows).toBe(0);
    else expect(windows).toBeGreaterThan(0);
  });

  it('lose nothing else for good, whichever host operation fails', () => {
    fc.assert(
      fc.property(scenario, fc.constantFrom(Errno.EINVAL, Errno.ENOMEM, Errno.EOPNOTSUPP), (each, errno) => {
        const whole = tear(build(each), each, () => undefined);
        for (let n = 1; n <= whole; n++) {
          const rig = build(each);
          rig.host.failAt(n, errno);
          const lost: number[] = [];
          tear(rig, each, (pages) => lost.push(...pages));
          rig.host.clearFaults();
          const { state, windows } = rig.stats();
          if (state === 'blocked') {
            expect(rig.eventsOf('context-blocked')).toHaveLength(1);
            expect(rig.entries()).toEqual([]);
            continue;
          }
          if (lost.length > 0) expect(windows.count).toBeGreaterThan(0);
          check(rig);
        }
      }),
      { numRuns: 12 * SCALE },
    );
  });
});
