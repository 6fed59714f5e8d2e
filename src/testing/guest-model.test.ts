import { gunzipSync } from 'node:zlib';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { KickSource } from './kick.ts';
import type { PageRun } from './run-cursor.ts';
import type { Trace } from './trace.ts';
import type { TraceMap } from './trace-record.ts';
import { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_PROBE, VIRTIO_IOMMU_T_UNMAP } from '../wire/abi.ts';
import { guestModel } from './guest-model.ts';
import { IommuPageSizes } from './iommu-page-sizes.ts';
import { Kick, concatKicks, countKicks } from './kick.ts';
import { l2Layout } from './l2-memory.ts';
import { runsOf } from './run-cursor.ts';
import { parseTrace } from './trace.ts';

const PAGE = 4096n;
const GIB_PAGES = 0x4_0000;
const MASK_4K = 0x1000n;
const MASK_4K_2M_1G = 0x4020_1000n;
const MASK_ALL = 0xffff_ffff_ffff_f000n;

function recorded(name: string): Trace {
  const bytes = readFileSync(new URL(`../../test/traces/${name}`, import.meta.url));
  return parseTrace((name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString());
}

const OP_NAMES: Readonly<Record<number, string>> = {
  [VIRTIO_IOMMU_T_ATTACH]: 'ATTACH',
  [VIRTIO_IOMMU_T_MAP]: 'MAP',
  [VIRTIO_IOMMU_T_UNMAP]: 'UNMAP',
  [VIRTIO_IOMMU_T_PROBE]: 'PROBE',
};

/** All notifications of a source, each a list of readable requests. */
function kicksOf(source: KickSource, capacity: number): string[][] {
  const kick = new Kick(capacity);
  const list: string[][] = [];
  while (source.next(kick)) {
    const requests: string[] = [];
    for (let i = 0; i < kick.count; i++) {
      const range = `${kick.iovaPage[i]!}+${kick.pages[i]!}`;
      const map = kick.op[i] === VIRTIO_IOMMU_T_MAP;
      const detail =
        map || kick.op[i] === VIRTIO_IOMMU_T_UNMAP
          ? `d${kick.domain[i]!} ${range}${map ? `>${kick.physPage[i]!} f${kick.flags[i]!}` : ''}`
          : `${kick.op[i] === VIRTIO_IOMMU_T_ATTACH ? `d${kick.domain[i]!} ` : ''}e${kick.endpoint[i]!}`;
      requests.push(`${OP_NAMES[kick.op[i]!]!} ${detail}`);
    }
    list.push(requests);
  }
  expect(kick.count).toBe(0);
  expect(source.next(kick)).toBe(false);
  return list;
}

/** iommu_pgsize() with 64-bit integers, as the kernel has it; bytes of one driver call. */
function kernelPiece(mask: bigint, iova: bigint, paddr: bigint, size: bigint): bigint {
  const fls = (value: bigint): bigint => BigInt(value.toString(2).length - 1);
  const ffs = (value: bigint): bigint => fls(value & -value);
  const upTo = (bit: bigint): bigint => (1n << (bit + 1n)) - 1n;
  const merged = iova | paddr;
  let sizes = mask & upTo(fls(size));
  if (merged !== 0n) sizes &= upTo(ffs(merged));
  const index = fls(sizes);
  const larger = mask & ~upTo(index);
  let length = size;
  if (larger !== 0n) {
    const next = 1n << ffs(larger);
    if (((iova ^ paddr) & (next - 1n)) === 0n) {
      const offset = next - (merged & (next - 1n));
      if (offset + next <= size) length = offset;
    }
  }
  return (length >> index) << index;
}

test('the first piece of a mapping equals iommu_pgsize() for any mask and addresses', () => {
  const page = fc.oneof(
    fc.bigInt({ min: 0n, max: (1n << 52n) - 1n }),
    fc.bigInt({ min: 0n, max: 4096n }),
    fc.integer({ min: 0, max: 51 }).map((bit) => 1n << BigInt(bit)),
  );
  fc.assert(
    fc.property(
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.integer({ min: 0, max: 12 }),
      page,
      page,
      page,
      fc.boolean(),
      (high, granuleBit, iova, phys, pages, together) => {
        const mask = high | (1n << BigInt(granuleBit));
        const physPage = together ? iova : phys;
        const room = (1n << 52n) - (iova > physPage ? iova : physPage);
        const size = pages % room || room;
        const found = new IommuPageSizes(mask).firstPiece(Number(iova), Number(physPage), Number(size));
        expect(BigInt(found)).toBe(kernelPiece(mask, iova * PAGE, physPage * PAGE, size * PAGE) / PAGE);
      },
    ),
    { numRuns: 3000 },
  );
});

test.each([
  ['4 GiB aligned', 0, 0, 4 * GIB_PAGES, [1, 1, 1]],
  ['3 GiB', 0, 0, 3 * GIB_PAGES, [1, 1, 2]],
  ['4 GiB, both off by 4 KiB', 1, 1, 4 * GIB_PAGES, [1, 4, 21]],
  ['4 GiB, IOVA and memory not aligned together', 0, 1, 4 * GIB_PAGES, [1, 1, 1]],
  ['1 GiB off by 4 KiB', 1, 1, GIB_PAGES, [1, 3, 19]],
] as const)('MAP requests of one iommu_map() call: %s', (_name, iovaPage, physPage, pages, expected) => {
  const counts = [MASK_4K, MASK_4K_2M_1G, MASK_ALL].map((pageSizeMask) => {
    const source = guestModel('6.12', { pageSizeMask }).mapRuns(runsOf([{ iovaPage, physPage, pages }]), 3);
    const { kicks, maps } = countKicks(source, 64);
    expect(kicks).toBe(1);
    return maps;
  });
  expect(counts).toEqual(expected);
});

test.each([
  ['512 MiB of scattered 4 KiB', 512, '4k', 131072],
  ['512 MiB of scattered 2 MiB', 512, '2m', 256],
  ['4 GiB of scattered 2 MiB', 4096, '2m', 2048],
  ['64 MiB of scattered 4 KiB', 64, '4k', 16384],
  ['64 MiB of scattered 2 MiB', 64, '2m', 32],
] as const)('scattered memory costs one MAP and one notification per piece: %s', (_name, mib, page, expected) => {
  const layout = l2Layout({ bytes: mib * 2 ** 20, pattern: 'scattered', page });
  for (const pageSizeMask of [MASK_4K, MASK_4K_2M_1G, MASK_ALL]) {
    const model = guestModel('6.12', { pageSizeMask });
    const totals = countKicks(model.mapL2(layout, 1), 64);
    expect(totals).toEqual({ kicks: expected, requests: expected, maps: expected, unmaps: 0 });
  }
});

test('UNMAPs fill the ring up to 512 regions, as recorded: 16384 in 256 notifications of 64, 65536 in 256 of 256', () => {
  const unmaps = (mib: number, ring: number): { kicks: number; unmaps: number } => {
    const layout = l2Layout({ bytes: mib * 2 ** 20, pattern: 'scattered', page: '4k' });
    return countKicks(guestModel('6.12', { pageSizeMask: MASK_ALL }).unmapL2(layout, 1), ring);
  };
  expect(unmaps(64, 64)).toMatchObject({ kicks: 256, unmaps: 16384 });
  expect(unmaps(256, 256)).toMatchObject({ kicks: 256, unmaps: 65536 });
  expect(unmaps(64, 1024)).toMatchObject({ kicks: 32, unmaps: 16384 });
  // 512 = 5 x 100 + 12: the synchronisation cuts the sixth notification short.
  expect(unmaps(2, 100)).toMatchObject({ kicks: 6, unmaps: 512 });
  expect(unmaps(4, 100)).toMatchObject({ kicks: 12, unmaps: 1024 });
});

test('one UNMAP per mapping, even where neighbours are contiguous; each range has its own last notification', () => {
  const model = guestModel('6.12', { pageSizeMask: MASK_4K_2M_1G });
  const runs = [
    { iovaPage: 1, physPage: 0x2_0001, pages: 1024 },
    { iovaPage: 1025, physPage: 7, pages: 1 },
    { iovaPage: 2000, physPage: 9, pages: 1 },
  ];
  expect(kicksOf(model.unmapRuns(runsOf(runs), 2), 64)).toEqual([
    ['UNMAP d2 1+511', 'UNMAP d2 512+512', 'UNMAP d2 1024+1', 'UNMAP d2 1025+1'],
    ['UNMAP d2 2000+1'],
  ]);
});

test('a full ring notifies and goes on: MAPs of one call, N-1, N and N+1 pieces', () => {
  const model = guestModel('6.12', { pageSizeMask: MASK_ALL });
  // Both at page 1: 1, 2, 4, ... pages until the last boundary.
  const sizes = (pages: number, capacity: number): number[] =>
    kicksOf(model.mapRuns(runsOf([{ iovaPage: 1, physPage: 1, pages }]), 1), capacity).map((kick) => kick.length);
  expect(sizes(1 + 2 + 4, 3)).toEqual([3]);
  expect(sizes(1 + 2, 3)).toEqual([2]);
  expect(sizes(1 + 2 + 4 + 8, 3)).toEqual([3, 1]);
  expect(sizes(1, 1)).toEqual([1]);
});

test('the 4k model sends every page and fills the ring across runs', () => {
  const model = guestModel('4k', { pageSizeMask: MASK_4K_2M_1G, flags: 1 });
  const runs = [
    { iovaPage: 5, physPage: 50, pages: 2 },
    { iovaPage: 9, physPage: 40, pages: 1 },
  ];
  expect(kicksOf(model.mapRuns(runsOf(runs), 1), 2)).toEqual([
    ['MAP d1 5+1>50 f1', 'MAP d1 6+1>51 f1'],
    ['MAP d1 9+1>40 f1'],
  ]);
  expect(kicksOf(model.unmapRuns(runsOf(runs), 1), 2)).toEqual([['UNMAP d1 5+1', 'UNMAP d1 6+1'], ['UNMAP d1 9+1']]);
  const huge = l2Layout({ bytes: 4 * 2 ** 20, pattern: 'scattered', page: '2m' });
  expect(countKicks(model.mapL2(huge, 1), 256)).toMatchObject({ kicks: 4, maps: 1024 });
  expect(countKicks(model.unmapL2(huge, 1), 1000)).toMatchObject({ kicks: 2, unmaps: 1024 });
});

test('memory is covered exactly once by both models, whatever the pattern', () => {
  for (const name of ['6.12', '4k'] as const) {
    for (const pattern of ['contiguous', 'mix75', 'mean8', 'scattered'] as const) {
      const layout = l2Layout({ bytes: (3n * 2n ** 30n) / 64n + 4096n, pattern, page: '4k' });
      const kick = new Kick(64);
      const source = guestModel(name, { pageSizeMask: MASK_ALL }).mapL2(layout, 1);
      let next = 0;
      while (source.next(kick)) {
        for (let i = 0; i < kick.count; i++) {
          if (kick.iovaPage[i] !== next) expect.fail(`page ${next} is missing`);
          if (kick.physPage[i] !== layout.physPageOf(next)) expect.fail(`page ${next} is elsewhere`);
          next += kick.pages[i]!;
        }
      }
      expect(next).toBe(layout.pages);
    }
  }
});

test.each([
  'l2-boot.ndjson.gz',
  'vfio-user-dma.ndjson.gz',
  'vfio-user-blk.ndjson.gz',
  'vfio64-mask-0x40201000.ndjson.gz',
])('each contiguous run of %s is cut as the real kernel cut it, and each UNMAP is one mapping', (name) => {
  const trace = recorded(name);
  const model = guestModel('6.12', { pageSizeMask: trace.header.pageSizeMask! });
  const live = new Map<string, bigint>();
  let calls: TraceMap[] = [];
  let several = 0;
  const check = (): void => {
    if (calls.length === 0) return;
    const pages = calls.map((map) => Number((map.virtEnd - map.virtStart + 1n) / PAGE));
    const run: PageRun = {
      iovaPage: Number(calls[0]!.virtStart / PAGE),
      physPage: Number(calls[0]!.physStart / PAGE),
      pages: pages.reduce((sum, length) => sum + length, 0),
    };
    const kick = new Kick(64);
    expect(model.mapRuns(runsOf([run]), 1).next(kick)).toBe(true);
    expect([...kick.pages.subarray(0, kick.count)]).toEqual(pages);
    if (calls.length > 1) several++;
    calls = [];
  };
  for (const record of trace.records) {
    const last = calls.at(-1);
    if (
      last !== undefined &&
      (record.op !== 'MAP' ||
        record.domain !== last.domain ||
        record.flags !== last.flags ||
        record.virtStart !== last.virtEnd + 1n ||
        record.physStart !== last.physStart + last.virtEnd - last.virtStart + 1n)
    ) {
      check();
    }
    if (record.op === 'MAP') {
      calls.push(record);
      live.set(`${record.domain}:${record.virtStart}`, record.virtEnd);
    } else if (record.op === 'UNMAP') {
      expect(live.get(`${record.domain}:${record.virtStart}`)).toBe(record.virtEnd);
      live.delete(`${record.domain}:${record.virtStart}`);
    }
  }
  check();
  if (name.startsWith('l2-boot')) expect(several).toBe(9);
});

test('bring-up, open and close of a passed-through function are as recorded', () => {
  const records = recorded('l2-boot.ndjson.gz').records.filter((record) => 'status' in record);
  const model = guestModel('6.12', { pageSizeMask: MASK_ALL });
  const kicks = kicksOf(
    concatKicks(
      model.bringUp({ endpoint: 40, domain: 0 }),
      model.openVfio({ endpoint: 40, blockingDomain: 1, domain: 2, scratchPage: 0x24ae }),
      model.closeVfio({ endpoint: 40, blockingDomain: 1, defaultDomain: 0 }),
    ),
    64,
  );
  const readable = [...records.slice(0, 6), ...records.slice(-2)].map((record) => {
    switch (record.op) {
      case 'PROBE':
        return `PROBE e${record.endpoint}`;
      case 'ATTACH':
        return `ATTACH d${record.domain} e${record.endpoint}`;
      case 'MAP':
        return `MAP d${record.domain} ${record.virtStart / PAGE}+2>${record.physStart / PAGE} f${record.flags}`;
      default:
        return 'UNMAP d2 0+2';
    }
  });
  expect(kicks).toEqual(readable.map((request) => [request]));
  const plain = guestModel('4k', { pageSizeMask: MASK_4K });
  expect(kicksOf(plain.openVfio({ endpoint: 7, domain: 1, scratchPage: 2 }), 4)).toEqual([['ATTACH d1 e7']]);
  expect(kicksOf(plain.closeVfio({ endpoint: 7, defaultDomain: 0 }), 4)).toEqual([['ATTACH d0 e7']]);
});

test('mistakes of the caller are refused by name', () => {
  expect(() => guestModel('6.1' as '4k', { pageSizeMask: MASK_4K })).toThrow(/^name/);
  expect(() => guestModel('4k', { pageSizeMask: 0n })).toThrow(/^pageSizeMask/);
  expect(() => guestModel('6.12', { pageSizeMask: 0x2000n })).toThrow(/^pageSizeMask/);
  expect(() => guestModel('6.12', { pageSizeMask: 1n << 64n })).toThrow(/^pageSizeMask/);
  expect(() => guestModel('6.12', { pageSizeMask: 1n, flags: -1 })).toThrow(/^flags/);
  expect(() => guestModel('6.12', { pageSizeMask: 1n, mask: 1 } as never)).toThrow(/mask/);
  expect(() => guestModel('6.12', { pageSizeMask: 1n }).mapRuns(runsOf([]), -1)).toThrow(/^domain/);
  expect(() => new Kick(0)).toThrow(/^capacity/);
  expect(() => new Kick(32769)).toThrow(/^capacity/);
  const kick = new Kick(1);
  kick.pushProbe(1);
  expect(() => kick.pushProbe(1)).toThrow(RangeError);
});
