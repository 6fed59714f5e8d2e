// The simulated type1 container: the errno tables, the entry limit, accounting, batches, faults, costs and close.
import { describe, expect, it } from 'vitest';
import { Errno, HostError } from '../../base/errors.ts';
import { HOST_MMIO, HostBatch } from '../context.ts';
import type { ContextOptions, SimulatedHostOptions } from './host.ts';
import { SimulatedHost } from './host.ts';
import type { OperationKind } from './fault-plan.ts';
import type { SimulatedOperation } from './machine.ts';
import type { SimulatedType1Context } from './type1-context.ts';
import type { BufferName, Type1Bench, Type1Case } from './type1-cases.ts';
import { TYPE1_CASES, runType1Case } from './type1-cases.ts';
import type { KernelVersion } from './type1-rules.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const G1 = 1n << 30n;
const RW = 3;

interface Lab {
  readonly host: SimulatedHost;
  readonly context: SimulatedType1Context;
  /** First virtual page of 4 MiB of RAM. */
  readonly va: number;
}

function lab(options: Partial<ContextOptions> = {}, hostOptions: SimulatedHostOptions = {}): Lab {
  const host = new SimulatedHost(hostOptions);
  const { hva } = host.addressSpace.mmap({ length: 2n * M2, kind: 'memfd' });
  const context = host.createContext({ group: 7, endpoints: [3], ...options });
  return { host, context, va: Number(hva / K4) };
}

/** Maps or unmaps through a batch of one; returns the errno. */
function map(context: SimulatedType1Context, iova: number, pages: number, va: number, rights = RW): number {
  const batch = new HostBatch();
  batch.map(iova, pages, va, rights);
  return context.apply(batch, 0) === 1 ? 0 : batch.errno[0]!;
}

function unmap(context: SimulatedType1Context, iova: number, pages: number): [errno: number, done: number] {
  const batch = new HostBatch();
  batch.unmap(iova, pages);
  context.apply(batch, 0);
  return [batch.errno[0]!, batch.done[0]!];
}

function simulatedBench(testCase: Type1Case, kernel: KernelVersion): Type1Bench {
  const host = new SimulatedHost();
  const space = host.addressSpace;
  const context = host.createContext({
    group: 1,
    endpoints: [1],
    kernel,
    entryLimit: testCase.limit ?? 16,
    memlockLimit: testCase.memlock ?? Infinity,
  });
  const holed = space.mmap({ length: 16n * K4, kind: 'memfd' }).hva;
  space.munmap(holed + K4, K4);
  const addresses: Record<BufferName, bigint> = {
    ram: space.mmap({ length: 2n * M2, kind: 'memfd' }).hva,
    readOnly: space.mmap({ length: 16n * K4, kind: 'memfd', prot: 'r' }).hva,
    noAccess: space.mmap({ length: 16n * K4, kind: 'anonymous', prot: 'none' }).hva,
    holed,
    device: space.mmap({ length: 16n * K4, kind: 'pfnmap' }).hva,
    nothing: 0x10_0000n,
    kernel: 0xffff_8000_0000_0000n,
  };
  return {
    kernel,
    mapDma: (args) => context.mapDma(args),
    unmapDma: (args) => context.unmapDma(args),
    entriesLeft: () => context.entriesLeft(),
    address: (buffer) => addresses[buffer],
    snapshot: () =>
      JSON.stringify([context.entries(), context.prober(1).reachable(), context.entriesLeft(), host.lockedPages]),
  };
}

describe('errno tables', () => {
  it.each(TYPE1_CASES)('$title', (testCase) => {
    for (const kernel of ['6.1', '6.12', '7.2'] as const) {
      expect(runType1Case(testCase, simulatedBench(testCase, kernel)), kernel).toEqual([]);
    }
  });

  it('has a runner that can fail', () => {
    const wrong: Type1Case = {
      title: '',
      entries: 1,
      steps: [{ call: 'map', iova: 1n, size: K4, flags: 3, buffer: 'ram', errno: 0 }],
    };
    expect(runType1Case(wrong, simulatedBench(wrong, '6.1'))).toEqual([
      'step 0 (map 0x1 + 0x1000): EINVAL instead of success',
      '0 entries at the end instead of 1',
    ]);
  });

  it('pin the zero page for reading before 6.2: it is not locked, and stays what the device reads', () => {
    const seen = (['6.1', '6.12'] as const).map((kernel) => {
      const host = new SimulatedHost({ kernel });
      const { hva, object } = host.addressSpace.mmap({ length: 4n * K4, kind: 'anonymous' });
      const context = host.createContext({ group: 1, endpoints: [1] });
      const va = Number(hva / K4);
      const locked = (): number => host.lockedPages;
      object.write(4096, Uint8Array.of(1));
      const counts = [map(context, 0, 2, va, 1), locked(), map(context, 8, 1, va + 2), locked()];
      counts.push(map(context, 16, 1, va + 2, 1), locked(), unmap(context, 0, 2)[0], locked());
      map(context, 0, 4, va, 1);
      for (let page = 0; page < 4; page++) object.write(page * 4096, Uint8Array.of(7));
      const bytes = [0, 1, 2, 3].map((page) => host.prober(1).read(BigInt(page) * K4, 1)?.[0]);
      context.close();
      return { counts, bytes, locked: locked() };
    });
    expect(seen).toEqual([
      { counts: [0, 1, 0, 2, 0, 3, 0, 2], bytes: [0, 7, 7, 0], locked: 0 },
      { counts: [0, 2, 0, 3, 0, 4, 0, 2], bytes: [7, 7, 7, 7], locked: 0 },
    ]);
  });

  const wraps = [
    ['6.1', Errno.EINVAL],
    ['6.12', Errno.EINVAL],
    ['7.2', Errno.EOVERFLOW],
  ] as const;
  it.each(wraps)('apply has the same rules in pages on %s', (kernel, wrap) => {
    const top = 2 ** 52;
    const { context, va } = lab({ kernel });
    expect(map(context, 0, 0, va)).toBe(Errno.EINVAL);
    expect(map(context, 0, 1, va, 0)).toBe(Errno.EINVAL);
    expect(map(context, top - 1, 2, va)).toBe(wrap);
    expect(map(context, 0, 2, top - 1)).toBe(wrap);
    expect(map(context, top - 1, 1, va)).toBe(Errno.EINVAL);
    expect(map(context, 0, 1, top - 1)).toBe(Errno.EFAULT);
    expect(unmap(context, 0, 0)).toEqual([Errno.EINVAL, 0]);
    expect(unmap(context, top - 1, 2)).toEqual([wrap, 0]);
    expect(unmap(context, 0, top)).toEqual([0, 0]);
    expect(context.stats().entries).toBe(0);
  });

  it('ignores the device-memory hint of a batch, which is no right', () => {
    const { context, va } = lab();
    expect(map(context, 0, 1, va, HOST_MMIO)).toBe(Errno.EINVAL);
    expect(map(context, 0, 1, va, RW | HOST_MMIO)).toBe(0);
    expect(context.entries()).toEqual([{ iova: 0, pages: 1, rights: RW }]);
    expect(context.prober(3).reachable()[0]!.rights).toBe(RW);
  });

  it('checks the alignment to host pages of 64 KiB, physical addresses included', () => {
    const { host, context } = lab({ pageSizes: 0x1_0000n | (1n << 25n) });
    const ram = host.addressSpace.mmap({ length: M2, kind: 'memfd', pageSize: 0x1_0000 });
    const small = host.addressSpace.mmap({ length: M2, kind: 'memfd', layout: 'scattered' });
    const va = Number(ram.hva / K4);
    expect([map(context, 8, 16, va), map(context, 16, 8, va), map(context, 16, 16, va + 8)]).toEqual([22, 22, 22]);
    expect(map(context, 16, 16, va)).toBe(0);
    expect(unmap(context, 16, 8)).toEqual([Errno.EINVAL, 0]);
    expect(map(context, 64, 16, Number(small.hva / K4))).toBe(Errno.EINVAL);
    expect(host.lockedPages).toBe(16);
    expect(context.stats().ioptes).toEqual(new Map([[0x1_0000n, 1]]));
  });

  it('does not map over the border of two usable ranges that touch', () => {
    const usableRanges = [
      { start: 0n, end: 0xffffn },
      { start: 0x1_0000n, end: 0x1_ffffn },
      { start: 0x2_0800n, end: 0x2_27ffn },
    ];
    const { context, va } = lab({ usableRanges });
    expect(map(context, 15, 2, va)).toBe(Errno.EINVAL);
    expect([map(context, 15, 1, va), map(context, 16, 16, va)]).toEqual([0, 0]);
    expect([map(context, 32, 1, va), map(context, 33, 1, va), map(context, 34, 1, va)]).toEqual([22, 0, 22]);
  });

  it('maps the last page of 2^64 where the host can', () => {
    const { context, va } = lab({ usableRanges: [{ start: 0n, end: 2n ** 64n - 1n }] });
    expect(map(context, 2 ** 52 - 2, 2, va)).toBe(0);
    expect(unmap(context, 2 ** 52 - 1, 1)).toEqual([Errno.EINVAL, 0]);
    expect(unmap(context, 2 ** 52 - 2, 2)).toEqual([0, 2]);
  });
});

describe('entry limit', () => {
  it.each([0, 1, 2, 16, 65535])('%i entries fit, one more does not', (entryLimit) => {
    const { context, va } = lab({ entryLimit });
    expect(context.entriesLeft()).toBe(entryLimit);
    const batch = new HostBatch();
    for (let i = 0; i <= entryLimit; i++) batch.map(2 * i, 1, va, RW);
    expect(context.apply(batch, 0)).toBe(entryLimit);
    expect(batch.errno[entryLimit]).toBe(Errno.ENOSPC);
    expect(context.entriesLeft()).toBe(0);
    expect(context.stats()).toMatchObject({ entries: entryLimit, entriesPeak: entryLimit, refusals: 1 });
    if (entryLimit === 0) return;
    expect(unmap(context, 0, 1)).toEqual([0, 1]);
    expect(context.entriesLeft()).toBe(1);
    expect(context.apply(batch, entryLimit)).toBe(entryLimit + 1);
    expect(map(context, 1, 1, va)).toBe(Errno.ENOSPC);
    expect(context.unmapAll()).toBe(0);
    expect(context.entriesLeft()).toBe(entryLimit);
  });

  it('takes 65536 when the parameter was 65536, and is sampled when the group is opened', () => {
    const { host, context, va } = lab({ entryLimit: 65536 });
    const batch = new HostBatch();
    for (let i = 0; i <= 65536; i++) batch.map(i, 1, va, RW);
    expect(context.apply(batch, 0)).toBe(65536);
    const other = host.createContext({ group: 8, endpoints: [4] });
    expect([other.entriesLeft(), context.entriesLeft()]).toEqual([65535, 0]);
  });

  it('can report more or less than it has', () => {
    const { context, va } = lab({ entryLimit: 4, entriesLeftOffset: 3 });
    expect(context.entriesLeft()).toBe(7);
    context.entriesLeftOffset = -3;
    expect(context.entriesLeft()).toBe(1);
    expect([0, 1].map((i) => map(context, i, 1, va))).toEqual([0, 0]);
    expect(context.entriesLeft()).toBe(0);
    expect(map(context, 2, 1, va)).toBe(0);
  });
});

describe('locked memory', () => {
  it('counts each entry, also of the same page and in two containers, and not device memory', () => {
    const { host, context, va } = lab();
    const second = host.createContext({ group: 8, endpoints: [4] });
    const bar = host.addressSpace.mmap({ length: 16n * K4, kind: 'pfnmap' });
    expect([map(context, 0, 256, va), map(context, 256, 256, va), map(second, 0, 256, va)]).toEqual([0, 0, 0]);
    expect(map(context, 4096, 16, Number(bar.hva / K4))).toBe(0);
    expect([host.lockedPages, context.stats().pinnedPages, second.stats().pinnedPages]).toEqual([768, 512, 256]);
    second.close();
    expect([host.lockedPages, host.lockedPagesPeak]).toEqual([512, 768]);
    expect(context.unmapAll()).toBe(0);
    expect([host.lockedPages, host.lockedPagesPeak]).toEqual([0, 768]);
  });

  it('limits the process, not the container, and rolls back', () => {
    const { host, context, va } = lab({}, { memlockLimit: 20 });
    const second = host.createContext({ group: 8, endpoints: [4] });
    expect([map(context, 0, 16, va), map(second, 0, 5, va), map(second, 0, 4, va)]).toEqual([0, Errno.ENOMEM, 0]);
    expect([map(context, 16, 1, va), context.stats().entries]).toEqual([Errno.ENOMEM, 1]);
    expect(host.lockedPages).toBe(20);
  });
});

describe('IOPTE sizes', () => {
  const sizes: readonly [string, bigint, bigint, bigint, [bigint, number][]][] = [
    ['1 GiB congruent', 0n, 0n, G1, [[G1, 1]]],
    ['1 GiB shifted by 2M on both sides', M2, M2, G1, [[M2, 512]]],
    ['1 GiB, only 2M congruent', M2, 0n, G1, [[M2, 512]]],
    ['2 MiB, only 4K congruent', K4, 0n, M2, [[K4, 512]]],
    [
      '2 MiB and a page on each side',
      M2 - K4,
      M2 - K4,
      M2 + 2n * K4,
      [
        [K4, 2],
        [M2, 1],
      ],
    ],
    [
      'all three sizes',
      G1 - M2 - K4,
      G1 - M2 - K4,
      G1 + 2n * M2 + 2n * K4,
      [
        [K4, 2],
        [M2, 2],
        [G1, 1],
      ],
    ],
  ];
  it.each(sizes)('%s', (_, iova, offset, size, expected) => {
    const { host, context } = lab();
    const { hva } = host.addressSpace.mmap({ length: 3n * G1, kind: 'memfd' });
    expect(context.mapDma({ iova: 4n * G1 + iova, vaddr: hva + offset, size, flags: RW }).errno).toBe(0);
    expect(context.stats().ioptes).toEqual(new Map(expected));
    expect(context.unmapAll()).toBe(0);
    expect(context.stats().ioptes.size).toBe(0);
  });

  it('follow the scattering of huge pages', () => {
    const { host, context } = lab();
    const { hva } = host.addressSpace.mmap({ length: 8n * M2, kind: 'hugetlb', layout: 'scattered' });
    expect(map(context, 512, 8 * 512, Number(hva / K4))).toBe(0);
    expect(context.stats().ioptes).toEqual(new Map([[M2, 8]]));
  });
});

describe('batches', () => {
  it('stop at the first refusal, keep what was done, and go on from an index', () => {
    const { context, va } = lab();
    const batch = new HostBatch(1);
    batch.map(0, 4, va, RW);
    batch.map(3, 1, va, RW);
    batch.unmap(0, 16);
    batch.unmap(0, 16);
    expect(context.apply(batch, 0)).toBe(1);
    expect([...batch.errno.subarray(0, 4)]).toEqual([0, Errno.EEXIST, 0, 0]);
    expect(context.entries()).toEqual([{ iova: 0, pages: 4, rights: RW }]);
    expect(context.apply(batch, 2)).toBe(4);
    expect([...batch.done.subarray(0, 4)]).toEqual([0, 0, 4, 0]);
    expect(context.apply(batch, 4)).toBe(4);
  });

  it('name an illegal column before anything changes', () => {
    const { context, va } = lab();
    const wrong: [(batch: HostBatch) => void, RegExp][] = [
      [(batch) => (batch.iova[1] = 0.5), /^batch.iova\[1\] /],
      [(batch) => (batch.pages[1] = -1), /^batch.pages\[1\] /],
      [(batch) => (batch.va[1] = NaN), /^batch.va\[1\] /],
      [(batch) => (batch.iova[1] = 2 ** 53), /^batch.iova\[1\] /],
      [(batch) => (batch.rights[1] = 8), /^batch.rights\[1\] /],
      [(batch) => (batch.kind[1] = 4), /^batch.kind\[1\] /],
    ];
    for (const [spoil, message] of wrong) {
      const batch = new HostBatch();
      batch.map(0, 1, va, RW);
      batch.map(1, 1, va, RW);
      spoil(batch);
      expect(() => context.apply(batch, 0)).toThrow(message);
    }
    expect(() => context.apply(new HostBatch(), 1)).toThrow(/^from /);
    expect(context.stats()).toMatchObject({ mapCalls: 0, entries: 0 });
  });

  it('show every single operation to an observer', () => {
    const { host, context, va } = lab();
    const seen: [OperationKind, number, number, number, number][] = [];
    const stop = host.onOperation(({ kind, iova, pages, errno }) => {
      seen.push([kind, iova, pages, errno, context.stats().entries]);
    });
    const batch = new HostBatch();
    batch.map(8, 2, va, RW);
    batch.map(10, 2, va, RW);
    batch.unmap(9, 1);
    context.apply(batch, 0);
    context.unmapAll();
    context.clearBusMaster();
    context.resetDevices();
    context.mapDma({ iova: 1n, vaddr: 0n, size: K4, flags: RW });
    stop();
    context.unmapAll();
    expect(seen).toEqual([
      ['map', 8, 2, 0, 1],
      ['map', 10, 2, 0, 2],
      ['unmap', 9, 1, Errno.EINVAL, 2],
      ['unmapAll', 0, 0, 0, 0],
      ['clearBusMaster', 0, 0, 0, 0],
      ['resetDevices', 0, 0, 0, 0],
      ['map', 0, 1, Errno.EINVAL, 0],
    ]);
  });
});

describe('injected failures', () => {
  const operations: readonly [OperationKind, (context: SimulatedType1Context, va: number) => number][] = [
    ['map', (context, va) => map(context, 100, 1, va)],
    ['unmap', (context) => unmap(context, 0, 4)[0]],
    ['unmapAll', (context) => context.unmapAll()],
    ['clearBusMaster', (context) => context.clearBusMaster()],
    ['resetDevices', (context) => context.resetDevices()],
  ];
  it.each(operations)('%s changes nothing', (kind, run) => {
    const { host, context, va } = lab();
    map(context, 0, 4, va);
    const before = JSON.stringify([context.prober(3).reachable(), host.lockedPages, host.resets(3)]);
    host.failAt(1, Errno.EIO, { kind });
    expect(run(context, va)).toBe(Errno.EIO);
    expect(JSON.stringify([context.prober(3).reachable(), host.lockedPages, host.resets(3)])).toBe(before);
    expect(host.faults).toEqual({ injected: 1, pending: 0 });
    expect(run(context, va)).toBe(0);
    expect(JSON.stringify([context.prober(3).reachable(), host.lockedPages, host.resets(3)])).not.toBe(before);
  });

  it('hit the n-th operation, of a kind, of a group, several times', () => {
    const { host, context, va } = lab();
    const other = host.createContext({ group: 8, endpoints: [4] });
    host.failAt(3, Errno.ENOMEM);
    expect([0, 1, 2, 3].map((i) => map(context, i, 1, va))).toEqual([0, 0, Errno.ENOMEM, 0]);
    host.failAt(2, Errno.EINTR, { kind: 'map', group: 8 });
    expect([map(context, 9, 1, va), map(other, 0, 1, va), other.unmapAll()]).toEqual([0, 0, 0]);
    expect(map(other, 0, 1, va)).toBe(Errno.EINTR);
    host.failAt(1, Errno.EIO, { kind: 'unmapAll', times: Infinity });
    expect([context.unmapAll(), other.unmapAll(), context.unmapAll()]).toEqual([5, 5, 5]);
    host.clearFaults();
    expect(context.unmapAll()).toBe(0);
  });

  it('queue: two that are due at once happen one after the other', () => {
    const { host, context } = lab();
    host.failAt(1, Errno.EIO);
    host.failAt(1, Errno.ENOMEM);
    expect([context.unmapAll(), context.unmapAll(), context.unmapAll()]).toEqual([Errno.EIO, Errno.ENOMEM, 0]);
  });

  it('stop a batch in the middle, and count the byte-level calls too', () => {
    const { host, context, va } = lab();
    host.failAt(2, Errno.ENOMEM);
    const batch = new HostBatch();
    for (let i = 0; i < 3; i++) batch.map(i, 1, va, RW);
    expect(context.apply(batch, 0)).toBe(1);
    expect(context.apply(batch, 1)).toBe(3);
    host.failAt(1, Errno.EIO);
    expect(context.unmapDma({ iova: 0n, size: K4 })).toEqual({ errno: Errno.EIO, size: K4 });
    expect(context.unmapDma({ iova: 0n, size: 0n, flags: 2 })).toEqual({ errno: 0, size: 3n * K4 });
  });

  it('name a wrong argument', () => {
    const { host } = lab();
    expect(() => host.failAt(0, 5)).toThrow(/^n /);
    expect(() => host.failAt(1, 0)).toThrow(/^errno /);
    expect(() => host.failAt(1, 5, { kind: 'open' as OperationKind })).toThrow(/^kind /);
  });
});

describe('costs', () => {
  it('add up per call, map, removed entry and page', () => {
    let clock = 0;
    const costs = { perCallNs: 1000, perMapNs: 100, perUnmapNs: 10, perPageNs: 1 };
    const { host, context, va } = lab({}, { costs, clock: (ns) => (clock += ns) });
    const batch = new HostBatch();
    for (let i = 0; i < 4; i++) batch.map(2 * i, 2, va, RW);
    context.apply(batch, 0);
    expect(host.elapsedNs).toBe(1000 + 4 * (100 + 2));
    batch.clear();
    batch.unmap(0, 4);
    batch.unmap(100, 4);
    context.apply(batch, 0);
    expect(host.elapsedNs).toBe(1408 + 1000 + 2 * 10 + 4 + 10);
    expect(clock).toBe(host.elapsedNs);
  });
});

describe('close', () => {
  it('drops entries and access, works twice, and frees the group', () => {
    const { host, context, va } = lab();
    map(context, 0, 4, va);
    const prober = host.prober(3);
    context.close();
    context.close();
    expect([prober.reachable(), prober.physicalPageAt(0, false), host.lockedPages]).toEqual([[], -1, 0]);
    expect(context.entries()).toEqual([]);
    const again = host.createContext({ group: 7, endpoints: [3] });
    map(again, 0, 4, va);
    expect(prober.reachable().length).toBe(1);
  });

  it('makes every method throw ERR_VIOMMU_HOST_CLOSED', () => {
    const { context } = lab();
    context.close();
    const calls: (() => unknown)[] = [
      () => context.apply(new HostBatch(), 0),
      () => context.unmapAll(),
      () => context.entriesLeft(),
      () => context.clearBusMaster(),
      () => context.resetDevices(),
      () => context.mapDma({ iova: 0n, vaddr: 0n, size: K4, flags: RW }),
      () => context.unmapDma({ iova: 0n, size: K4 }),
    ];
    for (const call of calls) {
      expect(call).toThrow(HostError);
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }));
    }
  });

  it('stops a batch when an observer closes the context', () => {
    const { host, context, va } = lab();
    host.onOperation((operation: SimulatedOperation) => operation.context.close());
    const batch = new HostBatch();
    batch.map(0, 1, va, RW);
    batch.map(1, 1, va, RW);
    expect(() => context.apply(batch, 0)).toThrow(/is closed/);
    expect(host.lockedPages).toBe(0);
  });
});

describe('options', () => {
  it('refuse a group that is open, and endpoints of another group', () => {
    const { host } = lab();
    expect(() => host.createContext({ group: 7, endpoints: [3] })).toThrow(
      expect.objectContaining({ code: 'ERR_VIOMMU_HOST_UNAVAILABLE', errno: Errno.EBUSY }),
    );
    expect(() => host.createContext({ group: 8, endpoints: [3] })).toThrow(/belongs to group 7/);
    expect(() => host.createContext({ group: 8, endpoints: [] })).toThrow(/^endpoints /);
    expect(() => host.createContext({ group: 8, endpoints: [5, 5] })).toThrow(/^endpoints /);
    expect(() => host.prober(5)).toThrow(/^endpoint 5 /);
  });

  const wrong: readonly [Record<string, unknown>, RegExp][] = [
    [{ entryLimit: -1 }, /^entryLimit /],
    [{ usableRanges: [] }, /^usableRanges /],
    [{ usableRanges: [{ start: 5n, end: 4n }] }, /^usableRanges\[0\].end /],
    [{ usableRanges: [0n, 1n].map(() => ({ start: 0n, end: 1n })) }, /^usableRanges /],
    [{ pageSizes: 0x800n }, /^pageSizes /],
    [{ memlockLimit: NaN }, /^memlockLimit /],
    [{ kernel: '5.10' }, /^kernel /],
    [{ costs: { perCallNs: -1 } }, /^costs.perCallNs /],
    [{ entryLimits: 1 }, /entryLimits is not an option/],
  ];
  it.each(wrong)('name the wrong one of %o', (options, message) => {
    expect(() => new SimulatedHost(options)).toThrow(message);
  });
});
