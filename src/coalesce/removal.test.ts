// UNMAPs of one kick as one union: as few host calls as possible, nothing taken that was not named.
import { describe, expect, it } from 'vitest';
import { PlanRig, RAM, contiguous, scattered } from '../../test/coalesce/plan-rig.ts';
import { Errno } from '../base/errors.ts';
import { RangeColumns } from './removal.ts';

describe('ranges', () => {
  const rows = (columns: RangeColumns): number[][] =>
    contiguous(columns.count, 0).map((i) => [columns.start[i]!, columns.end[i]!]);

  it.each([
    [
      'ascending',
      [
        [0, 2],
        [2, 5],
        [9, 10],
      ],
      [
        [0, 5],
        [9, 10],
      ],
    ],
    [
      'descending',
      [
        [9, 10],
        [2, 5],
        [0, 2],
      ],
      [
        [0, 5],
        [9, 10],
      ],
    ],
    [
      'that close a gap',
      [
        [0, 1],
        [2, 3],
        [1, 2],
      ],
      [[0, 3]],
    ],
    ['one', [[7, 8]], [[7, 8]]],
    ['none', [], []],
  ])('%s are sorted and merged', (_name, given, expected) => {
    const columns = new RangeColumns();
    for (const [start, end] of given) columns.add(start!, end!);
    columns.normalise();
    expect(rows(columns)).toEqual(expected);
  });

  it('grow, and are empty again', () => {
    const columns = new RangeColumns();
    for (let i = 40; i > 0; i--) columns.add(i * 2, i * 2 + 1);
    columns.normalise();
    expect(rows(columns)).toEqual(contiguous(40, 1).map((i) => [i * 2, i * 2 + 1]));
    columns.clear();
    expect(columns.count).toBe(0);
  });
});

describe('the UNMAPs of one kick', () => {
  /** 4 joined entries of 8 pages side by side, and a window. */
  const build = (): PlanRig => {
    const rig = new PlanRig({ device: { maxEntryBytes: 8 * 4096, gather: 'always' } });
    rig.mapAll(0, contiguous(32));
    rig.mapAll(100, scattered(8, RAM + 100));
    rig.busMaster(true);
    expect(rig.entries().map(([iova]) => iova)).toEqual([0, 8, 16, 24, 100]);
    return rig;
  };
  const each = (pages: readonly number[]): (readonly ['unmap', number, number])[] =>
    pages.map((page) => ['unmap', page, 1] as const);

  it.each([
    ['ascending', contiguous(32, 0)],
    ['descending', contiguous(32, 0).reverse()],
    ['in random order', contiguous(32, 0).map((i) => (i * 13) % 32)],
  ])('are one host call when they cover whole entries, %s', (_name, pages) => {
    const rig = build();
    const before = rig.stats();
    expect(new Set(rig.kick(each(pages)))).toEqual(new Set(['OK']));
    const after = rig.stats();
    expect(after.unmapCalls - before.unmapCalls).toBe(1);
    expect(after.mapCalls).toBe(before.mapCalls);
    expect(after.callsSaved - before.callsSaved).toBe(31);
    expect(after).toMatchObject({ demotions: 0, windows: { count: 0 }, entries: 1 });
    expect(rig.entries()).toEqual([[100, 8, 3]]);
  });

  it('are one call across a hole, too, but not across what stays', () => {
    const rig = build();
    rig.kick([...each(contiguous(8, 24)), ...each(contiguous(8, 100))]);
    expect(rig.stats()).toMatchObject({ unmapCalls: 1, entries: 3 });
    rig.kick([...each(contiguous(8, 0)), ...each(contiguous(8, 16))]);
    expect(rig.stats()).toMatchObject({ unmapCalls: 3, entries: 1 });
    expect(rig.entries()).toEqual([[8, 8, 3]]);
    expect(rig.missing()).toEqual([]);
    expect(rig.excess()).toEqual([]);
  });

  it('take only the entry apart that reaches out of them, at either end', () => {
    const rig = build();
    rig.kick(each(contiguous(20, 6)));
    expect(rig.stats()).toMatchObject({ demotions: 2 });
    expect(rig.missing()).toEqual([]);
    expect(rig.excess()).toEqual([]);
    expect(rig.given().size).toBe(20);
  });

  it('take an entry apart once, though several of them cut it', () => {
    const rig = build();
    rig.kick(each([1, 3, 5, 101, 103]));
    expect(rig.stats()).toMatchObject({ demotions: 2, windows: { count: 2 } });
    expect(rig.missing()).toEqual([]);
    expect(rig.excess()).toEqual([]);
  });

  it('take effect before the MAPs that follow them in the ring, and make room for these', () => {
    const rig = new PlanRig({ contexts: [{ endpoints: [1], entryLimit: 2 }] });
    rig.map(0, 1, RAM);
    rig.map(10, 1, RAM + 5);
    for (const on of [false, true]) {
      rig.busMaster(on);
      const answers = rig.kick([
        ['unmap', 0, 1],
        ['unmap', 10, 1],
        ['map', 0, 1, RAM + 20],
        ['map', 20, 1, RAM + 8],
      ]);
      expect(answers).toEqual(['OK', 'OK', 'OK', 'OK']);
      rig.kick([
        ['unmap', 20, 1],
        ['map', 10, 1, RAM + 5],
      ]);
      expect(rig.excess()).toEqual([]);
      expect(rig.missing()).toHaveLength(on ? 0 : 2);
    }
  });

  it('are obeyed before they are answered', () => {
    const rig = build();
    const before = rig.driver.requestQueue.usedIndex;
    const seen: number[] = [];
    rig.host.onOperation(({ kind }) => {
      if (kind === 'unmap') seen.push(rig.driver.requestQueue.usedIndex - before);
    });
    rig.kick(each(contiguous(12, 0)));
    expect(seen.length).toBeGreaterThan(0);
    expect(new Set(seen)).toEqual(new Set([0]));
  });

  it('that the host refuses block the context, which is told', () => {
    const rig = build();
    rig.host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect(rig.unmap(0, 8)).toBe('OK');
    expect(rig.stats()).toMatchObject({ state: 'blocked', entries: 0, planned: 0, revoked: 0 });
    expect(rig.entries()).toEqual([]);
    expect(rig.eventsOf('context-blocked')).toHaveLength(1);
  });
});

describe('on a quiet context', () => {
  it('what is only planned goes without a host call', () => {
    const rig = new PlanRig();
    rig.mapAll(0, scattered(20));
    rig.mapAll(100, contiguous(20, RAM + 100));
    expect(rig.unmap(105, 3)).toBe('OK');
    expect(rig.unmap(0, 1)).toBe('OK');
    expect(rig.unmap(19, 1)).toBe('OK');
    expect(rig.stats()).toMatchObject({ mapCalls: 0, unmapCalls: 0, demotions: 0, planned: 3, plannedPages: 35 });
    rig.busMaster(true);
    expect(rig.entries().map(([iova, pages]) => [iova, pages])).toEqual([
      [1, 18],
      [100, 5],
      [108, 12],
    ]);
    expect(rig.missing()).toEqual([]);
    expect(rig.excess()).toEqual([]);
  });

  it('an installed entry that loses a part is dropped in one call, and nothing is pinned again', () => {
    for (const targets of [scattered(512), contiguous(512)]) {
      const rig = new PlanRig();
      rig.mapAll(0, targets);
      rig.busMaster(true);
      rig.busMaster(false);
      const { mapCalls } = rig.stats();
      rig.unmap(100, 1);
      expect(rig.stats()).toMatchObject({ mapCalls, unmapCalls: 1, entries: 0, planned: 2, plannedPages: 511 });
      expect(rig.contexts[0]!.stats().pinnedPages).toBe(0);
      expect(rig.stats().windows.count).toBe(0);
      for (const page of [0, 511, 200, 300]) rig.unmap(page, 1);
      expect(rig.stats()).toMatchObject({ mapCalls, unmapCalls: 1 });
      rig.busMaster(true);
      expect(rig.stats().entries).toBe(4);
      expect(rig.missing()).toEqual([]);
      expect(rig.excess()).toEqual([]);
    }
  });

  it('a mapping that is made again joins what is left around it', () => {
    const rig = new PlanRig();
    const targets = scattered(40);
    rig.mapAll(0, targets);
    rig.busMaster(true);
    rig.busMaster(false);
    rig.unmap(20, 1);
    rig.map(20, 1, targets[20]!);
    expect(rig.stats()).toMatchObject({ planned: 1, plannedPages: 40 });
    rig.busMaster(true);
    expect(rig.entries()).toEqual([[0, 40, 3]]);
    expect(rig.missing()).toEqual([]);
  });
});
