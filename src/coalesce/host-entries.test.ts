// The table of live entries: what is recorded for each kind of operation, and counters that follow.
import { describe, expect, it } from 'vitest';
import { HOST_MMIO, HostBatch } from '../host/context.ts';
import {
  GATHERED,
  HostEntries,
  JOINED,
  NOTE_CUTS,
  NOTE_JOINED,
  NOTE_JOINED_BEFORE,
  NOTE_JOINED_BEHIND,
} from './host-entries.ts';

function filled(): { entries: HostEntries; batch: HostBatch } {
  const entries = new HostEntries();
  const batch = new HostBatch();
  batch.map(0, 2, 100, 3);
  batch.map(2, 4, 200, 1);
  batch.note[1] = NOTE_JOINED;
  batch.gather(6, 3, 3);
  batch.piece(300, 1);
  batch.piece(400, 2);
  batch.map(20, 8, 500, 3 | HOST_MMIO);
  for (let i = 0; i < batch.count; i++) entries.record(batch, i);
  return { entries, batch };
}

describe('live entries', () => {
  it('are counted by kind, registers not among the RAM pages', () => {
    const { entries } = filled();
    expect(entries).toMatchObject({ size: 4, pages: 9, joined: 1, gathered: 1 });
    const flags = [0, 2, 6, 20].map((page) => entries.table.flagsAt(entries.table.find(page)));
    expect(flags).toEqual([3, 1 | JOINED, 3 | GATHERED, 3 | HOST_MMIO]);
  });

  it.each([
    [0, 2, { size: 3, pages: 7, joined: 1, gathered: 1 }],
    [2, 4, { size: 3, pages: 5, joined: 0, gathered: 1 }],
    [6, 3, { size: 3, pages: 6, joined: 1, gathered: 0 }],
    [20, 8, { size: 3, pages: 9, joined: 1, gathered: 1 }],
    [0, 28, { size: 0, pages: 0, joined: 0, gathered: 0 }],
    [2, 10, { size: 2, pages: 2, joined: 0, gathered: 0 }],
    [9, 11, { size: 4, pages: 9, joined: 1, gathered: 1 }],
  ])('go with an unmap of [%d, +%d)', (iova, pages, left) => {
    const { entries, batch } = filled();
    batch.unmap(iova, pages);
    entries.record(batch, batch.count - 1);
    expect(entries).toMatchObject(left);
    expect(entries.isFree(iova, iova + pages)).toBe(true);
  });

  it('are never cut unless that is said, and never overlap', () => {
    const { entries, batch } = filled();
    batch.unmap(1, 4);
    expect(() => entries.record(batch, batch.count - 1)).toThrow('cut');
    batch.map(8, 1, 1, 3);
    expect(() => entries.record(batch, batch.count - 1)).toThrow('overlap');
  });

  const BOTH = NOTE_JOINED_BEFORE | NOTE_JOINED_BEHIND;

  /** Unmaps [iova, iova + pages) of the joined entry [100, 140) beside [140, 150); all rows afterwards. */
  function cut(iova: number, pages: number, note: number): { entries: HostEntries; rows: number[][] } {
    const entries = new HostEntries();
    const batch = new HostBatch();
    batch.map(100, 40, 1000, 3);
    batch.note[0] = NOTE_JOINED;
    batch.map(140, 10, 2000, 1);
    batch.unmap(iova, pages);
    batch.note[2] = NOTE_CUTS | note;
    for (let i = 0; i < batch.count; i++) entries.record(batch, i);
    const { table } = entries;
    const rows: number[][] = [];
    for (let slot = table.first(); slot >= 0; slot = table.next(slot))
      rows.push([table.startAt(slot), table.endAt(slot), table.valueAt(slot), table.flagsAt(slot)]);
    return { entries, rows };
  }
  const alone = [140, 150, 2000, 1];

  it.each([
    [100, 1, BOTH, [[101, 140, 1001, 3 | JOINED], alone], 1],
    [101, 1, BOTH, [[100, 101, 1000, 3 | JOINED], [102, 140, 1002, 3 | JOINED], alone], 2],
    [101, 1, NOTE_JOINED_BEHIND, [[100, 101, 1000, 3], [102, 140, 1002, 3 | JOINED], alone], 1],
    [110, 29, NOTE_JOINED_BEFORE, [[100, 110, 1000, 3 | JOINED], [139, 140, 1039, 3], alone], 1],
    [139, 1, 0, [[100, 139, 1000, 3], alone], 0],
    [100, 40, BOTH, [alone], 0],
    [
      120,
      25,
      BOTH,
      [
        [100, 120, 1000, 3 | JOINED],
        [145, 150, 2005, 1],
      ],
      1,
    ],
    [
      120,
      25,
      0,
      [
        [100, 120, 1000, 3],
        [145, 150, 2005, 1],
      ],
      0,
    ],
    [90, 20, BOTH, [[110, 140, 1010, 3 | JOINED], alone], 1],
    [90, 60, BOTH, [], 0],
    [150, 10, BOTH, [[100, 140, 1000, 3 | JOINED], alone], 1],
  ])('lose [%d, +%d) with note %d, and each part knows where it lies', (iova, pages, note, expected, joined) => {
    const { entries, rows } = cut(iova, pages, note);
    expect(rows).toEqual(expected);
    const left = rows.reduce((sum, [start, end]) => sum + end! - start!, 0);
    expect(entries).toMatchObject({ size: expected.length, pages: left, joined, gathered: 0, joinsMade: 1 });
  });

  it('are cut several times in a row, the last word on a part counts', () => {
    const { entries } = cut(110, 1, BOTH);
    const batch = new HostBatch();
    batch.unmap(112, 20);
    batch.note[0] = NOTE_CUTS | NOTE_JOINED_BEHIND;
    entries.record(batch, 0);
    const flags = [100, 111, 132].map((page) => entries.table.flagsAt(entries.table.find(page)));
    expect(flags).toEqual([3 | JOINED, 3, 3 | JOINED]);
    expect(entries).toMatchObject({ size: 4, pages: 10 + 1 + 8 + 10, joined: 2 });
  });

  it('that stand on a window, and registers, are counted by kind when they are cut', () => {
    const { entries, batch } = filled();
    batch.unmap(7, 1);
    batch.note[batch.count - 1] = NOTE_CUTS;
    batch.unmap(22, 2);
    batch.note[batch.count - 1] = NOTE_CUTS;
    for (let i = batch.count - 2; i < batch.count; i++) entries.record(batch, i);
    expect(entries).toMatchObject({ size: 6, pages: 8, joined: 1, gathered: 2, gathersMade: 1 });
  });

  it('are all forgotten at once', () => {
    const { entries } = filled();
    entries.clear();
    expect(entries).toMatchObject({ size: 0, pages: 0, joined: 0, gathered: 0 });
  });
});
