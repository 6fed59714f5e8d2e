// The shape of entries: lengths and counts at every limit, barriers, and that entries consist of whole mappings.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GATHER_ABOVE, WINDOW_PAGES, WINDOW_PAGES_MOST } from './settings.ts';
import type { ShapeSink } from './shaper.ts';
import { EntryShaper, GATHERABLE } from './shaper.ts';

const RW = 3;
const SCATTER = RW | GATHERABLE;
const HUGE = 65_536;

interface Entry {
  readonly iova: number;
  readonly pages: number;
  readonly rights: number;
  /** Host virtual pages in order. */
  readonly va: readonly number[];
  readonly mappings: number;
  readonly gathered: boolean;
}

class Recorder implements ShapeSink {
  readonly entries: Entry[] = [];
  mapRun(iova: number, pages: number, va: number, rights: number, mappings: number): void {
    const list = Array.from({ length: pages }, (_, i) => va + i);
    this.entries.push({ iova, pages, rights, va: list, mappings, gathered: false });
  }
  gatherPieces(iova: number, pages: number, rights: number, shaper: EntryShaper, count: number): void {
    const va: number[] = [];
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < shaper.pagesOf(i); k++) va.push(shaper.pieceVa[i]! + k);
    }
    this.entries.push({ iova, pages, rights, va, mappings: shaper.mappingsOf(count), gathered: true });
  }
  get rows(): [number, number][] {
    return this.entries.map(({ iova, pages }) => [iova, pages]);
  }
}

function shaper(
  maxEntryPages = HUGE,
  tight = false,
  windowPieces = 16_000,
): { recorder: Recorder; shape: EntryShaper } {
  const recorder = new Recorder();
  return { recorder, shape: new EntryShaper(recorder, { maxEntryPages, windowPieces, tight }) };
}

/** Appends `count` mappings of one page that are contiguous in memory. */
function run(shape: EntryShaper, iova: number, count: number, va: number, flags: number): void {
  for (let i = 0; i < count; i++) shape.append(iova + i, 1, va + i, flags, 0);
}

/** Appends `count` mappings of one page of which no two are contiguous in memory. */
function scatter(shape: EntryShaper, iova: number, count: number, va = 1000): void {
  for (let i = 0; i < count; i++) shape.append(iova + i, 1, va + 2 * i, SCATTER, 0);
}

describe('a run of contiguous memory', () => {
  it.each([1, 2, WINDOW_PAGES - 1, WINDOW_PAGES, WINDOW_PAGES + 1, 5000])('of %d pages is one entry', (count) => {
    for (const flags of [RW, SCATTER]) {
      const { recorder, shape } = shaper();
      run(shape, 1, count, 7000, flags);
      expect(recorder.entries).toEqual([]);
      shape.finish();
      expect(recorder.rows).toEqual([[1, count]]);
      expect(recorder.entries[0]).toMatchObject({ rights: RW, mappings: count, gathered: false });
    }
  });

  it.each([
    [4, 4, [[1, 4]]],
    [
      4,
      5,
      [
        [1, 4],
        [5, 1],
      ],
    ],
    [4, 3, [[1, 3]]],
    [
      1,
      2,
      [
        [1, 1],
        [2, 1],
      ],
    ],
  ])('ends at maxEntryPages %d for %d mappings', (most, count, rows) => {
    const { recorder, shape } = shaper(most);
    run(shape, 1, count, 7000, RW);
    shape.finish();
    expect(recorder.rows).toEqual(rows);
  });

  it('keeps a single mapping whole whatever maxEntryPages says', () => {
    const { recorder, shape } = shaper(8);
    shape.append(0, 1000, 5000, RW, 0);
    shape.append(1000, 1, 6000, RW, 0);
    shape.finish();
    expect(recorder.rows).toEqual([
      [0, 1000],
      [1000, 1],
    ]);
  });

  it('ends at a 2M edge when the memory is congruent, and at maxEntryPages when it is not', () => {
    const rows = (va: number): [number, number][] => {
      const { recorder, shape } = shaper(2048);
      run(shape, 300, 4096, va, RW);
      shape.finish();
      return recorder.rows;
    };
    expect(rows(1024 + 300)).toEqual([
      [300, 1748],
      [2048, 2048],
      [4096, 300],
    ]);
    expect(rows(1024 + 301)).toEqual([
      [300, 2048],
      [2348, 2048],
    ]);
  });

  it('is not cut at 2M edges where no entry may be larger than 2M', () => {
    const { recorder, shape } = shaper(WINDOW_PAGES);
    run(shape, 300, 600, 1024 + 300, RW);
    shape.finish();
    expect(recorder.rows).toEqual([
      [300, 512],
      [812, 88],
    ]);
  });

  it('never crosses from one region into another, though the addresses continue', () => {
    const { recorder, shape } = shaper();
    shape.append(0, 1, 100, RW, 1);
    shape.append(1, 1, 101, RW, 2);
    shape.append(2, 1, 102, RW, 2);
    shape.finish();
    expect(recorder.rows).toEqual([
      [0, 1],
      [1, 2],
    ]);
  });

  it('continues only at its end and with equal flags', () => {
    const { shape } = shaper();
    expect(shape.continues(0, RW)).toBe(false);
    shape.append(5, 2, 100, RW, 0);
    expect(shape.continues(7, RW)).toBe(true);
    expect(shape.continues(6, RW)).toBe(false);
    expect(shape.continues(8, RW)).toBe(false);
    expect(shape.continues(7, 1)).toBe(false);
    expect(shape.continues(7, SCATTER)).toBe(false);
  });
});

describe('scattered memory', () => {
  it('that no window can show is one entry for each run', () => {
    const { recorder, shape } = shaper();
    for (let i = 0; i < 40; i++) shape.append(i, 1, 1000 + 2 * i, RW, 0);
    shape.finish();
    expect(recorder.entries.every(({ gathered, pages }) => !gathered && pages === 1)).toBe(true);
    expect(recorder.entries).toHaveLength(40);
  });

  it.each([WINDOW_PAGES - 1, WINDOW_PAGES, WINDOW_PAGES + 1])('of %d pages fills a window at 512', (count) => {
    const { recorder, shape } = shaper();
    scatter(shape, 3, count);
    expect(recorder.rows).toEqual(count < WINDOW_PAGES ? [] : [[3, WINDOW_PAGES]]);
    shape.finish();
    expect(recorder.rows).toEqual(
      count <= WINDOW_PAGES
        ? [[3, count]]
        : [
            [3, WINDOW_PAGES],
            [3 + WINDOW_PAGES, 1],
          ],
    );
    expect(recorder.entries[0]).toMatchObject({ gathered: true, rights: RW });
  });

  it.each([GATHER_ABOVE - 1, GATHER_ABOVE, GATHER_ABOVE + 1])('in a full window of %d pieces', (pieces) => {
    for (const tight of [false, true]) {
      const { recorder, shape } = shaper(HUGE, tight);
      const length = Math.ceil(WINDOW_PAGES / pieces);
      for (let i = 0; i < pieces; i++) shape.append(i * length, length, 10_000 * (i + 1), SCATTER, 0);
      shape.finish();
      const gathered = tight || pieces > GATHER_ABOVE;
      expect(recorder.entries).toHaveLength(gathered ? 1 : pieces);
      expect(recorder.entries.every((entry) => entry.gathered === gathered)).toBe(true);
    }
  });

  it('that does not fill a window is one entry when it is finished, also of two pieces', () => {
    const { recorder, shape } = shaper();
    scatter(shape, 0, 2);
    shape.finish();
    expect(recorder.rows).toEqual([[0, 2]]);
    expect(recorder.entries[0]!.gathered).toBe(true);
  });

  it.each([WINDOW_PAGES_MOST - 1, WINDOW_PAGES_MOST, WINDOW_PAGES_MOST + 1])(
    'with a last mapping that reaches page %d',
    (end) => {
      const { recorder, shape } = shaper();
      scatter(shape, 0, 500);
      shape.append(500, end - 500, 9000, SCATTER, 0);
      shape.finish();
      const one = end <= WINDOW_PAGES_MOST;
      expect(recorder.rows).toEqual(
        one
          ? [[0, end]]
          : [
              [0, 500],
              [500, end - 500],
            ],
      );
    },
  );

  it.each([1, 64, 76, 77, 400, 511])('of a last piece that grows by %d pages makes no longer window', (pages) => {
    for (const most of [WINDOW_PAGES, HUGE]) {
      const { recorder, shape } = shaper(most);
      scatter(shape, 0, 500, 1000);
      shape.append(500, pages, 1000 + 2 * 499 + 1, SCATTER, 0);
      shape.finish();
      for (const entry of recorder.entries) expect(entry.pages).toBeLessThanOrEqual(Math.min(WINDOW_PAGES_MOST, most));
    }
  });

  it('leaves a mapping of 2 MiB an entry of its own', () => {
    const { recorder, shape } = shaper();
    scatter(shape, 0, 20);
    shape.append(20, WINDOW_PAGES, 4096, SCATTER, 0);
    scatter(shape, 20 + WINDOW_PAGES, 20, 20_000);
    shape.finish();
    expect(recorder.entries.map(({ iova, pages, gathered }) => [iova, pages, gathered])).toEqual([
      [0, 20, true],
      [20, WINDOW_PAGES, false],
      [20 + WINDOW_PAGES, 20, true],
    ]);
  });

  it('uses windows no longer than maxEntryPages', () => {
    const { recorder, shape } = shaper(32, true);
    scatter(shape, 0, 100);
    shape.finish();
    expect(recorder.rows).toEqual([
      [0, 32],
      [32, 32],
      [64, 32],
      [96, 4],
    ]);
  });

  it.each([2, 99, 100, 101, 511, 512, 513])('uses windows of no more than %d pieces', (windowPieces) => {
    const { recorder, shape } = shaper(HUGE, true, windowPieces);
    scatter(shape, 0, 600);
    shape.finish();
    expect(recorder.entries.every(({ pages }) => pages <= windowPieces)).toBe(true);
    expect(recorder.entries).toHaveLength(Math.ceil(600 / Math.min(windowPieces, WINDOW_PAGES)));
  });

  it('is forgotten without a trace', () => {
    const { recorder, shape } = shaper();
    scatter(shape, 0, 20);
    shape.forget();
    shape.append(20, 1, 1040, SCATTER, 0);
    shape.finish();
    expect(recorder.rows).toEqual([[20, 1]]);
    expect(shape.pieces).toBe(0);
  });
});

const mapping = fc.record({
  pages: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 1, max: 4 }) },
    fc.integer({ min: 1, max: 700 }),
    fc.constantFrom(511, 512, 513, 575, 576, 577),
  ),
  contiguous: fc.oneof({ weight: 2, arbitrary: fc.constant(true) }, fc.constant(false)),
  region: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.constant(1)),
  repeat: fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, fc.integer({ min: 1, max: 600 })),
});

it('shows exactly the mappings it was given, whole, in order and within the limits', () => {
  fc.assert(
    fc.property(
      fc.array(mapping, { minLength: 1, maxLength: 12 }),
      fc.constantFrom(1, 2, 16, 511, 512, 513, 768, 2048, HUGE),
      fc.boolean(),
      fc.boolean(),
      fc.integer({ min: 0, max: 1024 }),
      (list, most, tight, gatherable, origin) => {
        const { recorder, shape } = shaper(most, tight);
        const flags = gatherable ? SCATTER : RW;
        const expected: number[] = [];
        const regions: number[] = [];
        const edges = new Set<number>();
        const longest = new Map<number, number>();
        let iova = origin;
        let va = 5000;
        for (const { pages, contiguous, region, repeat } of list) {
          for (let n = 0; n < repeat && expected.length < 2000; n++) {
            if (!contiguous) va += 3;
            edges.add(iova);
            longest.set(iova, pages);
            shape.append(iova, pages, va, flags, region);
            for (let i = 0; i < pages; i++) {
              expected.push(va + i);
              regions.push(region);
            }
            iova += pages;
            va += pages;
          }
        }
        shape.finish();
        let at = origin;
        const wrong: string[] = [];
        for (const entry of recorder.entries) {
          const from = entry.iova - origin;
          const single = entry.mappings === 1;
          if (entry.iova !== at || !edges.has(at)) wrong.push(`entry at ${entry.iova} instead of ${at}`);
          if (single ? entry.pages !== longest.get(at) : entry.pages > most)
            wrong.push(`${entry.pages} pages at ${at}`);
          if (entry.gathered && entry.pages > WINDOW_PAGES_MOST) wrong.push(`window of ${entry.pages} at ${at}`);
          const mixed = regions.slice(from, from + entry.pages).some((region) => region !== regions[from]);
          if (mixed && !entry.gathered) wrong.push(`two regions at ${at}`);
          at += entry.pages;
        }
        expect(wrong).toEqual([]);
        expect(at).toBe(iova);
        expect(recorder.entries.flatMap((entry) => entry.va)).toEqual(expected);
        expect(recorder.entries.reduce((sum, entry) => sum + entry.mappings, 0)).toBe(edges.size);
      },
    ),
    { numRuns: 100 },
  );
});
