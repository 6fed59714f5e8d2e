import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno } from '../../base/errors.ts';
import { POLICIES } from '../../coalesce/settings.ts';
import { HostBatch } from '../../host/context.ts';
import { L2_PATTERNS, l2Layout } from '../l2-memory.ts';
import { liveDifferences, runLive } from './count-live.ts';
import type { CountOptions, CountRow } from './count-matrix.ts';
import { COUNT_BACKINGS, countMatrix } from './count-matrix.ts';
import { CountingContext } from './counting-context.ts';
import { countPlan } from './plan-count.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const LIMIT = 65_535;

function matrix(options: Partial<CountOptions>): CountRow[] {
  return countMatrix({
    sizes: [64 * MIB],
    patterns: L2_PATTERNS,
    backings: COUNT_BACKINGS,
    policies: POLICIES,
    limit: LIMIT,
    seed: 1,
    ...options,
  });
}

function only(options: Partial<CountOptions>): CountRow {
  const [row, ...others] = matrix({ backings: ['memfd'], policies: ['exact'], ...options });
  expect(others).toEqual([]);
  return row!;
}

describe('counts', () => {
  it('have a row for each combination, in the order asked for', () => {
    const rows = matrix({ sizes: [2 * MIB, 4 * MIB], patterns: ['contiguous', 'scattered'] });
    expect(rows).toHaveLength(2 * 2 * 4 * 4);
    expect(rows.slice(0, 5).map(({ backing, policy }) => `${backing} ${policy}`)).toEqual([
      ...['memfd forward', 'memfd exact', 'memfd kick', 'memfd lossy', 'memfd+thp forward'],
    ]);
  });

  it.each([
    [256 * MIB, 'scattered', 130, 140],
    [4 * GIB, 'mean8', 2060, 2060],
    [16 * GIB, 'mix90', 8200, 8200],
    [16 * GIB, 'contiguous', 2 + 64, 2 + 64],
  ] as const)('of %i bytes %s stay below the promised figures under exact', (bytes, pattern, entries, calls) => {
    const row = only({ sizes: [bytes], patterns: [pattern] });
    expect(row.refused).toBe(0);
    expect(row.hostEntriesPeak).toBeLessThanOrEqual(entries);
    expect(row.hostMapCalls).toBeLessThanOrEqual(calls);
  });

  it.each([
    [GIB / 4, 1],
    [4 * GIB, 983_041],
  ])('of %i bytes scattered say that forwarding has %i MAPs refused, and exact none', (bytes, refused) => {
    const [forward, exact] = matrix({
      sizes: [bytes],
      patterns: ['scattered'],
      backings: ['memfd'],
      policies: ['forward', 'exact'],
    });
    expect(forward).toMatchObject({
      hostEntries: LIMIT,
      hostMapCalls: bytes / 4096,
      refused,
      refusedBytes: refused * 4096,
    });
    const windows = bytes / (2 * MIB);
    expect(exact).toMatchObject({ hostEntries: windows, hostMapCalls: windows, refused: 0, refusedBytes: 0 });
  });

  it('never gather what is no file of 4 KiB pages', () => {
    const rows = matrix({ patterns: ['scattered'], policies: ['exact'] });
    expect(rows.map((row) => row.hostEntries)).toEqual([32, 32, 16_384, 16_384]);
  });

  it('find large IOPTEs where there are huge pages, and exact keeps all of those that 1:1 has', () => {
    const rows = matrix({ patterns: ['mix90'], policies: ['forward', 'exact'] });
    const shares = rows.map(({ backing, policy, largeShare }) => [backing, policy, largeShare]);
    expect(shares).toEqual([
      ['memfd', 'forward', 0],
      ['memfd', 'exact', 0],
      ['memfd+thp', 'forward', 29 / 32],
      ['memfd+thp', 'exact', 29 / 32],
      ['hugetlb', 'forward', 29 / 32],
      ['hugetlb', 'exact', 29 / 32],
      ['anonymous', 'forward', 0],
      ['anonymous', 'exact', 0],
    ]);
    for (const { ioptes, largeIoptes } of rows) expect(ioptes + 511 * largeIoptes).toBe(16_384);
  });

  it('name an impossible size before anything is counted', () => {
    expect(() => only({ sizes: [4097], patterns: ['scattered'] })).toThrow(/bytes/);
    expect(() => only({ sizes: [MIB, 65 * GIB], patterns: ['contiguous', 'mean8'] })).toThrow(/bytes/);
    expect(only({ sizes: [65 * GIB], patterns: ['contiguous'] }).hostEntries).toBe(2);
  });
});

describe('a counted row and the device live', () => {
  it.each(L2_PATTERNS)('come to the same for 8 MiB %s, whatever the backing and the policy', (pattern) => {
    const rows = [
      ...matrix({ sizes: [8 * MIB], patterns: [pattern] }).map((row) => ({ row, limit: LIMIT })),
      ...matrix({ sizes: [8 * MIB], patterns: [pattern], policies: ['exact'], limit: 300 }).map((row) => ({
        row,
        limit: 300,
      })),
    ];
    const differing = rows.filter(({ row, limit }) => liveDifferences(row, runLive(row, limit, 1)).length > 0);
    expect(differing).toEqual([]);
  });

  it.each(['forward', 'exact'] as const)('come to the same for 256 MiB scattered under %s', (policy) => {
    const row = only({ sizes: [256 * MIB], patterns: ['scattered'], policies: [policy] });
    expect(liveDifferences(row, runLive(row, LIMIT, 1))).toEqual([]);
  });

  it('a difference of each figure is seen', () => {
    const row = only({ sizes: [2 * MIB], patterns: ['scattered'] });
    const live = runLive(row, LIMIT, 1);
    for (const name of [
      'hostEntriesPeak',
      'hostEntries',
      'hostMapCalls',
      'refused',
      'refusedBytes',
      'ioptes',
    ] as const) {
      const wrong = { ...live, [name]: live[name] + 1 };
      expect(liveDifferences(row, wrong)).toEqual([`${name}: counted ${live[name]}, live ${live[name] + 1}`]);
    }
    expect(liveDifferences(row, { ...live, failedChecks: ['a page is wrong'] })).toEqual(['a page is wrong']);
  });
});

describe('a counted plan', () => {
  it('is the same whether or not the planner is asked what it can only refuse', () => {
    const arbitrary = fc.record({
      pattern: fc.constantFrom(...L2_PATTERNS),
      pages: fc.integer({ min: 1, max: 3000 }),
      seed: fc.nat(1000),
      policy: fc.constantFrom(...POLICIES),
      gatherable: fc.boolean(),
      limit: fc.oneof(fc.constantFrom(0, 1, 2, 3), fc.nat(800)),
    });
    fc.assert(
      fc.property(arbitrary, ({ pattern, pages, seed, ...options }) => {
        const layout = l2Layout({ bytes: pages * 4096, pattern, page: '4k', seed });
        expect(countPlan(layout, options)).toEqual(countPlan(layout, { ...options, askAlways: true }));
      }),
      { numRuns: 200 },
    );
  });

  it('is the same under all policies that join on a quiet context', () => {
    for (const limit of [50, 500, LIMIT]) {
      for (const pattern of L2_PATTERNS) {
        const layout = l2Layout({ bytes: 8 * MIB, pattern, page: '4k' });
        const [exact, ...others] = (['exact', 'kick', 'lossy'] as const).map((policy) =>
          countPlan(layout, { policy, gatherable: true, limit }),
        );
        for (const other of others) expect(other).toEqual(exact);
      }
    }
  });

  it.each([511, 512, 513])('with a limit of %i entries refuses what is over 512 pages apart', (limit) => {
    const layout = l2Layout({ bytes: 2 * MIB, pattern: 'scattered', page: '4k' });
    const counts = countPlan(layout, { policy: 'forward', gatherable: true, limit });
    expect(counts).toMatchObject({ refused: Math.max(0, 512 - limit), entries: Math.min(limit, 512), mapCalls: 512 });
  });
});

describe('the host that counts', () => {
  function context(entryLimit: number, windowPieces = 4): CountingContext {
    return new CountingContext({ pageSizes: 0x1000n, usableRanges: [], entryLimit, windowPieces });
  }

  it('refuses what a container refuses, and changes nothing then', () => {
    const host = context(2);
    const batch = new HostBatch();
    batch.map(0, 512, 1024, 3);
    batch.map(512, 1, 0, 3);
    batch.map(600, 1, 0, 3);
    expect([host.apply(batch, 0), batch.errno[2], host.entriesLeft()]).toEqual([2, Errno.ENOSPC, 0]);
    batch.clear();
    batch.unmap(0, 256);
    expect([host.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
    expect(host).toMatchObject({
      entries: 2,
      entriesPeak: 2,
      pages: 513,
      largeStretches: 1,
      mapCalls: 3,
      unmapCalls: 1,
    });
    batch.clear();
    batch.unmap(0, 512);
    batch.map(512, 1, 0, 3);
    expect([host.apply(batch, 0), batch.errno[1]]).toEqual([1, Errno.EEXIST]);
    expect(host).toMatchObject({ entries: 1, pages: 1, largeStretches: 0 });
    host.close();
    expect(host).toMatchObject({ entries: 0, pages: 0 });
  });

  it('maps a gather whose window was built, and no other', () => {
    const host = context(9);
    const batch = new HostBatch();
    const gather = (pieces: number): void => {
      batch.clear();
      batch.gather(0, pieces * 2, 3);
      for (let i = 0; i < pieces; i++) batch.piece(i * 10, 2);
    };
    gather(4);
    expect([host.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
    expect([host.buildWindows(batch, 0), host.apply(batch, 0), host.pages]).toEqual([1, 1, 8]);
    gather(5);
    expect([host.buildWindows(batch, 0), batch.errno[0]]).toEqual([0, Errno.ENOMEM]);
    gather(1);
    host.buildWindows(batch, 0);
    host.dropWindows(batch);
    expect([host.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
  });

  it.each([
    [0, 512, 0, 1],
    [0, 511, 0, 0],
    [1, 512, 1, 0],
    [1, 1023, 1, 1],
    [511, 513, 511, 1],
    [0, 1024, 256, 0],
    [512, 1536, 1024, 3],
  ])('counts the 2 MiB stretches of [%i, +%i) onto %i: %i', (iova, pages, va, large) => {
    const host = context(1);
    const batch = new HostBatch();
    batch.map(iova, pages, va, 3);
    host.apply(batch, 0);
    expect(host.largeStretches).toBe(large);
  });
});
