// The simulated iommufd attachment: errno tables, modes, lazy pinning, copies, batches, faults, costs, and a naive model.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno, HostError } from '../../base/errors.ts';
import { HOST_MMIO, HostBatch } from '../context.ts';
import type { IommufdContextOptions, SimulatedHostOptions } from './host.ts';
import { SimulatedHost } from './host.ts';
import type { IommufdBench, IommufdCase, IommufdKernel, IommufdSide } from './iommufd-case.ts';
import { runIommufdCase } from './iommufd-case.ts';
import { IOMMUFD_CASES } from './iommufd-cases.ts';
import type { SimulatedIommufdContext } from './iommufd-context.ts';
import { IoasFlag } from './iommufd-rules.ts';
import type { BufferName } from './type1-cases.ts';
import type { SimulatedType1Context } from './type1-context.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const G1 = 1n << 30n;
const FIXED_RW = IoasFlag.fixed | IoasFlag.readable | IoasFlag.writeable;
type AnyContext = SimulatedType1Context | SimulatedIommufdContext;

interface Lab {
  readonly host: SimulatedHost;
  readonly context: SimulatedIommufdContext;
  /** First virtual page of 4 MiB of RAM. */
  readonly va: number;
}

function lab(options: Partial<IommufdContextOptions> = {}, hostOptions: SimulatedHostOptions = {}): Lab {
  const host = new SimulatedHost(hostOptions);
  const { hva } = host.addressSpace.mmap({ length: 2n * M2, kind: 'memfd' });
  const context = host.createContext({ group: 7, endpoints: [3], flavour: 'iommufd', ...options });
  return { host, context, va: Number(hva / K4) };
}

function map(context: AnyContext, iova: number, pages: number, va: number, rights = 3): number {
  const batch = new HostBatch();
  batch.map(iova, pages, va, rights);
  return context.apply(batch, 0) === 1 ? 0 : batch.errno[0]!;
}

function unmap(context: AnyContext, iova: number, pages: number): [errno: number, done: number] {
  const batch = new HostBatch();
  batch.unmap(iova, pages);
  context.apply(batch, 0);
  return [batch.errno[0]!, batch.done[0]!];
}

function side(context: SimulatedIommufdContext, vault: SimulatedIommufdContext): IommufdSide {
  return {
    map: (ioas, args) => (ioas === 'vault' ? vault : context).ioasMap(args),
    unmap: (args) => context.ioasUnmap(args),
    unmapDma: (args) => context.unmapDma(args),
    copy: (args) => context.ioasCopy({ source: vault, ...args }),
    attach: () => context.attach(),
    detach: () => context.detach(),
    areas: () => context.stats().entries,
  };
}

function simulatedBench(testCase: IommufdCase, kernel: IommufdKernel): IommufdBench {
  const host = new SimulatedHost({ kernel, memlockLimit: testCase.memlock ?? Infinity });
  const space = host.addressSpace;
  const { mode = 'large', attached = true } = testCase;
  const context = host.createContext({ group: 1, endpoints: [1], flavour: 'iommufd', mode, attached });
  const vault = host.createContext({ group: 2, endpoints: [2], flavour: 'iommufd', attached: false });
  const second = host.createContext({ group: 3, endpoints: [3], flavour: 'iommufd', mode });
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
    ...side(context, vault),
    second: testCase.second === true ? side(second, vault) : undefined,
    join: () => second.attachTo(context),
    part: () => second.attachAlone(),
    leave: () => context.attachAlone(),
    locked: () => host.lockedPages,
    address: (buffer) => addresses[buffer],
    snapshot: () =>
      JSON.stringify([
        [context, second, vault].map((each) => [
          each.entries(),
          each.prober(each.group).reachable(),
          each.attached,
          each.stats().pinnedPages,
          [...each.stats().ioptes].map(([size, count]) => [Number(size), count]),
        ]),
        host.lockedPages,
      ]),
  };
}

describe('errno tables', () => {
  it.each(IOMMUFD_CASES)('$title', (testCase) => {
    for (const kernel of ['6.12', '7.2'] as const) {
      expect(runIommufdCase(testCase, simulatedBench(testCase, kernel)), kernel).toEqual([]);
    }
  });

  it('has a runner that can fail', () => {
    const step = { call: 'map', ioas: 'device', flags: FIXED_RW, length: K4, buffer: 'ram', offset: 0n } as const;
    const wrong: IommufdCase = {
      title: '',
      areas: 2,
      locked: 2,
      steps: [
        { ...step, iova: 1n, errno: 0 },
        { ...step, iova: 0n, errno: 0 },
        { ...step, iova: 0n, errno: Errno.EEXIST, partial: true },
        { call: 'unmap', iova: 0n, length: K4, done: 2n * K4, errno: 0 },
      ],
    };
    expect(runIommufdCase(wrong, simulatedBench(wrong, '6.12'))).toEqual([
      'step 0 (map): EINVAL instead of success',
      'step 2 (map): a refused call has changed nothing',
      'step 3 (unmap): size 0x1000 instead of 0x2000',
      '0 areas at the end instead of 2',
      '0 pages locked instead of 2',
    ]);
  });

  it('has a runner that can fail with two groups', () => {
    const step = { call: 'map', ioas: 'device', flags: FIXED_RW, length: K4, buffer: 'ram', offset: 0n } as const;
    const wrong: IommufdCase = {
      title: '',
      second: true,
      areas: 2,
      secondAreas: 2,
      steps: [
        { ...step, iova: 0n, errno: 0, on: 'second' },
        { ...step, iova: 0n, errno: Errno.EEXIST },
        { call: 'join', errno: Errno.EADDRINUSE },
        { call: 'detach', errno: 0, on: 'second' },
        { call: 'part', errno: 0 },
        { call: 'leave', errno: 0 },
      ],
    };
    expect(runIommufdCase(wrong, simulatedBench(wrong, '7.2'))).toEqual([
      'step 1 (map): success instead of EEXIST',
      'step 2 (join): success instead of EADDRINUSE',
      '1 areas at the end instead of 2',
      '0 areas of the second at the end instead of 2',
    ]);
  });

  it.each(['large', 'cut'] as const)('apply has the same rules in pages, mode %s', (mode) => {
    const top = 2 ** 52;
    const { context, va } = lab({ mode });
    expect(map(context, 0, 0, va)).toBe(Errno.EINVAL);
    expect(map(context, 0, 1, va, 0)).toBe(Errno.EINVAL);
    expect(map(context, 0, 1, va, HOST_MMIO)).toBe(Errno.EINVAL);
    expect(map(context, top - 1, 2, va)).toBe(Errno.EOVERFLOW);
    expect(map(context, top, 1, va)).toBe(Errno.EOVERFLOW);
    expect(map(context, 0, 1, top - 1)).toBe(Errno.EOVERFLOW);
    expect(map(context, 0, 1, top - 2)).toBe(Errno.EFAULT);
    expect(map(context, top - 1, 1, va)).toBe(Errno.EINVAL);
    expect(map(context, 0xfee00, 1, va)).toBe(Errno.EINVAL);
    expect(unmap(context, 0, 0)).toEqual([Errno.EINVAL, 0]);
    expect(unmap(context, top - 1, 2)).toEqual([Errno.EOVERFLOW, 0]);
    expect(unmap(context, top, 1)).toEqual([Errno.EOVERFLOW, 0]);
    expect(unmap(context, 0, 1)).toEqual([mode === 'cut' ? 0 : Errno.ENOENT, 0]);
    expect(unmap(context, 0, top)).toEqual([0, 0]);
    expect([map(context, 0, 4, va), map(context, 0, 1, va), context.stats().entries]).toEqual([0, Errno.EEXIST, 1]);
    expect([unmap(context, 1, 0), unmap(context, 2, top - 1)]).toEqual([
      [Errno.EINVAL, 0],
      [Errno.EOVERFLOW, 0],
    ]);
    expect(context.stats().entries).toBe(1);
  });
});

describe('against type1', () => {
  it('a cut unmap changes nothing on type1, and removes what comes before on iommufd', () => {
    const { host, context, va } = lab();
    const type1 = host.createContext({ group: 8, endpoints: [4] });
    for (const each of [context, type1]) for (let i = 0; i < 3; i++) map(each, 4 * i, 4, va);
    expect(unmap(type1, 0, 10)).toEqual([Errno.EINVAL, 0]);
    expect(type1.entries().map(({ iova }) => iova)).toEqual([0, 4, 8]);
    expect(unmap(context, 0, 10)).toEqual([Errno.ENOENT, 0]);
    expect(context.entries()).toEqual([{ iova: 8, pages: 4, rights: 3 }]);
    expect(
      context
        .prober(3)
        .reachable()
        .map(({ iova, pages }) => [iova, pages]),
    ).toEqual([[8, 4]]);
    expect(host.lockedPages).toBe(12 + 4);
  });

  it('an empty unmap is OK on type1 and ENOENT on iommufd, everything is OK on both', () => {
    const { host, context } = lab();
    const type1 = host.createContext({ group: 8, endpoints: [4] });
    expect([unmap(type1, 0, 8)[0], unmap(context, 0, 8)[0]]).toEqual([0, Errno.ENOENT]);
    expect([type1.unmapAll(), context.unmapAll()]).toEqual([0, 0]);
  });

  it('maps over the border of usable ranges that touch, but no reserved byte', () => {
    const usableRanges = [
      { start: 0n, end: 0xffffn },
      { start: 0x1_0000n, end: 0x1_ffffn },
      { start: 0x2_0800n, end: 0x2_27ffn },
    ];
    const { context, va } = lab({ usableRanges });
    expect([map(context, 15, 2, va), map(context, 31, 2, va), map(context, 32, 1, va)]).toEqual([0, 22, 22]);
    expect([map(context, 33, 1, va), map(context, 34, 1, va), map(context, 31, 1, va)]).toEqual([0, 22, 0]);
  });

  it('has no entry limit, and counts locked memory for the user, not for the process', () => {
    const { host, context, va } = lab({}, { entryLimit: 1, memlockLimit: 40 });
    expect(context.limits.entryLimit).toBe(Infinity);
    const type1 = host.createContext({ group: 8, endpoints: [4] });
    for (let i = 0; i < 20; i++) expect(map(context, i, 1, va)).toBe(0);
    expect([context.entriesLeft(), type1.entriesLeft()]).toEqual([Infinity, 1]);
    expect(map(type1, 0, 40, va)).toBe(0);
    expect(map(context, 64, 21, va)).toBe(Errno.ENOMEM);
    expect(map(context, 64, 20, va)).toBe(0);
    expect([host.lockedPages, host.lockedPagesPeak, context.stats().pinnedPages]).toEqual([80, 80, 40]);
  });

  it('takes more areas than any type1 container', () => {
    const { context, va } = lab();
    const batch = new HostBatch();
    for (let i = 0; i < 70_000; i++) batch.map(i, 1, va, 3);
    expect(context.apply(batch, 0)).toBe(70_000);
    expect(context.stats()).toMatchObject({ entries: 70_000, entriesPeak: 70_000, pinnedPages: 70_000 });
    expect(context.unmapAll()).toBe(0);
    expect(context.stats()).toMatchObject({ entries: 0, pinnedPages: 0 });
  });

  it('checks the alignment to host pages of 64 KiB, physical addresses included', () => {
    const { host, context } = lab({ pageSizes: 0x1_0000n | (1n << 25n) });
    const ram = host.addressSpace.mmap({ length: M2, kind: 'memfd', pageSize: 0x1_0000 });
    const small = host.addressSpace.mmap({ length: M2, kind: 'memfd', layout: 'scattered' });
    const va = Number(ram.hva / K4);
    expect([map(context, 8, 16, va), map(context, 16, 8, va), map(context, 16, 16, va + 8)]).toEqual([22, 22, 22]);
    expect([map(context, 16, 16, va), map(context, 64, 16, Number(small.hva / K4))]).toEqual([0, Errno.EINVAL]);
    expect(host.lockedPages).toBe(16);
    context.detach();
    expect(map(context, 8, 8, va)).toBe(0);
    expect(context.attach()).toBe(Errno.EADDRINUSE);
  });
});

describe('modes', () => {
  it('large has the largest IOPTEs, cut the smallest', () => {
    for (const [mode, expected] of [
      ['large', [[G1, 1]]],
      ['cut', [[K4, 2 ** 18]]],
    ] as const) {
      const { host, context } = lab({ mode });
      const { hva } = host.addressSpace.mmap({ length: G1, kind: 'memfd' });
      expect(map(context, 2 ** 20 + 2 ** 18, 2 ** 18, Number(hva / K4))).toBe(0);
      expect([...context.stats().ioptes]).toEqual(expected);
    }
  });

  it('cut unmaps parts without a moment of lost access beside them', () => {
    const { host, context, va } = lab({ mode: 'cut' });
    map(context, 0, 512, va);
    const prober = host.prober(3);
    const seen: number[][] = [];
    host.onOperation(() =>
      seen.push(
        prober
          .reachable()
          .map(({ iova, pages }) => [iova, pages])
          .flat(),
      ),
    );
    expect(unmap(context, 100, 10)).toEqual([0, 10]);
    expect(unmap(context, 95, 20)).toEqual([0, 10]);
    expect(unmap(context, 0, 1)).toEqual([0, 1]);
    expect(unmap(context, 511, 5)).toEqual([0, 1]);
    expect(seen).toEqual([
      [0, 100, 110, 402],
      [0, 95, 115, 397],
      [1, 94, 115, 397],
      [1, 94, 115, 396],
    ]);
    expect(prober.physicalPageAt(115, true)).toBe(host.addressSpace.physicalPageOf(va + 115));
    expect(host.lockedPages).toBe(490);
    expect([...context.stats().ioptes]).toEqual([[K4, 490]]);
    expect(context.entries().length).toBe(2);
    expect(context.unmapAll()).toBe(0);
    expect(host.lockedPages).toBe(0);
  });

  it('cut keeps what a detach and attach must find', () => {
    const { host, context, va } = lab({ mode: 'cut' });
    map(context, 0, 8, va);
    unmap(context, 2, 1);
    context.detach();
    expect(unmap(context, 5, 1)).toEqual([0, 1]);
    expect(context.attach()).toBe(0);
    expect(context.entries().map(({ iova, pages }) => [iova, pages])).toEqual([
      [0, 2],
      [3, 2],
      [6, 2],
    ]);
    for (const page of [0, 1, 3, 4, 6, 7]) {
      expect(context.prober(3).physicalPageAt(page, true)).toBe(host.addressSpace.physicalPageOf(va + page));
    }
    expect(host.lockedPages).toBe(6);
  });
});

describe('lazy pinning', () => {
  it('pins what the memory is when the devices are attached, not when it was mapped', () => {
    const { host, context, va } = lab({ attached: false });
    const other = host.addressSpace.mmap({ length: M2, kind: 'memfd' });
    map(context, 0, 4, va);
    expect([host.lockedPages, context.prober(3).reachable()]).toEqual([0, []]);
    host.addressSpace.mmap({ length: K4, at: BigInt(va) * K4, source: { object: other.object, offset: 0n } });
    expect(context.attach()).toBe(0);
    expect(context.prober(3).physicalPageAt(0, true)).toBe(host.addressSpace.physicalPageOf(Number(other.hva / K4)));
    host.addressSpace.munmap(BigInt(va) * K4, K4);
    expect(context.prober(3).physicalPageAt(0, true)).toBeGreaterThan(0);
    context.detach();
    expect([host.lockedPages, context.prober(3).reachable(), context.entries().length]).toEqual([0, [], 1]);
    expect([context.attach(), context.attached, host.lockedPages]).toEqual([Errno.EFAULT, false, 0]);
  });

  it('can be made to fail when attaching, and counts no other operation then', () => {
    const { host, context, va } = lab({ attached: false });
    map(context, 0, 4, va);
    host.failAt(1, Errno.EIO, { kind: 'attach' });
    expect([context.attach(), context.attached, host.lockedPages]).toEqual([Errno.EIO, false, 0]);
    expect([context.attach(), host.lockedPages]).toEqual([0, 4]);
    const seen: string[] = [];
    host.onOperation(({ kind }) => seen.push(kind));
    context.detach();
    context.detach();
    expect([context.attach(), seen]).toEqual([0, ['attach']]);
  });
});

describe('copies', () => {
  const both = (): Lab & { readonly vault: SimulatedIommufdContext } => {
    const made = lab();
    const vault = made.host.createContext({ group: 8, endpoints: [4], flavour: 'iommufd', attached: false });
    vault.ioasMap({ flags: FIXED_RW, iova: G1, length: M2, userVa: BigInt(made.va) * K4 });
    return { ...made, vault };
  };

  it('show the page that is pinned, whatever the process has there by then', () => {
    const { host, context, vault, va } = both();
    const copy = (iova: bigint): number =>
      context.ioasCopy({ source: vault, flags: FIXED_RW, sourceIova: G1, iova, length: 2n * K4 }).errno;
    expect(copy(0n)).toBe(0);
    const before = host.addressSpace.physicalPageOf(va);
    host.addressSpace.munmap(BigInt(va) * K4, K4);
    expect(copy(M2)).toBe(0);
    expect([0, 512].map((page) => context.prober(3).physicalPageAt(page, true))).toEqual([before, before]);
    expect(host.lockedPages).toBe(2);
    expect([unmap(context, 0, 2)[0], host.lockedPages, unmap(context, 512, 2)[0], host.lockedPages]).toEqual([
      0, 2, 0, 0,
    ]);
    expect(copy(0n)).toBe(Errno.EFAULT);
  });

  it('outlive their source, and share with an attached one', () => {
    const { host, context, vault } = both();
    expect(vault.attach()).toBe(0);
    expect(host.lockedPages).toBe(512);
    expect(context.ioasCopy({ source: vault, flags: FIXED_RW, sourceIova: G1, iova: 0n, length: M2 }).errno).toBe(0);
    expect([host.lockedPages, context.stats().pinnedPages, vault.stats().pinnedPages]).toEqual([512, 512, 512]);
    expect([...context.stats().ioptes]).toEqual([[M2, 1]]);
    vault.close();
    expect([host.lockedPages, context.prober(3).reachable().length]).toEqual([512, 1]);
    expect([unmap(context, 0, 512), host.lockedPages]).toEqual([[0, 512], 0]);
  });

  it('of a cut area keep their part', () => {
    const host = new SimulatedHost();
    const va = Number(host.addressSpace.mmap({ length: M2, kind: 'memfd', layout: 'scattered' }).hva / K4);
    const context = host.createContext({ group: 1, endpoints: [1], flavour: 'iommufd', mode: 'cut' });
    map(context, 0, 16, va);
    const args = { source: context, flags: FIXED_RW, sourceIova: 4n * K4, iova: M2, length: 8n * K4 };
    expect([context.ioasCopy(args).errno, host.lockedPages]).toEqual([0, 16]);
    expect(unmap(context, 6, 2)).toEqual([0, 2]);
    expect(unmap(context, 512, 3)).toEqual([0, 3]);
    expect(host.lockedPages).toBe(15);
    for (let page = 515; page < 520; page++) {
      const physical = host.addressSpace.physicalPageOf(va + page - 508);
      expect(context.prober(1).physicalPageAt(page, true)).toBe(physical);
    }
    expect(context.ioasCopy({ ...args, iova: 2n * M2 }).errno).toBe(Errno.ENOENT);
    expect([context.unmapAll(), host.lockedPages]).toEqual([0, 0]);
  });
});

describe('a context like any other', () => {
  it('stops a batch at the first refusal and shows every operation to an observer', () => {
    const { host, context, va } = lab();
    const seen: unknown[] = [];
    host.onOperation(({ kind, iova, pages, errno }) => seen.push([kind, iova, pages, errno]));
    const batch = new HostBatch(1);
    batch.map(0, 4, va, 3);
    batch.unmap(8, 1);
    batch.unmap(0, 8);
    expect([context.apply(batch, 0), context.apply(batch, 2)]).toEqual([1, 3]);
    expect([...batch.done.subarray(0, 3)]).toEqual([0, 0, 4]);
    context.unmapAll();
    expect(context.ioasUnmap({ iova: 0n, length: 2n ** 64n - 1n })).toEqual({ errno: 0, size: 0n });
    expect([context.clearBusMaster(), host.busMaster(3), context.resetDevices(), host.resets(3)]).toEqual([
      0,
      false,
      0,
      1,
    ]);
    expect(seen).toEqual([
      ['map', 0, 4, 0],
      ['unmap', 8, 1, Errno.ENOENT],
      ['unmap', 0, 8, 0],
      ['unmapAll', 0, 0, 0],
      ['unmapAll', 0, 0, 0],
      ['clearBusMaster', 0, 0, 0],
      ['resetDevices', 0, 0, 0],
    ]);
    expect(context.stats()).toMatchObject({ mapCalls: 1, unmapCalls: 2, unmapAllCalls: 2, refusals: 1 });
  });

  it('fails as told, with nothing changed, and costs what it does', () => {
    const { host, context, va } = lab({}, { costs: { perCallNs: 1000, perMapNs: 100, perUnmapNs: 10, perPageNs: 1 } });
    host.failAt(1, Errno.ENOMEM, { kind: 'map', group: 7 });
    expect([map(context, 0, 2, va), map(context, 0, 2, va)]).toEqual([Errno.ENOMEM, 0]);
    expect(host.elapsedNs).toBe(2 * 1100 + 2);
    host.failAt(1, Errno.EIO, { kind: 'unmap' });
    expect([unmap(context, 0, 2), context.entries().length]).toEqual([[Errno.EIO, 0], 1]);
    expect([unmap(context, 0, 2), host.elapsedNs]).toEqual([[0, 2], 2202 + 2000 + 12]);
  });

  it('throws after close, and gives its group and its memory back', () => {
    const { host, context, va } = lab();
    map(context, 0, 4, va);
    context.close();
    context.close();
    expect([host.lockedPages, host.prober(3).reachable()]).toEqual([0, []]);
    const args = { flags: FIXED_RW, iova: 0n, length: K4 };
    for (const call of [
      () => context.apply(new HostBatch(), 0),
      () => context.unmapAll(),
      () => context.entriesLeft(),
      () => context.attach(),
      () => context.detach(),
      () => context.ioasMap({ ...args, userVa: 0n }),
      () => context.ioasUnmap(args),
      () => context.unmapDma({ iova: 0n, size: K4 }),
      () => context.ioasCopy({ ...args, source: context, sourceIova: 0n }),
    ]) {
      expect(call).toThrow(HostError);
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }));
    }
    expect(host.createContext({ group: 7, endpoints: [3] }).flavour).toBe('type1');
  });

  it('names wrong options, and what is not simulated', () => {
    const host = new SimulatedHost();
    const create = (options: object): unknown =>
      host.createContext({ group: 1, endpoints: [1], ...options } as unknown as IommufdContextOptions);
    expect(() => create({ flavour: 'iommu' })).toThrow(/^flavour /);
    expect(() => create({ flavour: 'iommufd', mode: 'small' })).toThrow(/^mode /);
    expect(() => create({ flavour: 'iommufd', attached: 1 })).toThrow(/^attached /);
    expect(() => create({ flavour: 'iommufd', entryLimit: 1 })).toThrow(/entryLimit is not an option/);
    expect(() => create({ mode: 'cut' })).toThrow(/mode is not an option/);
    const noDevice = expect.objectContaining({ code: 'ERR_VIOMMU_HOST_UNAVAILABLE', errno: Errno.ENOENT }) as Error;
    expect(() => create({ flavour: 'iommufd', kernel: '6.1' })).toThrow(noDevice);
    const { context } = lab({ attached: false });
    const args = { flags: FIXED_RW, iova: 0n, length: K4, userVa: 0n };
    expect(() => context.ioasMap({ ...args, flags: IoasFlag.readable })).toThrow(/FIXED_IOVA is not simulated/);
    expect(() => context.ioasMap({ ...args, iova: 1n })).toThrow(/sub-page/);
    expect(() => context.ioasMap({ ...args, userVa: 1n })).toThrow(/^userVa/);
    expect(() => context.ioasMap({ ...args, length: -1n })).toThrow(/^length/);
    expect(() => context.ioasCopy({ ...args, source: context, sourceIova: 1n })).toThrow(/^sourceIova/);
  });
});

describe('a naive model', () => {
  const command = fc.record({
    kind: fc.constantFrom('map', 'unmap', 'copy', 'attach', 'detach', 'all'),
    at: fc.integer({ min: 0, max: 24 }),
    pages: fc.integer({ min: 1, max: 9 }),
    from: fc.integer({ min: 0, max: 24 }),
    rights: fc.constantFrom(1, 2, 3),
  });

  /** One list of areas, each a list of [owner, physical page]: no trees, no runs, no records of holders. */
  class Model {
    areas: { at: number; pages: number; owner: number; index: number; rights: number; writable: boolean }[] = [];
    attached = true;
    owners = 0;

    locked(): number {
      const keys = this.areas.flatMap((area) =>
        Array.from({ length: area.pages }, (_, i) => `${area.owner}:${area.index + i}`),
      );
      return this.attached ? new Set(keys).size : 0;
    }
  }

  it.each(['large', 'cut'] as const)('agrees on errno, areas, reach and locked pages, mode %s', (mode) => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 40 }), (commands) => {
        const { host, context, va } = lab({ mode });
        const model = new Model();
        // Owner n of the model is the n-th map; what it shows starts at this page of the RAM.
        const starts: number[] = [];
        const overlaps = (at: number, pages: number): boolean =>
          model.areas.some((area) => area.at < at + pages && at < area.at + area.pages);
        for (const { kind, at, pages, from, rights } of commands) {
          let expected = 0;
          let found = 0;
          if (kind === 'map') {
            found = map(context, at, pages, va + from, rights);
            if (overlaps(at, pages)) expected = Errno.EEXIST;
            else {
              model.areas.push({ at, pages, owner: model.owners++, index: 0, rights, writable: rights > 1 });
              starts.push(from);
            }
          } else if (kind === 'copy') {
            const flags = IoasFlag.fixed | (rights & 1 ? 4 : 0) | (rights & 2);
            const [sourceIova, iova, length] = [from, at, pages].map((page) => BigInt(page) * K4) as [
              bigint,
              bigint,
              bigint,
            ];
            found = context.ioasCopy({ source: context, flags, sourceIova, iova, length }).errno;
            const parts = Array.from({ length: pages }, (_, i) => {
              const area = model.areas.find((each) => each.at <= from + i && from + i < each.at + each.pages);
              return area === undefined
                ? undefined
                : { ...area, area, at: at + i, pages: 1, index: area.index + from + i - area.at, rights };
            });
            if (parts.includes(undefined)) expected = Errno.ENOENT;
            else if (overlaps(at, pages)) expected = Errno.EEXIST;
            else if ((rights & 2) !== 0 && parts.some((part) => !part!.writable)) expected = Errno.EPERM;
            else {
              let last: { area: object; pages: number } | undefined;
              for (const part of parts) {
                if (last?.area === part!.area) last.pages++;
                else model.areas.push((last = part!));
              }
            }
          } else if (kind === 'unmap') {
            found = unmap(context, at, pages)[0];
            if (mode === 'cut') {
              for (const edge of [at, at + pages]) {
                const area = model.areas.find((each) => each.at < edge && edge < each.at + each.pages);
                if (area === undefined) continue;
                const left = edge - area.at;
                model.areas.push({ ...area, at: edge, pages: area.pages - left, index: area.index + left });
                area.pages = left;
              }
            }
            model.areas.sort((a, b) => a.at - b.at);
            const touched = model.areas.filter((area) => area.at < at + pages && at < area.at + area.pages);
            const bad = touched.findIndex((area) => area.at < at || area.at + area.pages > at + pages);
            const gone = new Set(touched.slice(0, bad < 0 ? touched.length : bad));
            model.areas = model.areas.filter((area) => !gone.has(area));
            // In mode `cut` the call is VFIO's, to which nothing there is no error.
            if (bad >= 0 || (touched.length === 0 && mode === 'large')) expected = Errno.ENOENT;
          } else if (kind === 'all') {
            found = context.unmapAll();
            model.areas = [];
          } else if (kind === 'attach') {
            found = context.attach();
            model.attached = true;
          } else {
            context.detach();
            model.attached = false;
          }
          expect(found).toBe(expected);
          model.areas.sort((a, b) => a.at - b.at);
          expect(context.entries()).toEqual(
            model.areas.map((area) => ({ iova: area.at, pages: area.pages, rights: area.rights })),
          );
          expect(host.lockedPages).toBe(model.locked());
          const reach = model.attached ? model.areas : [];
          for (const area of reach) {
            for (let i = 0; i < area.pages; i++) {
              const physical = host.addressSpace.physicalPageOf(va + starts[area.owner]! + area.index + i);
              expect(context.prober(3).physicalPageAt(area.at + i, area.rights > 1)).toBe(physical);
            }
          }
          const reached = context
            .prober(3)
            .reachable()
            .reduce((sum, run) => sum + run.pages, 0);
          expect(reached).toBe(reach.reduce((sum, area) => sum + area.pages, 0));
        }
        context.close();
        expect(host.lockedPages).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});
