import { describe, expect, it } from 'vitest';
import { HOST_MMIO, HostBatch, HostRight } from '../host/context.ts';
import { Backing, REGION_GATHERABLE } from './backing.ts';

const R = HostRight.read;
const RW = HostRight.read | HostRight.write;

/** RAM 100..200 at va 5000 and 200..300 at va 9000, ROM 300..310, a BAR 400..404. */
function backing(): Backing {
  const all = new Backing();
  all.add(100, 100, 5000, RW | REGION_GATHERABLE);
  all.add(200, 100, 9000, RW);
  all.add(300, 10, 700, R);
  all.add(400, 4, 800, RW | HOST_MMIO);
  return all;
}

function pieces(all: Backing, iova: number, pages: number, gpa: number, rights: number): number[][] {
  const batch = new HostBatch(1);
  const count = all.appendPieces(batch, iova, pages, gpa, rights);
  expect(batch.count).toBe(count);
  return Array.from({ length: count }, (_each, i) => [batch.iova[i]!, batch.pages[i]!, batch.va[i]!, batch.rights[i]!]);
}

describe('Backing', () => {
  it('gives one piece for a mapping inside a region, up to its edges', () => {
    const all = backing();
    expect(pieces(all, 7, 100, 100, RW)).toEqual([[7, 100, 5000, RW]]);
    expect(all.appendedRam).toBe(100);
    expect(pieces(all, 7, 1, 199, R)).toEqual([[7, 1, 5099, R]]);
  });

  it('cuts at every edge, leaves out what has no memory, and counts RAM only', () => {
    const all = backing();
    expect(pieces(all, 0, 320, 90, RW)).toEqual([
      [10, 100, 5000, RW],
      [110, 100, 9000, RW],
      [210, 10, 700, R],
      [310, 4, 800, RW | HOST_MMIO],
    ]);
    expect(all.appendedRam).toBe(210);
    expect(all.ramPagesIn(90, 320, RW)).toBe(210);
    expect([all.ramPagesIn(199, 2, RW), all.ramPagesIn(310, 90, RW), all.ramPagesIn(400, 4, RW)]).toEqual([2, 0, 0]);
  });

  it('never gives more than the region has: a write-only mapping of ROM has no piece', () => {
    const all = backing();
    expect(pieces(all, 0, 10, 300, HostRight.write)).toEqual([]);
    expect(all.ramPagesIn(300, 10, HostRight.write)).toBe(0);
    expect(pieces(all, 0, 10, 300, RW)).toEqual([[0, 10, 700, R]]);
    // The same again, when the region is the one of the last piece.
    expect(pieces(all, 0, 10, 300, HostRight.write)).toEqual([]);
    expect(all.appendedRam).toBe(0);
  });

  it('locates what lies wholly inside one region', () => {
    const all = backing();
    expect(all.locate(150, 50, RW)).toBe(true);
    expect([all.foundVa, all.foundFlags, all.region]).toEqual([5050, RW | REGION_GATHERABLE, 100]);
    expect([all.locate(150, 51, RW), all.locate(99, 2, RW), all.locate(310, 1, RW)]).toEqual([false, false, false]);
    expect(all.locate(300, 1, HostRight.write)).toBe(true);
    expect(all.foundFlags).toBe(0);
    expect(all.locate(403, 1, R)).toBe(true);
    expect([all.foundVa, all.foundFlags]).toEqual([803, R | HOST_MMIO]);
  });

  it('forgets a region that is removed, also the one of the last piece', () => {
    const all = backing();
    expect(all.ramPages).toBe(210);
    expect(pieces(all, 0, 1, 100, RW)).toHaveLength(1);
    all.remove(100);
    expect([all.ramPages, all.locate(100, 1, RW), pieces(all, 0, 1, 100, RW)]).toEqual([110, false, []]);
    all.add(100, 1, 42, RW);
    expect(pieces(all, 0, 2, 100, RW)).toEqual([[0, 1, 42, RW]]);
    all.remove(400);
    expect(all.ramPages).toBe(111);
    expect(() => all.remove(400)).toThrow('no such backing region');
    expect(() => all.add(299, 1, 0, RW)).toThrow('backing regions overlap');
  });
});
