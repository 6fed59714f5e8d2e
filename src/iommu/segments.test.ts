// Segments: requests of one kick that depend on each other, with and without refusals of the host; statuses are those of
// ring order, UNMAPs are never undone, caps know what was refused. Pages of 4 KiB; RAM: 0x100 to 0x13f.
import { describe, expect, it } from 'vitest';
import { Rig, span } from '../../test/iommu/rig.ts';
import { Errno } from '../base/errors.ts';
import type { OperationKind } from '../host/simulated.ts';
import type { DriverCommand } from '../testing/requests.ts';
import { statusName } from './status.ts';

const map = (domain: number, page: number, pages: number, target: number, flags = 3): DriverCommand => {
  const [virtStart, virtEnd] = span(page, pages);
  return { op: 'map', domain, virtStart, virtEnd, physStart: BigInt(target) * 4096n, flags };
};
const unmap = (domain: number, page: number, pages: number): DriverCommand => {
  const [virtStart, virtEnd] = span(page, pages);
  return { op: 'unmap', domain, virtStart, virtEnd };
};
const kick = (rig: Rig, ...commands: DriverCommand[]): string =>
  rig.driver
    .batch(commands)
    .map((reply) => statusName(reply.status))
    .join(' ');

/** Endpoint 1 in domain 1, with its own context. */
function attached(options: ConstructorParameters<typeof Rig>[0] = {}): Rig {
  const rig = new Rig({ groups: [[1]], ...options });
  rig.attach(1, 1);
  return rig;
}

describe('one kick', () => {
  it('takes MAP, UNMAP and MAP of one place in ring order', () => {
    const rig = attached();
    expect(kick(rig, map(1, 5, 2, 0x100), unmap(1, 5, 2), map(1, 5, 2, 0x110), map(1, 6, 1, 0x120))).toBe(
      'OK OK OK INVAL',
    );
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x110, 3], [6, 0x111, 3]));
    expect(kick(rig, unmap(1, 5, 2), map(1, 6, 1, 0x101), unmap(1, 6, 1), unmap(1, 6, 1), map(1, 5, 1, 0x102))).toBe(
      'OK OK OK OK OK',
    );
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x102, 3]));
  });

  it('goes to the host in one call when nothing meets', () => {
    const rig = attached();
    const { segments } = rig.counters;
    kick(rig, ...Array.from({ length: 20 }, (_, i) => map(1, i * 2, 1, 0x100 + i)));
    kick(rig, unmap(1, 0, 10), map(1, 41, 1, 0x130), unmap(1, 12, 3));
    expect([rig.counters['segments']! - segments!, rig.counters['segmentCuts']]).toEqual([2, 0]);
    expect(rig.contexts[0]!.stats()).toMatchObject({ unmapCalls: 2 });
  });

  it('sends no UNMAP to the host for what it never had', () => {
    const rig = attached();
    kick(rig, map(1, 5, 1, 0x900), map(1, 6, 1, 0x100, 0));
    expect(kick(rig, unmap(1, 5, 1), unmap(1, 6, 1), unmap(1, 0, 100))).toBe('OK OK OK');
    expect(rig.contexts[0]!.stats()).toMatchObject({ mapCalls: 1, unmapCalls: 0 }); // one map: bypass at the start
  });

  it('judges later requests by what the host refused', () => {
    const rig = attached();
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map' });
    const requests = [
      map(1, 5, 1, 0x100),
      map(1, 6, 2, 0x110),
      map(1, 7, 1, 0x120),
      unmap(1, 6, 1),
      map(1, 6, 1, 0x101),
    ];
    expect(kick(rig, ...requests)).toBe('OK NOMEM OK OK OK');
    expect(rig.reach(1)).toEqual(rig.reachOf([5, 0x100, 3], [6, 0x101, 3], [7, 0x120, 3]));
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map' });
    expect(kick(rig, unmap(1, 5, 1), map(1, 5, 1, 0x130), unmap(1, 4, 3))).toBe('OK NOMEM OK');
    expect(rig.reach(1)).toEqual(rig.reachOf([7, 0x120, 3]));
  });

  it.each<[OperationKind, string[]]>([
    ['map', ['NOMEM OK OK OK OK', 'OK OK NOMEM OK OK', 'OK OK OK OK NOMEM']],
    ['unmap', ['OK OK OK OK OK', 'OK OK OK OK OK']],
  ])('with a %s that fails answers for the guilty request alone', (kind, expected) => {
    expected.forEach((statuses, i) => {
      const rig = attached();
      rig.map(1, 1, 1, 0x101);
      rig.map(1, 2, 1, 0x102);
      rig.host.failAt(i + 1, Errno.ENOSPC, { kind });
      const requests = [map(1, 5, 1, 0x105), unmap(1, 1, 1), map(1, 6, 1, 0x106), unmap(1, 2, 1), map(1, 7, 1, 0x107)];
      expect(kick(rig, ...requests)).toBe(statuses);
      const rows = [5, 6, 7].filter((_, k) => statuses.split(' ')[k * 2] === 'OK');
      expect(rig.mappings(1).map(([page]) => page)).toEqual(rows);
      // A failed UNMAP blocks: it is OK for the guest, and its device reaches nothing any more.
      expect([...rig.reach(1).keys()]).toEqual(kind === 'map' ? rows : []);
      expect(rig.counters).toMatchObject({
        hostRefusals: kind === 'map' ? 1 : 0,
        contextBlocks: kind === 'map' ? 0 : 1,
      });
    });
  });

  it('keeps several domains apart', () => {
    const rig = new Rig({ groups: [[1], [2]], emulated: [3] });
    for (const id of [1, 2, 3]) rig.attach(id, id);
    rig.host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 1 });
    const requests = [
      map(1, 5, 1, 0x100),
      map(2, 5, 1, 0x101),
      map(3, 5, 1, 0x102),
      map(2, 6, 1, 0x103),
      map(1, 6, 1, 0x104),
    ];
    expect(kick(rig, ...requests)).toBe('OK NOMEM OK OK OK');
    expect(rig.counters['segmentCuts']).toBe(0);
    expect([rig.reach(1), rig.reach(2)]).toEqual([
      rig.reachOf([5, 0x100, 3], [6, 0x104, 3]),
      rig.reachOf([6, 0x103, 3]),
    ]);
    expect(rig.core.stats().mappings).toBe(4);
    expect(rig.faults().map(({ endpoint, address }) => [endpoint, address])).toEqual([[2, 0x5000n]]);
  });

  it('commits before an ATTACH, DETACH or PROBE and replays what it committed', () => {
    const rig = attached({ groups: [[1], [2]] });
    const requests: DriverCommand[] = [
      map(1, 5, 1, 0x100),
      { op: 'attach', domain: 1, endpoint: 2 },
      map(1, 6, 1, 0x101),
      { op: 'probe', endpoint: 1 },
      { op: 'detach', domain: 1, endpoint: 1 },
      map(1, 7, 1, 0x102),
    ];
    expect(kick(rig, ...requests)).toBe('OK OK OK OK OK OK');
    expect([rig.reach(1), rig.reach(2)]).toEqual([
      rig.allRam,
      rig.reachOf([5, 0x100, 3], [6, 0x101, 3], [7, 0x102, 3]),
    ]);
  });

  it('counts a cap by what is there when the request is judged', () => {
    const rig = attached({ device: { maxMappings: 2 } });
    rig.host.failAt(2, Errno.ENOMEM, { kind: 'map' });
    expect(kick(rig, map(1, 1, 1, 0x100), map(1, 2, 1, 0x101), map(1, 3, 1, 0x102), map(1, 4, 1, 0x103))).toBe(
      'OK NOMEM OK NOMEM',
    );
    expect([rig.mappings(1).map(([page]) => page), rig.counters['capRefusals']]).toEqual([[1, 3], 1]);
    expect(kick(rig, map(1, 5, 1, 0x100), unmap(1, 1, 1), map(1, 5, 1, 0x100))).toBe('NOMEM OK OK');
  });

  it('reaches the limit of entries exactly, with UNMAPs that make room in the same kick', () => {
    const rig = attached({ host: { entryLimit: 2 } });
    expect(kick(rig, map(1, 1, 1, 0x100), map(1, 2, 1, 0x101), map(1, 3, 1, 0x102))).toBe('OK OK NOMEM');
    expect(kick(rig, map(1, 4, 1, 0x102), unmap(1, 1, 1), map(1, 4, 1, 0x102), map(1, 5, 1, 0x103))).toBe(
      'NOMEM OK OK NOMEM',
    );
    expect(rig.reach(1)).toEqual(rig.reachOf([2, 0x101, 3], [4, 0x102, 3]));
  });

  it('longer than the queue of a planner, in every size around its growth', () => {
    const rig = attached({ queueSize: 64, ram: [[0x100, 64]] });
    for (const count of [15, 16, 17, 31, 32, 33, 64]) {
      const maps = Array.from({ length: count }, (_, i) => map(1, i * 2, 1, 0x100 + i));
      expect(kick(rig, ...maps)).toBe(Array(count).fill('OK').join(' '));
      expect([rig.reach(1).size, rig.unmap(1, 0, 200), rig.reach(1).size]).toEqual([count, 'OK', 0]);
    }
  });

  it('writes each status into its own tail, also where a tail lies in several descriptors', () => {
    const rig = attached();
    rig.host.failAt(2, Errno.EFAULT, { kind: 'map' });
    const queue = rig.driver.requestQueue;
    const readable = (page: number): Uint8Array => {
      const bytes = new Uint8Array(36);
      const view = new DataView(bytes.buffer);
      bytes[0] = 3;
      bytes[4] = 1;
      view.setBigUint64(8, BigInt(page) * 4096n, true);
      view.setBigUint64(16, BigInt(page) * 4096n + 4095n, true);
      view.setBigUint64(24, 0x10_0000n, true);
      bytes[32] = 3;
      return bytes;
    };
    const heads = [
      queue.add({ readable: readable(1), writableLength: 4 }),
      queue.add({ readable: readable(2), writableLength: 6, writableLayout: [3, 3] }),
      queue.add({ readable: readable(3), writableLength: 4, writableLayout: [1, 1, 1, 1] }),
      queue.add({ readable: readable(1), writableLength: 4 }),
    ];
    queue.makeAvailable(...heads);
    rig.iommu.transport.notify(0);
    expect(
      queue.poll().map(({ head, usedLength, writable }) => [heads.indexOf(head), usedLength, ...writable]),
    ).toEqual([
      [0, 4, 0, 0, 0, 0],
      [1, 4, 0, 0, 3, 0, 0, 0],
      [2, 4, 0, 0, 0, 0],
      [3, 4, 4, 0, 0, 0],
    ]);
  });
});
