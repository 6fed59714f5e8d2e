// Entries that are taken, promised and kept free: which MAP is the first that is refused, and what is told.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';

const limited = (entryLimit: number, device = {}): PlanRig =>
  new PlanRig({ contexts: [{ endpoints: [1], entryLimit }], device });

/** Answers to one-page MAPs that can never be joined. */
const apart = (rig: PlanRig, count: number): string[] =>
  Array.from({ length: count }, (_, i) => rig.map(10 * i, 1, RAM + 3 * i));

describe.each([0, 1, 2, 3])('with %d entries', (limit) => {
  it('a quiet context takes as many separate mappings, and installs them all', () => {
    const rig = limited(limit);
    const answers = apart(rig, limit + 2);
    expect(answers).toEqual([...Array<string>(limit).fill('OK'), 'NOMEM', 'NOMEM']);
    expect(rig.stats()).toMatchObject({ planned: limit, entries: 0, guestMappings: limit });
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ planned: 0, entries: limit, state: 'domain' });
    expect(rig.missing()).toEqual([]);
  });

  it('a live context takes as many', () => {
    const rig = limited(limit);
    rig.busMaster(true);
    expect(apart(rig, limit + 1)).toEqual([...Array<string>(limit).fill('OK'), 'NOMEM']);
    expect(rig.missing()).toEqual([]);
    expect(rig.excess()).toEqual([]);
  });

  it('any number of contiguous mappings fits, as long as one entry is kept free', () => {
    for (const up of [true, false]) {
      const rig = limited(limit);
      const answers = Array.from({ length: 6 }, (_, i) => (up ? i : 5 - i)).map((i) => rig.map(i, 1, RAM + i));
      expect(answers.filter((answer) => answer === 'OK')).toHaveLength(limit > 1 ? 6 : limit);
      rig.busMaster(true);
      expect(rig.entries()).toHaveLength(Math.min(limit, 1));
      expect(rig.missing()).toEqual([]);
    }
  });

  it('refuses the guilty MAP of a kick alone, and tells it', () => {
    const rig = limited(limit);
    const answers = rig.kick(Array.from({ length: limit + 2 }, (_, i) => ['map', 10 * i, 1, RAM + 3 * i] as const));
    expect(answers).toEqual([...Array<string>(limit).fill('OK'), 'NOMEM', 'NOMEM']);
    expect(rig.eventsOf('host-refusal').map(({ iova, errno }) => [iova, errno])).toEqual([
      [BigInt(limit * 10) * 4096n, Errno.ENOSPC],
      [BigInt(limit * 10 + 10) * 4096n, Errno.ENOSPC],
    ]);
    expect(rig.core.stats().counters['hostRefusals']).toBe(2);
    expect(rig.driver.events()).toHaveLength(2);
  });

  it('is usable again after an UNMAP', () => {
    const rig = limited(limit);
    apart(rig, limit + 1);
    if (limit === 0) return;
    expect(rig.unmap(0, 1)).toBe('OK');
    expect(rig.map(5000, 1, RAM + 900)).toBe('OK');
    expect(rig.map(6000, 1, RAM + 902)).toBe('NOMEM');
    rig.busMaster(true);
    expect(rig.missing()).toEqual([]);
  });
});

describe('the entry that is kept free', () => {
  it('gives one partial UNMAP room: both halves stay', () => {
    for (const scatter of [true, false]) {
      const rig = limited(2);
      const targets = scatter ? scattered(5) : [0, 1, 2, 3, 4].map((i) => RAM + i);
      expect([...rig.mapEach(100, targets)]).toEqual(['OK']);
      rig.busMaster(true);
      expect(rig.entries()).toEqual([[100, 5, 3]]);
      expect(rig.unmap(102, 1)).toBe('OK');
      expect(rig.stats()).toMatchObject({ entries: 2, revoked: 0 });
      expect(rig.missing()).toEqual([]);
      expect(rig.excess()).toEqual([]);
    }
  });

  it('is not given to a MAP on a live context', () => {
    const rig = limited(2);
    rig.mapEach(100, [RAM, RAM + 1, RAM + 2]);
    rig.busMaster(true);
    expect(rig.map(200, 1, RAM + 9)).toBe('NOMEM');
    rig.unmap(101, 1);
    expect(rig.missing()).toEqual([]);
  });

  it('is not given to another MAP of the kick that completes a joined entry', () => {
    const rig = limited(2);
    const answers = rig.kick([
      ['map', 0, 300, RAM],
      ['map', 300, 300, RAM + 300],
      ['map', 2000, 1, RAM + 2000],
    ]);
    expect(answers).toEqual(['OK', 'OK', 'NOMEM']);
    expect(rig.mirror().budget.left).toBe(0);
  });

  it('is free again for a MAP once nothing is joined', () => {
    const rig = limited(2);
    rig.mapEach(100, [RAM, RAM + 1]);
    rig.busMaster(true);
    rig.unmap(101, 1);
    expect(rig.map(200, 1, RAM + 9)).toBe('OK');
    expect(rig.missing()).toEqual([]);
  });
});

describe('a promise', () => {
  it('that UNMAPs cut into more stretches than there is room for is revoked, and the context stays', () => {
    const rig = limited(2);
    rig.mapEach(
      100,
      [0, 1, 2, 3, 4].map((i) => RAM + i),
    );
    expect([rig.unmap(101, 1), rig.unmap(103, 1)]).toEqual(['OK', 'OK']);
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 2, revoked: 1, blocks: 0 });
    expect(rig.missing()).toHaveLength(1);
    rig.unmap(100, 1);
    expect(rig.stats()).toMatchObject({ entries: 2, revoked: 0 });
    expect(rig.missing()).toEqual([]);
  });

  it('that UNMAPs take out of an entry that was installed is revoked in the same way', () => {
    for (const targets of [scattered(7), contiguous(7)]) {
      const rig = limited(2);
      rig.mapAll(100, targets);
      rig.busMaster(true);
      rig.busMaster(false);
      rig.kick([101, 103, 105].map((page) => ['unmap', page, 1] as const));
      expect(rig.stats()).toMatchObject({ planned: 2, revoked: 2, entries: 0 });
      rig.busMaster(true);
      expect(rig.stats()).toMatchObject({ state: 'domain', entries: 2, revoked: 2, blocks: 0 });
      expect(rig.excess()).toEqual([]);
    }
  });

  it('that a remainder of an older joined entry holds counts under forward too', () => {
    const rig = limited(3);
    rig.mapAll(0, contiguous(3));
    rig.busMaster(true);
    rig.busMaster(false);
    rig.core.setPolicy('forward');
    rig.unmap(1, 1);
    expect([10, 20, 30].map((page) => rig.map(page, 1, RAM + page))).toEqual(['OK', 'NOMEM', 'NOMEM']);
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0 });
    expect(rig.missing()).toEqual([]);
  });

  it('is one for each run where no window can show several', () => {
    for (const order of [contiguous(20, 0), contiguous(20, 0).reverse()]) {
      const ram = [{ page: RAM, pages: 64, kind: 'anonymous' as const }];
      const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 10 }], ram });
      const answers = order.map((i) => rig.map(i, 1, scattered(20)[i]!));
      expect(answers.filter((answer) => answer === 'OK')).toHaveLength(10);
      expect(rig.stats().planned + rig.stats().entries).toBe(10);
      rig.busMaster(true);
      expect(rig.entries()).toHaveLength(10);
      expect(rig.missing()).toEqual([]);
    }
  });

  it('counts when the policy is forward by now', () => {
    const rig = limited(2);
    rig.map(0, 1, RAM);
    rig.core.setPolicy('forward');
    expect([rig.map(10, 1, RAM + 5), rig.map(20, 1, RAM + 7)]).toEqual(['OK', 'NOMEM']);
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 2, blocks: 0 });
    expect(rig.missing()).toEqual([]);
  });
});

describe('the cap on installed memory', () => {
  it.each(['forward', 'exact', 'kick', 'lossy'] as const)('refuses the first page beyond it under %s', (policy) => {
    const ram = [{ page: RAM, pages: 1024 }];
    const rig = new PlanRig({ ram, device: { policy, maxInstalled: 2 } });
    const maps = [0, 1, 2, 3].map((i) => ['map', i * 5000, i < 2 ? 1023 : 1, RAM + i] as const);
    expect(rig.kick([...maps, ['map', 90_000, 1, RAM]])).toEqual(['OK', 'OK', 'OK', 'OK', 'NOMEM']);
    rig.busMaster(true);
    expect(rig.missing()).toEqual([]);
  });

  it('counts what the same kick has planned already', () => {
    const ram = [{ page: RAM, pages: 1024 }];
    for (const policy of ['exact', 'forward'] as const) {
      const rig = new PlanRig({ ram, device: { policy, maxInstalled: 2 } });
      const maps = [0, 1, 2, 3].map((i) => ['map', i * 5000, 1024, RAM] as const);
      expect(rig.kick(maps)).toEqual(['OK', 'OK', 'NOMEM', 'NOMEM']);
    }
  });
});

describe('low water', () => {
  it.each([
    [8192, 64, 8],
    [8192, 80_000, 8192],
    [4, 64, 4],
    [0, 64, 0],
    [8192, 7, 0],
  ])('of %d with %d entries is %d', (lowWater, entryLimit, expected) => {
    const { budget } = limited(entryLimit, { lowWater }).mirror();
    expect(budget.lowWater).toBe(Math.min(expected, Math.floor(entryLimit / 8)));
  });

  it('is told once each time entries run short, with the way out', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 64 }], busMaster: 'unknown' });
    const told = (): number => rig.eventsOf('budget-low').length;
    for (let i = 0; i < 56; i++) rig.map(10 * i, 1, RAM + 3 * i);
    expect(told()).toBe(0);
    rig.map(560, 1, RAM + 500);
    expect(rig.eventsOf('budget-low')).toEqual([
      expect.objectContaining({ context: 'type1 group 0', entries: 57, limit: 64 }),
    ]);
    expect(rig.eventsOf('budget-low')[0]!.hint).toContain('setBusMaster');
    rig.map(570, 1, RAM + 503);
    rig.unmap(570, 1);
    rig.map(570, 1, RAM + 503);
    expect(told()).toBe(1);
    expect(rig.stats().lowWaterHits).toBe(1);
    for (let i = 0; i < 10; i++) rig.unmap(10 * i, 1);
    for (let i = 0; i < 10; i++) rig.map(10 * i, 1, RAM + 3 * i);
    expect(told()).toBe(2);
  });
});

describe('a host that lies about its entries', () => {
  it('upwards: its ENOSPC is believed, and only the MAP it hits is refused', () => {
    const rig = limited(100);
    rig.host.failAt(3, Errno.ENOSPC, { kind: 'map' });
    rig.busMaster(true);
    expect(apart(rig, 4)).toEqual(['OK', 'OK', 'NOMEM', 'OK']);
    expect(rig.missing()).toEqual([]);
  });

  it('and says there is no room for what was promised: the context is blocked and told, never half mapped', () => {
    const rig = limited(100);
    apart(rig, 3);
    rig.host.failAt(2, Errno.ENOSPC, { kind: 'map', times: 3 });
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, planned: 0, failedInstalls: 1 });
    expect(rig.entries()).toEqual([]);
    expect(rig.eventsOf('context-blocked')).toEqual([
      expect.objectContaining({ errno: Errno.ENOSPC, iova: 10n * 4096n, reason: 'operation failed' }),
    ]);
    expect(rig.core.stats().counters['contextBlocks']).toBe(1);
    expect(rig.driver.events()).toHaveLength(1);
  });
});
