import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import { HostOp } from '../host/context.ts';
import { NONE } from '../intervals/table.ts';
import { ChangeList } from './changes.ts';

describe('ChangeList', () => {
  it('keeps changes in ring order, beyond its first capacity', () => {
    const list = new ChangeList();
    for (let i = 0; i < 40; i++) {
      if (i % 3 === 0) list.unmap(100 + i, i * 10, 5);
      else list.map(100 + i, i * 10, 5, 1000 + i, 3);
    }
    expect([list.count, list.maps]).toEqual([40, 26]);
    for (let i = 0; i < 40; i++) {
      const unmap = i % 3 === 0;
      expect(list.kind[i]).toBe(unmap ? HostOp.unmap : HostOp.map);
      expect([list.token[i], list.iova[i], list.pages[i]]).toEqual([100 + i, i * 10, 5]);
      if (!unmap) expect([list.gpa[i], list.rights[i]]).toEqual([1000 + i, 3]);
    }
  });

  it('is asked between additions: both ends of a range are exact', () => {
    const list = new ChangeList();
    expect(list.touches(0, 2 ** 52)).toBe(false);
    list.map(0, 100, 10, 0, 1);
    expect([list.touches(90, 10), list.touches(90, 11), list.touches(109, 1), list.touches(110, 1)]).toEqual([
      false,
      true,
      true,
      false,
    ]);
    list.unmap(1, 200, 1);
    expect([list.touches(110, 90), list.touches(110, 91), list.indexAt(200), list.indexAt(201)]).toEqual([
      false,
      true,
      1,
      NONE,
    ]);
    expect([list.indexAt(99), list.indexAt(100), list.indexAt(109), list.indexAt(110)]).toEqual([NONE, 0, 0, NONE]);
  });

  it('forgets everything when it is cleared', () => {
    const list = new ChangeList();
    list.map(0, 100, 10, 0, 1);
    expect(list.touches(100, 1)).toBe(true);
    list.clear();
    expect([list.count, list.maps, list.touches(100, 1), list.indexAt(100)]).toEqual([0, 0, false, NONE]);
    list.unmap(7, 100, 1);
    expect([list.indexAt(100), list.token[0]]).toEqual([0, 7]);
  });

  it('agrees with a list of ranges', () => {
    const step = fc.record({ gap: fc.nat(3), pages: fc.integer({ min: 1, max: 4 }), ask: fc.nat(60) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const list = new ChangeList();
        const ranges: [number, number][] = [];
        let at = 0;
        for (const { gap, pages, ask } of steps) {
          at += gap;
          list.map(0, at, pages, 0, 1);
          ranges.push([at, at + pages]);
          at += pages;
          expect(list.touches(ask, 2)).toBe(ranges.some(([start, end]) => start < ask + 2 && end > ask));
          expect(list.indexAt(ask)).toBe(ranges.findIndex(([start, end]) => start <= ask && ask < end));
        }
      }),
    );
  });
});
