import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkInvariants } from './invariants.ts';
import { IntervalTable, NONE } from './table.ts';

describe('an interval that reaches over a separator', () => {
  it('is found behind it, after a removal made the separator a bound only', () => {
    const table = new IntervalTable();
    for (let i = 0; i < 100; i++) table.insert(2 * i, 2 * i + 1, i, 3);
    table.remove(0);
    table.remove(128);
    table.insert(127, 129, 7, 3);
    table.find(190); // another leaf is remembered
    expect(table.valueAt(table.find(128))).toBe(7);
    expect(table.isFree(128, 129)).toBe(false);
    expect(table.splits(128, 140)).toBe(true);
    expect(table.removeRange(128, 140)).toBe(-1);
    expect(table.insert(128, 129, 1, 1)).toBe(false);
    checkInvariants(table);
  });

  it('whatever the order: long and short intervals against a list of keys', () => {
    const op = fc.record({
      start: fc.integer({ min: 0, max: 700 }),
      length: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 3 }) }, fc.integer({ min: 1, max: 60 })),
      remove: fc.boolean(),
      look: fc.integer({ min: 0, max: 760 }),
    });
    fc.assert(
      fc.property(fc.array(op, { minLength: 150, maxLength: 400 }), fc.boolean(), (ops, dense) => {
        const table = new IntervalTable();
        const owner = new Map<number, number>(); // key -> start of its interval
        const ends = new Map<number, number>();
        const put = (start: number, end: number): void => {
          const free = [...Array(end - start).keys()].every((i) => !owner.has(start + i));
          expect(table.insert(start, end, start, 3)).toBe(free);
          if (!free) return;
          for (let key = start; key < end; key++) owner.set(key, start);
          ends.set(start, end);
        };
        if (dense) for (let i = 0; i < 380; i++) put(2 * i, 2 * i + 1);
        for (const { start, length, remove, look } of ops) {
          const end = start + length;
          if (!remove) put(start, end);
          else {
            const cut = [start, end].some((key) => owner.has(key) && owner.get(key) !== key);
            const inside = [...ends].filter(([from, to]) => from >= start && to <= end);
            expect(table.removeRange(start, end)).toBe(cut ? -1 : inside.length);
            if (!cut) {
              for (const [from, to] of inside) {
                for (let key = from; key < to; key++) owner.delete(key);
                ends.delete(from);
              }
            }
          }
          const slot = table.find(look);
          expect(slot === NONE ? undefined : table.startAt(slot)).toBe(owner.get(look));
        }
        checkInvariants(table);
      }),
      { numRuns: 60 },
    );
  });
});
