// Host contexts in step with the guest: what each group mirrors, refusals told four ways, blocks and their escalation,
// endpoints that come and go, memory that moves, and the cap on installed memory. Pages of 4 KiB; RAM: 0x100 to 0x13f.
import { describe, expect, it } from 'vitest';
import { PAGE, Rig, span } from '../../test/iommu/rig.ts';
import { Errno } from '../base/errors.ts';
import { statusName } from './status.ts';

const RMRR = { kind: 'reserved', start: 0x10_2000n, end: 0x10_2fffn } as const;

describe('what a context mirrors', () => {
  it('is all of guest memory at first, cut at reserved regions and at what the host cannot map', () => {
    const rig = new Rig({
      groups: [[1]],
      ram: [[0x100, 8], [0x200, 8]], // prettier-ignore
      reserved: { 1: [RMRR] },
      usableRanges: [
        { start: 0n, end: 0x20_3fffn },
        { start: 0x20_4000n, end: 0x20_5fffn }, // touches the first: a host map may not cross the border
        { start: 0x20_7000n, end: (1n << 47n) - 1n },
      ],
    });
    const expected = new Map(rig.allRam);
    expected.delete(0x102);
    expected.delete(0x206);
    expect(rig.reach(1)).toEqual(expected);
    expect(rig.tables(0).real).toEqual([
      [0x100, 2, 3],
      [0x103, 5, 3],
      [0x200, 4, 3],
      [0x204, 2, 3],
      [0x207, 1, 3],
    ]);
    expect(rig.tables(0).believed).toEqual(rig.tables(0).real);
    expect(rig.core.stats().contexts[0]).toMatchObject({
      state: 'bypass',
      entries: 5,
      pages: 14,
      domainEntriesPeak: 0,
    });
  });

  it('follows config.bypass, ATTACH, DETACH and bypass domains [D-ATT-6, D-DET-4, T-BYP-1, T-BYP-2]', () => {
    const rig = new Rig({ groups: [[1]] });
    rig.driver.setBypass(0);
    expect(rig.reach(1).size).toBe(0);
    rig.attach(1, 1);
    expect(rig.map(1, 5, 2, 0x101, 1)).toBe('OK');
    expect(rig.map(1, 9, 1, 0x105, 2)).toBe('OK');
    expect(rig.map(1, 10, 1, 0x105, 0)).toBe('OK');
    expect(rig.map(1, 11, 1, 0x105, 7)).toBe('OK');
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x101, 1], [6, 0x102, 1], [9, 0x105, 2], [11, 0x105, 3]));
    rig.attach(2, 1, 1);
    expect([rig.reach(1), rig.core.stats().mappings]).toEqual([rig.allRam, 0]);
    rig.attach(3, 1);
    expect(rig.reach(1).size).toBe(0);
    rig.driver.setBypass(1);
    expect(rig.reach(1).size).toBe(0);
    rig.detach(3, 1);
    expect(rig.reach(1)).toEqual(rig.allRam);
  });

  it('replays the mappings of a domain that is there already', () => {
    const rig = new Rig({ groups: [[1], [2]] });
    rig.attach(1, 1);
    for (let i = 0; i < 40; i++) rig.map(1, i * 2, 1, 0x100 + i);
    rig.attach(1, 2);
    expect(rig.reach(2)).toEqual(rig.reach(1));
    rig.unmap(1, 0, 1);
    expect([rig.reach(2), rig.reach(2).size]).toEqual([rig.reach(1), 39]);
    rig.detach(1, 1);
    rig.unmap(1, 2, 1);
    expect([rig.reach(1), rig.reach(2).size]).toEqual([rig.allRam, 38]);
  });

  it('counts entries of bypass apart from those of domains', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 1], [0x110, 1], [0x120, 1]] }); // prettier-ignore
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.detach(1, 1);
    expect(rig.core.stats().contexts[0]).toMatchObject({ entries: 3, entriesPeak: 3, domainEntriesPeak: 1 });
  });

  it('leaves a context in bypass alone while another endpoint of its group comes or goes (I4)', () => {
    const rig = new Rig({ groups: [[1, 2]] });
    const calls = rig.contexts[0]!.stats().mapCalls;
    let least = 100;
    rig.host.onOperation(() => (least = Math.min(least, rig.reach(1).size)));
    rig.core.removeEndpoint(2);
    rig.iommu.addEndpoint({ id: 2, host: rig.contexts[0]! });
    expect([rig.contexts[0]!.stats().mapCalls, least]).toEqual([calls, 100]);
    rig.core.removeEndpoint(2);
    rig.iommu.addEndpoint({ id: 2, host: rig.contexts[0]!, reserved: [RMRR] });
    expect(rig.reach(1).has(0x102)).toBe(false);
    rig.core.removeEndpoint(2);
    expect(rig.reach(1)).toEqual(rig.allRam);
  });
});

describe('groups of several endpoints', () => {
  it('are blocked with event and counter while their members differ, and mirror again when they agree', () => {
    const rig = new Rig({ groups: [[1, 2, 3]] });
    expect(rig.attach(1, 1)).toBe('OK');
    expect([rig.reach(1).size, rig.counters['contextsDiffering']]).toEqual([0, 1]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({
      reason: 'endpoints differ',
      operation: 'ATTACH',
      endpoints: [1, 2, 3],
    });
    rig.map(1, 5, 1, 0x100);
    rig.attach(1, 2);
    expect([rig.reach(2).size, rig.counters['contextsDiffering']]).toEqual([0, 1]);
    rig.attach(1, 3);
    for (const endpoint of [1, 2, 3]) expect(rig.reach(endpoint)).toEqual(rig.reachOf([5, 0x100, 3]));
    expect(rig.lastEvent('context-switched')).toMatchObject({ to: 'domain' });
    rig.unmap(1, 5, 1);
    rig.map(1, 6, 1, 0x101);
    expect(rig.reach(1)).toEqual(rig.reachOf([6, 0x101, 3]));
    rig.detach(1, 2);
    expect([rig.reach(1).size, rig.counters['contextsDiffering']]).toEqual([0, 2]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({ operation: 'DETACH' });
    rig.unmap(1, 6, 1);
    rig.attach(2, 1);
    rig.attach(2, 2);
    rig.attach(2, 3);
    expect(rig.core.stats().contexts[0]!.state).toBe('domain');
    rig.map(2, 8, 1, 0x103);
    expect(rig.reach(3)).toEqual(rig.reachOf([8, 0x103, 3]));
  });

  it('agree in bypass by a bypass domain, by config.bypass, or both', () => {
    const rig = new Rig({ groups: [[1, 2]] });
    rig.attach(5, 1, 1);
    expect(rig.reach(2)).toEqual(rig.allRam);
    rig.driver.setBypass(0);
    expect([rig.reach(1).size, rig.counters['contextsDiffering']]).toEqual([0, 1]);
    rig.attach(6, 2, 1);
    expect(rig.reach(1)).toEqual(rig.allRam);
  });

  it('that agree again but cannot be switched are told anew when they differ', () => {
    const rig = new Rig({ groups: [[1, 2]] });
    rig.attach(1, 1);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    rig.detach(1, 1);
    expect([rig.reach(1).size, rig.counters['contextsDiffering'], rig.counters['contextBlocks']]).toEqual([0, 1, 1]);
    rig.attach(1, 1);
    expect(rig.counters['contextsDiffering']).toBe(2);
  });

  it('keep what they have when a member is removed, and are blocked when a new one is elsewhere', () => {
    const rig = new Rig({ groups: [[1, 2]] });
    rig.attach(1, 1);
    rig.attach(1, 2);
    rig.map(1, 5, 1, 0x100);
    let least = 9;
    const stop = rig.host.onOperation(() => (least = Math.min(least, rig.reach(1).size)));
    rig.core.removeEndpoint(2);
    expect([least, rig.reach(1)]).toEqual([9, rig.reachOf([5, 0x100, 3])]);
    stop();
    rig.iommu.addEndpoint({ id: 2, host: rig.contexts[0]! });
    expect([rig.reach(1).size, rig.attach(1, 2), rig.reach(1).size]).toEqual([0, 'OK', 1]);
    rig.core.removeEndpoint(1);
    rig.core.removeEndpoint(2);
    expect([rig.contexts[0]!.entries(), rig.core.stats().domains, rig.core.stats().contexts]).toEqual([[], 0, []]);
    rig.iommu.addEndpoint({ id: 2, host: rig.contexts[0]! });
    expect(rig.reach(2)).toEqual(rig.allRam);
    expect(() => rig.core.removeEndpoint(1)).toThrow(/id 1 is not an endpoint/);
  });
});

describe('a refused MAP', () => {
  it.each([
    [Errno.ENOSPC, 'NOMEM'],
    [Errno.ENOMEM, 'NOMEM'],
    [Errno.EFAULT, 'DEVERR'],
    [Errno.EEXIST, 'DEVERR'],
    [Errno.EINVAL, 'RANGE'],
    [Errno.EIO, 'IOERR'],
    [Errno.EINTR, 'IOERR'],
    [Errno.EOVERFLOW, 'IOERR'],
  ])('with errno %d is %s, told four ways, and changes nothing [T-ST-8]', (errno, status) => {
    const rig = new Rig({ groups: [[1]], emulated: [2, 3] });
    rig.attach(1, 1);
    rig.attach(1, 2);
    rig.attach(3, 3);
    rig.map(1, 5, 1, 0x100);
    rig.host.failAt(1, errno, { kind: 'map' });
    expect(rig.map(1, 0x7_0000_0006, 1, 0x101)).toBe(status);
    expect(rig.mappings(1)).toEqual([[5, 1, 0x100, 3]]);
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3]));
    expect(rig.core.stats()).toMatchObject({ mappings: 1, statuses: { [status]: 1 } });
    expect(rig.counters).toMatchObject({ hostRefusals: 1, refused: 1, capRefusals: 0, contextBlocks: 0 });
    expect(rig.events.filter((event) => event.type === 'host-refusal')).toEqual([
      {
        type: 'host-refusal',
        request: 'MAP',
        status,
        context: 'type1 group 0',
        errno,
        domain: 1,
        endpoint: undefined,
        iova: 0x7_0000_0006n * PAGE,
      },
    ]);
    const record = { reason: 0, flags: 0x100, address: 0x7_0000_0006n * PAGE, usedLength: 24 };
    expect(rig.faults()).toEqual([
      { ...record, endpoint: 1 },
      { ...record, endpoint: 2 },
    ]);
    expect(rig.map(1, 0x7_0000_0006, 1, 0x101)).toBe('OK');
  });

  it('limits its records per endpoint', () => {
    const rig = new Rig({ groups: [[1]], device: { faults: { burst: 3, perSecond: 0 } }, host: { entryLimit: 2 } });
    rig.attach(1, 1);
    const status = [0, 1, 2, 3, 4, 5, 6].map((page) => rig.map(1, page * 2, 1, 0x100));
    expect(status).toEqual(['OK', 'OK', 'NOMEM', 'NOMEM', 'NOMEM', 'NOMEM', 'NOMEM']);
    expect([rig.faults().length, rig.counters['faultsRateLimited'], rig.counters['hostRefusals']]).toEqual([3, 2, 5]);
  });

  it('in one of two contexts is undone in the other; an undo that fails blocks that one only', () => {
    const rig = new Rig({ groups: [[1], [2]], emulated: [3] });
    for (const endpoint of [1, 2, 3]) rig.attach(1, endpoint);
    rig.map(1, 5, 1, 0x100);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 1 });
    expect(rig.map(1, 6, 2, 0x101)).toBe('NOMEM');
    expect([rig.reach(1), rig.reach(2)]).toEqual(Array(2).fill(rig.reachOf([5, 0x100, 3])));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 1 });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', group: 0 });
    expect(rig.map(1, 6, 2, 0x101)).toBe('NOMEM');
    expect([rig.reach(1).size, rig.reach(2)]).toEqual([0, rig.reachOf([5, 0x100, 3])]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({
      context: 'type1 group 0',
      reason: 'operation failed',
      errno: Errno.EIO,
      iova: 6n * PAGE,
    });
    expect([rig.map(1, 6, 2, 0x101), rig.reach(1).size, rig.reach(2).size]).toEqual(['OK', 0, 3]);
    rig.detach(1, 1);
    expect(rig.reach(1)).toEqual(rig.allRam);
    rig.attach(1, 1);
    expect(rig.reach(1)).toEqual(rig.reach(2));
  });

  it('of several pieces leaves none of them', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4], [0x104, 4], [0x108, 4]] }); // prettier-ignore
    rig.attach(1, 1);
    rig.host.failAt(3, Errno.EFAULT);
    expect(rig.map(1, 5, 12, 0x100)).toBe('DEVERR');
    expect([rig.reach(1).size, rig.mirror(0).pages, rig.tables(0).believed]).toEqual([0, 0, []]);
    rig.host.failAt(3, Errno.EFAULT);
    rig.host.failAt(4, Errno.EIO, { kind: 'unmap' });
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect(rig.map(1, 5, 12, 0x100)).toBe('DEVERR');
    expect([rig.reach(1).size, rig.counters['contextBlocks'], rig.mappings(1)]).toEqual([0, 1, []]);
  });
});

describe('a refused switch', () => {
  it('puts the former state back, tells it without an address, and leaves nothing behind [D-ATT-9, D-FLT-4]', () => {
    const rig = new Rig({ groups: [[1], [2]] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.attach(2, 2);
    rig.map(2, 7, 1, 0x101);
    rig.map(2, 9, 1, 0x102);
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map', group: 0 });
    expect(rig.attach(2, 1)).toBe('NOMEM');
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3]));
    expect(rig.lastEvent('host-refusal')).toMatchObject({ request: 'ATTACH', domain: 2, endpoint: 1, iova: undefined });
    expect(rig.faults()).toEqual([{ reason: 0, flags: 0, endpoint: 1, address: undefined, usedLength: 24 }]);
    expect(rig.counters).toMatchObject({ refused: 1, hostRefusals: 1, contextBlocks: 0 });
    expect([rig.unmap(1, 5, 1), rig.reach(1).size]).toEqual(['OK', 0]);
    rig.unmap(2, 7, 1);
    expect(rig.reach(1).size).toBe(0);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmapAll', group: 0 });
    expect(rig.attach(3, 1)).toBe('IOERR');
    expect([...rig.core.state.domains.keys()]).toEqual([1, 2]);
    rig.map(1, 5, 1, 0x100);
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3]));
  });

  it('is refused before anything is touched when the counts cannot fit', () => {
    const rig = new Rig({ groups: [[1], [2]], host: { entryLimit: 3 } });
    const emulated = (page: number): string => rig.map(2, page, 1, 0x100);
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.core.removeEndpoint(2);
    rig.iommu.addEndpoint({ id: 2 });
    rig.attach(2, 2);
    expect([2, 4, 6, 8].map(emulated)).toEqual(['OK', 'OK', 'OK', 'OK']);
    const { unmapAllCalls } = rig.contexts[0]!.stats();
    expect(rig.attach(2, 1)).toBe('NOMEM');
    expect([rig.contexts[0]!.stats().unmapAllCalls, rig.reach(1).size]).toEqual([unmapAllCalls, 1]);
    rig.unmap(2, 8, 1);
    expect([rig.attach(2, 1), rig.reach(1).size]).toEqual(['OK', 3]);
  });

  it('whose undo fails too leaves the context blocked, the guest where it was', () => {
    const rig = new Rig({ groups: [[1], [2]] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.attach(2, 2);
    rig.map(2, 7, 1, 0x101);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 0, times: 2 });
    expect(rig.attach(2, 1)).toBe('NOMEM');
    expect([rig.reach(1).size, rig.mappings(1).length]).toEqual([0, 1]);
    expect(rig.core.stats().contexts[0]).toMatchObject({
      state: 'blocked',
      blockedBy: 'no entries',
      failedSwitches: 1,
    });
    expect(rig.faults()).toHaveLength(1);
    rig.driver.setBypass(0); // tries again to mirror domain 1
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3]));
    rig.unmap(1, 5, 1);
    expect(rig.reach(1).size).toBe(0);
  });

  it('of DETACH, reset or config.bypass blocks the context; the request stands [D-DET-4]', () => {
    const rig = new Rig({ groups: [[1]] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    expect([rig.detach(1, 1), rig.reach(1).size]).toEqual(['OK', 0]);
    expect(rig.lastEvent('host-refusal')).toMatchObject({ request: 'DETACH', status: 'NOMEM' });
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    rig.driver.setBypass(0);
    rig.driver.setBypass(1);
    expect([rig.reach(1).size, rig.lastEvent('host-refusal')?.request]).toEqual([0, 'bypass']);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    rig.iommu.transport.writeStatus(0);
    expect([rig.reach(1).size, rig.lastEvent('host-refusal')?.request]).toEqual([0, 'reset']);
    rig.iommu.systemReset();
    expect(rig.reach(1)).toEqual(rig.allRam);
  });

  // A context blocked by a failed UNMAP comes back through another path than ATTACH: the list of contexts that the domain
  // keeps in step must name it again, else its entries would outlive an UNMAP.
  it('that succeeds later keeps the context in step with its domain again (I3)', () => {
    const rig = new Rig({ groups: [[1], [2]] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.map(1, 6, 1, 0x101);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect([rig.unmap(1, 6, 1), rig.reach(1).size]).toEqual(['OK', 0]);
    rig.attach(1, 2);
    rig.driver.setBypass(0);
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3]));
    rig.map(1, 8, 1, 0x103);
    rig.unmap(1, 5, 1);
    expect([rig.reach(1), rig.reach(2)]).toEqual(Array(2).fill(rig.reachOf([8, 0x103, 3])));
  });
});

describe('a block', () => {
  const failing = (rig: Rig, ...kinds: ('unmap' | 'unmapAll' | 'clearBusMaster' | 'resetDevices')[]): void => {
    for (const kind of kinds) rig.host.failAt(1, Errno.EIO, { kind, times: Infinity });
  };
  const prepared = (options = {}): Rig => {
    const rig = new Rig({ groups: [[1, 2]], ...options });
    rig.attach(1, 1);
    rig.attach(1, 2);
    rig.map(1, 5, 1, 0x100);
    rig.map(1, 6, 1, 0x101);
    return rig;
  };

  it('removes all entries, is told to every endpoint, and the UNMAP is OK (I3)', () => {
    const rig = prepared();
    failing(rig, 'unmap');
    expect([rig.unmap(1, 5, 1), rig.reach(1).size, rig.tables(0).believed]).toEqual(['OK', 0, []]);
    expect(rig.lastEvent('context-blocked')).toEqual({
      type: 'context-blocked',
      context: 'type1 group 0',
      endpoints: [1, 2],
      reason: 'operation failed',
      operation: 'UNMAP',
      errno: Errno.EIO,
      iova: 5n * PAGE,
      end: 0x5fffn,
    });
    expect(rig.faults().map(({ endpoint, reason, address }) => [endpoint, reason, address])).toEqual([
      [1, 0, 5n * PAGE],
      [2, 0, 5n * PAGE],
    ]);
    expect(rig.core.stats().contexts[0]).toMatchObject({ blockedBy: 'no entries', blocks: 1 });
  });

  it('goes on to the bus-master bit, which stays clear until the entries are gone', () => {
    const rig = prepared();
    failing(rig, 'unmap', 'unmapAll');
    expect([rig.unmap(1, 5, 1), rig.reach(1).size, rig.host.busMaster(2)]).toEqual(['OK', 0, false]);
    expect(rig.core.stats().contexts[0]).toMatchObject({ blockedBy: 'bus master', entries: 2 });
    expect(() => rig.core.setBusMaster(1, true)).toThrow(/cannot be removed/);
    rig.core.setBusMaster(1, false);
    rig.host.clearFaults();
    rig.core.setBusMaster(1, true);
    rig.host.setBusMaster(1, true);
    expect([rig.reach(1).size, rig.core.stats().contexts[0]!.blockedBy]).toEqual([0, 'no entries']);
    expect(() => rig.core.setBusMaster(9, true)).toThrow(/id 9 is not an endpoint/);
    rig.core.setBusMaster(1, true);
  });

  it('resets the devices when the bit cannot be cleared, and asks the embedder when that fails', () => {
    const reset = prepared();
    failing(reset, 'unmap', 'unmapAll', 'clearBusMaster');
    reset.unmap(1, 5, 1);
    expect([reset.host.resets(1), reset.host.resets(2), reset.fatal]).toEqual([1, 1, []]);
    const rig = prepared();
    failing(rig, 'unmap', 'unmapAll', 'clearBusMaster', 'resetDevices');
    expect([rig.unmap(1, 5, 1), rig.fatal]).toEqual(['OK', ['type1 group 0']]);
    expect(rig.events.filter((event) => event.type === 'context-blocked' && event.reason === 'fatal')).toHaveLength(1);
    rig.host.clearFaults();
    rig.iommu.transport.writeStatus(0);
    expect(rig.core.stats().contexts[0]).toMatchObject({ state: 'blocked', blockedBy: 'fatal' });
    rig.iommu.systemReset();
    expect(rig.reach(1)).toEqual(rig.allRam);
  });

  it('is told as well when the guest itself asked for nothing', () => {
    const rig = prepared();
    rig.driver.setBypass(0);
    failing(rig, 'unmapAll');
    rig.attach(2, 1); // the members differ
    expect([rig.reach(2).size, rig.host.busMaster(1), rig.counters['contextBlocks']]).toEqual([0, false, 1]);
    expect(rig.events.some((event) => event.type === 'context-blocked' && event.operation === 'UNMAP_ALL')).toBe(true);
  });

  it('keeps the tables right when the embedder throws', () => {
    const rig = prepared({
      device: {
        onFatal: () => {
          throw new Error('help');
        },
      },
    });
    failing(rig, 'unmap', 'unmapAll', 'clearBusMaster', 'resetDevices');
    rig.core.onEvent(() => {
      throw new Error('noise');
    });
    expect([rig.unmap(1, 5, 1), rig.map(1, 8, 1, 0x100), rig.mappings(1).length]).toEqual(['OK', 'OK', 2]);
    expect(rig.core.stats().listenerErrors).toBeGreaterThan(1);
  });

  it('remembers a context that keeps its entries after its last endpoint went', () => {
    const rig = prepared();
    failing(rig, 'unmapAll');
    rig.core.removeEndpoint(1);
    rig.core.removeEndpoint(2);
    expect(rig.core.stats().contexts[0]).toMatchObject({ entries: 2, blockedBy: 'bus master' });
    rig.host.clearFaults();
    rig.iommu.addEndpoint({ id: 1, host: rig.contexts[0]! });
    expect([rig.tables(0).believed, rig.tables(0).real]).toEqual([[[0x100, 64, 3]], [[0x100, 64, 3]]]);
  });
});

describe('a context that was closed while it was remembered', () => {
  it('is forgotten at a system reset', () => {
    const rig = new Rig({ groups: [[1], [2]] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    for (const kind of ['unmap', 'unmapAll', 'clearBusMaster', 'resetDevices'] as const) {
      rig.host.failAt(1, Errno.EIO, { kind, group: 0, times: Infinity });
    }
    rig.unmap(1, 5, 1);
    rig.core.removeEndpoint(1);
    rig.contexts[0]!.close();
    expect(rig.core.stats().contexts.map(({ name }) => name)).toEqual(['type1 group 0', 'type1 group 1']);
    rig.iommu.systemReset();
    rig.iommu.systemReset();
    expect(rig.core.stats().contexts.map(({ name }) => name)).toEqual(['type1 group 1']);
  });
});

describe('memory that moves', () => {
  it('is installed in bypass and in domains before addRegion returns, and gone before removeRegion does', () => {
    const rig = new Rig({ groups: [[1], [2]], ram: [[0x100, 4]] });
    rig.attach(1, 1);
    rig.map(1, 0x10, 8, 0x102); // two pages backed, two not yet, four not yet
    rig.map(1, 0x20, 2, 0x300, 1);
    expect(rig.reach(1)).toEqual(rig.reachOf([0x10, 0x102, 3], [0x11, 0x103, 3]));
    const more = rig.addRam(0x104, 2);
    const rom = rig.addRam(0x301, 1, true);
    expect(rig.reach(1)).toEqual(
      rig.reachOf([0x10, 0x102, 3], [0x11, 0x103, 3], [0x12, 0x104, 3], [0x13, 0x105, 3], [0x21, 0x301, 1]),
    );
    expect(rig.reach(2)).toEqual(new Map([...rig.allRam, ...rig.reachOf([0x301, 0x301, 1])]));
    rig.memory.removeRegion(more);
    expect(rig.reach(1)).toEqual(rig.reachOf([0x10, 0x102, 3], [0x11, 0x103, 3], [0x21, 0x301, 1]));
    expect([rig.reach(2).has(0x104), rig.reach(2).has(0x103)]).toEqual([false, true]);
    expect([rig.unmap(1, 0x10, 8), rig.reach(1)]).toEqual(['OK', rig.reachOf([0x21, 0x301, 1])]);
    rig.memory.removeRegion(rom);
    expect([rig.reach(1).size, rig.tables(0).real, rig.mirror(0).pages]).toEqual([0, [], 0]);
  });

  it('a ROM gives no write, a write-only mapping of it nothing', () => {
    const rig = new Rig({ groups: [[1]], ram: [] });
    rig.addRam(0x100, 2, true);
    rig.attach(1, 1);
    expect([rig.map(1, 5, 1, 0x100, 3), rig.map(1, 6, 1, 0x101, 2)]).toEqual(['OK', 'OK']);
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 1]));
  });

  it('MMIO follows its BAR, by its own entry, with or without the MMIO flag, and is no RAM', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]] });
    const bar = rig.addMmio(0x104, 2);
    rig.attach(1, 1);
    rig.map(1, 0x10, 6, 0x100, 3);
    rig.map(1, 0x20, 2, 0x500, 7);
    expect(rig.tables(0).real).toEqual([
      [0x10, 4, 3],
      [0x14, 2, 3],
    ]);
    expect(rig.mirror(0).pages).toBe(4);
    rig.memory.moveMmio(bar, 0x500n * PAGE);
    expect(rig.tables(0).real).toEqual([
      [0x10, 4, 3],
      [0x20, 2, 3],
    ]);
    expect(rig.tables(0).believed).toEqual(rig.tables(0).real);
  });

  it('cannot be discarded while a context covers it', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]] });
    const discard = (page: number, pages: number): void =>
      rig.memory.discardRange(BigInt(page) * PAGE, BigInt(pages) * PAGE);
    expect(() => discard(0x100, 1)).toThrow(/host context type1 group 0 covers it/);
    rig.attach(1, 1);
    discard(0x100, 4);
    rig.map(1, 5, 1, 0x102, 1);
    rig.map(1, 6, 1, 0x101, 0);
    expect(() => discard(0x100, 4)).toThrow(/covers it/);
    expect(() => discard(0x102, 1)).toThrow(/covers it/);
    discard(0x100, 2);
    discard(0x103, 1);
    rig.unmap(1, 5, 1);
    discard(0x100, 4);
  });

  it('that the host will not install blocks the context, since the MAPs were answered', () => {
    const rig = new Rig({ groups: [[1], [2]], ram: [[0x100, 4]] });
    rig.attach(1, 1);
    rig.map(1, 0x10, 2, 0x103);
    rig.host.failAt(1, Errno.ENOMEM, { group: 0, kind: 'map' });
    rig.addRam(0x104, 1);
    expect([rig.reach(1).size, rig.reach(2)]).toEqual([0, rig.allRam]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({ operation: 'new memory region', errno: Errno.ENOMEM });
    expect([rig.attach(2, 1), rig.attach(1, 1), rig.reach(1).size]).toEqual(['OK', 'OK', 0]);
  });

  it('that the host will not let go blocks the context', () => {
    const rig = new Rig({ groups: [[1], [2]], ram: [[0x100, 4]] });
    const more = rig.addRam(0x200, 4);
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap', group: 0 });
    rig.memory.removeRegion(more);
    expect([rig.reach(1).size, rig.reach(2).size]).toEqual([0, 4]);
  });

  it('vetoed by another observer comes back', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]] });
    const region = rig.memory.regions[0]!;
    rig.memory.observe({
      added: () => undefined,
      removing: () => {
        throw new Error('no');
      },
    });
    expect(() => rig.memory.removeRegion(region)).toThrow('no');
    expect(rig.reach(1)).toEqual(rig.allRam);
    expect(rig.tables(0).believed).toEqual(rig.tables(0).real);
  });
});

describe('the cap on installed memory', () => {
  it('is four times guest RAM by default, at N and N + 1, MMIO not counted', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]] });
    rig.addMmio(0x200, 16);
    rig.attach(1, 1);
    for (let i = 0; i < 15; i++) expect(rig.map(1, i, 1, 0x100)).toBe('OK');
    expect(rig.map(1, 0x40, 16, 0x200)).toBe('OK');
    expect([rig.map(1, 15, 2, 0x100), rig.map(1, 15, 1, 0x101)]).toEqual(['NOMEM', 'OK']);
    expect(rig.map(1, 16, 1, 0x101)).toBe('NOMEM');
    expect(rig.map(1, 0x60, 16, 0x200)).toBe('OK');
    expect(rig.map(1, 16, 1, 0x101, 0)).toBe('OK'); // gives no access, takes no memory
    expect(rig.lastEvent('host-refusal')).toMatchObject({ errno: Errno.ENOMEM, iova: 16n * PAGE });
    expect([rig.unmap(1, 3, 1), rig.map(1, 3, 1, 0x101)]).toEqual(['OK', 'OK']);
    const batch = rig.driver.batch([
      { op: 'unmap', domain: 1, virtStart: 0n, virtEnd: 0xfffn },
      { op: 'map', domain: 1, virtStart: 0x2_0000n, virtEnd: 0x2_0fffn, physStart: 0x10_0000n, flags: 3 },
      { op: 'map', domain: 1, virtStart: 0x2_1000n, virtEnd: 0x2_1fffn, physStart: 0x10_0000n, flags: 3 },
      { op: 'map', domain: 1, virtStart: 0x2_2000n, virtEnd: 0x2_2fffn, physStart: 0x20_0000n, flags: 3 },
    ]);
    expect(batch.map((reply) => statusName(reply.status))).toEqual(['OK', 'OK', 'NOMEM', 'OK']);
    expect(rig.tables(0).believed).toEqual(rig.tables(0).real);
    expect(rig.mirror(0).pages).toBe(16);
  });

  it('holds for each of several contexts of a domain', () => {
    const rig = new Rig({ groups: [[1], [2]], ram: [[0x100, 1]], device: { maxInstalled: 2 } });
    rig.attach(1, 1);
    rig.attach(1, 2);
    expect([0, 1, 2].map((page) => rig.map(1, page, 1, 0x100))).toEqual(['OK', 'OK', 'NOMEM']);
    expect([rig.reach(1).size, rig.reach(2).size, rig.counters['refused']]).toEqual([2, 2, 1]);
  });

  it('is checked before a switch, and before new memory is installed', () => {
    const rig = new Rig({ groups: [[1], [2]], ram: [[0x100, 1]], device: { maxInstalled: 2 } });
    rig.core.removeEndpoint(2);
    rig.iommu.addEndpoint({ id: 2 });
    rig.attach(1, 2);
    for (let i = 0; i < 3; i++) rig.map(1, i, 1, 0x100);
    expect([rig.attach(1, 1), rig.reach(1)]).toEqual(['NOMEM', rig.allRam]);
    rig.unmap(1, 2, 1);
    for (let i = 0; i < 5; i++) rig.map(1, 8 + i, 1, 0x101);
    expect([rig.attach(1, 1), rig.reach(1).size]).toEqual(['OK', 2]);
    const { mapCalls } = rig.contexts[0]!.stats();
    rig.addRam(0x101, 1); // two times two pages allowed, seven wanted
    expect([rig.reach(1).size, rig.contexts[0]!.stats().mapCalls]).toEqual([0, mapCalls]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({ operation: 'new memory region', errno: Errno.ENOMEM });
  });
});

it('many endpoints with many reserved regions can share a domain', () => {
  const reserved = Object.fromEntries(
    Array.from({ length: 800 }, (_, i) => [
      i + 1,
      Array.from({ length: 20 }, (_, k) => {
        const [start, end] = span(0x1000 + k * 100_000 + i * 10, 2);
        return { kind: 'reserved' as const, start, end };
      }),
    ]),
  );
  const rig = new Rig({ emulated: Object.keys(reserved).map(Number), reserved });
  for (let round = 0; round < 2; round++) {
    for (let i = 1; i <= 800; i++) expect(rig.attach(1, i)).toBe('OK');
    expect([rig.map(1, 0x1000 + 7990, 1, 0), rig.map(1, 0x1000 + 8002, 1, 0)]).toEqual(['INVAL', 'OK']);
    for (let i = 1; i <= 800; i++) expect(rig.detach(1, i)).toBe('OK');
  }
});

describe('device registers on a host that cannot map them', () => {
  it('are left out of bypass, which is told when there are some and when some come; a MAP of them is refused [SIL-65]', () => {
    const rig = new Rig({
      groups: [[1]],
      emulated: [9],
      ram: [[0x100, 4]],
      cold: true,
      context: () => ({ flavour: 'iommufd' }),
    });
    const told = (): number => rig.events.filter(({ type }) => type === 'mmio-left-out').length;
    expect([rig.reach(1), told()]).toEqual([rig.allRam, 0]);
    const bar = rig.addMmio(0x200, 2);
    expect([rig.reach(1), told(), rig.counters['contextBlocks']]).toEqual([rig.allRam, 1, 0]);
    expect(rig.lastEvent('mmio-left-out')).toEqual({ type: 'mmio-left-out', context: 'iommufd group 0', endpoints: [1] }); // prettier-ignore
    rig.driver.start();
    rig.attach(1, 1);
    expect([rig.map(1, 5, 1, 0x200), rig.map(1, 5, 1, 0x100), told()]).toEqual(['DEVERR', 'OK', 1]);
    rig.detach(1, 1);
    expect([rig.reach(1), told()]).toEqual([rig.allRam, 2]);
    // A domain that shows them is refused before anything is touched.
    expect([rig.attach(2, 9), rig.map(2, 5, 1, 0x200), rig.map(2, 6, 1, 0x100)]).toEqual(['OK', 'OK', 'OK']);
    const { mapCalls, unmapAllCalls } = rig.contexts[0]!.stats();
    expect([rig.attach(2, 1), rig.reach(1)]).toEqual(['DEVERR', rig.allRam]);
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls, unmapAllCalls });
    rig.memory.removeRegion(bar);
    rig.attach(1, 1);
    rig.detach(1, 1);
    expect([rig.reach(1), told()]).toEqual([rig.allRam, 2]);
  });

  it('are in bypass where the host can', () => {
    const rig = new Rig({ groups: [[1]], ram: [[0x100, 4]] });
    rig.addMmio(0x200, 2);
    expect([rig.reach(1).size, rig.eventTypes().includes('mmio-left-out')]).toEqual([6, false]);
  });
});
