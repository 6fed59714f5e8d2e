// Stretches that wait: counters, borders, and what is left when parts are taken out.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NONE } from '../intervals/table.ts';
import { REVOKED, WaitingStretches } from './waiting.ts';

const RW = 3;
/** Every mapping is one page. */
const onePage = (page: number): number => page + 1;

function rows(waiting: WaitingStretches): number[][] {
  const list: number[][] = [];
  const { table } = waiting;
  for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) {
    list.push([table.startAt(slot), table.endAt(slot), table.flagsAt(slot), waiting.isSeveral(slot) ? 2 : 1]);
  }
  return list;
}

describe('stretches that wait', () => {
  it('are counted by kind', () => {
    const waiting = new WaitingStretches();
    waiting.add(0, 3, RW, true);
    waiting.add(3, 4, RW, false);
    waiting.add(10, 15, RW | REVOKED, true);
    expect(waiting).toMatchObject({ size: 3, pages: 9, revoked: 1, revokedPages: 5, several: 2 });
    waiting.take(waiting.startingAt(10));
    expect(waiting).toMatchObject({ size: 2, pages: 4, revoked: 0, revokedPages: 0, several: 1 });
    waiting.clear();
    expect(waiting).toMatchObject({ size: 0, pages: 0, revoked: 0, revokedPages: 0, several: 0 });
  });

  it('never overlap', () => {
    const waiting = new WaitingStretches();
    waiting.add(5, 8, RW, true);
    expect(() => waiting.add(7, 9, RW, true)).toThrow('overlap');
    expect(waiting).toMatchObject({ size: 1, pages: 3, several: 1 });
  });

  it('are found by their exact ends', () => {
    const waiting = new WaitingStretches();
    waiting.add(0, 3, RW, true);
    waiting.add(7, 2 ** 52, RW, false);
    for (const page of [0, 1, 2, 4, 7, 8, 2 ** 52 - 1]) expect(waiting.endingAt(page)).toBe(NONE);
    for (const page of [1, 2, 3, 6, 8, 2 ** 52]) expect(waiting.startingAt(page)).toBe(NONE);
    expect(waiting.table.startAt(waiting.endingAt(3))).toBe(0);
    expect(waiting.table.startAt(waiting.endingAt(2 ** 52))).toBe(7);
    expect(waiting.table.endAt(waiting.startingAt(0))).toBe(3);
    expect(waiting.table.endAt(waiting.startingAt(7))).toBe(2 ** 52);
  });

  it.each([
    [0, 10, []],
    [0, 1, [[1, 10, RW, 2]]],
    [9, 10, [[0, 9, RW, 2]]],
    [
      4,
      6,
      [
        [0, 4, RW, 2],
        [6, 10, RW, 2],
      ],
    ],
    [
      1,
      9,
      [
        [0, 1, RW, 1],
        [9, 10, RW, 1],
      ],
    ],
    [10, 12, [[0, 10, RW, 2]]],
  ])('lose [%d, %d)', (start, end, left) => {
    const waiting = new WaitingStretches();
    waiting.add(0, 10, RW, true);
    waiting.subtract(start, end, onePage);
    expect(rows(waiting)).toEqual(left);
  });

  it('keep their flags in the parts that are left', () => {
    const waiting = new WaitingStretches();
    waiting.add(0, 10, RW | REVOKED, true);
    waiting.subtract(4, 5, onePage);
    expect(waiting).toMatchObject({ revoked: 2, revokedPages: 9, pages: 9, several: 2 });
  });

  it('agree with a list of pages under random changes', () => {
    const step = fc.record({
      start: fc.integer({ min: 0, max: 30 }),
      length: fc.integer({ min: 1, max: 12 }),
      flags: fc.constantFrom(1, 3, 11, 3 | REVOKED),
      take: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const waiting = new WaitingStretches();
        const pages = new Map<number, number>();
        for (const { start, length, flags, take } of steps) {
          const span = Array.from({ length }, (_, i) => start + i);
          if (take) {
            waiting.subtract(start, start + length, onePage);
            for (const page of span) pages.delete(page);
          } else if (span.every((page) => !pages.has(page))) {
            waiting.add(start, start + length, flags, length > 1);
            for (const page of span) pages.set(page, flags);
          }
          const seen = rows(waiting).flatMap(([from, to, kind]) =>
            Array.from({ length: to! - from! }, (_, i) => [from! + i, kind!] as const),
          );
          expect(new Map(seen)).toEqual(new Map([...pages].sort(([a], [b]) => a - b)));
          const list = rows(waiting);
          expect(waiting.pages).toBe(pages.size);
          expect(waiting.several).toBe(list.filter((row) => row[3] === 2).length);
          expect(list.every(([from, to, , several]) => (several === 2) === to! - from! > 1)).toBe(true);
          expect(waiting.revoked).toBe(list.filter((row) => (row[2]! & REVOKED) !== 0).length);
          expect(waiting.revokedPages).toBe([...pages.values()].filter((flags) => (flags & REVOKED) !== 0).length);
        }
      }),
      { numRuns: 100 },
    );
  });
});
