// The guest kernel against the recorded traces of the real one: what happened in the guest is read out of a trace (boots,
// opens, physical runs, buffers), the model is given only that, and must send the same requests one by one.
import { gunzipSync } from 'node:zlib';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { GuestOperation } from './guest-operations.ts';
import type { PageRun } from './run-cursor.ts';
import type { Trace } from './trace.ts';
import type { TraceAttach, TraceMap, TraceRequest, TraceUnmap } from './trace-record.ts';
import { VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_MAP, VIRTIO_IOMMU_T_PROBE } from '../wire/abi.ts';
import { GuestKernel } from './guest-kernel.ts';
import { guestModel } from './guest-model.ts';
import { Kick, countKicks } from './kick.ts';
import { RequestEncoder } from './requests.ts';
import { runsOf } from './run-cursor.ts';
import { isTraceRequest } from './trace-record.ts';
import { parseTrace } from './trace.ts';

const PAGE = 4096n;
const MASK_4K = 0x1000n;
const MASK_4K_2M_1G = 0x4020_1000n;
const MASK_ALL = 0xffff_ffff_ffff_f000n;

interface Recorded {
  readonly trace: Trace;
  /** Notifications that carried so many requests, as counted when it was recorded; the reader of traces leaves them out. */
  readonly counted: Readonly<Record<string, number>> | undefined;
}

function recorded(name: string): Recorded {
  const bytes = readFileSync(new URL(`../../test/traces/${name}`, import.meta.url));
  const text = (name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString();
  const header = JSON.parse(text.slice(0, text.indexOf('\n'))) as {
    recorded_requests_per_kick?: Record<string, number>;
  };
  return { trace: parseTrace(text), counted: header.recorded_requests_per_kick };
}

function requestText(request: TraceRequest): string {
  switch (request.op) {
    case 'PROBE':
      return `PROBE e${request.endpoint}`;
    case 'ATTACH':
    case 'DETACH':
      return `${request.op} d${request.domain} e${request.endpoint}`;
    case 'MAP':
      return `MAP d${request.domain} ${pageOf(request)}+${pagesOf(request)}>${request.physStart / PAGE} f${request.flags}`;
    case 'UNMAP':
      return `UNMAP d${request.domain} ${pageOf(request)}+${pagesOf(request)}`;
  }
}

function kickText(kick: Kick, i: number): string {
  const range = `d${kick.domain[i]!} ${kick.iovaPage[i]!}+${kick.pages[i]!}`;
  if (kick.op[i] === VIRTIO_IOMMU_T_MAP) return `MAP ${range}>${kick.physPage[i]!} f${kick.flags[i]!}`;
  if (kick.op[i] === VIRTIO_IOMMU_T_PROBE) return `PROBE e${kick.endpoint[i]!}`;
  return kick.op[i] === VIRTIO_IOMMU_T_ATTACH ? `ATTACH d${kick.domain[i]!} e${kick.endpoint[i]!}` : `UNMAP ${range}`;
}

function pageOf(record: TraceMap | TraceUnmap): number {
  return Number(record.virtStart / PAGE);
}

function pagesOf(record: TraceMap | TraceUnmap): number {
  return Number((record.virtEnd - record.virtStart + 1n) / PAGE);
}

/** Notifications of operations, each a list of readable requests. */
function kicksOf(kernel: GuestKernel, operations: readonly GuestOperation[], capacity = 64): string[][] {
  const kick = new Kick(capacity);
  const source = kernel.run(operations);
  const list: string[][] = [];
  while (source.next(kick)) list.push(Array.from({ length: kick.count }, (_, i) => kickText(kick, i)));
  expect(source.next(kick)).toBe(false);
  return list;
}

/** The recording's rule: each MAP, ATTACH and PROBE ends a kick, UNMAPs wait for it or for a full queue. */
function inferredKicks(requests: readonly string[], capacity: number): number[] {
  let kick = 0;
  let queued = 0;
  return requests.map((request) => {
    if (queued === capacity) [kick, queued] = [kick + 1, 0];
    const mine = kick;
    queued++;
    if (!request.startsWith('UNMAP')) [kick, queued] = [kick + 1, 0];
    return mine;
  });
}

/** Reads what happened in the guest out of its requests: nothing of how the kernel cut and grouped them is kept. */
class TraceReader {
  readonly operations: GuestOperation[] = [];
  readonly #requests: readonly TraceRequest[];
  readonly #vfio = new Map<number, number>();
  readonly #endpointOf = new Map<number, number>();
  readonly #open = new Set<number>();
  #at = 0;

  constructor(trace: Trace) {
    this.#requests = trace.records.filter(isTraceRequest);
    while (this.#at < this.#requests.length) this.#read();
  }

  #read(): void {
    const request = this.#requests[this.#at]!;
    if (request.op === 'PROBE') {
      const attach = this.#requests[this.#at + 1] as TraceAttach;
      this.#endpointOf.set(attach.domain, request.endpoint);
      this.operations.push({ op: 'boot', endpoints: [request.endpoint] });
      this.#at += 2;
    } else if (request.op === 'ATTACH') this.#readVfio(request.endpoint);
    else if (request.op === 'MAP') this.#readMap(request);
    else if (request.op === 'UNMAP') this.#readUnmap(request);
    else expect.fail(`${request.op} in a trace of Linux`);
  }

  /** Opening is two ATTACH and the superpage test, closing is two ATTACH. */
  #readVfio(endpoint: number): void {
    if (this.#open.has(endpoint)) {
      this.#open.delete(endpoint);
      this.operations.push({ op: 'closeVfio', endpoint });
      this.#at += 2;
      return;
    }
    this.#open.add(endpoint);
    this.#vfio.set((this.#requests[this.#at + 1] as TraceAttach).domain, endpoint);
    const test = this.#requests[this.#at + 2] as TraceMap;
    this.operations.push({ op: 'openVfio', endpoint, scratchPage: Number(test.physStart / PAGE) });
    this.#at += 4;
  }

  #readMap(first: TraceMap): void {
    const endpoint = this.#vfio.get(first.domain);
    if (endpoint === undefined) {
      const [iovaPage, physPage, pages] = [pageOf(first), Number(first.physStart / PAGE), pagesOf(first)];
      const { domain, flags } = first;
      this.operations.push({ op: 'dmaMap', endpoint: this.#endpointOf.get(domain)!, iovaPage, physPage, pages, flags });
      this.#at++;
      return;
    }
    const runs: PageRun[] = [];
    let end = pageOf(first);
    for (let next: TraceRequest | undefined = first; next?.op === 'MAP'; next = this.#requests[++this.#at]) {
      if (next.domain !== first.domain || next.flags !== first.flags || pageOf(next) !== end) break;
      const last = runs.at(-1);
      const physPage = Number(next.physStart / PAGE);
      if (last !== undefined && last.physPage + last.pages === physPage) last.pages += pagesOf(next);
      else runs.push({ iovaPage: end, physPage, pages: pagesOf(next) });
      end += pagesOf(next);
    }
    this.operations.push({ op: 'vfioMap', endpoint, runs, flags: first.flags });
  }

  #readUnmap(first: TraceUnmap): void {
    const endpoint = this.#vfio.get(first.domain);
    const iovaPage = pageOf(first);
    if (endpoint === undefined) {
      const owner = this.#endpointOf.get(first.domain)!;
      this.operations.push({ op: 'dmaUnmap', endpoint: owner, iovaPage, pages: pagesOf(first) });
      this.#at++;
      return;
    }
    let end = iovaPage;
    for (let next: TraceRequest | undefined = first; next?.op === 'UNMAP'; next = this.#requests[++this.#at]) {
      if (next.domain !== first.domain || pageOf(next) !== end) break;
      end += pagesOf(next);
    }
    this.operations.push({ op: 'vfioUnmap', endpoint, iovaPage, pages: end - iovaPage });
  }
}

const TRACES: readonly (readonly [name: string, operations: readonly string[]])[] = [
  ['vfio-user-rng.ndjson', ['boot', 'dmaMap', 'dmaUnmap']],
  ['vfio-user-blk.ndjson.gz', ['boot', 'dmaMap', 'dmaUnmap']],
  ['vfio-user-dma.ndjson.gz', ['boot', 'openVfio', 'vfioMap', 'vfioUnmap', 'closeVfio']],
  ['l2-boot.ndjson.gz', ['boot', 'openVfio', 'vfioMap', 'vfioUnmap', 'closeVfio']],
  ['vfio64-mask-0x40201000.ndjson.gz', ['boot', 'openVfio', 'vfioMap', 'vfioUnmap', 'closeVfio']],
];

test.each(TRACES)('given what happened in %s, the same requests come one by one', (name, kinds) => {
  const { trace, counted } = recorded(name);
  const requests = trace.records.filter(isTraceRequest);
  const { operations } = new TraceReader(trace);
  expect([...new Set(operations.map(({ op }) => op))]).toEqual(kinds);
  const ring = trace.header.requestQueueSize!;
  const kicks = kicksOf(new GuestKernel({ pageSizeMask: trace.header.pageSizeMask! }), operations, ring);
  const sent = kicks.flat();
  for (let i = 0; i < requests.length; i++) {
    if (sent[i] !== requestText(requests[i]!)) expect.fail(`request ${i}: ${sent[i]} for ${requestText(requests[i]!)}`);
  }
  expect(sent.length).toBe(requests.length);
  // Kicks: by the rule of the recording exactly, and in number as counted when it was recorded.
  expect(inferredKicks(sent, ring)).toEqual(requests.map(({ kick }) => kick));
  const totals = Object.entries(counted ?? {}).map(([size, kicksOfSize]) => (size === '0' ? 0 : kicksOfSize));
  const total = totals.reduce((sum, some) => sum + some, 0);
  expect(total > 0).toBe(!name.startsWith('l2-boot'));
  // The driver and the recorder ran side by side: two notifications could be seen as one, and one as two.
  if (total > 0) expect(Math.abs(kicks.length - total)).toBeLessThanOrEqual(Math.max(1, total / 100));
});

test('requests have the recorded sizes', () => {
  const encoder = new RequestEncoder();
  for (const [name] of TRACES) {
    const { trace } = recorded(name);
    const requests = trace.records.filter(isTraceRequest);
    const source = new GuestKernel({ pageSizeMask: trace.header.pageSizeMask! }).run(new TraceReader(trace).operations);
    const kick = new Kick(64);
    let at = 0;
    while (source.next(kick)) {
      for (let i = 0; i < kick.count; i++) {
        const length = encoder.encodeEntry(kick, i);
        if (length !== requests[at++]!.readable) expect.fail(`${name}: request ${at - 1} has ${length} bytes`);
      }
    }
    expect(at).toBe(requests.length);
  }
});

test('the five layouts of 64 MiB cost the recorded MAPs, UNMAPs and notifications', () => {
  const { trace } = recorded('vfio64-mask-0x40201000.ndjson.gz');
  const maps = new TraceReader(trace).operations.filter((each) => each.op === 'vfioMap');
  const unmaps = [
    [16, { 16: 1 }],
    [16384, { 64: 256 }],
    [1, { 1: 1 }],
    [2, { 2: 1 }],
    [32, { 32: 1 }],
  ] as const;
  for (const pageSizeMask of [MASK_4K_2M_1G, MASK_4K]) {
    const kernel = new GuestKernel({ pageSizeMask });
    kicksOf(kernel, [
      { op: 'boot', endpoints: [40] },
      { op: 'openVfio', endpoint: 40, scratchPage: 2 },
    ]);
    const model = guestModel('6.12', { pageSizeMask });
    for (const [i, map] of maps.entries()) {
      const [count, sizes] = unmaps[i]!;
      expect(map.runs.reduce((sum, { pages }) => sum + pages, 0)).toBe(16384);
      expect(countKicks(model.mapRuns(runsOf(map.runs), 4), 64)).toEqual({
        kicks: count,
        requests: count,
        maps: count,
        unmaps: 0,
      });
      expect(countKicks(model.unmapRuns(runsOf(map.runs), 4), 64)).toMatchObject({ unmaps: count });
      const mapped = kicksOf(kernel, [map]);
      expect([mapped.length, mapped.flat().length]).toEqual([count, count]);
      const iovaPage = map.runs[0]!.iovaPage;
      const gone = kicksOf(kernel, [{ op: 'vfioUnmap', endpoint: 40, iovaPage, pages: 16384 }]);
      const histogram: Record<number, number> = {};
      for (const { length } of gone) histogram[length] = (histogram[length] ?? 0) + 1;
      expect(histogram).toEqual(sizes);
    }
    expect(maps.length).toBe(5);
  }
});

/** A kernel with endpoint 7 booted in domain 0. */
function booted(pageSizeMask = MASK_4K, strict = false): GuestKernel {
  const kernel = new GuestKernel({ pageSizeMask, strict });
  kicksOf(kernel, [{ op: 'boot', endpoints: [7] }]);
  return kernel;
}

const EP = { endpoint: 7 } as const;

test('boot: PROBE and ATTACH of each endpoint in order, a notification each, ids from the first of the range', () => {
  const kernel = new GuestKernel({ pageSizeMask: MASK_4K, firstDomain: 5 });
  const kicks = kicksOf(kernel, [
    { op: 'boot', endpoints: [24, 0] },
    { op: 'boot', endpoints: [40] },
  ]);
  expect(kicks).toEqual([
    ['PROBE e24'],
    ['ATTACH d5 e24'],
    ['PROBE e0'],
    ['ATTACH d6 e0'],
    ['PROBE e40'],
    ['ATTACH d7 e40'],
  ]);
  expect([kernel.domainsOf(0), kernel.domainsOf(1)]).toEqual([{ standard: 6, vfio: undefined }, undefined]);
});

test('rebind: the blocking domain stays, the VFIO domain gets a new life under the same id', () => {
  const kernel = booted();
  const opened = [['ATTACH d1 e7'], ['ATTACH d2 e7'], ['MAP d2 0+2>8 f3'], ['UNMAP d2 0+2']];
  expect(kicksOf(kernel, [{ op: 'openVfio', ...EP, scratchPage: 8 }])).toEqual(opened);
  expect(kernel.domainsOf(7)).toEqual({ standard: 0, vfio: 2 });
  kicksOf(kernel, [{ op: 'vfioMap', ...EP, runs: [{ iovaPage: 0, physPage: 64, pages: 4 }], flags: 1 }]);
  expect(kicksOf(kernel, [{ op: 'rebind', ...EP, scratchPage: 8 }])).toEqual([
    ['ATTACH d1 e7'],
    ['ATTACH d0 e7'],
    ...opened,
  ]);
  // Another endpoint booted while VFIO is closed takes the free id.
  expect(
    kicksOf(kernel, [
      { op: 'closeVfio', ...EP },
      { op: 'boot', endpoints: [9] },
    ]).slice(2),
  ).toEqual([['PROBE e9'], ['ATTACH d2 e9']]);
  expect(kicksOf(kernel, [{ op: 'openVfio', ...EP, scratchPage: 8 }]).slice(0, 2)).toEqual([
    ['ATTACH d1 e7'],
    ['ATTACH d3 e7'],
  ]);
});

test('a default domain with mappings is replayed one by one when its endpoint comes back', () => {
  const kernel = booted();
  const operations: GuestOperation[] = [
    { op: 'dmaMap', ...EP, iovaPage: 20, physPage: 5, pages: 1, flags: 2 },
    { op: 'dmaMap', ...EP, iovaPage: 10, physPage: 6, pages: 3, flags: 1 },
    { op: 'openVfio', ...EP, scratchPage: 8 },
    { op: 'closeVfio', ...EP },
  ];
  expect(kicksOf(kernel, operations).slice(6)).toEqual([
    ['ATTACH d1 e7'],
    ['ATTACH d0 e7'],
    ['MAP d0 10+3>6 f1'],
    ['MAP d0 20+1>5 f2'],
  ]);
});

test('dma_map_sg: one notification for all segments, contiguous ones merged, cut by page size', () => {
  const segments = [
    { physPage: 100, pages: 2 },
    { physPage: 102, pages: 1 },
    { physPage: 50, pages: 4 },
    { physPage: 54, pages: 1 },
    { physPage: 7, pages: 1 },
  ];
  const sg = { op: 'dmaMapSg', ...EP, iovaPage: 1000, segments, flags: 2 } as const;
  const all = ['MAP d0 1000+3>100 f2', 'MAP d0 1003+5>50 f2', 'MAP d0 1008+1>7 f2'];
  expect(kicksOf(booted(), [sg])).toEqual([all]);
  expect(kicksOf(booted(), [sg], 3)).toEqual([all]);
  expect(kicksOf(booted(), [sg], 2)).toEqual([all.slice(0, 2), all.slice(2)]);
  const runs = [
    { iovaPage: 1000, physPage: 100, pages: 3 },
    { iovaPage: 1003, physPage: 50, pages: 5 },
    { iovaPage: 1008, physPage: 7, pages: 1 },
  ];
  const stateless = guestModel('6.12', { pageSizeMask: MASK_4K, flags: 2 });
  expect(countKicks(stateless.mapSg(runsOf(runs), 0), 64)).toEqual({ kicks: 1, requests: 3, maps: 3, unmaps: 0 });
  expect(countKicks(stateless.mapSg(runsOf(runs), 0), 2)).toMatchObject({ kicks: 2, maps: 3 });
  expect(countKicks(stateless.mapRuns(runsOf(runs), 0), 64)).toMatchObject({ kicks: 3, maps: 3 });
  expect(countKicks(guestModel('4k', { pageSizeMask: MASK_4K }).mapSg(runsOf(runs), 0), 64)).toMatchObject({
    kicks: 1,
    maps: 9,
  });
  expect(() => stateless.mapSg(runsOf(runs), -1)).toThrow(/^domain/);
  // 1 page to the next boundary, then 2, as iommu_pgsize() cuts with every bit set.
  expect(kicksOf(booted(MASK_ALL), [{ ...sg, iovaPage: 1, segments: [{ physPage: 1, pages: 3 }] }])).toEqual([
    ['MAP d0 1+1>1 f2', 'MAP d0 2+2>2 f2'],
  ]);
});

test('dma_unmap: lazy UNMAPs ride with the next request that notifies, or fill the ring, or are flushed', () => {
  const map = (page: number): GuestOperation => ({
    op: 'dmaMap',
    ...EP,
    iovaPage: page,
    physPage: page,
    pages: 1,
    flags: 3,
  });
  const unmap = (page: number): GuestOperation => ({ op: 'dmaUnmap', ...EP, iovaPage: page, pages: 1 });
  const maps = Array.from({ length: 6 }, (_, i) => map(i));
  const sent = (pages: number[]): string[] => pages.map((page) => `UNMAP d0 ${page}+1`);
  const after = (operations: GuestOperation[], capacity = 64, strict = false): string[][] =>
    kicksOf(booted(MASK_4K, strict), [...maps, ...operations], capacity).slice(6);
  expect(after([unmap(3), unmap(0), map(9)])).toEqual([[...sent([3, 0]), 'MAP d0 9+1>9 f3']]);
  expect(after([unmap(1), { op: 'boot', endpoints: [8] }])).toEqual([[...sent([1]), 'PROBE e8'], ['ATTACH d1 e8']]);
  expect(after([unmap(1), unmap(2), { op: 'flush' }, { op: 'flush' }, map(9)])).toEqual([
    sent([1, 2]),
    ['MAP d0 9+1>9 f3'],
  ]);
  expect(after([unmap(1), unmap(2)])).toEqual([sent([1, 2])]);
  expect(after([0, 1, 2, 3, 4].map(unmap), 2)).toEqual([sent([0, 1]), sent([2, 3]), sent([4])]);
  expect(after([...[0, 1].map(unmap), map(9)], 2)).toEqual([sent([0, 1]), ['MAP d0 9+1>9 f3']]);
  expect(after([unmap(1), unmap(2), map(9)], 64, true)).toEqual([sent([1]), sent([2]), ['MAP d0 9+1>9 f3']]);
});

test('an UNMAP covers whole mappings: several, more than asked, or nothing is sent', () => {
  const map = (iovaPage: number, pages: number): GuestOperation => ({
    op: 'dmaMap',
    ...EP,
    iovaPage,
    physPage: 999,
    pages,
    flags: 3,
  });
  const unmap = (iovaPage: number, pages: number): GuestOperation => ({ op: 'dmaUnmap', ...EP, iovaPage, pages });
  const after = (mask: bigint, ...operations: GuestOperation[]): string[] =>
    kicksOf(booted(mask), operations)
      .flat()
      .filter((request) => request.startsWith('UNMAP'));
  expect(after(MASK_4K, map(8, 1), map(9, 1), map(10, 2), unmap(8, 4))).toEqual(['UNMAP d0 8+4']);
  expect(after(MASK_4K, map(8, 4), unmap(8, 1))).toEqual(['UNMAP d0 8+4']);
  // 24 pages at a multiple of 32: the kernel asks for 16 first, and the mapping of 24 goes at once.
  expect(after(MASK_ALL, map(32, 24), unmap(32, 24))).toEqual(['UNMAP d0 32+24']);
  expect(after(MASK_4K, map(8, 4), unmap(9, 1))).toEqual([]);
  expect(after(MASK_4K, map(8, 1), unmap(8, 2), map(8, 1))).toEqual([]);
  expect(after(MASK_4K, map(8, 1), map(10, 1), unmap(8, 3))).toEqual([]);
});

test('a VFIO unmap synchronises after 512 regions, full rings not counted, and at its end', () => {
  const sizes = (pages: number, capacity: number): number[] => {
    const kernel = booted();
    const runs = Array.from({ length: pages }, (_, i) => ({ iovaPage: 16 + i, physPage: 9000 - 2 * i, pages: 1 }));
    kicksOf(kernel, [
      { op: 'openVfio', ...EP, scratchPage: 2 },
      { op: 'vfioMap', ...EP, runs },
    ]);
    return kicksOf(kernel, [{ op: 'vfioUnmap', ...EP, iovaPage: 16, pages }], capacity).map(({ length }) => length);
  };
  expect([511, 512, 513, 1024].map((pages) => sizes(pages, 1024))).toEqual([[511], [512], [512, 1], [512, 512]]);
  expect(sizes(513, 100)).toEqual([100, 100, 100, 100, 100, 12, 1]);
});

test('what is not possible is told when it is reached', () => {
  const refuses =
    (...operations: GuestOperation[]): (() => unknown) =>
    () =>
      kicksOf(booted(), operations);
  const map = { op: 'dmaMap', ...EP, iovaPage: 4, physPage: 4, pages: 2, flags: 3 } as const;
  expect(refuses({ ...map, endpoint: 8 })).toThrow(/^endpoint 8 is not booted/);
  expect(refuses(map, { ...map, iovaPage: 5 })).toThrow(/^iovaPage 5/);
  expect(refuses({ op: 'boot', endpoints: [7] })).toThrow(/booted already/);
  expect(refuses({ op: 'closeVfio', ...EP })).toThrow(/is not open/);
  expect(refuses({ op: 'vfioMap', ...EP, runs: [] })).toThrow(/is not open/);
  const open = { op: 'openVfio', ...EP, scratchPage: 2 } as const;
  expect(refuses(open, open)).toThrow(/open already/);
  expect(() => new GuestKernel({ pageSizeMask: 0n })).toThrow(/^pageSizeMask/);
  expect(() => new GuestKernel({ pageSizeMask: 1n, firstDomain: -1 })).toThrow(/^firstDomain/);
  expect(() => new GuestKernel({ pageSizeMask: 1n, strict: 1 } as never)).toThrow(/^strict/);
  expect(() => new GuestKernel({ pageSizeMask: 1n, lazy: true } as never)).toThrow(/lazy/);
});
