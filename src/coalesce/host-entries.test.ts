// The table of live entries: what is recorded for each kind of operation, and counters that follow.
import { describe, expect, it } from 'vitest';
import { HOST_MMIO, HostBatch } from '../host/context.ts';
import { GATHERED, HostEntries, JOINED, NOTE_JOINED } from './host-entries.ts';

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

  it('are never cut and never overlap', () => {
    const { entries, batch } = filled();
    batch.unmap(1, 4);
    expect(() => entries.record(batch, batch.count - 1)).toThrow('cut');
    batch.map(8, 1, 1, 3);
    expect(() => entries.record(batch, batch.count - 1)).toThrow('overlap');
  });

  it('are all forgotten at once', () => {
    const { entries } = filled();
    entries.clear();
    expect(entries).toMatchObject({ size: 0, pages: 0, joined: 0, gathered: 0 });
  });
});
