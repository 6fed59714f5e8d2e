// Groups of one domain in one address space (iommufd): what ATTACH, DETACH and the rest cost and reach, what a refusal of the
// host leaves, and that the groups are equals. Pages of 4 KiB; RAM: 0x100 to 0x13f.
import { describe, expect, it } from 'vitest';
import type { RigOptions } from '../../test/iommu/rig.ts';
import { PAGE, Rig } from '../../test/iommu/rig.ts';
import { Errno } from '../base/errors.ts';
import { HostBatch } from '../host/context.ts';
import type { OperationKind, SimulatedIommufdContext } from '../host/simulated.ts';

const RMRR = { kind: 'reserved', start: 0x10_2000n, end: 0x10_2fffn } as const;
/** Host operations as the host counts them: all contexts together. */
interface Calls {
  map: number;
  unmap: number;
  unmapAll: number;
  attach: number;
}

/** Three groups of one endpoint each, 1 to 3, on iommufd; bypass off. */
function rigOf(options: RigOptions = {}): Rig & { readonly calls: Calls } {
  const rig = new Rig({
    groups: [[1], [2], [3]],
    context: () => ({ flavour: 'iommufd' }),
    ...options,
    device: { bypass: false, ...options.device },
  });
  const calls: Calls = { map: 0, unmap: 0, unmapAll: 0, attach: 0 };
  rig.host.onOperation(({ kind }) => {
    if (kind in calls) calls[kind as keyof Calls]++;
  });
  return Object.assign(rig, { calls });
}

/** Endpoints 1 and 2 in domain 1, which has two mappings. */
function shared(options: RigOptions = {}): ReturnType<typeof rigOf> {
  const rig = rigOf(options);
  rig.attach(1, 1);
  rig.map(1, 5, 2, 0x100);
  rig.map(1, 9, 1, 0x110, 1);
  expect(rig.attach(1, 2)).toBe('OK');
  return rig;
}

const TABLE = [[5, 0x100, 3], [6, 0x101, 3], [9, 0x110, 1]] as const; // prettier-ignore

function rows(rig: Rig): unknown {
  return rig.core.stats().contexts.map(({ name, sharedWith, entries }) => [name.slice(-1), sharedWith, entries]);
}

function sharing(rig: Rig): unknown {
  return rig.core.stats().contexts.map(({ name, sharedWith }) => [name.slice(-1), sharedWith]);
}

function refuse(rig: Rig, errno: number, kind: OperationKind, group?: number, times = Infinity): void {
  rig.host.failAt(1, errno, { kind, times, ...(group === undefined ? {} : { group }) });
}

/**
 * The next calls that would move the devices leave them detached, as when the second device of a group is refused and the
 * first cannot be put back. Returns the function that ends that.
 */
function losing(context: SimulatedIommufdContext, times: number): () => void {
  let left = times;
  const attachTo = context.attachTo.bind(context);
  const attachAlone = context.attachAlone.bind(context);
  const refused = (): boolean => left-- > 0;
  context.attachTo = (other) => {
    if (refused()) {
      context.detach();
      return Errno.ENOMEM;
    }
    context.attach();
    return attachTo(other);
  };
  context.attachAlone = () => {
    const lost = refused();
    if (lost) context.detach();
    else context.attach();
    return attachAlone() || (lost ? Errno.ENOMEM : 0);
  };
  return () => {
    left = 0;
  };
}

describe('a second group of a domain', () => {
  it('reaches what is there without a map, and nothing is locked twice', () => {
    const rig = rigOf();
    rig.attach(1, 1);
    rig.map(1, 5, 2, 0x100);
    rig.map(1, 9, 1, 0x110, 1);
    const { map } = rig.calls;
    expect([rig.host.lockedPages, rig.attach(1, 2), rig.attach(1, 3)]).toEqual([3, 'OK', 'OK']);
    expect([rig.calls.map, rig.host.lockedPages]).toEqual([map, 3]);
    for (const endpoint of [1, 2, 3]) expect(rig.reach(endpoint)).toEqual(rig.reachOf(...TABLE));
    expect(rows(rig)).toEqual([
      ['0', ['iommufd group 1', 'iommufd group 2'], 2],
      ['1', ['iommufd group 0', 'iommufd group 2'], 2],
      ['2', ['iommufd group 0', 'iommufd group 1'], 2],
    ]);
    expect(rig.events.filter(({ type }) => type === 'context-switched')).toMatchObject([
      { context: 'iommufd group 0', endpoints: [1], to: 'domain' },
      { context: 'iommufd group 1', endpoints: [2], to: 'domain' },
      { context: 'iommufd group 2', endpoints: [3], to: 'domain' },
    ]);
  });

  it('sees each MAP and UNMAP, one host operation each', () => {
    const rig = shared();
    const before = { ...rig.calls };
    expect([rig.map(1, 20, 4, 0x120), rig.unmap(1, 5, 2)]).toEqual(['OK', 'OK']);
    expect([rig.calls.map - before.map, rig.calls.unmap - before.unmap]).toEqual([1, 1]);
    const left = rig.reachOf([9, 0x110, 1], [20, 0x120, 3], [21, 0x121, 3], [22, 0x122, 3], [23, 0x123, 3]);
    expect([rig.reach(1), rig.reach(2)]).toEqual([left, left]);
    expect(rig.tables(1).believed).toEqual(rig.tables(0).real);
  });

  it.each([
    ['first', 1, 2],
    ['second', 2, 1],
  ])('keeps everything when the %s leaves', (_which, leaver, stayer) => {
    const rig = shared();
    const { map, unmap, unmapAll } = rig.calls;
    expect(rig.detach(1, leaver)).toBe('OK');
    expect([rig.reach(leaver).size, rig.reach(stayer)]).toEqual([0, rig.reachOf(...TABLE)]);
    expect([rig.calls.map, rig.calls.unmap, rig.calls.unmapAll]).toEqual([map, unmap, unmapAll]);
    expect(rig.map(1, 30, 1, 0x130)).toBe('OK');
    expect([rig.reach(leaver).size, rig.reach(stayer).size]).toEqual([0, 4]);
    expect([rig.attach(2, leaver), rig.map(2, 5, 1, 0x105)]).toEqual(['OK', 'OK']);
    expect([rig.reach(leaver), rig.reach(stayer).size]).toEqual([rig.reachOf([5, 0x105, 3]), 4]);
    expect(rig.attach(1, leaver)).toBe('OK');
    expect(rig.reach(leaver)).toEqual(rig.reach(stayer));
    expect([rig.detach(1, stayer), rig.reach(stayer).size, rig.reach(leaver).size]).toEqual(['OK', 0, 4]);
    expect([rig.detach(1, leaver), rig.reach(leaver).size, rig.host.lockedPages]).toEqual(['OK', 0, 0]);
  });

  it('can move from one shared address space into another', () => {
    const rig = shared();
    rig.attach(2, 3);
    rig.map(2, 50, 1, 0x120);
    const { map } = rig.calls;
    expect(rig.attach(2, 2)).toBe('OK');
    expect([rig.reach(1), rig.reach(2)]).toEqual([rig.reachOf(...TABLE), rig.reachOf([50, 0x120, 3])]);
    expect(rig.attach(2, 1)).toBe('OK');
    expect([rig.reach(1), rig.calls.map, rig.host.lockedPages]).toEqual([rig.reachOf([50, 0x120, 3]), map, 1]);
    expect(rig.core.stats().domains).toBe(1);
  });

  it('gets nothing more of the domain that it came from, where no group is left', () => {
    const rig = rigOf({ emulated: [9] });
    for (const [domain, endpoint] of [[1, 9], [1, 1], [2, 2]] as const) rig.attach(domain, endpoint); // prettier-ignore
    expect([rig.attach(2, 1), rig.map(1, 5, 1, 0x100), rig.unmap(1, 5, 1)]).toEqual(['OK', 'OK', 'OK']);
    expect([rig.reach(1).size, rig.map(2, 5, 1, 0x101), rig.reach(1)]).toEqual([0, 'OK', rig.reachOf([5, 0x101, 3])]);
    rig.map(1, 6, 1, 0x102);
    expect([rig.reach(1).size, rig.reach(2).size, rig.attach(1, 2), rig.reach(2)]).toEqual([1, 1, 'OK', rig.reachOf([6, 0x102, 3])]); // prettier-ignore
  });

  it('has an address space of its own where the host cannot share one, and each MAP is in both or in none', () => {
    for (const context of [
      (group: number) => ({ flavour: 'iommufd', mode: group === 1 ? 'cut' : 'large' }) as const,
      (group: number) => ({ flavour: 'iommufd', share: group !== 1 }) as const,
      (group: number) => (group === 1 ? {} : ({ flavour: 'iommufd' } as const)),
    ]) {
      const rig = shared({ context });
      expect(rig.attach(1, 3)).toBe('OK');
      expect(sharing(rig)).toEqual([['0', ['iommufd group 2']], ['1', []], ['2', ['iommufd group 0']]]); // prettier-ignore
      refuse(rig, Errno.ENOMEM, 'map', 1, 1);
      expect([rig.map(1, 30, 1, 0x130), rig.map(1, 31, 1, 0x131)]).toEqual(['NOMEM', 'OK']);
      const expected = rig.reachOf(...TABLE, [31, 0x131, 3]);
      for (const endpoint of [1, 2, 3]) expect(rig.reach(endpoint)).toEqual(expected);
      for (const endpoint of [3, 1, 2]) expect(rig.detach(1, endpoint)).toBe('OK');
      expect([rig.host.lockedPages, rig.core.stats().domains]).toEqual([0, 0]);
    }
  });
});

describe('bypass', () => {
  it('is one address space for groups that show the same memory', () => {
    const rig = rigOf({ device: { bypass: true }, reserved: { 3: [RMRR] } });
    expect(rows(rig)).toEqual([['0', ['iommufd group 1'], 1], ['1', ['iommufd group 0'], 1], ['2', [], 2]]); // prettier-ignore
    expect([rig.reach(1), rig.reach(2), rig.host.lockedPages]).toEqual([rig.allRam, rig.allRam, 64 + 63]);
    rig.attach(1, 1);
    expect([rig.reach(1).size, rig.reach(2)]).toEqual([0, rig.allRam]);
    rig.attach(7, 1, 1); // a bypass domain shows the same
    expect([rig.reach(1), rig.host.lockedPages]).toEqual([rig.allRam, 64 + 63]);
    rig.driver.setBypass(0);
    expect([rig.reach(1), rig.reach(2).size, rig.reach(3).size]).toEqual([rig.allRam, 0, 0]);
    rig.iommu.transport.writeStatus(0);
    expect([rig.reach(1).size, rig.host.lockedPages]).toEqual([0, 0]);
  });
});

describe('bus master', () => {
  it('is off for an address space when it is off for all groups; one that wakes gets what was planned first', () => {
    const rig = rigOf();
    for (const endpoint of [1, 2]) {
      rig.host.setBusMaster(endpoint, false);
      rig.core.setBusMaster(endpoint, false);
      rig.attach(1, endpoint);
    }
    expect([rig.map(1, 5, 1, 0x100), rig.map(1, 6, 1, 0x101), rig.calls.map]).toEqual(['OK', 'OK', 0]);
    expect(rig.attach(1, 3)).toBe('OK'); // nobody told its bit: it counts as set
    expect([rig.calls.map, rig.reach(3)]).toEqual([1, rig.reachOf([5, 0x100, 3], [6, 0x101, 3])]);
    rig.map(1, 7, 1, 0x102);
    expect([rig.calls.map, rig.detach(1, 3), rig.reach(3).size]).toEqual([2, 'OK', 0]);
    rig.map(1, 8, 1, 0x103);
    expect(rig.calls.map).toBe(2);
    rig.core.setBusMaster(2, true);
    rig.host.setBusMaster(2, true);
    expect([rig.calls.map, rig.reach(2).size]).toEqual([3, 4]);
  });

  it('of a group that comes has what was planned installed first; when the host refuses that, all are blocked and told', () => {
    const rig = rigOf();
    rig.core.setBusMaster(1, false);
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    refuse(rig, Errno.ENOMEM, 'map', undefined, 2);
    expect([rig.attach(1, 2), rig.core.stats().contexts.map(({ state }) => state)]).toEqual(['NOMEM', ['blocked', 'blocked', 'blocked']]); // prettier-ignore
    expect(rig.faults().map(({ endpoint }) => endpoint)).toEqual([1, 2]);
    rig.host.clearFaults();
    expect([rig.attach(1, 2), rig.reach(2)]).toEqual(['OK', rig.reachOf([5, 0x100, 3])]);
    expect([rig.attach(2, 1), rig.attach(1, 1), sharing(rig)]).toEqual(['OK', 'OK', [['0', ['iommufd group 1']], ['1', ['iommufd group 0']], ['2', []]]]); // prettier-ignore
  });

  it('is stalled for every group while a live entry is replaced', () => {
    const log: string[] = [];
    const hooks = {
      pauseDma: (context: string) => log.push(`pause ${context}`) > 0,
      resumeDma: (context: string) => void log.push(`resume ${context}`),
    };
    const rig = rigOf({ device: hooks });
    rig.core.setBusMaster(1, false);
    rig.core.setBusMaster(2, false);
    rig.attach(1, 1);
    for (let i = 0; i < 4; i++) rig.map(1, 5 + i, 1, 0x100 + i);
    rig.attach(1, 2);
    rig.core.setBusMaster(1, true);
    expect([rig.core.stats().contexts[1]!.joined, log]).toEqual([1, []]);
    rig.unmap(1, 6, 1);
    const [a, b] = ['iommufd group 0', 'iommufd group 1'];
    expect(log).toEqual([`pause ${a}`, `pause ${b}`, `resume ${a}`, `resume ${b}`]);
    expect(rig.core.stats().contexts[0]).toMatchObject({ stalls: 1, windows: { count: 0 } });
  });

  it('is not stalled when one group is not', () => {
    const rig = rigOf({ device: { pauseDma: (context) => context.endsWith('0'), resumeDma: () => undefined } });
    for (const endpoint of [1, 2]) {
      rig.core.setBusMaster(endpoint, false);
      rig.attach(1, endpoint);
    }
    for (let i = 0; i < 4; i++) rig.map(1, 5 + i, 1, 0x100 + i);
    rig.core.setBusMaster(1, true);
    rig.unmap(1, 6, 1);
    expect(rig.core.stats().contexts[0]).toMatchObject({ stalls: 0, windows: { count: 1 } });
  });
});

describe('a host that refuses', () => {
  it('to let a group in gives it an address space of its own', () => {
    const rig = rigOf();
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    refuse(rig, Errno.EINVAL, 'attach', 1, 1);
    expect([rig.attach(1, 2), rig.reach(2)]).toEqual(['OK', rig.reachOf([5, 0x100, 3])]);
    expect([sharing(rig), rig.map(1, 6, 1, 0x101), rig.reach(2).size]).toEqual([[['0', []], ['1', []], ['2', []]], 'OK', 2]); // prettier-ignore
  });

  it('both leaves the group where it was', () => {
    const rig = shared();
    rig.attach(2, 3);
    rig.map(2, 50, 1, 0x120);
    refuse(rig, Errno.ENOMEM, 'attach', 1, 1);
    refuse(rig, Errno.ENOMEM, 'map', 1);
    expect(rig.attach(2, 2)).toBe('NOMEM');
    expect([rig.reach(2), rig.reach(3)]).toEqual([rig.reachOf(...TABLE), rig.reachOf([50, 0x120, 3])]);
    expect(sharing(rig)).toEqual([
      ['0', ['iommufd group 1']],
      ['1', ['iommufd group 0']],
      ['2', []],
    ]);
    expect(rig.lastEvent('host-refusal')).toMatchObject({ request: 'ATTACH', endpoint: 2, domain: 2, status: 'NOMEM' });
    expect([rig.faults().map(({ endpoint }) => endpoint), rig.counters['contextBlocks']]).toEqual([[2], 0]);
    rig.host.clearFaults();
    expect([rig.map(1, 30, 1, 0x130), rig.reach(2).size, rig.attach(2, 2)]).toEqual(['OK', 4, 'OK']);
    expect(rig.reach(2)).toEqual(rig.reach(3));
  });

  it('to take it back as well blocks the group, and only that one', () => {
    const rig = shared();
    rig.attach(2, 3);
    rig.map(2, 50, 1, 0x120);
    refuse(rig, Errno.ENOMEM, 'attach', 1);
    expect([rig.attach(2, 2), rig.reach(2).size, rig.reach(1).size]).toEqual(['NOMEM', 0, 3]);
    expect([rig.faults().map(({ endpoint }) => endpoint), rig.counters['contextBlocks']]).toEqual([[2], 1]);
    expect(rig.lastEvent('context-blocked')).toMatchObject({ context: 'iommufd group 1', endpoints: [2], operation: 'switch' }); // prettier-ignore
    rig.host.clearFaults();
    expect([rig.attach(2, 2), rig.reach(2)]).toEqual(['OK', rig.reachOf([50, 0x120, 3])]);
  });

  it.each([
    ['alone', 1, true],
    ['beside another group', 1, true],
    ['alone', Infinity, false],
    ['beside another group', Infinity, false],
  ])('to put back what it had moved, %s, %d times: is tried again, else the group is blocked', (where, times, back) => {
    const rig = rigOf();
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.attach(2, 2);
    if (where !== 'alone') rig.attach(2, 3);
    rig.map(2, 6, 1, 0x101);
    const allow = losing(rig.contexts[1] as SimulatedIommufdContext, times);
    refuse(rig, Errno.ENOMEM, 'map', 1, 1); // its own address space cannot be had either
    expect([rig.attach(1, 2), rig.reach(2)]).toEqual(['NOMEM', back ? rig.reachOf([6, 0x101, 3]) : new Map()]);
    expect([rig.counters['contextBlocks'], rig.faults().length]).toEqual([back ? 0 : 1, 1]);
    expect([rig.reach(1).size, rig.reach(3).size]).toEqual([1, where === 'alone' ? 0 : 1]);
    allow();
    rig.host.clearFaults();
    expect([rig.attach(1, 2), rig.map(1, 7, 1, 0x102), rig.reach(2)]).toEqual(['OK', 'OK', rig.reach(1)]);
  });

  it('to give it an empty address space at DETACH cannot leave it with access', () => {
    const rig = shared();
    refuse(rig, Errno.ENOMEM, 'attach', 1);
    expect([rig.detach(1, 2), rig.reach(2).size, rig.reach(1).size]).toEqual(['OK', 0, 3]);
    expect([rig.attach(3, 2), rig.reach(2).size]).toEqual(['NOMEM', 0]);
    rig.host.clearFaults();
    expect([rig.attach(3, 2), rig.map(3, 5, 1, 0x105), rig.reach(2)]).toEqual(['OK', 'OK', rig.reachOf([5, 0x105, 3])]);
    expect(rig.reach(1)).toEqual(rig.reachOf(...TABLE));
  });

  it('an UNMAP blocks all groups, which is told once for each endpoint', () => {
    const rig = shared();
    refuse(rig, Errno.EIO, 'unmap');
    expect([rig.unmap(1, 9, 1), rig.reach(1).size, rig.reach(2).size]).toEqual(['OK', 0, 0]);
    expect(rig.events.filter(({ type }) => type === 'context-blocked')).toMatchObject([
      { context: 'iommufd group 0 + iommufd group 1', endpoints: [1, 2], operation: 'UNMAP', iova: 9n * PAGE },
    ]);
    expect(rig.faults().map(({ endpoint, address }) => [endpoint, address])).toEqual([[1, 9n * PAGE], [2, 9n * PAGE]]); // prettier-ignore
    rig.host.clearFaults();
    rig.attach(2, 1);
    rig.map(2, 50, 1, 0x120);
    expect([rig.reach(1), rig.reach(2).size]).toEqual([rig.reachOf([50, 0x120, 3]), 0]);
    expect([rig.attach(2, 2), rig.reach(2).size, rig.attach(1, 2), rig.reach(2).size]).toEqual(['OK', 1, 'OK', 0]);
  });

  it('everything stops each group by the mildest means that it grants, and names those that nothing stopped', () => {
    const rig = shared();
    refuse(rig, Errno.EIO, 'unmap');
    refuse(rig, Errno.EIO, 'unmapAll');
    refuse(rig, Errno.EIO, 'clearBusMaster', 1);
    rig.unmap(1, 9, 1);
    expect([rig.host.resets(1), rig.host.resets(2), rig.host.busMaster(1), rig.fatal]).toEqual([0, 1, false, []]);
    expect(() => rig.core.setBusMaster(1, true)).toThrow(/cannot be removed/);
    const fatal = shared();
    for (const kind of ['unmap', 'unmapAll'] as const) refuse(fatal, Errno.EIO, kind);
    for (const kind of ['clearBusMaster', 'resetDevices'] as const) refuse(fatal, Errno.EIO, kind, 1);
    fatal.unmap(1, 9, 1);
    expect([fatal.fatal, fatal.host.busMaster(1)]).toEqual([['iommufd group 1'], false]);
    fatal.host.clearFaults();
    expect([fatal.attach(2, 1), fatal.detach(1, 2), fatal.core.stats().contexts[1]!.blockedBy]).toEqual(['IOERR', 'OK', 'fatal']); // prettier-ignore
    fatal.iommu.systemReset();
    expect([fatal.reach(1).size, fatal.reach(2).size]).toEqual([0, 0]);
    fatal.driver.start();
    expect([fatal.attach(1, 2), fatal.map(1, 5, 1, 0x100), fatal.reach(2).size]).toEqual(['OK', 'OK', 1]);
  });
});

describe('a system reset that the host refuses', () => {
  it('tells of each group once', () => {
    const rig = shared();
    rig.attach(1, 3);
    for (const kind of ['unmap', 'unmapAll', 'clearBusMaster', 'resetDevices'] as const) refuse(rig, Errno.EIO, kind);
    rig.unmap(1, 9, 1);
    const names = ['iommufd group 0', 'iommufd group 1', 'iommufd group 2'];
    expect(rig.fatal).toEqual(names);
    const { unmapAll } = rig.calls;
    rig.iommu.systemReset();
    expect([rig.fatal, rig.calls.unmapAll - unmapAll]).toEqual([[...names, ...names], 1]);
  });
});

describe('groups that come and go', () => {
  it('leave also what is blocked for good, which stays to those who stay', () => {
    const rig = rigOf();
    for (const endpoint of [1, 2]) {
      rig.core.setBusMaster(endpoint, false);
      rig.attach(1, endpoint);
    }
    rig.map(1, 5, 1, 0x100);
    for (const kind of ['map', 'unmapAll', 'clearBusMaster', 'resetDevices'] as const) refuse(rig, Errno.EIO, kind);
    expect(() => rig.core.setBusMaster(2, true)).toThrow(/cannot be removed/);
    rig.core.removeEndpoint(1);
    rig.host.clearFaults();
    rig.iommu.addEndpoint({ id: 1, host: rig.contexts[0]! });
    expect([rig.attach(2, 1), rig.map(2, 7, 1, 0x101), sharing(rig)]).toEqual(['OK', 'OK', [['1', []], ['2', []], ['0', []]]]); // prettier-ignore
    rig.core.setBusMaster(2, true);
    expect([rig.reach(1), rig.tables(2).believed.length]).toEqual([rig.reachOf([7, 0x101, 3]), 1]);
    rig.core.removeEndpoint(2);
    rig.contexts[1]!.close();
    rig.iommu.systemReset();
    expect(rig.core.stats().contexts.map(({ blockedBy }) => blockedBy)).not.toContain('fatal');
  });

  it('leave the others alone, and take nothing with them', () => {
    const rig = shared();
    rig.core.removeEndpoint(1);
    expect([rig.reach(1).size, rig.reach(2), sharing(rig)]).toEqual([0, rig.reachOf(...TABLE), [['1', []], ['2', []]]]); // prettier-ignore
    rig.contexts[0]!.close();
    expect([rig.map(1, 30, 1, 0x130), rig.reach(2).size]).toEqual(['OK', 4]);
    const host = rig.host.createContext({ group: 0, endpoints: [1], flavour: 'iommufd' });
    rig.iommu.addEndpoint({ id: 1, host });
    expect([rig.attach(1, 1), rig.reach(1)]).toEqual(['OK', rig.reach(2)]);
  });

  it('have address spaces of their own after close, for another device', () => {
    const rig = shared();
    rig.core.close();
    expect([rig.reach(1).size, rig.reach(2).size, rig.host.lockedPages]).toEqual([0, 0, 0]);
    const [a, b] = rig.contexts;
    const batch = new HostBatch();
    batch.map(5, 1, Number(rig.memory.regions[0]!.hva! / PAGE), 3);
    expect([a!.apply(batch, 0), rig.reach(1).size, rig.reach(2).size, b!.unmapAll(), rig.reach(1).size]).toEqual([1, 1, 0, 0, 1]); // prettier-ignore
  });

  it('follow memory that comes and goes, once for all', () => {
    const rig = shared();
    rig.map(1, 40, 1, 0x200);
    const { map } = rig.calls;
    const region = rig.addRam(0x200, 2);
    expect([rig.calls.map - map, rig.reach(1).size, rig.reach(2).size]).toEqual([1, 4, 4]);
    const { unmap } = rig.calls;
    rig.memory.removeRegion(region);
    expect([rig.calls.unmap - unmap, rig.reach(1).size, rig.reach(2).size]).toEqual([1, 3, 3]);
  });

  it('with members that differ are blocked alone', () => {
    const rig = shared({ groups: [[1], [2, 4], [3]] });
    expect([rig.reach(1).size, rig.reach(2).size]).toEqual([3, 0]); // 4 is in no domain
    expect([rig.attach(1, 4), rig.reach(2), rig.reach(4)]).toEqual(['OK', rig.reachOf(...TABLE), rig.reachOf(...TABLE)]); // prettier-ignore
    expect([rig.detach(1, 2), rig.reach(4).size, rig.reach(1).size]).toEqual(['OK', 0, 3]);
  });
});
