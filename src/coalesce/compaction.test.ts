// Putting entries together: when, what becomes of them, and what a refusal leaves.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered, usable } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';

/** A quiet context with one live entry for each target, made while it was live. */
function fine(targets: readonly number[], entryLimit: number, device = {}): PlanRig {
  const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit }], device });
  rig.core.setPolicy('forward');
  rig.busMaster(true);
  rig.mapEach(0, targets);
  rig.core.setPolicy('exact');
  expect(rig.entries()).toHaveLength(targets.length);
  return rig;
}

function expectExact(rig: PlanRig): void {
  expect(rig.missing()).toEqual([]);
  expect(rig.excess()).toEqual([]);
  expect(rig.believed()).toEqual(rig.entries());
  expect(rig.contexts[0]!.stats()).toMatchObject({ windows: 0, windowPieces: 0 });
}

describe('a context that turns quiet', () => {
  it.each([
    ['contiguous', contiguous(60)],
    ['scattered', scattered(60)],
  ])('with few entries left is compacted: %s memory', (_name, targets) => {
    const rig = fine(targets, 64);
    rig.busMaster(false);
    expect(rig.entries()).toEqual([[0, 60, 3]]);
    expect(rig.stats()).toMatchObject({ compactions: 1, windows: { count: 0 } });
    expect(rig.eventsOf('compacted')).toEqual([{ type: 'compacted', context: 'type1 group 0', before: 60, after: 1 }]);
    expectExact(rig);
  });

  it.each([55, 56, 57])('with %d of 64 entries taken (low water 8)', (count) => {
    const rig = fine(contiguous(count), 64);
    rig.busMaster(false);
    expect(rig.stats()).toMatchObject(count > 56 ? { compactions: 1, entries: 1 } : { compactions: 0, entries: count });
  });

  it('keeps what cannot be put together apart', () => {
    const rig = new PlanRig({
      contexts: [{ endpoints: [1], entryLimit: 64 }],
      ram: [
        { page: RAM, pages: 8, kind: 'anonymous', at: 2 ** 22 },
        { page: RAM + 8, pages: 100, kind: 'anonymous', at: 2 ** 22 + 8 },
      ],
    });
    rig.addMmio(0x200, 4);
    rig.core.setPolicy('forward');
    rig.busMaster(true);
    for (let i = 0; i < 48; i++) rig.map(i, 1, RAM + i, i < 32 ? 3 : 1);
    for (let i = 0; i < 4; i++) rig.map(48 + i, 1, 0x200 + i);
    for (let i = 0; i < 7; i++) rig.map(60 + 2 * i, 1, RAM + 60 + i);
    rig.map(100, 4, RAM + 4); // over the border of two regions: two entries
    rig.map(104, 1, RAM + 8);
    rig.core.setPolicy('exact');
    rig.busMaster(false);
    expect(rig.entries().slice(0, 7)).toEqual([
      [0, 8, 3],
      [8, 24, 3],
      [32, 16, 1],
      [48, 1, 3],
      [49, 1, 3],
      [50, 1, 3],
      [51, 1, 3],
    ]);
    expect(rig.entries()).toHaveLength(7 + 7 + 2);
    expectExact(rig);
  });

  it('keeps a mapping of several regions in its pieces', () => {
    const ram = [
      { page: RAM, pages: 4, at: 2 ** 22 },
      { page: RAM + 4, pages: 100, at: 2 ** 22 + 4 },
    ];
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 8 }], ram });
    rig.core.setPolicy('forward');
    rig.busMaster(true);
    rig.map(0, 8, RAM);
    for (let i = 0; i < 6; i++) rig.map(8 + i, 1, RAM + 8 + i);
    rig.core.setPolicy('exact');
    rig.busMaster(false);
    expect(rig.entries()).toEqual([
      [0, 4, 3],
      [4, 4, 3],
      [8, 6, 3],
    ]);
    rig.unmap(0, 8);
    expect(rig.entries()).toEqual([[8, 6, 3]]);
    expectExact(rig);
  });

  it('keeps usable ranges that touch apart', () => {
    for (const targets of [contiguous(60), scattered(60)]) {
      const context = { endpoints: [1], entryLimit: 64, usableRanges: usable([0, 30], [30, 1000]) };
      const rig = new PlanRig({ contexts: [context] });
      rig.core.setPolicy('forward');
      rig.busMaster(true);
      rig.mapAll(0, targets);
      rig.core.setPolicy('exact');
      rig.busMaster(false);
      expect(rig.entries()).toEqual([
        [0, 30, 3],
        [30, 30, 3],
      ]);
      expect(rig.contexts[0]!.stats().refusals).toBe(0);
      expectExact(rig);
    }
  });

  it('under forward is left as it is', () => {
    const rig = fine(contiguous(64), 64);
    rig.core.setPolicy('forward');
    rig.busMaster(false);
    expect(rig.stats()).toMatchObject({ entries: 64, compactions: 0 });
  });
});

describe('a live context', () => {
  it.each(['exact', 'kick'] as const)('is never compacted under %s', (policy) => {
    const rig = fine(contiguous(64), 64, { policy });
    rig.core.setPolicy(policy);
    let unmaps = 0;
    rig.host.onOperation(({ kind }) => (unmaps += kind === 'unmap' ? 1 : 0));
    for (let i = 0; i < 4; i++) expect(rig.map(64 + i, 1, RAM + 64 + i)).toBe('NOMEM');
    expect(unmaps).toBe(0);
    expect(rig.stats()).toMatchObject({ compactions: 0, windows: { count: 0 } });
    expectExact(rig);
  });

  it('is compacted under lossy when none is left, with a window that is counted and told', () => {
    const rig = fine(scattered(8), 8);
    rig.core.setPolicy('lossy');
    expect(rig.map(100, 1, RAM + 100)).toBe('OK');
    expect(rig.entries()).toEqual([
      [0, 8, 3],
      [100, 1, 3],
    ]);
    expect(rig.stats()).toMatchObject({ compactions: 1, windows: { count: 1, open: 0 } });
    expect(rig.eventsOf('dma-window')).toEqual([
      expect.objectContaining({ reason: 'compaction', start: 0n, end: 8n * 4096n - 1n }),
    ]);
    expectExact(rig);
  });

  it('under lossy is stalled instead where pauseDma can', () => {
    const calls: string[] = [];
    const rig = fine(scattered(8), 8, { pauseDma: () => calls.push('p') > 0, resumeDma: () => void calls.push('r') });
    rig.core.setPolicy('lossy');
    rig.map(100, 1, RAM + 100);
    expect(calls).toEqual(['p', 'r']);
    expect(rig.stats()).toMatchObject({ stalls: 1, windows: { count: 0 } });
  });
});

describe('exhaustion of a quiet context', () => {
  it('compacts, and takes the MAP', () => {
    const rig = fine(scattered(8), 8, { lowWater: 0 });
    rig.busMaster(false);
    expect(rig.map(100, 1, RAM + 100)).toBe('OK');
    rig.busMaster(true);
    expect(rig.entries()).toEqual([
      [0, 8, 3],
      [100, 1, 3],
    ]);
    expectExact(rig);
  });

  it('that frees nothing refuses the MAP alone, and does not compact again for each', () => {
    const rig = fine(
      contiguous(64).map((page) => page),
      64,
      { gather: 'never', maxEntryBytes: 4096 },
    );
    rig.busMaster(false);
    const { compactions } = rig.stats();
    const calls = rig.contexts[0]!.stats();
    for (let i = 0; i < 20; i++) expect(rig.map(1000 + 2 * i, 1, RAM + 500 + 2 * i)).toBe('NOMEM');
    expect(rig.stats().compactions).toBeLessThanOrEqual(compactions + 1);
    expect(rig.contexts[0]!.stats().unmapCalls).toBe(calls.unmapCalls);
    expectExact(rig);
    rig.unmap(0, 1);
    expect(rig.map(2000, 1, RAM + 600)).toBe('OK');
  });
});

describe('a compaction that the host refuses', () => {
  const rows: [string, (rig: PlanRig) => void][] = [
    ['the entry', (rig) => rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' })],
    ['the window', (rig) => rig.host.failAt(1, Errno.ENOMEM, { kind: 'window' })],
  ];
  it.each(rows)('%s leaves everything reachable', (_name, refuse) => {
    for (const targets of [scattered(60), contiguous(60)]) {
      const rig = fine(targets, 64);
      refuse(rig);
      rig.busMaster(false);
      expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0 });
      expectExact(rig);
    }
  });

  it('the entry of windows puts those windows back: no context is lost to it', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 5 }] });
    for (const at of [0, 20]) {
      rig.mapAll(at, scattered(40).slice(at, at + 20));
      rig.busMaster(true);
      rig.busMaster(false);
    }
    expect(rig.entries()).toHaveLength(2);
    rig.map(1000, 1, RAM + 100);
    rig.map(1002, 1, RAM + 102);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    rig.map(1004, 1, RAM + 104);
    expect(rig.stats()).toMatchObject({ state: 'domain', blocks: 0 });
    rig.busMaster(true);
    expectExact(rig);
  });

  it('the unmap blocks the context, says so, and maps nothing into it afterwards', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 4 }] });
    for (const at of [0, 20]) {
      rig.mapAll(at, scattered(40).slice(at, at + 20));
      rig.busMaster(true);
      rig.busMaster(false);
    }
    rig.mapEach(1000, contiguous(3, RAM + 100));
    rig.host.failAt(1, Errno.EINVAL, { kind: 'map' });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    rig.busMaster(true);
    if (rig.stats().state === 'blocked') {
      expect(rig.entries()).toEqual([]);
      expect(rig.believed()).toEqual([]);
      expect(rig.eventsOf('compacted')).toEqual([]);
      expect(rig.eventsOf('context-blocked')).toHaveLength(1);
    }
    expect(rig.excess()).toEqual([]);
  });

  it('leaves no mapping behind, however many windows are built at a time', () => {
    for (let n = 1; n < 6; n++) {
      for (let times = 1; times < 4; times++) {
        const context = { endpoints: [1], entryLimit: 128, windowPieces: 100 };
        const rig = new PlanRig({ contexts: [context] });
        rig.core.setPolicy('forward');
        rig.busMaster(true);
        rig.mapAll(0, scattered(60));
        rig.mapAll(100, scattered(60, RAM + 200));
        rig.core.setPolicy('exact');
        rig.host.failAt(n, Errno.ENOMEM, { kind: 'map', times });
        rig.busMaster(false);
        rig.host.clearFaults();
        expect(rig.missing()).toHaveLength(rig.stats().plannedPages);
        rig.busMaster(true);
        expect(rig.stats()).toMatchObject({ state: 'domain', planned: 0 });
        expectExact(rig);
      }
    }
  });

  it.each([4, 5, 6])('while planned entries are installed leaves none of them waiting (%d entries)', (entryLimit) => {
    for (let n = 1; n < 5; n++) {
      for (let times = 1; times < 4; times++) {
        const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit }] });
        rig.core.setPolicy('forward');
        rig.busMaster(true);
        rig.mapAll(0, scattered(entryLimit - 2));
        rig.core.setPolicy('exact');
        rig.busMaster(false);
        rig.mapAll(100, contiguous(2, RAM + 100));
        rig.host.failAt(n, Errno.ENOSPC, { kind: 'map' });
        rig.host.failAt(n + 1, Errno.ENOMEM, { kind: 'map', times });
        rig.busMaster(true);
        rig.host.clearFaults();
        expect(rig.excess()).toEqual([]);
        expect(rig.believed()).toEqual(rig.entries());
        expect(rig.stats().planned).toBe(0);
        if (rig.stats().state === 'domain') expect(rig.missing()).toHaveLength(rig.stats().revokedPages);
        else expect(rig.entries()).toEqual([]);
      }
    }
  });

  it('one window does not keep the others from being joined', () => {
    const ram = [
      { page: RAM, pages: 64 },
      { page: RAM + 100, pages: 64, kind: 'anonymous' as const },
    ];
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 8 }], ram, device: { lowWater: 0 } });
    rig.core.setPolicy('forward');
    rig.busMaster(true);
    rig.mapEach(0, contiguous(4, RAM + 100));
    rig.mapEach(10, scattered(4));
    rig.core.setPolicy('exact');
    rig.busMaster(false);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'window', times: Infinity });
    expect(rig.map(100, 1, RAM + 20)).toBe('OK');
    rig.busMaster(true);
    expect(rig.entries()[0]).toEqual([0, 4, 3]);
    expectExact(rig);
  });
});
