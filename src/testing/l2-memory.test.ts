import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { L2Layout, L2LayoutOptions, L2Pattern } from './l2-memory.ts';
import type { PageRun } from './run-cursor.ts';
import { L1_OWN_BYTES, MAX_L2_BYTES, l2Layout } from './l2-memory.ts';

const GIB = 1n << 30n;
const MIB = 1n << 20n;
const LOW_PAGES = 0xc_0000;

function runsOfLayout(layout: L2Layout): PageRun[] {
  const run: PageRun = { iovaPage: 0, physPage: 0, pages: 0 };
  const list: PageRun[] = [];
  for (const cursor = layout.runs(); cursor.next(run);) list.push({ ...run });
  expect(run).toEqual(list.at(-1));
  return list;
}

/** What holds for every layout, checked page by page for small ones. */
function checkLayout(layout: L2Layout): PageRun[] {
  const runs = runsOfLayout(layout);
  const inL1 = (page: number, pages: number): boolean =>
    page * 4096 >= Number(L1_OWN_BYTES) &&
    layout.l1RamRanges.some(
      ({ gpa, size }) => BigInt(page) * 4096n >= gpa && BigInt(page + pages) * 4096n <= gpa + size,
    );
  let covered = 0;
  const used = new Uint8Array(runs.reduce((end, run) => Math.max(end, run.physPage + run.pages), 0));
  for (let i = 0; i < runs.length; i++) {
    const run = runs[i]!;
    const next = runs[i + 1];
    covered += run.pages;
    if (!inL1(run.physPage, run.pages)) expect.fail(`run outside L1: ${JSON.stringify(run)}`);
    if (run.iovaPage < LOW_PAGES && run.iovaPage + run.pages > LOW_PAGES) expect.fail('run crosses the hole of L2');
    if (layout.physPageOf(run.iovaPage + run.pages - 1) !== run.physPage + run.pages - 1) expect.fail('physPageOf');
    for (let p = run.physPage; p < run.physPage + run.pages; p++) {
      if (used[p] !== 0) expect.fail(`L1 page ${p} used twice`);
      used[p] = 1;
    }
    if (next === undefined) continue;
    const adjacent = run.iovaPage + run.pages === next.iovaPage;
    if (!adjacent && !(run.iovaPage + run.pages === LOW_PAGES && next.iovaPage === 0x10_0000)) expect.fail('gap');
    if (adjacent && run.physPage + run.pages === next.physPage) expect.fail('runs are not maximal');
  }
  expect(covered).toBe(layout.pages);
  return runs;
}

test('L2 RAM is exactly the asked size with the hole between 3 and 4 GiB', () => {
  const ranges = (bytes: bigint): unknown => l2Layout({ bytes, pattern: 'contiguous', page: '4k' }).l2RamRanges;
  expect(ranges(4096n)).toEqual([{ gpa: 0n, size: 4096n }]);
  expect(ranges(3n * GIB - 4096n)).toEqual([{ gpa: 0n, size: 3n * GIB - 4096n }]);
  expect(ranges(3n * GIB)).toEqual([{ gpa: 0n, size: 3n * GIB }]);
  expect(ranges(3n * GIB + 4096n)).toEqual([
    { gpa: 0n, size: 3n * GIB },
    { gpa: 4n * GIB, size: 4096n },
  ]);
});

test('contiguous is one block at 4 GiB, cut by the hole of L2 only, whatever its size', () => {
  const layout = l2Layout({ bytes: 1024n * GIB, pattern: 'contiguous', page: '2m' });
  expect(runsOfLayout(layout)).toEqual([
    { iovaPage: 0, physPage: 0x10_0000, pages: LOW_PAGES },
    { iovaPage: 0x10_0000, physPage: 0x10_0000 + LOW_PAGES, pages: 2 ** 28 - LOW_PAGES },
  ]);
  expect(layout.unitPhysPages).toBeUndefined();
  expect(layout.l1RamRanges).toEqual([
    { gpa: 0n, size: L1_OWN_BYTES },
    { gpa: 4n * GIB, size: 1024n * GIB },
  ]);
  expect(checkLayout(l2Layout({ bytes: 64n * MIB, pattern: 'contiguous', page: '4k' }))).toHaveLength(1);
});

test('scattered has no two neighbours physically contiguous, in 4 KiB and in 2 MiB units', () => {
  const small = checkLayout(l2Layout({ bytes: 256n * MIB, pattern: 'scattered', page: '4k' }));
  expect(small).toHaveLength(65536);
  const large = checkLayout(l2Layout({ bytes: 8n * GIB, pattern: 'scattered', page: '2m' }));
  expect(large).toHaveLength(4096);
  expect(large.every((run) => run.pages === 512 && run.physPage % 512 === 0 && run.iovaPage % 512 === 0)).toBe(true);
  expect(small.some((run) => run.physPage < 0x8_0000)).toBe(true);
  expect(large.some((run) => run.physPage >= 0x10_0000)).toBe(true);
});

test('every number of scattered units works', () => {
  for (let units = 1; units <= 40; units++) {
    for (let seed = 0; seed < 4; seed++) {
      const layout = l2Layout({ bytes: units * 4096, pattern: 'scattered', page: '4k', seed });
      expect(checkLayout(layout)).toHaveLength(units);
    }
  }
});

test('mixed patterns have the asked share of aligned huge pages and short runs between them', () => {
  for (const [pattern, percent] of [
    ['mix90', 90],
    ['mix75', 75],
  ] as const) {
    const layout = l2Layout({ bytes: 4n * GIB, pattern, page: '4k', seed: 9 });
    const runs = checkLayout(layout);
    const huge = runs.filter((run) => run.pages === 512);
    expect(huge).toHaveLength(Math.round((2048 * percent) / 100));
    expect(huge.every((run) => run.physPage % 512 === 0 && run.iovaPage % 512 === 0)).toBe(true);
    const rest = runs.filter((run) => run.pages !== 512);
    const mean = rest.reduce((sum, run) => sum + run.pages, 0) / rest.length;
    expect(mean).toBeGreaterThan(3.8);
    expect(mean).toBeLessThan(4.2);
  }
});

test('mean8 has runs of 8 pages on average', () => {
  const runs = checkLayout(l2Layout({ bytes: 1n * GIB, pattern: 'mean8', page: '4k' }));
  const mean = 262144 / runs.length;
  expect(mean).toBeGreaterThan(7.8);
  expect(mean).toBeLessThan(8.2);
});

test('runs stop at the hole of L2 and at the hole of L1', () => {
  for (const pattern of ['mean8', 'mix75'] as const) {
    const layout = l2Layout({ bytes: 3n * GIB + 12n * 4096n, pattern, page: '4k' });
    const runs = checkLayout(layout);
    expect(runs.some((run) => run.iovaPage + run.pages === LOW_PAGES)).toBe(true);
    expect(runs.some((run) => run.iovaPage === 0x10_0000)).toBe(true);
    expect(layout.l1RamRanges[0]).toEqual({ gpa: 0n, size: 2n * GIB });
    expect(layout.physPageOf(LOW_PAGES)).toBe(-1);
    expect(layout.physPageOf(0x10_0000 - 1)).toBe(-1);
    expect(layout.physPageOf(0x10_0000 + 12)).toBe(-1);
    expect(layout.physPageOf(-1)).toBe(-1);
  }
});

test('any small layout is a partition of L2 RAM into maximal runs of distinct L1 pages', () => {
  fc.assert(
    fc.property(
      fc.constantFrom<L2Pattern[]>('mix90', 'mix75', 'mean8', 'scattered', 'contiguous'),
      fc.integer({ min: 1, max: 3000 }),
      fc.integer({ min: 0, max: 0xffff_ffff }),
      (pattern, pages, seed) => {
        checkLayout(l2Layout({ bytes: pages * 4096, pattern, page: '4k', seed }));
      },
    ),
    { numRuns: 60 },
  );
});

test('the same seed gives the same layout, another seed another', () => {
  const layout = (seed?: number): Uint32Array | undefined =>
    l2Layout({ bytes: 64n * MIB, pattern: 'mix75', page: '4k', ...(seed === undefined ? {} : { seed }) }).unitPhysPages;
  expect(layout(5)).toEqual(layout(5));
  expect(layout(5)).not.toEqual(layout(6));
  expect(layout()).toEqual(layout(1));
});

test('impossible requests are refused by name', () => {
  const refuse = (options: Partial<L2LayoutOptions>, message: RegExp, kind: typeof Error = RangeError): void => {
    const attempt = (): unknown => l2Layout({ bytes: 2n * MIB, pattern: 'scattered', page: '4k', ...options });
    expect(attempt).toThrow(kind);
    expect(attempt).toThrow(message);
  };
  refuse({ bytes: 0n }, /^bytes/);
  refuse({ bytes: 0 }, /^bytes/);
  refuse({ bytes: -4096n }, /^bytes/);
  refuse({ bytes: 4095n }, /^bytes/);
  refuse({ bytes: 4097 }, /^bytes/);
  refuse({ bytes: 4096.5 }, /^bytes/);
  refuse({ bytes: NaN }, /^bytes/);
  refuse({ bytes: 4096n, page: '2m' }, /^bytes/);
  refuse({ bytes: MAX_L2_BYTES.paged4k + 4096n }, /^bytes/);
  refuse({ bytes: MAX_L2_BYTES.other + 2n * MIB, page: '2m' }, /^bytes/);
  refuse({ bytes: 1n << 70n, pattern: 'contiguous' }, /^bytes/);
  refuse({ bytes: '4096' as unknown as bigint }, /^bytes/, TypeError);
  refuse({ page: '2m', pattern: 'mix90' }, /^page/);
  refuse({ page: '2m', pattern: 'mix75' }, /^page/);
  refuse({ page: '2m', pattern: 'mean8' }, /^page/);
  refuse({ page: '1g' as '2m' }, /^page/);
  refuse({ pattern: 'random' as 'mean8' }, /^pattern/);
  refuse({ seed: -1 }, /^seed/);
  refuse({ sed: 1 } as object, /sed/, TypeError);
});
