// The table against a plain sorted array, and its behaviour at the ends of the key space and at wrong arguments.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkInvariants } from './invariants.ts';
import { NODE_CAPACITY } from './slab.ts';
import { IntervalTable, KEY_LIMIT, NodePool, NONE } from './table.ts';

interface Entry {
  readonly start: number;
  readonly end: number;
  readonly value: number;
  readonly flags: number;
}

/** The same contract, naively: an unordered list that is filtered and sorted. */
class Model {
  entries: Entry[] = [];

  isFree(start: number, end: number): boolean {
    return !this.entries.some((e) => e.start < end && start < e.end);
  }

  insert(start: number, end: number, value: number, flags: number): boolean {
    if (!this.isFree(start, end)) return false;
    this.entries.push({ start, end, value, flags });
    this.entries.sort((a, b) => a.start - b.start);
    return true;
  }

  splits(start: number, end: number): boolean {
    return this.entries.some((e) => (e.start < start && start < e.end) || (e.start < end && end < e.end));
  }

  removeRange(start: number, end: number): number {
    if (this.splits(start, end)) return -1;
    const before = this.entries.length;
    this.entries = this.entries.filter((e) => e.end <= start || e.start >= end);
    return before - this.entries.length;
  }

  remove(start: number): boolean {
    const before = this.entries.length;
    this.entries = this.entries.filter((e) => e.start !== start);
    return this.entries.length < before;
  }
}

function entryAt(table: IntervalTable, slot: number): Entry {
  const entry = { start: table.startAt(slot), end: table.endAt(slot) };
  return { ...entry, value: table.valueAt(slot), flags: table.flagsAt(slot) };
}

/** What the run test puts at a key. */
function entryOf(key: number): Entry {
  return { start: key, end: key + 1, value: key * 3, flags: key & 255 };
}

function forward(table: IntervalTable): Entry[] {
  const found: Entry[] = [];
  for (let slot = table.first(); slot !== NONE; slot = table.next(slot)) found.push(entryAt(table, slot));
  return found;
}

function backward(table: IntervalTable): Entry[] {
  const found: Entry[] = [];
  for (let slot = table.last(); slot !== NONE; slot = table.previous(slot)) found.push(entryAt(table, slot));
  return found.reverse();
}

function expectSame(table: IntervalTable, model: Model): void {
  checkInvariants(table);
  expect(table.size).toBe(model.entries.length);
  expect(forward(table)).toEqual(model.entries);
  expect(backward(table)).toEqual(model.entries);
}

/** seek and find at every boundary and one key to each side of it. */
function expectSameSearches(table: IntervalTable, model: Model): void {
  const keys = new Set<number>([0, KEY_LIMIT]);
  for (const { start, end } of model.entries)
    for (const key of [start, end])
      keys
        .add(key - 1)
        .add(key)
        .add(key + 1);
  for (const key of keys) {
    if (key < 0 || key > KEY_LIMIT) continue;
    const next = model.entries.find((e) => e.end > key);
    const slot = table.seek(key);
    expect(slot === NONE ? undefined : table.startAt(slot), `seek ${key}`).toBe(next?.start);
    const hit = next !== undefined && next.start <= key;
    expect(table.find(key), `find ${key}`).toBe(hit ? slot : NONE);
  }
}

type Step = readonly [kind: number, at: number, length: number];

function run(table: IntervalTable, model: Model, [kind, at, length]: Step): void {
  const end = at + length;
  expect(table.isFree(at, end)).toBe(model.isFree(at, end));
  expect(table.splits(at, end)).toBe(model.splits(at, end));
  if (kind < 6) {
    expect(table.insert(at, end, at * 3 - 7, kind)).toBe(model.insert(at, end, at * 3 - 7, kind));
  } else if (kind < 8) {
    expect(table.remove(at)).toBe(model.remove(at));
  } else {
    const far = at + length * (kind === 8 ? 1 : 60);
    expect(table.removeRange(at, far)).toBe(model.removeRange(at, far));
  }
}

const step = fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 900 }), fc.integer({ min: 1, max: 3 }));

/** A small generator with a printed seed, for runs that are too long for fast-check to shrink. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe('IntervalTable against a sorted array', () => {
  it('agrees after random inserts and removals', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400, size: 'max' }), (steps) => {
        const table = new IntervalTable();
        const model = new Model();
        for (const one of steps) run(table, model, one);
        expectSame(table, model);
        expectSameSearches(table, model);
      }),
      { numRuns: 40 },
    );
  });

  it('agrees when a deep tree shrinks and grows by ranges, at every step', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 0, max: 2 }), (seed, order) => {
        const below = random(seed);
        const table = new IntervalTable();
        const model = new Model();
        const count = 9000;
        const keys = Array.from({ length: count }, (_, i) => (order === 1 ? count - 1 - i : i));
        if (order === 2) keys.sort(() => below(3) - 1);
        for (const key of keys) expect(table.insert(key * 2, key * 2 + 2, key, key & 255)).toBe(true);
        for (let i = 0; i < count; i++) model.entries.push({ start: i * 2, end: i * 2 + 2, value: i, flags: i & 255 });
        for (let i = 0; i < 60; i++) {
          const at = below(count * 2);
          const end = Math.min(count * 2, at + below(below(8) === 0 ? 9000 : 400));
          expect(table.removeRange(at, end)).toBe(model.removeRange(at, end));
          for (let k = 0; k < 20; k++) run(table, model, [below(7), below(count * 2 - 4), 1 + below(3)]);
          checkInvariants(table);
        }
        expectSame(table, model);
      }),
      { numRuns: 3 },
    );
  });

  it('agrees for single removals in every order until it is empty', () => {
    for (const order of ['up', 'down', 'random'] as const) {
      const below = random(7);
      const table = new IntervalTable();
      const keys = Array.from({ length: 5000 }, (_, i) => i);
      for (const key of keys) table.insert(key, key + 1, key, 0);
      if (order === 'down') keys.reverse();
      if (order === 'random') for (let i = 4999; i > 0; i--) keys.push(...keys.splice(below(i + 1), 1));
      keys.forEach((key, i) => {
        expect(table.remove(key)).toBe(true);
        expect(table.remove(key)).toBe(false);
        if (i % 250 === 0 || i > 4900) checkInvariants(table);
      });
      expect(table.size).toBe(0);
      expect(table.first()).toBe(NONE);
      expect(table.last()).toBe(NONE);
    }
  });

  it('agrees while runs grow upwards and downwards at several places and others are drained', () => {
    for (const seed of [1, 2, 3, 4]) {
      const below = random(seed);
      const table = new IntervalTable();
      const taken = new Set<number>();
      const insert = (key: number): void => {
        expect(table.insert(key, key + 1, key * 3, key & 255)).toBe(!taken.has(key));
        taken.add(key);
      };
      const remove = (key: number): void => expect(table.remove(key)).toBe(taken.delete(key));
      // Spread out first, so that runs begin inside the tree, between separators of many leaves.
      for (let i = 0; i < 600; i++) insert(below(60_000));
      for (let round = 0; round < 120; round++) {
        const step = below(2) === 0 ? 1 : -1;
        const drain = below(3) === 0;
        let key = below(60_000);
        for (let left = 1 + below(200); left > 0 && key >= 0; left--, key += step * (1 + below(2))) {
          if (drain) remove(key);
          else insert(key);
          // Another place is looked at, or changed, in the middle of a run.
          if (below(40) === 0) table.seek(below(60_000));
          if (below(60) === 0) insert(below(60_000));
          if (below(60) === 0) remove(below(60_000));
        }
        if (below(5) === 0) {
          const from = below(60_000);
          for (const one of [...taken]) if (one >= from && one < from + 900) taken.delete(one);
          table.removeRange(from, from + 900);
        }
        checkInvariants(table);
      }
      const keys = [...taken].sort((a, b) => a - b);
      expect(forward(table)).toEqual(keys.map((key) => entryOf(key)));
      expect(backward(table)).toEqual(keys.map((key) => entryOf(key)));
      for (const key of keys) expect(table.startAt(table.find(key))).toBe(key);
    }
  });

  it('refuses what overlaps the neighbour in the next leaf, and in the one before, while a run goes on', () => {
    const table = new IntervalTable();
    for (let i = 0; i < NODE_CAPACITY * 4; i++) table.insert(i * 10, i * 10 + 2, i, 0);
    const edge = NODE_CAPACITY * 10; // first start of the second leaf
    expect(table.insert(edge - 8, edge - 6, 0, 0)).toBe(true);
    expect(table.insert(edge - 6, edge + 1, 0, 0)).toBe(false);
    expect(table.insert(edge - 6, edge, 0, 0)).toBe(true);
    const late = NODE_CAPACITY * 2 * 10;
    expect(table.insert(late - 2, late, 0, 0)).toBe(true);
    expect(table.insert(late - 9, late - 2, 0, 0)).toBe(false);
    expect(table.insert(late - 8, late - 2, 0, 0)).toBe(true);
    checkInvariants(table);
  });

  it('refuses what overlaps an interval of the leaf before that reaches over the bound, while a run goes down', () => {
    const table = new IntervalTable();
    for (let i = 0; i < NODE_CAPACITY * 4; i++) table.insert(i * 10, i * 10 + 2, i, 0);
    const bound = NODE_CAPACITY * 2 * 10; // first start of the third leaf
    for (let i = 0; i < 12; i++) table.remove(bound + i * 10);
    expect(table.insert(bound - 5, bound + 50, 0, 0)).toBe(true);
    expect(table.insert(bound + 90, bound + 92, 0, 0)).toBe(true);
    expect(table.tree.run).not.toBe(NONE);
    expect(table.insert(bound + 80, bound + 90, 0, 0)).toBe(true);
    expect(table.insert(bound + 49, bound + 80, 0, 0)).toBe(false);
    expect(table.insert(bound + 50, bound + 80, 0, 0)).toBe(true);
    checkInvariants(table);
  });

  it('keeps a run inside its leaf when what stood behind it is gone', () => {
    for (const down of [false, true]) {
      const table = new IntervalTable();
      for (let i = 0; i < NODE_CAPACITY * 6; i++) table.insert(i * 10, i * 10 + 1, i, 0);
      const place = down ? NODE_CAPACITY * 3 * 10 - 1 : NODE_CAPACITY * 3 * 10 - 9;
      table.insert(place, place + 1, 0, 0);
      // The leaf behind (before) the run loses the entries next to it: the bound between the two stays.
      for (let i = 0; i < 30; i++) table.remove((NODE_CAPACITY * 3 + (down ? -1 - i : i)) * 10);
      for (let i = 1; i < 250; i++) {
        const key = down ? place - i : place + i;
        if (table.isFree(key, key + 1)) expect(table.insert(key, key + 1, key, 1)).toBe(true);
        expect(table.find(key)).not.toBe(NONE);
      }
      checkInvariants(table);
      for (let i = 1; i < 250; i++) expect(table.isFree(down ? place - i : place + i, place + 250)).toBe(false);
    }
  });

  it('keeps tables apart that share a pool', () => {
    const pool = new NodePool();
    const pairs = Array.from({ length: 12 }, () => ({ table: new IntervalTable(pool), model: new Model() }));
    const below = random(99);
    for (let i = 0; i < 12_000; i++) {
      const { table, model } = pairs[below(pairs.length)]!;
      run(table, model, [below(10), below(600), 1 + below(2)]);
    }
    for (const { table, model } of pairs) expectSame(table, model);
    expect(pool.used).toBe(pairs.reduce((sum, { table }) => sum + table.tree.nodes, 0));
    for (const { table } of pairs) table.clear();
    expect(pool.used).toBe(0);
  });
});

describe('IntervalTable', () => {
  it('finds nothing when empty', () => {
    const table = new IntervalTable();
    expect([table.first(), table.last(), table.seek(0), table.find(0), table.seek(KEY_LIMIT)]).toEqual(
      Array.from({ length: 5 }, () => NONE),
    );
    expect(table.isFree(0, KEY_LIMIT)).toBe(true);
    expect(table.splits(1, 2)).toBe(false);
    expect(table.removeRange(0, KEY_LIMIT)).toBe(0);
    expect(table.remove(0)).toBe(false);
    table.clear();
    checkInvariants(table);
  });

  it('is exact at the ends of the key space', () => {
    const table = new IntervalTable();
    expect(table.insert(KEY_LIMIT - 1, KEY_LIMIT, 1, 1)).toBe(true);
    expect(table.insert(0, 1, 2, 2)).toBe(true);
    expect(table.insert(2 ** 52, KEY_LIMIT - 1, KEY_LIMIT, 255)).toBe(true);
    expect(table.insert(2 ** 52 - 1, 2 ** 52, -KEY_LIMIT, 0)).toBe(true);
    expect(table.insert(KEY_LIMIT - 2, KEY_LIMIT, 1, 1)).toBe(false);
    expect(table.insert(0, KEY_LIMIT, 1, 1)).toBe(false);
    expect(forward(table).map((e) => e.start)).toEqual([0, 2 ** 52 - 1, 2 ** 52, KEY_LIMIT - 1]);
    expect(table.startAt(table.find(KEY_LIMIT - 1))).toBe(KEY_LIMIT - 1);
    expect(table.startAt(table.find(KEY_LIMIT - 2))).toBe(2 ** 52);
    expect(table.seek(KEY_LIMIT)).toBe(NONE);
    expect(table.valueAt(table.find(2 ** 52))).toBe(KEY_LIMIT);
    expect(table.isFree(1, 2 ** 52 - 1)).toBe(true);
    expect(table.isFree(1, 2 ** 52)).toBe(false);
    expect(table.removeRange(2 ** 52 + 1, KEY_LIMIT)).toBe(-1);
    expect(table.removeRange(2 ** 52, KEY_LIMIT - 2)).toBe(-1);
    expect(table.removeRange(2 ** 52, KEY_LIMIT)).toBe(2);
    expect(table.removeRange(0, KEY_LIMIT)).toBe(2);
    expect(table.insert(0, KEY_LIMIT, 5, 5)).toBe(true);
    expect(table.splits(0, KEY_LIMIT)).toBe(false);
    expect(table.splits(0, KEY_LIMIT - 1)).toBe(true);
    checkInvariants(table);
  });

  it('treats an empty range as free, and as a cut only inside an interval', () => {
    const table = new IntervalTable();
    table.insert(4, 8, 0, 0);
    expect(table.isFree(5, 5)).toBe(true);
    expect([4, 5, 7, 8].map((key) => table.splits(key, key))).toEqual([false, true, true, false]);
    expect([4, 5, 7, 8].map((key) => table.removeRange(key, key))).toEqual([0, -1, -1, 0]);
    expect(table.size).toBe(1);
  });

  it.each([1, NODE_CAPACITY - 1, NODE_CAPACITY, NODE_CAPACITY + 1, NODE_CAPACITY * NODE_CAPACITY + 1])(
    'holds %i intervals filled from either side and emptied in one call',
    (count) => {
      for (const down of [false, true]) {
        const table = new IntervalTable();
        for (let i = 0; i < count; i++) table.insert(down ? count - 1 - i : i, down ? count - i : i + 1, i, 0);
        checkInvariants(table);
        expect(table.insert(count - 1, count, 0, 0)).toBe(false);
        expect(table.removeRange(0, count)).toBe(count);
        checkInvariants(table);
        expect(table.isFree(0, KEY_LIMIT)).toBe(true);
      }
    },
  );

  it('removes exactly a leaf, one interval less and one more', () => {
    for (const from of [0, 1, NODE_CAPACITY, NODE_CAPACITY * 40 - 1]) {
      for (const width of [NODE_CAPACITY - 1, NODE_CAPACITY, NODE_CAPACITY + 1, NODE_CAPACITY * 30]) {
        const table = new IntervalTable();
        const count = NODE_CAPACITY * 75;
        for (let i = 0; i < count; i++) table.insert(i * 2, i * 2 + 1, i, 0);
        expect(table.removeRange(from * 2, (from + width) * 2)).toBe(width);
        checkInvariants(table);
        const values = forward(table).map((e) => e.value);
        expect(values).toEqual(Array.from({ length: count }, (_, i) => i).filter((i) => i < from || i >= from + width));
      }
    }
  });

  it('finds an interval again whose start is a separator, whichever leaf was searched before', () => {
    const table = new IntervalTable();
    for (let i = 0; i < NODE_CAPACITY * 5; i++) table.insert(i, i + 1, i, 0);
    expect(table.remove(NODE_CAPACITY) && table.remove(3)).toBe(true);
    table.seek(5);
    expect(table.insert(NODE_CAPACITY, NODE_CAPACITY + 1, -1, 0)).toBe(true);
    table.seek(NODE_CAPACITY * 4);
    expect(table.find(NODE_CAPACITY)).not.toBe(NONE);
    checkInvariants(table);
  });

  it.each([
    ['shares', 20],
    ['joins', 8],
  ])('%s inner nodes of which one has lost its first children', (_, leavesLeft) => {
    const perInner = NODE_CAPACITY * (NODE_CAPACITY - 1);
    const table = new IntervalTable();
    for (let i = 0; i < perInner * 3; i++) table.insert(i, i + 1, i, 0);
    expect(table.removeRange(perInner, perInner + NODE_CAPACITY * 20)).toBe(NODE_CAPACITY * 20);
    for (let i = 0; i < NODE_CAPACITY; i++) table.insert(perInner + i, perInner + i + 1, i, 0);
    table.removeRange(NODE_CAPACITY * leavesLeft, perInner);
    checkInvariants(table);
    for (let i = 0; i < NODE_CAPACITY; i++) expect(table.find(perInner + i)).not.toBe(NONE);
  });

  it('keeps slots valid while values and flags are set', () => {
    const table = new IntervalTable();
    for (let i = 0; i < 500; i++) table.insert(i * 4, i * 4 + 2, i, 0);
    const slot = table.find(801);
    table.setValue(slot, -5);
    table.setFlags(slot, 255);
    expect(entryAt(table, slot)).toEqual({ start: 800, end: 802, value: -5, flags: 255 });
    expect(table.startAt(table.next(slot))).toBe(804);
    expect(table.startAt(table.previous(slot))).toBe(796);
  });

  it('changes nothing when an insert is refused in a full leaf', () => {
    const table = new IntervalTable();
    for (let i = 0; i < NODE_CAPACITY; i++) table.insert(i * 2, i * 2 + 2, i, 0);
    const { bytes } = table;
    expect(table.insert(9, 10, 0, 0)).toBe(false);
    expect(table.insert(NODE_CAPACITY * 2 - 1, NODE_CAPACITY * 2 + 5, 0, 0)).toBe(false);
    expect([table.bytes, table.tree.nodes, table.size]).toEqual([bytes, 1, NODE_CAPACITY]);
  });

  it('names a wrong argument and changes nothing', () => {
    const table = new IntervalTable();
    table.insert(1, 2, 3, 4);
    const slot = table.first();
    expect(() => table.insert(-1, 2, 0, 0)).toThrow(/^start must be in/);
    expect(() => table.insert(0.5, 2, 0, 0)).toThrow(/^start must be an integer/);
    expect(() => table.insert(NaN, 2, 0, 0)).toThrow(/^start must be an integer/);
    expect(() => table.insert(5, 4, 0, 0)).toThrow(/^end must be in/);
    expect(() => table.insert(5, 5, 0, 0)).toThrow(/^end must be above start/);
    expect(() => table.insert(5, KEY_LIMIT + 2, 0, 0)).toThrow(/^end must be in/);
    expect(() => table.insert(5, 6.5, 0, 0)).toThrow(/^end must be an integer/);
    expect(() => table.insert(5, 6, NaN, 0)).toThrow(/^value must be an integer/);
    expect(() => table.insert(5, 6, Infinity, 0)).toThrow(/^value must be an integer/);
    expect(() => table.insert(5, 6, 0, 256)).toThrow(/^flags must be in/);
    expect(() => table.insert(5, 6, 0, -1)).toThrow(/^flags must be in/);
    for (const key of [-1, KEY_LIMIT + 2]) expect(() => table.seek(key)).toThrow(/^key must be in/);
    expect(() => table.find(NaN)).toThrow(/^key must be an integer/);
    expect(() => table.remove(-1)).toThrow(/^start must be in/);
    expect(() => table.isFree(3, 2)).toThrow(/^end must be in/);
    expect(() => table.splits(3, 2)).toThrow(/^end must be in/);
    expect(() => table.removeRange(3, 2)).toThrow(/^end must be in/);
    expect(() => table.startAt(NONE)).toThrow(/^slot must be a live slot/);
    expect(() => table.next(NONE)).toThrow(/^slot must be a live slot/);
    expect(() => table.previous(2 ** 20)).toThrow(/^slot must be a live slot/);
    expect(() => table.setValue(slot, 0.5)).toThrow(/^value must be an integer/);
    expect(() => table.setFlags(slot, 999)).toThrow(/^flags must be in/);
    expect(() => new IntervalTable(JSON.parse('{}') as NodePool)).toThrow(/^pool must be a NodePool/);
    expect(forward(table)).toEqual([{ start: 1, end: 2, value: 3, flags: 4 }]);
  });
});
