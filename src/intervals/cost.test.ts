// What the table costs: node visits, bytes, and what is left after hostile patterns. No clock is read.
import { describe, expect, it } from 'vitest';
import { checkInvariants } from './invariants.ts';
import { NODE_BYTES, NODE_CAPACITY, SLAB_NODES } from './slab.ts';
import { IntervalTable, NodePool, NONE } from './table.ts';
import { MIN_ENTRIES } from './tree.ts';

const MI = 2 ** 20;
const SLAB_BYTES = SLAB_NODES * NODE_BYTES;

function filled(count: number): IntervalTable {
  const table = new IntervalTable();
  for (let i = 0; i < count; i++) table.insert(i, i + 1, i, 0);
  return table;
}

/** Visits of the numbers 0..count-1 in an order without locality: an odd stride modulo a power of two. */
function scattered(count: number, visit: (i: number) => void): void {
  for (let i = 0; i < count; i++) visit((i * 0x9e3779b1) % count);
}

function worstVisits(table: IntervalTable, count: number, operate: (i: number) => void): number {
  let worst = 0;
  scattered(count, (i) => {
    table.visits = 0;
    operate(i);
    worst = Math.max(worst, table.visits);
  });
  return worst;
}

const millionUp = filled(MI);

describe('node visits', () => {
  it('grow with the logarithm from 1 Ki to 1 Mi intervals', () => {
    const small = filled(1024);
    const seek = (table: IntervalTable, scale: number) => worstVisits(table, 1024, (i) => table.seek(i * scale));
    expect(seek(small, 1)).toBe(2);
    expect(seek(millionUp, 1024)).toBe(4);
    const replace = (table: IntervalTable, scale: number) =>
      worstVisits(table, 1024, (i) => {
        table.remove(i * scale);
        table.insert(i * scale, i * scale + 1, 0, 0);
      });
    expect(replace(small, 1)).toBeLessThanOrEqual(16);
    expect(replace(millionUp, 1024)).toBeLessThanOrEqual(24);
  });

  it('of any single insert or remove stay below a few paths', () => {
    const table = new IntervalTable();
    const count = 2 ** 16;
    expect(worstVisits(table, count, (i) => table.insert(i, i + 1, i, 0))).toBeLessThanOrEqual(24);
    expect(worstVisits(table, count, (i) => table.remove(i))).toBeLessThanOrEqual(32);
  });

  it('of a sequential walk by seek are one a step', () => {
    millionUp.visits = 0;
    for (let i = 0; i < 64 * 1024; i++) millionUp.seek(i);
    expect(millionUp.visits).toBeLessThan(64 * 1024 * 1.1);
  });

  it('of a run of inserts or removals inside the tree are about one each, in either direction', () => {
    for (const step of [1, -1]) {
      const table = filled(2 ** 16);
      const from = 2 ** 15 - step * 2 ** 12;
      const each = (operate: (key: number) => void): number => {
        table.visits = 0;
        for (let i = 0; i < 2 ** 13; i++) operate(from + i * step);
        return table.visits / 2 ** 13;
      };
      expect(each((key) => table.remove(key))).toBeLessThan(1.8);
      expect(each((key) => table.insert(key, key + 1, 0, 0))).toBeLessThan(1.8);
      checkInvariants(table);
    }
  });

  it('of removeRange are those of the dropped leaves, not of the intervals', () => {
    for (const count of [2 ** 10, 2 ** 14, 2 ** 17]) {
      const table = filled(count);
      table.visits = 0;
      expect(table.removeRange(1, count - 1)).toBe(count - 2);
      expect(table.visits).toBeLessThan(32 + (count / NODE_CAPACITY) * 1.1);
      checkInvariants(table);
    }
  });

  it('of a small removeRange do not depend on the size', () => {
    const table = filled(2 ** 17);
    for (let at = 1000; at < 2 ** 17 - 1000; at += 1777) {
      table.visits = 0;
      expect(table.removeRange(at, at + 100)).toBe(100);
      expect(table.visits).toBeLessThanOrEqual(48);
    }
    checkInvariants(table);
  });

  it('of clear with a pool of its own are none', () => {
    const table = filled(2 ** 14);
    table.visits = 0;
    table.clear();
    expect(table.visits).toBe(0);
    checkInvariants(table);
  });
});

describe('bytes', () => {
  it('are none for an empty table and one node for one interval', () => {
    const table = new IntervalTable();
    expect(table.bytes).toBe(0);
    table.insert(1, 2, 3, 4);
    expect(table.bytes).toBe(NODE_BYTES);
  });

  it('stay below 27 an interval for ascending and descending keys, 48 for scattered ones, at 1 Mi', () => {
    expect(millionUp.bytes / MI).toBeLessThan(27);
    const down = new IntervalTable();
    for (let i = 2 ** 18 - 1; i >= 0; i--) down.insert(i, i + 1, i, 0);
    expect(down.bytes / down.size).toBeLessThan(27);
    const mixed = new IntervalTable();
    scattered(MI, (i) => mixed.insert(i, i + 1, i, 0));
    expect(mixed.size).toBe(MI);
    expect(mixed.bytes / MI).toBeLessThan(48);
  });

  it('stay below 40 an interval for runs inside the key space', () => {
    for (const step of [1, -1]) {
      const table = new IntervalTable();
      table.insert(0, 1, 0, 0);
      table.insert(MI, MI + 1, 0, 0);
      for (let i = 1; i < 2 ** 16; i++) table.insert(MI / 2 + i * step, MI / 2 + i * step + 1, i, 0);
      expect(table.bytes / table.size).toBeLessThan(40);
      checkInvariants(table);
    }
  });

  it('go back to a small bound when the table is emptied, in whichever way', () => {
    const ways: ((table: IntervalTable) => void)[] = [
      (table) => scattered(2 ** 15, (i) => table.remove(i)),
      (table) => table.removeRange(0, 2 ** 15),
      (table) => table.clear(),
    ];
    for (const empty of ways) {
      const table = filled(2 ** 15);
      empty(table);
      expect(table.size).toBe(0);
      expect(table.bytes).toBeLessThanOrEqual(4 * NODE_BYTES);
      checkInvariants(table);
      expect(table.insert(5, 6, 7, 8)).toBe(true);
      expect(table.startAt(table.first())).toBe(5);
    }
  });

  it('follow the size when one interval of a leaf survives, or one leaf of a slab', () => {
    const oneOfLeaf = filled(2 ** 17);
    for (let i = 0; i < 2 ** 17; i++) if (i % NODE_CAPACITY !== 7) oneOfLeaf.remove(i);
    const oneOfSlab = filled(2 ** 18);
    const slab = SLAB_NODES * NODE_CAPACITY;
    for (let i = 0; i < 2 ** 18; i += slab) oneOfSlab.removeRange(i + NODE_CAPACITY, i + slab);
    const randomly = new IntervalTable();
    scattered(2 ** 17, (i) => randomly.insert(i, i + 1, i, 0));
    scattered(2 ** 17, (i) => i % 61 !== 0 && randomly.remove(i));
    for (const table of [oneOfLeaf, oneOfSlab, randomly]) {
      checkInvariants(table);
      const worst = (NODE_BYTES / MIN_ENTRIES) * table.size * 2;
      expect(table.bytes).toBeLessThan(worst + 4 * SLAB_BYTES);
    }
  });

  it('do not grow while intervals come and go at any size', () => {
    for (const count of [1, NODE_CAPACITY, NODE_CAPACITY * SLAB_NODES, 10_000]) {
      const table = filled(count);
      const slabs = () => table.tree.slabs.slice();
      table.insert(count, count + 1, 0, 0);
      table.remove(count);
      const before = slabs();
      for (let i = 0; i < 300; i++) {
        table.insert(count, count + 1, 0, 0);
        table.remove(count);
      }
      expect(slabs()).toEqual(before);
      slabs().forEach((slab, i) => expect(slab).toBe(before[i]));
    }
  });
});

describe('NodePool', () => {
  it('serves 131072 short-lived tables from one node', () => {
    const pool = new NodePool();
    for (let i = 0; i < 2 ** 17; i++) {
      const table = new IntervalTable(pool);
      table.insert(i, i + 1, i, 0);
      table.clear();
    }
    expect([pool.used, pool.bytes]).toEqual([0, NODE_BYTES]);
  });

  it('gives many tables one node each and takes them back', () => {
    const pool = new NodePool();
    const tables = Array.from({ length: 4096 }, () => new IntervalTable(pool));
    for (const table of tables) table.insert(0, 1, 2, 3);
    expect(pool.bytes).toBeLessThanOrEqual(4096 * NODE_BYTES + SLAB_BYTES);
    expect(tables[77]!.bytes).toBe(NODE_BYTES);
    scattered(4096, (i) => i !== 9 && tables[i]!.clear());
    expect(pool.bytes).toBeLessThanOrEqual(2 * SLAB_BYTES);
    expect(tables[9]!.valueAt(tables[9]!.find(0))).toBe(2);
    checkInvariants(tables[9]!);
    tables[9]!.clear();
    expect(pool.bytes).toBe(0);
  });

  it('keeps one empty slab while others are in use, and releases a second one', () => {
    const pool = new NodePool();
    const nodes = Array.from({ length: SLAB_NODES * 3 }, () => pool.allocate());
    expect(new Set(nodes).size).toBe(SLAB_NODES * 3);
    for (const node of nodes.slice(SLAB_NODES * 2)) pool.release(node);
    const spare = pool.slabs[2];
    expect(pool.bytes).toBe(SLAB_BYTES * 3);
    for (let i = 0; i < 5; i++) pool.release(pool.allocate());
    expect(pool.slabs[2]).toBe(spare);
    for (const node of nodes.slice(SLAB_NODES, SLAB_NODES * 2)) pool.release(node);
    expect(pool.bytes).toBe(SLAB_BYTES * 2);
    for (const node of nodes.slice(0, SLAB_NODES)) pool.release(node);
    expect([pool.bytes, pool.used, pool.lowestRoom()]).toEqual([0, 0, NONE]);
  });

  it('reuses the numbers of released slabs', () => {
    const pool = new NodePool();
    const low = new IntervalTable(pool);
    const high = new IntervalTable(pool);
    const fill = (table: IntervalTable) => {
      for (let i = 0; i < 50_000; i++) table.insert(i, i + 1, i, 0);
    };
    fill(low);
    fill(high);
    const { length } = pool.slabs;
    for (let round = 0; round < 5; round++) {
      low.clear();
      fill(low);
      checkInvariants(low);
      checkInvariants(high);
    }
    expect(pool.slabs.length).toBe(length);
  });
});
