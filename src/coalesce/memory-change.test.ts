// Guest memory that comes, goes and moves under joined and gathered entries.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';

const SECOND = RAM + 1000;

/** 40 mappings side by side, every other one in a second region. */
function mixed(live: boolean): PlanRig {
  const rig = new PlanRig({
    ram: [
      { page: RAM, pages: 64 },
      { page: SECOND, pages: 64 },
    ],
  });
  rig.mapAll(
    0,
    contiguous(40, 0).map((i) => (i % 2 === 0 ? RAM : SECOND) + i),
  );
  rig.busMaster(true);
  expect(rig.entries()).toEqual([[0, 40, 3]]);
  rig.busMaster(live);
  return rig;
}

function removeSecond(rig: PlanRig): void {
  rig.memory.removeRegion(rig.memory.regions.find(({ gpa }) => gpa === BigInt(SECOND) * 4096n)!);
  rig.moveRam(SECOND, 64, -1);
}

function expectExact(rig: PlanRig): void {
  expect(rig.missing()).toEqual([]);
  expect(rig.excess()).toEqual([]);
  expect(rig.believed()).toEqual(rig.entries());
}

describe.each([true, false])('with the bus-master bit %s', (live) => {
  it('a region that goes leaves the other mappings of its window', () => {
    const rig = mixed(live);
    removeSecond(rig);
    expect(rig.excess()).toEqual([]);
    if (!live) {
      expect(rig.stats()).toMatchObject({ planned: 20, plannedPages: 20, entries: 0, windows: { count: 0 } });
      rig.busMaster(true);
    } else {
      expect(rig.stats()).toMatchObject({ windows: { count: 1 } });
      expect(rig.eventsOf('dma-window').map(({ reason }) => reason)).toEqual(['memory']);
    }
    expect(rig.entries()).toHaveLength(20);
    expectExact(rig);
  });

  it('a region that comes back is shown again in all mappings', () => {
    const rig = mixed(live);
    removeSecond(rig);
    rig.addRam({ page: SECOND, pages: 64 });
    if (!live) expect(rig.stats()).toMatchObject({ planned: 1, plannedPages: 40 });
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(live ? 40 : 1);
    expectExact(rig);
  });

  it('mappings that were there first join when their memory comes', () => {
    const rig = new PlanRig({ busMaster: live });
    for (let i = 0; i < 8; i++) rig.map(i, 1, SECOND * 8 + i);
    rig.addRam({ page: SECOND * 8, pages: 8 });
    rig.busMaster(true);
    expect(rig.entries()).toHaveLength(live ? 8 : 1);
    expectExact(rig);
  });

  it('only the part of a mapping that has memory is installed, the rest when it comes', () => {
    const rig = new PlanRig({ busMaster: live, ram: [{ page: RAM, pages: 4 }] });
    rig.map(0, 8, RAM - 2);
    rig.addRam({ page: RAM - 2, pages: 2 });
    rig.busMaster(true);
    expect(rig.entries()).toEqual([
      [0, 2, 3],
      [2, 4, 3],
    ]);
    rig.addRam({ page: RAM + 4, pages: 100 });
    expect(rig.entries()).toHaveLength(3);
    expectExact(rig);
  });

  it('a joined run goes with its region and comes back elsewhere', () => {
    const rig = new PlanRig({ ram: [{ page: SECOND, pages: 64 }] });
    rig.mapAll(0, contiguous(30, SECOND));
    rig.busMaster(true);
    rig.busMaster(live);
    removeSecond(rig);
    expect(rig.entries()).toEqual([]);
    expect(rig.stats()).toMatchObject({ planned: 0, plannedPages: 0, revoked: 0 });
    rig.addRam({ page: SECOND, pages: 64, layout: 'scattered' });
    rig.busMaster(true);
    expectExact(rig);
  });

  it('registers that move are never part of a join', () => {
    const rig = new PlanRig();
    const bar = rig.addMmio(0x200, 4);
    rig.mapEach(0, contiguous(4));
    rig.map(4, 4, 0x300);
    rig.mapEach(8, contiguous(4, RAM + 4));
    rig.busMaster(true);
    rig.busMaster(live);
    expect(rig.entries()).toEqual([
      [0, 4, 3],
      [8, 4, 3],
    ]);
    rig.memory.moveMmio(bar, 0x300n * 4096n);
    expect(rig.entries()).toHaveLength(3);
    rig.moveRam(0x200, 4, -1);
    rig.moveRam(0x300, 4, Number(bar.hva! / 4096n));
    expectExact(rig);
  });
});

it('entries that come free when memory goes bring revoked stretches back', () => {
  const rig = new PlanRig({
    contexts: [{ endpoints: [1], entryLimit: 16 }],
    ram: [
      { page: RAM, pages: 64, kind: 'anonymous' },
      { page: SECOND, pages: 64 },
    ],
  });
  rig.mapAll(0, contiguous(40));
  rig.busMaster(true);
  for (let i = 0; i < 14; i++) rig.map(1000 + 2 * i, 1, SECOND + 2 * i);
  rig.kick([5, 10, 15, 20].map((page) => ['unmap', page, 1] as const));
  expect(rig.stats().revoked).toBeGreaterThan(0);
  removeSecond(rig);
  expect(rig.stats().revoked).toBe(0);
  expectExact(rig);
});

it.each([true, false])(
  'memory that does not fit blocks the context (live: %s) and is told; the next switch ends that',
  (live) => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 4 }] });
    // As many as fit while there is no memory behind them; the domain is larger than the host.
    for (let i = 0; i < 6; i++) rig.map(2 * i, 1, 0x400 + 2 * i);
    rig.busMaster(live);
    rig.addRam({ page: 0x400, pages: 64, kind: 'anonymous' });
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, planned: 0, revoked: 0 });
    expect(rig.entries()).toEqual([]);
    expect(rig.eventsOf('context-blocked')).toEqual([expect.objectContaining({ operation: 'new memory region' })]);
    for (let i = 0; i < 6; i++) rig.unmap(2 * i, 1);
    expect(rig.detach(1)).toBe('OK');
    expect(rig.attach(1)).toBe('OK');
    expect(rig.stats().state).toBe('domain');
  },
);

it.each([1, 2, 3, 4, 5])('a host operation that fails (%d) when memory comes or goes is never half done', (n) => {
  for (const live of [true, false]) {
    const rig = mixed(live);
    rig.host.failAt(n, Errno.ENOMEM);
    removeSecond(rig);
    rig.addRam({ page: SECOND, pages: 64 });
    rig.host.clearFaults();
    rig.busMaster(true);
    expect(rig.excess()).toEqual([]);
    expect(rig.believed()).toEqual(rig.entries());
    if (rig.stats().state === 'domain') expect(rig.missing()).toHaveLength(rig.stats().revokedPages);
    else expect(rig.entries()).toEqual([]);
  }
});

it('scattered memory of one region is gathered again after all of it went and came', () => {
  const rig = new PlanRig({ ram: [{ page: SECOND, pages: 64 }] });
  rig.mapAll(0, scattered(40, SECOND));
  removeSecond(rig);
  expect(rig.stats()).toMatchObject({ planned: 0, plannedPages: 0 });
  rig.addRam({ page: SECOND, pages: 64 });
  rig.busMaster(true);
  expect(rig.entries()).toEqual([[0, 40, 3]]);
  expectExact(rig);
});
