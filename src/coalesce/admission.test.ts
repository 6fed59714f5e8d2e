// Whether a domain fits a context is known before anything is touched: N - 1, N and N + 1 entries and pages.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, scattered } from '../../test/coalesce/plan-rig.ts';

/** A domain that endpoint 2 has on a host without limits; endpoint 1 with `entryLimit` is to be attached. */
function waitingRoom(entryLimit: number, options: { busMaster?: boolean; device?: object; ram?: [] } = {}): PlanRig {
  const rig = new PlanRig({
    contexts: [{ endpoints: [1], entryLimit }, { endpoints: [2] }],
    detached: true,
    busMaster: options.busMaster ?? false,
    device: options.device ?? {},
  });
  rig.attach(2);
  return rig;
}

const apart = (rig: PlanRig, count: number): void => {
  for (let i = 0; i < count; i++) rig.map(10 * i, 1, RAM + 3 * i);
};

describe.each([true, false])('ATTACH with the bus-master bit %s', (busMaster) => {
  it.each([4, 5, 6])('of 5 mappings that cannot be joined to a host with %d entries', (limit) => {
    for (const policy of ['exact', 'forward'] as const) {
      const rig = waitingRoom(limit, { busMaster, device: { policy } });
      apart(rig, 5);
      expect(rig.attach(1)).toBe(limit < 5 ? 'NOMEM' : 'OK');
      rig.busMaster(true);
      expect(rig.entries()).toHaveLength(limit < 5 ? 0 : 5);
      expect(rig.stats().state).toBe(limit < 5 ? 'blocked' : 'domain');
      if (limit >= 5) expect(rig.missing()).toEqual([]);
    }
  });

  it.each([2, 3, 4])('of two windows, with one entry kept free, to a host with %d entries', (limit) => {
    const rig = waitingRoom(limit, { busMaster });
    rig.mapAll(0, scattered(512));
    rig.mapAll(5000, scattered(512, RAM + 600));
    expect(rig.attach(1)).toBe(limit < 3 ? 'NOMEM' : 'OK');
    rig.busMaster(true);
    if (limit < 3) return;
    expect(rig.entries()).toHaveLength(2);
    expect(rig.missing()).toEqual([]);
  });

  it('of contiguous mappings joins them, and 1:1 under forward', () => {
    for (const policy of ['exact', 'kick', 'lossy', 'forward'] as const) {
      const rig = waitingRoom(100, { busMaster, device: { policy } });
      for (let i = 0; i < 20; i++) rig.map(i, 1, RAM + i);
      expect(rig.attach(1)).toBe('OK');
      rig.busMaster(true);
      expect(rig.entries()).toHaveLength(policy === 'forward' ? 20 : 1);
      expect(rig.missing()).toEqual([]);
    }
  });
});

it('keeps the former state when the new one does not fit, and touches nothing', () => {
  const rig = waitingRoom(4);
  apart(rig, 5);
  rig.attach(1, 2);
  rig.kick([['map', 7000, 1, RAM + 9]], 2);
  rig.busMaster(true);
  const before = rig.contexts[0]!.stats();
  expect(rig.attach(1)).toBe('NOMEM');
  expect(rig.entries()).toEqual([[7000, 1, 3]]);
  expect(rig.contexts[0]!.stats()).toEqual(before);
});

it('counts memory too: the cap is the same for each policy', () => {
  for (const policy of ['exact', 'forward'] as const) {
    for (const pages of [1023, 1024, 1025]) {
      const rig = new PlanRig({
        contexts: [{ endpoints: [1] }, { endpoints: [2] }],
        ram: [{ page: RAM, pages: 512 }],
        detached: true,
        device: { policy, maxInstalled: 2 },
      });
      // Endpoint 3 has no host, so that its domain may have any size.
      rig.iommu.addEndpoint({ id: 3 });
      rig.attach(3);
      for (let at = 0; at < pages; at += 512) rig.map(2 * at, Math.min(512, pages - at), RAM);
      expect(rig.attach(1)).toBe(pages > 1024 ? 'NOMEM' : 'OK');
    }
  }
});

it('leaves out what has no memory or no rights', () => {
  const rig = waitingRoom(1);
  rig.map(0, 1, RAM);
  rig.map(10, 1, 99);
  rig.map(20, 1, RAM + 5, 0);
  expect(rig.attach(1)).toBe('OK');
  rig.busMaster(true);
  expect(rig.entries()).toEqual([[0, 1, 3]]);
});
