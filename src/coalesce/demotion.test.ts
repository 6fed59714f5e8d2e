// Partial UNMAPs of joined and gathered entries on live contexts: what is mapped again, how often, what has no room.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';

const kinds = [
  ['gathered', scattered],
  ['joined', contiguous],
] as const;

/** One live entry of `count` pages at page 0. */
function live(targets: readonly number[], options: ConstructorParameters<typeof PlanRig>[0] = {}): PlanRig {
  const rig = new PlanRig(options);
  rig.mapAll(0, targets);
  rig.busMaster(true);
  expect(rig.entries()).toEqual([[0, targets.length, 3]]);
  return rig;
}

/** Pages that maps pin from now on. */
function countPins(rig: PlanRig): { pages: number; maps: number } {
  const pins = { pages: 0, maps: 0 };
  rig.host.onOperation(({ kind, pages, errno }) => {
    if (kind !== 'map' || errno !== 0) return;
    pins.pages += pages;
    pins.maps++;
  });
  return pins;
}

describe.each(kinds)('a %s entry of 512 pages', (_name, targets) => {
  it('is not touched by a MAP, nor by the UNMAP of another', () => {
    const rig = live(targets(512));
    const pins = countPins(rig);
    rig.map(512, 1, RAM + 2000);
    rig.unmap(512, 1);
    expect(pins.pages).toBe(1);
    expect(rig.stats()).toMatchObject({ demotions: 0, windows: { count: 0 }, entries: 1 });
  });

  it('goes in one call when all of it is unmapped', () => {
    const rig = live(targets(512));
    rig.kick(contiguous(512, 0).map((page) => ['unmap', page, 1] as const));
    expect(rig.stats()).toMatchObject({ demotions: 0, windows: { count: 0 }, entries: 0, unmapCalls: 1 });
  });

  it.each([0, 1, 255, 256, 511])(
    'loses page %d alone: the rest is there again in one call, in size classes',
    (page) => {
      const rig = live(targets(512));
      let calls = 0;
      const apply = rig.contexts[0]!.apply.bind(rig.contexts[0]);
      rig.contexts[0]!.apply = (batch, from) => {
        calls++;
        return apply(batch, from);
      };
      expect(rig.unmap(page, 1)).toBe('OK');
      expect(calls).toBe(1);
      expect(rig.missing()).toEqual([]);
      expect(rig.excess()).toEqual([]);
      expect(rig.reach().has(page)).toBe(false);
      // 7 entries of 64 pages, 7 of 8, 7 of 1.
      expect(rig.entries()).toHaveLength(21);
      expect(rig.entries().map(([, pages]) => pages)).toSatisfy((sizes: number[]) =>
        sizes.every((size) => [1, 8, 64].includes(size)),
      );
      expect(rig.stats()).toMatchObject({ demotions: 1, revoked: 0, windows: { count: 1, open: 0 } });
      expect(rig.eventsOf('dma-window')).toEqual([
        expect.objectContaining({ reason: 'demotion', start: 0n, end: 512n * 4096n - 1n, ms: 0 }),
      ]);
    },
  );

  it.each([
    ['ascending', (i: number) => i],
    ['descending', (i: number) => 511 - i],
    ['random', (i: number) => (i * 197) % 512],
  ])('unmapped page by page, %s, pins few pages again', (_order, order) => {
    const rig = live(targets(512));
    const pins = countPins(rig);
    for (let i = 0; i < 512; i++) {
      rig.unmap(order(i), 1);
      if (i % 97 !== 0) continue;
      expect(rig.missing()).toEqual([]);
      expect(rig.excess()).toEqual([]);
    }
    expect(rig.entries()).toEqual([]);
    expect(pins.pages).toBeLessThanOrEqual(1344);
    expect(pins.maps).toBeLessThanOrEqual(511);
    expect(rig.stats().demotions).toBeLessThanOrEqual(73);
  });

  it.each([64, 128, 256, 512])('unmapped %d pages a kick is taken apart at most once a kick', (perKick) => {
    const rig = live(targets(512));
    const pins = countPins(rig);
    for (let page = 0; page < 512; page += perKick)
      rig.kick(contiguous(perKick, page).map((each) => ['unmap', each, 1] as const));
    expect(rig.stats().demotions).toBeLessThanOrEqual(perKick === 512 ? 0 : 1);
    expect(pins.pages).toBeLessThanOrEqual(512 - perKick);
  });
});

describe('without room', () => {
  /** Limit 2, one entry of 40 pages and, forced in by hand, another: no entry is free. */
  function full(targets: readonly number[], entryLimit = 2, others = 1): PlanRig {
    const rig = live(targets, { contexts: [{ endpoints: [1], entryLimit }] });
    rig.core.setPolicy('forward');
    for (let i = 0; i < others; i++) rig.map(1000 + 2 * i, 1, RAM + 2000 + 2 * i);
    return rig;
  }

  it.each(kinds)('a %s entry is cut into as few entries as possible', (_name, targets) => {
    const rig = live(targets(40), { contexts: [{ endpoints: [1], entryLimit: 16 }], device: { lowWater: 8 } });
    for (let i = 0; i < 12; i++) rig.map(1000 + 2 * i, 1, RAM + 2000 + 2 * i);
    rig.unmap(20, 1);
    expect(rig.entries().slice(0, 2)).toEqual([
      [0, 20, 3],
      [21, 19, 3],
    ]);
    expect(rig.stats()).toMatchObject({ entries: 14, revoked: 0 });
  });

  it.each(kinds)('the UNMAP of a %s entry is OK, access is never kept, and what is lost is told', (_name, targets) => {
    const rig = full(targets(40));
    if (rig.stats().entries < 2) return; // the reserve was kept: nothing can be lost
    expect(rig.unmap(20, 1)).toBe('OK');
    expect(rig.excess()).toEqual([]);
    expect(rig.reach().has(20)).toBe(false);
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 2, revoked: 1, windows: { open: 1 } });
    expect(rig.missing()).toHaveLength(rig.stats().revokedPages);
    const told = rig.eventsOf('dma-window').filter(({ reason }) => reason === 'revoked');
    expect(told).toHaveLength(1);
    expect(told[0]!.ms).toBeUndefined();
    expect(told[0]!.end - told[0]!.start + 1n).toBe(BigInt(rig.stats().revokedPages) * 4096n);
  });
});

describe('a revoked part', () => {
  /** One live entry of 40 pages that loses page 20, while the host refuses every map. */
  function revoked(targets: readonly number[], options: ConstructorParameters<typeof PlanRig>[0] = {}): PlanRig {
    const rig = live(targets, options);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', times: Infinity });
    expect(rig.unmap(20, 1)).toBe('OK');
    rig.host.clearFaults();
    expect(rig.stats()).toMatchObject({ state: 'domain', entries: 0, revoked: 2, revokedPages: 39 });
    expect(rig.reach().size).toBe(0);
    return rig;
  }

  it.each(kinds)(
    'of a %s entry comes back when an entry comes free, before the MAPs of that kick',
    (_name, targets) => {
      const rig = revoked(targets(40));
      const order: number[] = [];
      rig.host.onOperation(({ kind, iova }) => {
        if (kind === 'map') order.push(iova);
      });
      rig.map(900, 1, RAM + 3000);
      rig.kick([
        ['map', 1000, 1, RAM + 3000],
        ['unmap', 900, 1],
      ]);
      expect(order.at(-1)).toBe(1000);
      expect(rig.stats()).toMatchObject({ revoked: 0, windows: { open: 0 } });
      expect(rig.missing()).toEqual([]);
    },
  );

  it.each(['exact', 'kick', 'lossy', 'forward'] as const)(
    'stays revoked while the host refuses, under %s',
    (policy) => {
      const rig = revoked(contiguous(40));
      rig.core.setPolicy(policy);
      rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', times: 45 });
      rig.map(1000, 1, RAM + 3000);
      rig.host.clearFaults();
      expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0 });
      expect(rig.map(1002, 1, RAM + 3002)).toBe('OK');
      rig.unmap(1002, 1);
      expect(rig.stats().revoked).toBe(0);
      expect(rig.missing()).toEqual([]);
    },
  );

  it('comes back when the device is switched off and on, and blocks nothing when it cannot', () => {
    const rig = revoked(contiguous(40));
    rig.busMaster(false);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', times: Infinity });
    rig.busMaster(true);
    rig.host.clearFaults();
    expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0, revoked: 2 });
    rig.busMaster(false);
    rig.busMaster(true);
    expect(rig.stats()).toMatchObject({ revoked: 0, entries: 2 });
    expect(rig.missing()).toEqual([]);
  });

  it('comes back 1:1 where no window can be built any more', () => {
    const rig = revoked(scattered(40));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'window', times: Infinity });
    rig.map(1000, 1, RAM + 3000);
    rig.unmap(1000, 1);
    expect(rig.stats().revoked).toBe(0);
    expect(rig.missing()).toEqual([]);
  });

  it('is gone with its UNMAP and with a reset', () => {
    const rig = revoked(contiguous(40));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', times: Infinity });
    rig.unmap(0, 20);
    rig.host.clearFaults();
    expect(rig.stats()).toMatchObject({ revoked: 1, revokedPages: 19 });
    rig.busMaster(false);
    rig.detach(1);
    expect(rig.stats()).toMatchObject({ revoked: 0, revokedPages: 0, planned: 0, windows: { open: 0 } });
  });

  it('costs no host call per request while entries are short', () => {
    const rig = live(contiguous(64), {
      contexts: [{ endpoints: [1], entryLimit: 2 }],
      ram: [{ page: RAM, pages: 4096, kind: 'anonymous' }],
    });
    rig.kick(contiguous(32, 0).map((i) => ['unmap', 2 * i, 1] as const));
    expect(rig.stats()).toMatchObject({ entries: 2, revoked: 30 });
    const pins = countPins(rig);
    for (let i = 0; i < 20; i++) rig.map(1000 + 2 * i, 1, RAM + 1000);
    expect(pins.maps).toBe(0);
    expect(rig.contexts[0]!.stats().mapCalls).toBeLessThan(60);
  });
});

describe('a host that refuses', () => {
  it('the unmap: the context is blocked', () => {
    const rig = live(scattered(40));
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect(rig.unmap(20, 1)).toBe('OK');
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0 });
    expect(rig.entries()).toEqual([]);
  });

  it.each([1, 2, 3, 10])('map %d after it: that part is mapped 1:1, nothing else is touched', (n) => {
    for (const [, targets] of kinds) {
      const rig = live(targets(40));
      rig.map(1000, 1, RAM + 3000);
      rig.host.failAt(n, Errno.ENOMEM, { kind: 'map' });
      rig.unmap(20, 1);
      expect(rig.stats()).toMatchObject({ state: 'domain', revoked: 0, blocks: 0 });
      expect(rig.missing()).toEqual([]);
      expect(rig.excess()).toEqual([]);
      expect(rig.believed()).toEqual(rig.entries());
      expect(rig.contexts[0]!.stats().windows).toBe(0);
    }
  });

  it('every window: the rest is mapped run by run', () => {
    const rig = live(scattered(40));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'window', times: Infinity });
    rig.unmap(20, 1);
    expect(rig.stats()).toMatchObject({ state: 'domain', revoked: 0, entries: 39 });
    expect(rig.missing()).toEqual([]);
  });
});

describe('pauseDma', () => {
  it('turns a window into a stall, and resumeDma always follows', () => {
    const calls: string[] = [];
    const rig = live(scattered(40), {
      device: {
        pauseDma: (context) => calls.push(`pause ${context}`) > 0,
        resumeDma: (context) => void calls.push(`resume ${context}`),
      },
    });
    rig.unmap(20, 1);
    expect(calls).toEqual(['pause type1 group 0', 'resume type1 group 0']);
    expect(rig.stats()).toMatchObject({ stalls: 1, windows: { count: 0 } });
    expect(rig.eventsOf('dma-window')).toEqual([]);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    rig.unmap(0, 1);
    expect(rig.stats().state).toBe(rig.host.faults.injected === 1 ? 'blocked' : 'domain');
    expect(calls.filter((call) => call.startsWith('pause'))).toHaveLength(
      calls.filter((call) => call.startsWith('resume')).length,
    );
  });

  it('that says no, or throws, leaves a window', () => {
    for (const pauseDma of [
      () => false,
      () => {
        throw new Error('no');
      },
    ]) {
      const resumed: string[] = [];
      const rig = live(scattered(40), { device: { pauseDma, resumeDma: (context) => void resumed.push(context) } });
      rig.unmap(20, 1);
      expect(rig.stats()).toMatchObject({ stalls: 0, windows: { count: 1 } });
      expect(resumed).toEqual([]);
      expect(rig.missing()).toEqual([]);
    }
  });

  it('is not asked on a quiet context, nor for a whole entry', () => {
    let asked = 0;
    const rig = live(scattered(40), { device: { pauseDma: () => asked++ >= 0 } });
    rig.unmap(0, 40);
    rig.busMaster(false);
    rig.mapAll(0, scattered(40));
    rig.busMaster(true);
    rig.busMaster(false);
    rig.unmap(20, 1);
    expect(asked).toBe(0);
  });

  it('has a length when the clock runs', () => {
    let now = 0;
    const rig = live(scattered(40), { device: { now: () => now } });
    rig.host.onOperation(() => now++);
    rig.unmap(20, 1);
    const { longestMs } = rig.stats().windows;
    expect(longestMs).toBeGreaterThan(1);
    expect(rig.eventsOf('dma-window')).toEqual([expect.objectContaining({ ms: longestMs })]);
  });
});
