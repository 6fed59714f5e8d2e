// Installation on quiet contexts: what goes to the host when, the tails, barriers, and refusals on the way.
import { describe, expect, it } from 'vitest';
import type { PlanRigOptions } from '../../test/coalesce/plan-rig.ts';
import { PlanRig, RAM, contiguous, scattered, usable } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';
import { GATHER_ABOVE, WINDOW_PAGES } from './settings.ts';

/** Nothing is missing or reached too much, and the device knows every entry. */
function expectExact(rig: PlanRig, endpoint = 1): void {
  expect(rig.missing(endpoint)).toEqual([]);
  expect(rig.excess(endpoint)).toEqual([]);
  expect(rig.believed()).toEqual(rig.entries());
}

describe('progressive installation', () => {
  it('sends a window inside the kick that completes it, and nothing before', () => {
    const rig = new PlanRig();
    const targets = scattered(WINDOW_PAGES + 1);
    rig.mapAll(7, targets.slice(0, WINDOW_PAGES - 1));
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls: 0, windowCalls: 0 });
    expect(rig.stats()).toMatchObject({ planned: 1, plannedPages: WINDOW_PAGES - 1 });
    rig.map(7 + WINDOW_PAGES - 1, 1, targets[WINDOW_PAGES - 1]!);
    expect(rig.entries()).toEqual([[7, WINDOW_PAGES, 3]]);
    expect(rig.stats()).toMatchObject({ planned: 0, plannedPages: 0, gathered: 1, gathersMade: 1 });
    rig.map(7 + WINDOW_PAGES, 1, targets[WINDOW_PAGES]!);
    expect(rig.stats()).toMatchObject({ planned: 1, entries: 1 });
    rig.busMaster(true);
    expectExact(rig);
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls: 2, refusals: 0, windows: 0 });
  });

  it('sends a run once it cannot grow: when another mapping begins, or at maxEntryBytes', () => {
    const rig = new PlanRig({ device: { maxEntryBytes: 1024 * 4096 } });
    rig.map(0, 512, RAM);
    rig.map(512, 511, RAM + 512);
    expect(rig.entries()).toEqual([]);
    rig.map(1023, 1, RAM + 1023);
    rig.map(1024, 1, RAM + 1024);
    expect(rig.entries()).toEqual([[0, 1024, 3]]);
    rig.map(5000, 600, RAM + 2000);
    rig.map(9000, 1, RAM + 3000);
    expect(rig.entries()).toEqual([
      [0, 1024, 3],
      [5000, 600, 3],
    ]);
    rig.busMaster(true);
    expectExact(rig);
    expect(rig.entries()).toHaveLength(4);
  });

  it('installs the tails when the bit is set, one entry for each, before it is set', () => {
    const rig = new PlanRig();
    rig.mapAll(0, scattered(5));
    rig.mapAll(100, contiguous(9, RAM + 500));
    rig.mapAll(200, scattered(GATHER_ABOVE + 1, RAM + 600));
    rig.map(300, 1, RAM + 900);
    const bits: boolean[] = [];
    rig.host.onOperation(() => bits.push(rig.host.busMaster(1)));
    rig.busMaster(true);
    expect(rig.entries().map(([iova]) => iova)).toEqual([0, 100, 200, 300]);
    expect(rig.contexts[0]!.stats().mapCalls).toBe(4);
    expect(bits.length).toBeGreaterThan(0);
    expect(bits).not.toContain(true);
    expectExact(rig);
    expect(rig.stats()).toMatchObject({
      joined: 1,
      gathered: 2,
      joinsMade: 1,
      gathersMade: 2,
      planned: 0,
      quiet: false,
    });
  });

  it.each([
    ['ascending', (i: number) => i],
    ['descending', (i: number) => 511 - i],
    ['from both ends', (i: number) => (i % 2 === 0 ? i / 2 : 511 - (i - 1) / 2)],
    ['random', (i: number) => (i * 197) % 512],
  ])('%s MAPs of a window become one entry', (_name, order) => {
    for (const targets of [scattered(512), contiguous(512)]) {
      const rig = new PlanRig();
      const changes = contiguous(512, 0).map((i) => ['map', order(i), 1, targets[order(i)]!] as const);
      for (let i = 0; i < 512; i += 64) expect(new Set(rig.kick(changes.slice(i, i + 64)))).toEqual(new Set(['OK']));
      rig.busMaster(true);
      expect(rig.entries()).toEqual([[0, 512, 3]]);
      expectExact(rig);
    }
  });

  it('waits until every endpoint of the group is known to be off', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1, 2] }], busMaster: true });
    rig.busMaster(false, 1);
    rig.mapEach(0, contiguous(3));
    expect(rig.entries()).toHaveLength(3);
    rig.busMaster(false, 2);
    rig.mapEach(100, contiguous(3, RAM + 50));
    expect(rig.stats()).toMatchObject({ quiet: true, planned: 1 });
    rig.busMaster(true, 2);
    expect(rig.stats()).toMatchObject({ quiet: false, planned: 0, entries: 4 });
    expectExact(rig);
    expectExact(rig, 2);
    rig.busMaster(true, 1);
    expect(rig.stats()).toMatchObject({ entries: 4 });
    rig.busMaster(false);
    rig.mapEach(200, contiguous(2, RAM + 90));
    rig.busMaster(true, 1);
    expect(rig.stats()).toMatchObject({ quiet: false, planned: 0, entries: 5 });
    expectExact(rig, 2);
  });

  it('never happens for a device that nobody has told of: every MAP goes out at once, 1:1', () => {
    const rig = new PlanRig({ busMaster: 'unknown' });
    for (let i = 0; i < 20; i++) {
      rig.map(i, 1, RAM + i);
      expect(rig.stats()).toMatchObject({ quiet: false, entries: i + 1, planned: 0 });
    }
    expectExact(rig);
  });
});

describe('barriers', () => {
  it.each([
    [
      'rights',
      [
        ['map', 0, 1, RAM, 3],
        ['map', 1, 1, RAM + 1, 1],
        ['map', 2, 1, RAM + 2, 3],
      ] as const,
      3,
    ],
    [
      'a hole',
      [
        ['map', 0, 1, RAM],
        ['map', 2, 1, RAM + 1],
      ] as const,
      2,
    ],
    [
      'memory that is not there',
      [
        ['map', 0, 1, RAM],
        ['map', 1, 1, 9],
        ['map', 2, 1, RAM + 1],
      ] as const,
      2,
    ],
    [
      'a mapping without rights',
      [
        ['map', 0, 1, RAM],
        ['map', 1, 1, RAM + 1, 0],
        ['map', 2, 1, RAM + 2],
      ] as const,
      2,
    ],
  ])('%s part entries', (_name, changes, entries) => {
    for (const list of [changes, [...changes].reverse()]) {
      const rig = new PlanRig();
      for (const change of list) rig.kick([change]);
      rig.busMaster(true);
      expect(rig.entries()).toHaveLength(entries);
      expectExact(rig);
    }
  });

  it('regions do not share a run, though their addresses continue; a window shows both', () => {
    for (const kind of ['anonymous', 'memfd'] as const) {
      const ram = [
        { page: RAM, pages: 8, kind, at: 2 ** 22 },
        { page: RAM + 8, pages: 8, kind, at: 2 ** 22 + 8 },
      ];
      for (const order of [contiguous(16, 0), contiguous(16, 0).reverse()]) {
        const rig = new PlanRig({ ram });
        for (const i of order) rig.map(i, 1, RAM + i);
        rig.busMaster(true);
        const rows = rig.entries().map(([iova, pages]) => [iova, pages]);
        expect(rows).toEqual(
          kind === 'memfd'
            ? [[0, 16]]
            : [
                [0, 8],
                [8, 8],
              ],
        );
        expectExact(rig);
      }
    }
  });

  it('read-only memory takes its own entry, and gives no more than reading', () => {
    const rig = new PlanRig({
      ram: [
        { page: RAM, pages: 4, at: 2 ** 22 },
        { page: RAM + 4, pages: 4, at: 2 ** 22 + 4, readOnly: true },
      ],
    });
    for (let i = 0; i < 8; i++) rig.map(i, 1, RAM + i);
    rig.busMaster(true);
    expect(rig.entries()).toEqual([
      [0, 4, 3],
      [4, 4, 1],
    ]);
  });

  it('device registers are installed by their own mapping, at once, and never joined or gathered', () => {
    const rig = new PlanRig();
    rig.addMmio(0x200, 8);
    rig.mapEach(0, scattered(4));
    for (let i = 0; i < 4; i++) rig.map(4 + i, 1, 0x200 + i);
    expect(rig.entries().map(([iova]) => iova)).toEqual([4, 5, 6, 7]);
    rig.mapEach(8, scattered(4, RAM + 100));
    rig.busMaster(true);
    expect(rig.entries().map(([iova, pages]) => [iova, pages])).toEqual([
      [0, 4],
      [4, 1],
      [5, 1],
      [6, 1],
      [7, 1],
      [8, 4],
    ]);
    expectExact(rig);
  });

  it('usable ranges that touch part entries; a mapping across their border is refused alone, when it is made', () => {
    for (const policy of ['forward', 'exact'] as const) {
      const context = { endpoints: [1], usableRanges: usable([0, 200], [200, 1000]) };
      const rig = new PlanRig({ contexts: [context], device: { policy } });
      for (let i = 196; i < 204; i++) expect(rig.map(i, 1, RAM + i)).toBe('OK');
      for (let i = 206; i > 203; i--) expect(rig.map(i, 1, RAM + i)).toBe('OK');
      rig.unmap(199, 1);
      rig.unmap(200, 1);
      expect(rig.map(199, 2, RAM + 199)).toBe('RANGE');
      expect(rig.map(199, 1, RAM + 199)).toBe('OK');
      expect(rig.map(200, 1, RAM + 200)).toBe('OK');
      rig.busMaster(true);
      if (policy === 'exact') {
        expect(rig.entries()).toEqual([
          [196, 4, 3],
          [200, 7, 3],
        ]);
      }
      expect(rig.stats().state).toBe('domain');
      expectExact(rig);
    }
  });

  it.each([
    ['ascending', contiguous(10, 0)],
    ['descending', contiguous(10, 0).reverse()],
  ])('usable ranges that touch part runs and windows, %s', (_name, order) => {
    for (const targets of [contiguous(10), scattered(10)]) {
      const rig = new PlanRig({ contexts: [{ endpoints: [1], usableRanges: usable([0, 4], [4, 1000]) }] });
      for (const i of order) rig.map(i, 1, targets[i]!);
      rig.busMaster(true);
      expect(rig.entries()).toEqual([
        [0, 4, 3],
        [4, 6, 3],
      ]);
      expect(rig.contexts[0]!.stats().refusals).toBe(0);
      expectExact(rig);
    }
  });

  it('are none at the very end of 64 bits', () => {
    const top = 2 ** 52;
    const rig = new PlanRig({ contexts: [{ endpoints: [1], usableRanges: usable([0, top]) }] });
    rig.mapEach(top - 4, contiguous(4));
    rig.mapEach(top - 100, scattered(40, RAM + 100));
    rig.busMaster(true);
    expect(rig.entries()).toEqual([
      [top - 100, 40, 3],
      [top - 4, 4, 3],
    ]);
    expectExact(rig);
    rig.unmap(top - 2, 1);
    rig.unmap(top - 90, 1);
    expectExact(rig);
    rig.unmap(top - 100, 100);
    expect(rig.entries()).toEqual([]);
  });
});

describe('windows', () => {
  const never: [string, PlanRigOptions][] = [
    ['an iommufd context', { contexts: [{ endpoints: [1], flavour: 'iommufd' }] }],
    ['mediated devices', { contexts: [{ endpoints: [1], mediated: true }] }],
    ['a host that builds none', { contexts: [{ endpoints: [1], windowPieces: 0 }] }],
    ['a host with pages of 16 KiB', { contexts: [{ endpoints: [1], pageSizes: 0x200_4000n }] }],
    ['a host of single pieces', { contexts: [{ endpoints: [1], windowPieces: 1 }] }],
    ['anonymous memory', { ram: [{ page: RAM, pages: 1024, kind: 'anonymous' }] }],
    ['hugetlb pages', { ram: [{ page: RAM, pages: 1024, kind: 'hugetlb' }] }],
    ['a file sealed against writing', { ram: [{ page: RAM, pages: 1024, seals: ['future-write'] }] }],
    ['gather never', { device: { gather: 'never' } }],
    ['policy forward', { device: { policy: 'forward' } }],
  ];
  it.each(never)('are not asked for: %s', (_name, options) => {
    const rig = new PlanRig(options);
    const unit = rig.core.state.granulePages;
    rig.kick(scattered(40, 0).map((page, i) => ['map', i * unit, unit, RAM + page * unit] as const));
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(40);
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls: 40, windowCalls: 0, refusals: 0 });
    expectExact(rig);
  });

  it('joins go on without windows', () => {
    for (const [name, options] of never) {
      if (name === 'policy forward') continue;
      const rig = new PlanRig(options);
      const unit = rig.core.state.granulePages;
      rig.kick(contiguous(40, 0).map((i) => ['map', i * unit, unit, RAM + i * unit] as const));
      rig.busMaster(true);
      expect(rig.entries()).toEqual([[0, 40 * unit, 3]]);
      expectExact(rig);
    }
  });

  it.each(['shrink', 'grow', 'seal'] as const)('show files with the seal %s', (seal) => {
    const rig = new PlanRig({ ram: [{ page: RAM, pages: 1024, seals: [seal] }] });
    rig.mapAll(0, scattered(40));
    rig.busMaster(true);
    expect(rig.entries()).toEqual([[0, 40, 3]]);
    expectExact(rig);
  });

  it.each([99, 100, 101])('of 100 pieces on a host that allows %d pieces at a time', (windowPieces) => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], windowPieces }] });
    rig.mapAll(0, scattered(100));
    rig.busMaster(true);
    expect(rig.entries().length).toBeLessThanOrEqual(windowPieces < 100 ? 2 : 1);
    expect(rig.contexts[0]!.stats()).toMatchObject({ refusals: 0, windows: 0 });
    expectExact(rig);
  });

  it('are built a few at a time where all together would be too many pieces', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], windowPieces: 100 }] });
    for (let i = 0; i < 5; i++) rig.mapAll(100 * i, scattered(60, RAM + 200 * i));
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(5);
    expect(rig.contexts[0]!.stats()).toMatchObject({ refusals: 0, windows: 0 });
    expectExact(rig);
  });

  it('in mode always are made of two pieces, in auto of more than 16', () => {
    for (const gather of ['always', 'auto'] as const) {
      const rig = new PlanRig({ device: { gather } });
      rig.map(0, 300, RAM);
      rig.map(300, 212, RAM + 1000);
      rig.busMaster(true);
      expect(rig.stats()).toMatchObject({ gathered: gather === 'always' ? 1 : 0 });
      expectExact(rig);
    }
  });
});

describe('a planned installation that fails', () => {
  it.each([Errno.EINVAL, Errno.EFAULT, Errno.ENOMEM, Errno.EEXIST])('once with %d goes on 1:1', (errno) => {
    for (const targets of [scattered(6), contiguous(6)]) {
      const rig = new PlanRig();
      rig.mapAll(10, targets);
      rig.host.failAt(1, errno, { kind: 'map', times: 2 });
      rig.busMaster(true);
      const gone = rig.entries().length === 0;
      expect(rig.stats()).toMatchObject({ state: gone ? 'blocked' : 'domain', planned: 0 });
      if (!gone) expectExact(rig);
      expect(rig.host.faults.pending).toBe(0);
    }
  });

  it('goes on 1:1 when the window cannot be built', () => {
    const rig = new PlanRig();
    rig.mapAll(10, scattered(6));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'window', times: 2 });
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(6);
    expect(rig.stats()).toMatchObject({ failedInstalls: 1, gathersMade: 0, callsSaved: 0 });
    expectExact(rig);
  });

  it('goes on 1:1 when the joined entry is refused, and claims no call saved', () => {
    const rig = new PlanRig();
    rig.mapAll(10, contiguous(3));
    rig.host.failAt(1, Errno.EINVAL, { kind: 'map' });
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(3);
    expect(rig.stats()).toMatchObject({ failedInstalls: 1, joinsMade: 0, callsSaved: 0 });
    expectExact(rig);
  });

  it('is not among the calls saved, and neither is a single entry', () => {
    const rig = new PlanRig();
    rig.mapAll(10, contiguous(3));
    rig.busMaster(true);
    expect(rig.stats().callsSaved).toBe(2);
    rig.busMaster(false);
    rig.map(20, 1, RAM + 50);
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ callsSaved: 2, entries: 2 });
  });

  it('for good after its answer blocks the context and is told four ways', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1, 2] }] });
    rig.map(5, 1, RAM + 200);
    rig.mapAll(10, contiguous(3));
    rig.host.failAt(2, Errno.EFAULT, { kind: 'map', times: Infinity });
    rig.busMaster(true);
    expect(rig.entries()).toEqual([]);
    expect(rig.stats()).toMatchObject({ state: 'blocked', blockedBy: 'no entries', planned: 0, plannedPages: 0 });
    expect(rig.core.stats().counters['contextBlocks']).toBe(1);
    expect(rig.eventsOf('context-blocked').filter(({ reason }) => reason === 'operation failed')).toEqual([
      expect.objectContaining({ endpoints: [1, 2], errno: Errno.EFAULT, iova: 10n * 4096n }),
    ]);
    expect(rig.driver.events().map(({ endpoint, address }) => [endpoint, address])).toEqual([
      [1, 10n * 4096n],
      [2, 10n * 4096n],
    ]);
    // The guest's table is what was answered, and the next switch brings it back.
    expect(rig.stats().guestMappings).toBe(0);
    rig.host.clearFaults();
    expect(rig.detach(1)).toBe('OK');
    expect(rig.detach(2)).toBe('OK');
  });

  it('and comes before others leaves none of their windows standing', () => {
    const rig = new PlanRig();
    rig.map(5, 1, RAM + 200);
    rig.mapAll(10, scattered(5));
    rig.host.failAt(1, Errno.EFAULT, { kind: 'map' });
    rig.busMaster(true);
    expect(rig.stats().state).toBe('blocked');
    expect(rig.contexts[0]!.stats()).toMatchObject({ windows: 0, windowPieces: 0, entries: 0 });
  });

  it('inside the kick of the MAP that completes it refuses that MAP alone, 1:1 for the others', () => {
    const rig = new PlanRig();
    const targets = scattered(512);
    rig.mapAll(0, targets.slice(0, 511));
    // The gather, alone again, and the last of the 512 mappings.
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', times: 2 });
    rig.host.failAt(514, Errno.ENOMEM, { kind: 'map' });
    expect(rig.map(511, 1, targets[511]!)).toBe('NOMEM');
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 511, guestMappings: 511 });
    rig.busMaster(true);
    expectExact(rig);
  });

  it('in the second of two regions of one mapping refuses the mapping, and leaves nothing of it', () => {
    const ram = [
      { page: RAM, pages: 4 },
      { page: RAM + 4, pages: 4 },
    ];
    const rig = new PlanRig({ ram });
    rig.map(100, 1, RAM);
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map' });
    expect(rig.map(0, 8, RAM)).toBe('NOMEM');
    expect(rig.entries()).toEqual([]);
    expect(rig.map(0, 8, RAM)).toBe('OK');
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(3);
    expectExact(rig);
  });

  it('and whose undo is refused as well blocks the context, which is told', () => {
    const ram = [
      { page: RAM, pages: 4 },
      { page: RAM + 4, pages: 4 },
    ];
    const rig = new PlanRig({ ram });
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map' });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    rig.map(0, 8, RAM);
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, planned: 0 });
    expect(rig.entries()).toEqual([]);
    expect(rig.eventsOf('context-blocked')).toEqual([expect.objectContaining({ errno: Errno.EIO })]);
  });

  it('leaves no window behind, wherever it fails', () => {
    for (let n = 1; n < 12; n++) {
      const rig = new PlanRig();
      for (let i = 0; i < 3; i++) rig.mapAll(100 * i, scattered(4, RAM + 100 * i));
      rig.host.failAt(n, Errno.ENOMEM);
      rig.busMaster(true);
      expect(rig.contexts[0]!.stats()).toMatchObject({ windows: 0, windowPieces: 0 });
      expect(rig.stats().state).toBe('domain');
      expectExact(rig);
    }
  });
});
