// Policies, quiescence, changes of both at run time, and several contexts of one domain.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';
import type { Policy } from './settings.ts';
import { POLICIES } from './settings.ts';

const two = { contexts: [{ endpoints: [1] }, { endpoints: [2] }] };

function expectExact(rig: PlanRig, ...endpoints: number[]): void {
  for (const endpoint of endpoints.length === 0 ? [1] : endpoints) {
    expect(rig.missing(endpoint)).toEqual([]);
    expect(rig.excess(endpoint)).toEqual([]);
  }
  rig.contexts.forEach((_context, group) => expect(rig.believed(group)).toEqual(rig.entries(group)));
}

describe('policy', () => {
  const entriesOf = (policy: Policy, busMaster: boolean | 'unknown', oneKick: boolean): number => {
    const rig = new PlanRig({ busMaster, device: { policy } });
    const changes = contiguous(10, 0).map((i) => ['map', i, 1, RAM + i] as const);
    if (oneKick) rig.kick(changes);
    else for (const change of changes) rig.kick([change]);
    if (busMaster !== 'unknown') rig.busMaster(true);
    expectExact(rig);
    return rig.entries().length;
  };

  it.each([
    ['forward', [10, 10, 10, 10]],
    ['exact', [1, 1, 10, 10]],
    ['kick', [1, 1, 10, 1]],
    ['lossy', [1, 1, 10, 1]],
  ] as const)(
    '%s makes so many entries of 10 contiguous pages: quiet one by one, quiet, live one by one, live',
    (policy, counts) => {
      expect([
        entriesOf(policy, false, false),
        entriesOf(policy, false, true),
        entriesOf(policy, true, false),
        entriesOf(policy, true, true),
      ]).toEqual(counts);
    },
  );

  it('exact without a bus-master signal does what forward does, call by call, and says once that it could do more', () => {
    const run = (policy: Policy): { calls: unknown[]; rig: PlanRig } => {
      const rig = new PlanRig({
        contexts: [{ endpoints: [1], entryLimit: 64 }],
        busMaster: 'unknown',
        device: { policy },
      });
      const calls: unknown[] = [];
      rig.host.onOperation(({ kind, iova, pages, errno }) => calls.push([kind, iova, pages, errno]));
      rig.kick(contiguous(70, 0).map((i) => ['map', i, 1, RAM + i] as const));
      rig.kick(contiguous(8, 0).map((i) => ['unmap', i, 1] as const));
      for (let i = 0; i < 10; i++) rig.map(100 + i, 1, RAM + i);
      return { calls, rig };
    };
    const [forward, exact] = [run('forward'), run('exact')];
    expect(exact.calls).toEqual(forward.calls);
    expect(exact.rig.eventsOf('budget-low')).toHaveLength(1);
    expect(exact.rig.eventsOf('budget-low')[0]!.hint).toContain('setBusMaster was never called');
    expect(exact.rig.stats()).toMatchObject({ joined: 0, gathered: 0, windows: { count: 0 }, demotions: 0 });
  });

  it('forward is 1:1 on a quiet context, at once', () => {
    const rig = new PlanRig({ device: { policy: 'forward' } });
    rig.mapAll(0, contiguous(20));
    rig.mapAll(100, scattered(20, RAM + 100));
    expect(rig.stats()).toMatchObject({ quiet: true, planned: 0, entries: 40, joinsMade: 0, gathersMade: 0 });
    rig.busMaster(true);
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls: 40, windowCalls: 0 });
    expectExact(rig);
  });

  it('kick joins nothing over the border of two kicks, and has installed all when it answers', () => {
    const rig = new PlanRig({ busMaster: true, device: { policy: 'kick' } });
    rig.kick([
      ['map', 0, 1, RAM],
      ['map', 1, 1, RAM + 1],
    ]);
    expect(rig.entries()).toEqual([[0, 2, 3]]);
    rig.kick([['map', 2, 1, RAM + 2]]);
    expect(rig.entries()).toEqual([
      [0, 2, 3],
      [2, 1, 3],
    ]);
    rig.mapAll(100, scattered(20, RAM + 100));
    expect(rig.stats()).toMatchObject({ gathered: 1, planned: 0, windows: { count: 0 } });
    expectExact(rig);
  });

  it('states its peaks before they are reached', () => {
    for (const policy of POLICIES) {
      const rig = new PlanRig({ device: { policy } });
      rig.mapAll(0, scattered(40));
      rig.busMaster(true);
      for (let i = 0; i < 5; i++) rig.map(1000 + 2 * i, 1, RAM + 200 + 2 * i);
      rig.unmap(20, 1);
      const { statedPeak, entriesPeak } = rig.stats();
      expect(statedPeak).toBeGreaterThanOrEqual(entriesPeak);
    }
  });
});

describe('a policy that changes', () => {
  it('rules the entries made from then on; older joined ones stay and are counted', () => {
    const rig = new PlanRig();
    rig.mapAll(0, contiguous(10));
    rig.busMaster(true);
    rig.core.setPolicy('forward');
    rig.mapAll(10, contiguous(10, RAM + 10));
    expect(rig.stats()).toMatchObject({ entries: 11, joined: 1 });
    rig.busMaster(false);
    rig.mapAll(20, contiguous(10, RAM + 20));
    expect(rig.stats()).toMatchObject({ entries: 21, joined: 1, planned: 0 });
    rig.core.setPolicy('exact');
    rig.mapAll(30, contiguous(10, RAM + 30));
    expect(rig.stats()).toMatchObject({ entries: 21, planned: 1 });
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ entries: 22, joined: 2 });
    expectExact(rig);
  });

  it.each(POLICIES)('to %s on a quiet context loses nothing that was planned', (policy) => {
    const rig = new PlanRig();
    rig.mapAll(0, contiguous(10));
    rig.mapAll(100, scattered(10, RAM + 100));
    rig.core.setPolicy(policy);
    rig.map(200, 1, RAM + 200);
    rig.unmap(105, 1);
    rig.busMaster(true);
    expectExact(rig);
    expect(rig.stats().state).toBe('domain');
  });

  it('to a name that does not exist is refused', () => {
    const rig = new PlanRig();
    expect(() => rig.core.setPolicy('best' as Policy)).toThrow(RangeError);
  });
});

describe('several contexts of a domain', () => {
  it.each([
    [false, false],
    [true, true],
    [true, false],
    [false, true],
  ])('live %s and %s: each MAP is in all of them or in none', (first, second) => {
    for (const policy of POLICIES) {
      for (let n = 1; n < 12; n++) {
        const rig = new PlanRig({ ...two, device: { policy } });
        rig.mapAll(0, contiguous(3));
        if (first) rig.busMaster(true, 1);
        if (second) rig.busMaster(true, 2);
        rig.host.failAt(n, Errno.ENOMEM, { kind: 'map' });
        const answers = rig.kick([
          ['map', 3, 1, RAM + 3],
          ['map', 4, 1, RAM + 4],
          ['map', 600, 600, RAM + 1000],
          ['map', 100, 1, RAM + 9],
          ['map', 102, 1, RAM + 12],
        ]);
        rig.host.clearFaults();
        rig.busMaster(true);
        expect(answers.filter((answer) => answer !== 'OK').length).toBeLessThanOrEqual(1);
        expectExact(rig, 1, 2);
        expect([rig.stats(0).state, rig.stats(1).state]).toEqual(['domain', 'domain']);
      }
    }
  });

  it('with different limits refuse what the smaller one cannot take, in both', () => {
    for (const busMaster of [true, false]) {
      const contexts = [{ endpoints: [1] }, { endpoints: [2], entryLimit: 3 }];
      const rig = new PlanRig({ contexts, busMaster });
      const answers = rig.kick(contiguous(5, 0).map((i) => ['map', 10 * i, 1, RAM + 3 * i] as const));
      expect(answers).toEqual(['OK', 'OK', 'OK', 'NOMEM', 'NOMEM']);
      rig.busMaster(true);
      expect([rig.entries(0).length, rig.entries(1).length]).toEqual([3, 3]);
      expectExact(rig, 1, 2);
    }
  });

  it('are each as fine as their own quiet allows', () => {
    const rig = new PlanRig(two);
    rig.busMaster(true, 2);
    rig.mapAll(0, contiguous(10));
    expect([rig.stats(0).planned, rig.stats(0).entries, rig.stats(1).entries]).toEqual([1, 0, 10]);
    rig.busMaster(true, 1);
    expect(rig.entries(0)).toEqual([[0, 10, 3]]);
    rig.unmap(5, 1);
    expect([rig.stats(0).demotions, rig.stats(1).demotions]).toEqual([1, 0]);
    expectExact(rig, 1, 2);
  });

  it('a refusal of the second takes the MAP out of a window that the first has installed', () => {
    const targets = scattered(512);
    const rig = new PlanRig(two);
    rig.mapAll(0, targets.slice(0, 511));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 1, times: Infinity });
    rig.kick([['map', 511, 1, targets[511]!]]);
    rig.host.clearFaults();
    expect(rig.excess(1)).toEqual([]);
    expect(rig.excess(2)).toEqual([]);
    rig.busMaster(true);
    if (rig.stats(1).state === 'domain') expectExact(rig, 1, 2);
    else expect(rig.entries(1)).toEqual([]);
  });

  it('the cap counts in each what is installed and what is planned', () => {
    const rig = new PlanRig({ ...two, ram: [{ page: RAM, pages: 64 }], device: { maxInstalled: 1 } });
    expect(rig.map(0, 64, RAM)).toBe('OK');
    rig.core.setPolicy('forward');
    expect(rig.map(100, 64, RAM)).toBe('NOMEM');
    rig.busMaster(true);
    expectExact(rig, 1, 2);
  });

  it('one that is blocked does not keep the other from its domain', () => {
    const rig = new PlanRig({ ...two, busMaster: true });
    rig.map(0, 1, RAM);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', group: 0 });
    expect(rig.unmap(0, 1)).toBe('OK');
    expect(rig.stats(0).state).toBe('blocked');
    expect(rig.map(10, 1, RAM + 5)).toBe('OK');
    expect(rig.entries(0)).toEqual([]);
    expectExact(rig, 2);
  });
});

describe('an ATTACH', () => {
  const mapped = (busMaster: boolean): PlanRig => {
    const ram = [
      { page: RAM, pages: 4 },
      { page: RAM + 4, pages: 1000 },
    ];
    const rig = new PlanRig({ ...two, ram, busMaster, detached: true });
    rig.attach(2);
    rig.map(10, 8, RAM);
    rig.mapAll(100, scattered(40, RAM + 100));
    return rig;
  };

  it('on a context that is off keeps the tails planned, on a live one installs them joined', () => {
    for (const busMaster of [false, true]) {
      const rig = mapped(busMaster);
      expect(rig.attach(1)).toBe('OK');
      expect(rig.stats(0)).toMatchObject(busMaster ? { planned: 0, entries: 3 } : { planned: 1, entries: 2 });
      rig.busMaster(true);
      expectExact(rig, 1);
      expect(rig.stats(0)).toMatchObject({ entries: 3, windows: { count: 0 } });
    }
  });

  it('whose every host operation fails in turn is refused or complete', () => {
    for (let n = 1; n < 12; n++) {
      for (const kind of [undefined, 'map', 'unmap', 'window'] as const) {
        const rig = mapped(true);
        rig.host.failAt(n, Errno.ENOMEM, kind === undefined ? { group: 0 } : { group: 0, kind });
        const answer = rig.attach(1);
        rig.host.clearFaults();
        expect(rig.excess(1)).toEqual([]);
        expect(rig.stats(0).state).toBe(answer === 'OK' ? 'domain' : 'blocked');
        if (answer === 'OK') expectExact(rig, 1);
        else expect(rig.entries(0)).toEqual([]);
      }
    }
  });

  it('that ends in a block is not answered OK, and the state says why nothing is reached', () => {
    const rig = mapped(true);
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map', group: 0 });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', group: 0 });
    expect(rig.attach(1)).not.toBe('OK');
    expect(rig.stats(0)).toMatchObject({ state: 'blocked', blockedBy: 'no entries', entries: 0 });
  });

  it('that nothing could stop stays fatal until the machine is reset', () => {
    const fatal: string[] = [];
    const ram = [
      { page: RAM, pages: 4 },
      { page: RAM + 4, pages: 4 },
    ];
    const device = { onFatal: (context: string) => void fatal.push(context) };
    const rig = new PlanRig({ ...two, ram, busMaster: true, detached: true, device });
    rig.attach(2);
    rig.map(10, 8, RAM);
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map', group: 0 });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', group: 0 });
    rig.host.failAt(2, Errno.EIO, { kind: 'unmapAll', group: 0 });
    rig.host.failAt(1, Errno.EIO, { kind: 'clearBusMaster', group: 0 });
    rig.host.failAt(1, Errno.EIO, { kind: 'resetDevices', group: 0 });
    const answer = rig.attach(1);
    if (fatal.length === 0) return;
    expect(answer).not.toBe('OK');
    expect(rig.stats(0)).toMatchObject({ state: 'blocked', blockedBy: 'fatal' });
    expect(rig.attach(1)).not.toBe('OK');
    rig.iommu.systemReset();
    expect(rig.stats(0).blockedBy).toBe('no entries');
  });
});

describe('a reset', () => {
  it('forgets what was planned and what was revoked', () => {
    for (const kind of ['detach', 'reset', 'system reset'] as const) {
      const rig = new PlanRig();
      rig.mapAll(0, contiguous(10));
      rig.mapAll(100, scattered(10, RAM + 100));
      rig.map(200, 1, RAM + 300);
      if (kind === 'detach') rig.detach(1);
      else if (kind === 'reset') rig.driver.start();
      else rig.iommu.systemReset();
      expect(rig.stats()).toMatchObject({ planned: 0, plannedPages: 0, revoked: 0, entries: 0, state: 'blocked' });
      rig.busMaster(true);
      expect(rig.entries()).toEqual([]);
      if (kind === 'system reset') rig.driver.start();
      rig.busMaster(false);
      rig.attach(1);
      rig.map(0, 1, RAM + 50);
      rig.busMaster(true);
      expect(rig.entries()).toEqual([[0, 1, 3]]);
      expectExact(rig);
    }
  });
});
