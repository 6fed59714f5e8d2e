// Several groups that use one simulated IOAS: joining and parting, refusals, what each group asks for, close in every
// order, and a naive model of three groups. The errno tables of two groups run with the others (iommufd-context.test.ts).
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno, HostError } from '../../base/errors.ts';
import type { SharingContext } from '../context.ts';
import { HostBatch, isSharing } from '../context.ts';
import type { IommufdContextOptions, SimulatedHostOptions } from './host.ts';
import { SimulatedHost, VTD_USABLE_RANGES } from './host.ts';
import type { SimulatedIommufdContext } from './iommufd-context.ts';
import { IoasFlag } from './iommufd-rules.ts';

const K4 = 4096n;
const K64 = 0x1_0000n;
const M2 = 1n << 21n;
const MSI = 0xfee00;
const ALL = 2 ** 52;
const FIXED_RW = IoasFlag.fixed | IoasFlag.readable | IoasFlag.writeable;
const CLOSED = expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }) as Error;

type Options = Partial<IommufdContextOptions>;

class Lab {
  readonly host: SimulatedHost;
  /** First virtual page of 4 MiB of RAM. */
  readonly va: number;
  /** Contexts of groups 1, 2...; group n has endpoint n. */
  readonly contexts: SimulatedIommufdContext[];

  constructor(options: readonly Options[], hostOptions: SimulatedHostOptions = {}) {
    this.host = new SimulatedHost(hostOptions);
    this.va = Number(this.host.addressSpace.mmap({ length: 2n * M2, kind: 'memfd' }).hva / K4);
    this.contexts = options.map((each) => this.open(each));
  }

  #opened = 0;

  open(options: Options = {}): SimulatedIommufdContext {
    const group = ++this.#opened;
    return this.host.createContext({ group, endpoints: [group], flavour: 'iommufd', ...options });
  }
}

function two(options: Options = {}, hostOptions: SimulatedHostOptions = {}) {
  const lab = new Lab([options, options], hostOptions);
  return { lab, host: lab.host, va: lab.va, a: lab.contexts[0]!, b: lab.contexts[1]! };
}

function map(context: SimulatedIommufdContext, iova: number, pages: number, va: number, rights = 3): number {
  const batch = new HostBatch();
  batch.map(iova, pages, va, rights);
  return context.apply(batch, 0) === 1 ? 0 : batch.errno[0]!;
}

function unmap(context: SimulatedIommufdContext, iova: number, pages: number): number {
  const batch = new HostBatch();
  batch.unmap(iova, pages);
  context.apply(batch, 0);
  return batch.errno[0]!;
}

/** What the group's devices reach: [iova, pages] of each run. */
function reach(context: SimulatedIommufdContext): number[][] {
  return context
    .prober(context.group)
    .reachable()
    .map(({ iova, pages }) => [iova, pages]);
}

function entries(context: SimulatedIommufdContext): number[][] {
  return context.entries().map(({ iova, pages }) => [iova, pages]);
}

/** Everything of some contexts, as a comparable text. */
function snapshot(host: SimulatedHost, ...contexts: SimulatedIommufdContext[]): string {
  const all = contexts.map((each) => [entries(each), reach(each), each.attached, each.stats().pinnedPages]);
  return JSON.stringify([all, host.lockedPages]);
}

describe('spaces', () => {
  it('are one for the contexts of a file and mode, and nothing else', () => {
    const { contexts, host } = new Lab([{}, {}, { mode: 'cut' }, { mode: 'cut' }, { share: false }, { share: false }]);
    const spaces = contexts.map((each) => each.spaces);
    expect([spaces[0] === spaces[1], spaces[2] === spaces[3]]).toEqual([true, true]);
    expect(new Set(spaces).size).toBe(4);
    expect(new Lab([{}]).contexts[0]!.spaces).not.toBe(spaces[0]);
    expect(contexts.every((each) => isSharing(each))).toBe(true);
    expect(isSharing(host.createContext({ group: 90, endpoints: [90] }))).toBe(false);
  });

  it('are told apart by who is asked to attach', () => {
    const { host, contexts, va } = new Lab([{}, { mode: 'cut' }, { share: false }]);
    const [a, cut, alone] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext, SimulatedIommufdContext];
    const type1 = host.createContext({ group: 90, endpoints: [90] });
    const stranger = new Lab([{}]).contexts[0]!;
    map(a, 0, 1, va);
    const before = snapshot(host, a, cut, alone);
    const join = (other: unknown) => () => a.attachTo(other as SharingContext);
    for (const other of [undefined, null, 1, 'a', {}, [], () => 0, type1]) {
      expect(join(other)).toThrow(TypeError);
      expect(join(other)).toThrow(/^other must/);
    }
    for (const other of [cut, alone, stranger, { spaces: a.spaces }, { spaces: {} }]) {
      expect(join(other)).toThrow(RangeError);
      expect(join(other)).toThrow(/^other must/);
    }
    expect(() => cut.attachTo(a)).toThrow(RangeError);
    expect(snapshot(host, a, cut, alone)).toBe(before);
    const args = { flags: FIXED_RW, sourceIova: 0n, iova: 0n, length: K4 };
    expect(cut.ioasCopy({ ...args, source: a }).errno).toBe(0);
    expect(() => alone.ioasCopy({ ...args, source: a })).toThrow(RangeError);
    expect(() => alone.ioasCopy({ ...args, source: type1 as unknown as typeof a })).toThrow(/^source must/);
  });

  it('are options of iommufd only', () => {
    const host = new SimulatedHost();
    const create = (options: object): unknown => host.createContext({ group: 1, endpoints: [1], ...options });
    expect(() => create({ share: true })).toThrow(/share is not an option/);
    expect(() => create({ flavour: 'iommufd', share: 1 })).toThrow(/^share /);
  });

  it('can be cut in mode cut, which the limits tell', () => {
    const { contexts } = new Lab([{}, { mode: 'cut' }]);
    expect(contexts.map(({ limits }) => limits.cuts)).toEqual([undefined, true]);
  });
});

describe('attachTo', () => {
  it('pins nothing and maps nothing again', () => {
    const { host, a, b, va } = two({}, { costs: { perCallNs: 1000, perMapNs: 100, perUnmapNs: 10, perPageNs: 1 } });
    map(a, 512, 512, va);
    const before = host.elapsedNs;
    expect(b.attachTo(a)).toBe(0);
    // Besides the call, the empty IOAS that nobody uses any more is emptied.
    expect(host.elapsedNs - before).toBe(1000 + 10);
    expect([host.lockedPages, host.lockedPagesPeak]).toEqual([512, 512]);
    expect([reach(a), reach(b)]).toEqual([[[512, 512]], [[512, 512]]]);
    expect(b.prober(2).physicalPageAt(600, true)).toBe(a.prober(1).physicalPageAt(600, true));
    for (const each of [a, b]) {
      expect(each.stats()).toMatchObject({ entries: 1, pinnedPages: 512, entriesPeak: 1 });
      expect([...each.stats().ioptes]).toEqual([[M2, 1]]);
    }
    expect([a.stats().mapCalls, b.stats().mapCalls]).toEqual([1, 0]);
  });

  it('to itself and to those with whom it shares does nothing, and is no operation', () => {
    const { host, a, b, va } = two();
    map(a, 0, 4, va);
    b.attachTo(a);
    const before = snapshot(host, a, b);
    const seen: string[] = [];
    host.onOperation(({ kind }) => seen.push(kind));
    host.failAt(1, Errno.EIO, { kind: 'attach' });
    expect([a.attachTo(a), a.attachTo(b), b.attachTo(a)]).toEqual([0, 0, 0]);
    expect([snapshot(host, a, b), seen, host.faults.pending]).toEqual([before, [], 1]);
  });

  it('empties what nobody uses any more, and leaves alone what others use', () => {
    const { host, contexts, va } = new Lab([{}, {}, {}]);
    const [a, b, c] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext, SimulatedIommufdContext];
    map(a, 0, 1, va);
    map(b, 0, 2, va);
    c.attachTo(b);
    expect(c.attachTo(a)).toBe(0);
    expect([entries(b), entries(c), host.lockedPages]).toEqual([[[0, 2]], [[0, 1]], 3]);
    expect(b.attachTo(c)).toBe(0);
    expect([entries(b), host.lockedPages]).toEqual([[[0, 1]], 1]);
    expect([b.attachAlone(), entries(b), reach(b)]).toEqual([0, [], []]);
  });

  it('acts from then on on what is common, in every call', () => {
    const { host, a, b, va } = two({ mode: 'cut' });
    b.attachTo(a);
    const userVa = BigInt(va) * K4;
    expect(b.ioasMap({ flags: FIXED_RW, iova: 0n, length: 8n * K4, userVa }).errno).toBe(0);
    expect(a.unmapDma({ iova: K4, size: K4 })).toEqual({ errno: 0, size: K4 });
    expect(b.ioasCopy({ source: a, flags: FIXED_RW, sourceIova: 2n * K4, iova: M2, length: K4 }).errno).toBe(0);
    expect([entries(a), entries(b)]).toEqual([
      entries(b),
      [
        [0, 1],
        [2, 6],
        [512, 1],
      ],
    ]);
    expect(reach(a)).toEqual(reach(b));
    expect([b.ioasUnmap({ iova: M2, length: K4 }).errno, entries(a).length]).toEqual([0, 2]);
    expect([unmap(b, 4, 2), entries(a)]).toEqual([
      0,
      [
        [0, 1],
        [2, 2],
        [6, 2],
      ],
    ]);
    expect([a.unmapAll(), entries(b), reach(b), host.lockedPages]).toEqual([0, [], [], 0]);
  });

  it('shows every device each operation at once, in the middle of a batch', () => {
    const { host, a, b, va } = two();
    b.attachTo(a);
    const seen: unknown[] = [];
    host.onOperation(({ context, kind }) => seen.push([context === a, kind, reach(a), reach(b)]));
    const batch = new HostBatch();
    batch.map(0, 1, va, 3);
    batch.map(4, 1, va, 3);
    batch.unmap(0, 1);
    a.apply(batch, 0);
    b.attachAlone();
    expect(seen).toEqual([
      [true, 'map', [[0, 1]], [[0, 1]]],
      [
        true,
        'map',
        [
          [0, 1],
          [4, 1],
        ],
        [
          [0, 1],
          [4, 1],
        ],
      ],
      [true, 'unmap', [[4, 1]], [[4, 1]]],
      [false, 'attach', [[4, 1]], []],
    ]);
  });

  it('counts the most entries of what each context uses, whoever makes them', () => {
    const { a, b, va } = two();
    map(b, 0, 1, va);
    for (let i = 0; i < 5; i++) map(a, i, 1, va);
    b.attachTo(a);
    expect([a.stats().entriesPeak, b.stats().entriesPeak]).toEqual([5, 5]);
    map(a, 9, 1, va);
    b.attachAlone();
    map(a, 10, 1, va);
    expect([a.stats().entriesPeak, b.stats().entriesPeak, b.stats().entries]).toEqual([7, 6, 0]);
  });

  it('with devices that are to stay detached changes only what is used', () => {
    const { host, contexts, va } = new Lab([{}, { attached: false }]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    map(a, 0, 4, va);
    const seen: string[] = [];
    host.onOperation(({ kind }) => seen.push(kind));
    expect([b.attachTo(a), b.attached, reach(b), entries(b), seen]).toEqual([0, false, [], [[0, 4]], []]);
    expect([map(b, 8, 1, va), reach(a), b.stats().pinnedPages]).toEqual([
      0,
      [
        [0, 4],
        [8, 1],
      ],
      5,
    ]);
    expect([b.attachAlone(), b.attached, entries(b), reach(a)]).toEqual([
      0,
      false,
      [],
      [
        [0, 4],
        [8, 1],
      ],
    ]);
    expect([b.attachTo(a), b.attach(), reach(b), host.lockedPages]).toEqual([
      0,
      0,
      [
        [0, 4],
        [8, 1],
      ],
      5,
    ]);
    b.detach();
    expect([reach(b), reach(a).length, host.lockedPages]).toEqual([[], 2, 5]);
  });
});

describe('refusals of attachTo', () => {
  interface Refusal {
    readonly name: string;
    readonly errno: number;
    readonly prepare: (a: SimulatedIommufdContext, host: SimulatedHost, va: number) => unknown;
  }
  const LAZY: readonly Refusal[] = [
    { name: 'a reserved address', errno: Errno.EADDRINUSE, prepare: (a, _, va) => map(a, MSI, 1, va) },
    { name: 'beyond the aperture', errno: Errno.EADDRINUSE, prepare: (a, _, va) => map(a, ALL - 1, 1, va) },
    { name: 'bad memory', errno: Errno.EFAULT, prepare: (a) => map(a, 0, 1, 16) },
    { name: 'the limit', errno: Errno.ENOMEM, prepare: (a, _, va) => map(a, 0, 16, va) },
    {
      name: 'bad memory, then a reserved address',
      errno: Errno.EFAULT,
      prepare: (a, _, va) => [map(a, MSI, 1, va), map(a, MSI + 0x1000, 1, 16)],
    },
    {
      name: 'the aperture before bad memory',
      errno: Errno.EADDRINUSE,
      prepare: (a, _, va) => [map(a, 0, 1, 16), map(a, ALL - 1, 1, va)],
    },
    {
      name: 'an injected failure',
      errno: Errno.EIO,
      prepare: (a, host, va) => {
        host.failAt(1, Errno.EIO, { kind: 'attach', group: 2 });
        return map(a, 0, 1, va);
      },
    },
  ];

  it.each(LAZY)('$name: nothing has changed', ({ errno, prepare }) => {
    const { host, contexts, va } = new Lab([{ attached: false }, {}], { memlockLimit: 17 });
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    map(b, 3, 2, va);
    prepare(a, host, va);
    const before = snapshot(host, a, b);
    expect([b.attachTo(a), snapshot(host, a, b)]).toEqual([errno, before]);
    expect([b.stats().refusals, reach(b)]).toEqual([1, [[3, 2]]]);
    a.unmapAll();
    expect([b.attachTo(a), host.lockedPages, entries(b), b.attached]).toEqual([0, 0, [], true]);
  });

  it('an entry that another group may have and this one may not', () => {
    const { host, contexts, va } = new Lab([{}, { usableRanges: [{ start: 0x10_0000n, end: 0xff_ffffn }] }, {}]);
    const [a, b, c] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext, SimulatedIommufdContext];
    map(a, 0xff, 1, va);
    map(b, 0x200, 1, va);
    c.attachTo(a);
    const before = snapshot(host, a, b, c);
    expect([b.attachTo(c), snapshot(host, a, b, c)]).toEqual([Errno.EADDRINUSE, before]);
    expect([unmap(c, 0xff, 1), map(a, 0x1000, 1, va), b.attachTo(c)]).toEqual([0, 0, Errno.EADDRINUSE]);
    expect([unmap(c, 0x1000, 1), map(a, 0xfff, 1, va), b.attachTo(c), reach(b)]).toEqual([0, 0, 0, [[0xfff, 1]]]);
  });

  it('a closed context on either side', () => {
    const { a, b } = two();
    b.close();
    expect(() => a.attachTo(b)).toThrow(CLOSED);
    expect(() => a.attachTo(b)).toThrow(/group 2 is closed/);
    expect(() => b.attachTo(a)).toThrow(/group 2 is closed/);
    expect(() => b.attachTo(b)).toThrow(HostError);
    expect(() => b.attachAlone()).toThrow(CLOSED);
    expect([a.attachAlone(), a.attached]).toEqual([0, true]);
  });
});

describe('attachAlone', () => {
  it('does nothing for who is alone, and is no operation', () => {
    const { host, a, b, va } = two();
    map(a, 0, 4, va);
    const before = snapshot(host, a, b);
    host.failAt(1, Errno.EIO);
    expect([a.attachAlone(), snapshot(host, a, b), host.faults.pending]).toEqual([0, before, 1]);
    host.clearFaults();
    a.detach();
    expect([a.attachAlone(), a.attached, entries(a)]).toEqual([0, false, [[0, 4]]]);
  });

  it.each([
    ['the second', 1],
    ['the first', 0],
  ] as const)('gives %s an empty one, and the other keeps all', (_, leaver) => {
    const { host, va, a, b } = two();
    map(a, 0, 4, va);
    b.attachTo(a);
    const left = [a, b][leaver]!;
    const stays = [a, b][1 - leaver]!;
    expect([left.attachAlone(), left.attached, entries(left), reach(left)]).toEqual([0, true, [], []]);
    expect([entries(stays), reach(stays), host.lockedPages]).toEqual([[[0, 4]], [[0, 4]], 4]);
    expect([map(left, 0, 1, va + 7), map(stays, 8, 1, va), unmap(left, 8, 1)]).toEqual([0, 0, Errno.ENOENT]);
    expect([left.unmapAll(), reach(stays), host.lockedPages]).toEqual([
      0,
      [
        [0, 4],
        [8, 1],
      ],
      5,
    ]);
    expect([stays.attachAlone(), left.attachTo(stays), reach(left)]).toEqual([
      0,
      0,
      [
        [0, 4],
        [8, 1],
      ],
    ]);
  });

  it('after a refusal: nothing is reached, nothing of the others is touched, and the next call tries again', () => {
    const { host, va, a, b } = two();
    map(a, 0, 4, va);
    b.attachTo(a);
    host.failAt(1, Errno.ENOMEM, { kind: 'attach', group: 2, times: 2 });
    expect([b.attachAlone(), b.attached, entries(b), reach(b)]).toEqual([Errno.ENOMEM, false, [], []]);
    expect([reach(a), entries(a), host.lockedPages]).toEqual([[[0, 4]], [[0, 4]], 4]);
    // What it has now is its own: unpinned as long as nobody is attached.
    expect([map(b, MSI, 1, 16), b.unmapAll(), map(b, 1, 2, va), host.lockedPages]).toEqual([0, 0, 0, 4]);
    expect([b.attachAlone(), b.attached, reach(a)]).toEqual([Errno.ENOMEM, false, [[0, 4]]]);
    expect([b.attachAlone(), b.attached, reach(b), host.lockedPages]).toEqual([0, true, [[1, 2]], 6]);
    expect(b.stats().refusals).toBe(2);
  });

  it.each([
    ['attachTo', (b, a) => b.attachTo(a), [[0, 4]]],
    ['attach', (b) => b.attach(), []],
    ['attachTo by the other', (b, a) => a.attachTo(b) || b.attachTo(a), []],
    ['attachAlone with a guest', (b, a) => a.attachTo(b) || b.attachAlone(), []],
  ] as [string, (b: SimulatedIommufdContext, a: SimulatedIommufdContext) => number, number[][]][])(
    'after a refusal: %s attaches again',
    (_, call, expected) => {
      const { host, va, a, b } = two();
      map(a, 0, 4, va);
      b.attachTo(a);
      host.failAt(1, Errno.ENOMEM, { kind: 'attach' });
      b.attachAlone();
      expect([call(b, a), b.attached, reach(b)]).toEqual([0, true, expected]);
    },
  );

  it.each([
    ['attachTo', (b, a) => b.attachTo(a)],
    ['attach', (b) => b.attach()],
    ['attachAlone', (b) => b.attachAlone()],
  ] as [string, (b: SimulatedIommufdContext, a: SimulatedIommufdContext) => number][])(
    'after a refusal: a refused %s leaves it so',
    (_, call) => {
      const { host, va, a, b } = two();
      map(a, 0, 4, va);
      b.attachTo(a);
      host.failAt(1, Errno.ENOMEM, { kind: 'attach', times: 2 });
      b.attachAlone();
      const before = snapshot(host, a, b);
      expect([call(b, a), snapshot(host, a, b)]).toEqual([Errno.ENOMEM, before]);
      expect([b.attachAlone(), b.attached]).toEqual([0, true]);
    },
  );

  it('after a refusal: detach() makes it stay detached', () => {
    const { host, a, b } = two();
    b.attachTo(a);
    host.failAt(1, Errno.ENOMEM, { kind: 'attach' });
    b.attachAlone();
    b.detach();
    expect([b.attachAlone(), b.attached, b.attachTo(a), b.attached]).toEqual([0, false, 0, false]);
    expect([b.attach(), b.attached]).toEqual([0, true]);
  });

  it('a refused attach() is no wish to be attached', () => {
    const { contexts } = new Lab([{}, { attached: false }]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    map(b, 0, 1, 16);
    expect([b.attach(), b.attachAlone(), b.attached]).toEqual([Errno.EFAULT, 0, false]);
    expect([b.attachTo(a), b.attached]).toEqual([0, false]);
  });

  it('leaves the guest of a refused one where it is', () => {
    const { host, va, a, b } = two();
    b.attachTo(a);
    host.failAt(1, Errno.ENOMEM, { kind: 'attach' });
    b.attachAlone();
    a.attachTo(b);
    map(a, 0, 2, va);
    host.failAt(1, Errno.EIO, { kind: 'attach' });
    expect([b.attachAlone(), b.attached, entries(b), reach(a)]).toEqual([Errno.EIO, false, [], [[0, 2]]]);
  });
});

describe('what each group asks for', () => {
  const hole = (first: bigint, end: bigint): Options => ({
    usableRanges: [
      { start: 0n, end: first * K4 - 1n },
      { start: end * K4, end: (1n << 40n) - 1n },
    ],
  });

  it('counts while the group is attached, before and after it does not', () => {
    const { contexts, va } = new Lab([hole(16n, 32n), hole(48n, 64n)]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    const tries = (context: SimulatedIommufdContext): number[] =>
      [15, 16, 31, 32, 47, 48, 63, 64].map((page) => {
        const errno = map(context, page, 1, va);
        return errno || unmap(context, page, 1);
      });
    const [ownA, ownB] = [
      [0, 22, 22, 0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0, 22, 22, 0],
    ];
    const both = [0, 22, 22, 0, 0, 22, 22, 0];
    expect([tries(a), tries(b)]).toEqual([ownA, ownB]);
    b.attachTo(a);
    expect([tries(a), tries(b)]).toEqual([both, both]);
    expect([map(a, 40, 16, va), map(b, 8, 16, va), map(b, 0, 16, va), map(b, 32, 16, va)]).toEqual([22, 22, 0, 0]);
    a.unmapAll();
    a.detach();
    expect(tries(a)).toEqual(ownB);
    a.attach();
    expect(tries(b)).toEqual(both);
    a.attachAlone();
    expect([tries(a), tries(b)]).toEqual([ownA, ownB]);
    a.attachTo(b);
    a.close();
    expect(tries(b)).toEqual(ownB);
    expect(b.limits.usableRanges).toHaveLength(2);
  });

  it('comes back when an entry stands there meanwhile: EADDRINUSE', () => {
    const { contexts, va } = new Lab([hole(16n, 32n), hole(48n, 64n)]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    b.attachTo(a);
    a.detach();
    expect([map(b, 16, 1, va), a.attach(), reach(b), unmap(b, 16, 1), a.attach()]).toEqual([
      0,
      Errno.EADDRINUSE,
      [[16, 1]],
      0,
      0,
    ]);
  });

  it('is the largest alignment', () => {
    const { host, contexts } = new Lab([{}, { pageSizes: K64 | (1n << 25n) }]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    const va = Number(host.addressSpace.mmap({ length: M2, kind: 'memfd', pageSize: Number(K64) }).hva / K4);
    expect([map(a, 8, 8, va), b.attachTo(a)]).toEqual([0, Errno.EADDRINUSE]);
    a.unmapAll();
    expect([map(a, 16, 16, va), b.attachTo(a)]).toEqual([0, 0]);
    expect([map(a, 40, 8, va), map(a, 32, 16, va + 8), map(b, 32, 16, va), map(a, 64, 16, va)]).toEqual([22, 22, 0, 0]);
    // The alignment comes before the overlap.
    expect([map(a, 24, 16, va), map(b, 24, 16, va)]).toEqual([Errno.EINVAL, Errno.EINVAL]);
    b.attachAlone();
    expect([map(a, 24, 16, va), map(a, 8, 8, va + 8), map(b, 8, 8, va), entries(a).length]).toEqual([
      Errno.EEXIST,
      0,
      22,
      4,
    ]);
  });

  it('is, for IOMMUs that differ, a page table each over pages that are pinned once', () => {
    const { host, contexts, va } = new Lab([
      {},
      { pageSizes: K4, writeOnlyReadable: false, usableRanges: VTD_USABLE_RANGES },
      {},
    ]);
    const [a, b, c] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext, SimulatedIommufdContext];
    map(a, 0, 512, va, 2);
    const physical = host.addressSpace.physicalPageOf(va);
    host.addressSpace.munmap(BigInt(va) * K4, M2);
    expect([b.attachTo(a), c.attachTo(b), host.lockedPages]).toEqual([0, 0, 512]);
    expect(contexts.map((each) => [...each.stats().ioptes])).toEqual([[[M2, 1]], [[K4, 512]], [[M2, 1]]]);
    const readable = (each: SimulatedIommufdContext): number => each.prober(each.group).physicalPageAt(0, false);
    expect([readable(a), readable(b), readable(c)]).toEqual([physical, -1, physical]);
    expect(b.prober(2).physicalPageAt(0, true)).toBe(physical);
    map(b, 1024, 1, va + 512);
    a.close();
    c.close();
    expect([reach(b), [...b.stats().ioptes], host.lockedPages]).toEqual([
      [
        [0, 512],
        [1024, 1],
      ],
      [[K4, 513]],
      513,
    ]);
    expect([unmap(b, 0, 512), reach(b), host.lockedPages]).toEqual([0, [[1024, 1]], 1]);
  });

  it.each(['large', 'cut'] as const)(
    'is, for IOMMUs that differ in what can be read only, one table each, mode %s',
    (mode) => {
      const { host, contexts, va } = new Lab([{ mode }, { mode, writeOnlyReadable: false }]);
      const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
      b.attachTo(a);
      map(a, 0, 8, va, 2);
      map(b, 8, 8, va, 2);
      const readable = (each: SimulatedIommufdContext): boolean =>
        each.prober(each.group).physicalPageAt(8, false) >= 0;
      expect([readable(a), readable(b), host.lockedPages]).toEqual([true, false, 16]);
      if (mode === 'cut')
        expect([unmap(b, 2, 4), reach(a), reach(b)]).toEqual([
          0,
          [
            [0, 2],
            [6, 2],
            [8, 8],
          ],
          [
            [0, 2],
            [6, 2],
            [8, 8],
          ],
        ]);
      expect([unmap(a, 8, 8), unmap(b, 0, 8), reach(a), reach(b), host.lockedPages]).toEqual([0, 0, [], [], 0]);
      for (const each of [a, b]) expect([...each.stats().ioptes]).toEqual([]);
    },
  );

  it('is refused for an IOMMU that cannot map the pages, and nothing is left', () => {
    const { host, contexts } = new Lab([{}, { pageSizes: K64 }]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    const small = host.addressSpace.mmap({ length: M2, kind: 'memfd', layout: 'scattered' });
    const va = Number(small.hva / K4);
    map(a, 0, 16, va);
    const before = snapshot(host, a, b);
    expect([b.attachTo(a), snapshot(host, a, b)]).toEqual([Errno.EINVAL, before]);
    a.unmapAll();
    expect([b.attachTo(a), map(a, 0, 16, va), reach(a), host.lockedPages]).toEqual([0, Errno.EINVAL, [], 0]);
  });

  it('is the limit of who calls', () => {
    const { contexts, va } = new Lab([{}, { memlockLimit: 4 }]);
    const [a, b] = contexts as [SimulatedIommufdContext, SimulatedIommufdContext];
    map(a, 0, 8, va);
    expect([b.attachTo(a), map(b, 16, 1, va), map(a, 16, 1, va)]).toEqual([0, Errno.ENOMEM, 0]);
  });
});

describe('close', () => {
  const ORDERS = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];

  it.each(ORDERS)('in the order %i, %i, %i disturbs nobody else', (...order) => {
    const { host, contexts, va } = new Lab([{}, {}, {}]);
    contexts[1]!.attachTo(contexts[0]!);
    contexts[2]!.attachTo(contexts[1]!);
    map(contexts[0]!, 0, 4, va);
    order.forEach((index, i) => {
      contexts[index]!.close();
      contexts[index]!.close();
      const open = order.slice(i + 1).map((each) => contexts[each]!);
      for (const each of open) expect([reach(each), entries(each), each.attached]).toEqual([[[0, 4]], [[0, 4]], true]);
      expect(host.lockedPages).toBe(open.length > 0 ? 4 : 0);
      expect([entries(contexts[index]!), host.prober(index + 1).reachable(), contexts[index]!.attached]).toEqual([
        [],
        [],
        false,
      ]);
      expect(contexts[index]!.stats()).toMatchObject({ entries: 0, pinnedPages: 0, entriesPeak: 1 });
      if (open[0] !== undefined) expect(unmap(open[0], 8, 1) === Errno.ENOENT && open[0].unmapAll()).toBe(0);
      if (open[0] !== undefined) expect(map(open[0], 0, 4, va)).toBe(0);
    });
  });

  it('of the last attached one unpins, also while a detached one uses the entries', () => {
    const { host, va, a, b } = two();
    map(a, 0, 4, va);
    b.attachTo(a);
    b.detach();
    a.close();
    expect([host.lockedPages, entries(b), b.attach(), host.lockedPages, reach(b)]).toEqual([
      0,
      [[0, 4]],
      0,
      4,
      [[0, 4]],
    ]);
    b.close();
    expect(host.lockedPages).toBe(0);
  });

  it('lets the group open again, with an address space of its own', () => {
    const { host, va, a, b } = two();
    map(a, 0, 4, va);
    b.attachTo(a);
    a.close();
    const again = host.createContext({ group: 1, endpoints: [1], flavour: 'iommufd' });
    expect([entries(again), again.spaces === b.spaces, again.attachTo(b), reach(again)]).toEqual([
      [],
      true,
      0,
      [[0, 4]],
    ]);
  });
});

describe('a naive model of three groups', () => {
  const PAGES = 24;
  const PROBED = Array.from({ length: PAGES + 4 }, (_, page) => page);
  const LIMIT = 20;
  const APERTURE = 20;
  /** Pages that each group has reserved below its aperture, which is PAGES for the third group. */
  const RESERVED = [[8], [3, 4], []];
  const ENDS = [APERTURE, APERTURE, PAGES];

  const command = fc.record({
    kind: fc.constantFrom(
      'map',
      'map',
      'map',
      'unmap',
      'all',
      'join',
      'join',
      'join',
      'alone',
      'alone',
      'attach',
      'detach',
      'close',
    ),
    who: fc.integer({ min: 0, max: 2 }),
    other: fc.integer({ min: 0, max: 2 }),
    at: fc.integer({ min: 0, max: PAGES - 1 }),
    pages: fc.integer({ min: 1, max: 4 }),
    bad: fc.integer({ min: 0, max: 9 }).map((value) => value === 0),
    fail: fc.integer({ min: 0, max: 9 }).map((value) => value === 0),
  });

  interface Area {
    readonly at: number;
    readonly pages: number;
    readonly bad: boolean;
  }
  class Group {
    readonly index: number;
    /** What it uses: the same list is the same address space. */
    space: Area[] = [];
    wanted = true;
    attached = true;
    open = true;
    constructor(index: number) {
      this.index = index;
    }
    reserves({ at, pages }: Area): boolean {
      return RESERVED[this.index]!.some((page) => page >= at && page < at + pages) || this.beyond({ at, pages });
    }
    beyond({ at, pages }: { at: number; pages: number }): boolean {
      return at + pages > ENDS[this.index]!;
    }
  }
  class Model {
    readonly groups = [0, 1, 2].map((index) => new Group(index));

    users(space: Area[]): Group[] {
      return this.groups.filter((each) => each.open && each.space === space);
    }
    isPinned(space: Area[]): boolean {
      return this.users(space).some((each) => each.attached);
    }
    locked(): number {
      const spaces = [...new Set(this.groups.map((each) => each.space))].filter((each) => this.isPinned(each));
      return spaces.flat().reduce((sum, { pages }) => sum + pages, 0);
    }
    /** What attaching `group` to `space` returns. */
    attach(group: Group, space: Area[]): number {
      const sorted = [...space].sort((a, b) => a.at - b.at);
      const fresh = !this.isPinned(space);
      const replaces = group.attached && fresh;
      if (sorted.some((each) => (replaces ? group.beyond(each) : group.reserves(each)))) return Errno.EADDRINUSE;
      let locked = this.locked();
      for (const { bad, pages } of fresh ? sorted : []) {
        if (bad) return Errno.EFAULT;
        locked += pages;
        if (locked > LIMIT) return Errno.ENOMEM;
      }
      return sorted.some((each) => group.reserves(each)) ? Errno.EADDRINUSE : 0;
    }
    map(group: Group, area: Area): number {
      const { space } = group;
      const attached = this.users(space).filter((each) => each.attached);
      if (attached.some((each) => each.reserves(area))) return Errno.EINVAL;
      if (space.some((each) => each.at < area.at + area.pages && area.at < each.at + each.pages)) return Errno.EEXIST;
      if (attached.length > 0 && area.bad) return Errno.EFAULT;
      if (attached.length > 0 && this.locked() + area.pages > LIMIT) return Errno.ENOMEM;
      space.push(area);
      return 0;
    }
    /** In the kernel's order: those before the first that the range cuts are gone. */
    unmap({ space }: Group, at: number, pages: number): number {
      const touched = space.filter((each) => each.at < at + pages && at < each.at + each.pages);
      for (const area of touched.sort((a, b) => a.at - b.at)) {
        if (area.at < at || area.at + area.pages > at + pages) return Errno.ENOENT;
        space.splice(space.indexOf(area), 1);
      }
      return touched.length === 0 ? Errno.ENOENT : 0;
    }
  }

  it('agrees on errno, entries, reach and locked pages after each call', () => {
    const counts = { joined: 0, refused: 0, parted: 0 };
    fc.assert(
      fc.property(fc.array(command, { minLength: 10, maxLength: 60, size: 'max' }), (commands) => {
        const lab = new Lab(
          RESERVED.map((pages, i) => ({
            usableRanges: [...pages, ENDS[i]!].flatMap((page, n) => {
              const start = n === 0 ? 0 : pages[n - 1]! + 1;
              return page > start ? [{ start: BigInt(start) * K4, end: BigInt(page) * K4 - 1n }] : [];
            }),
          })),
          { memlockLimit: LIMIT },
        );
        const { host, va, contexts } = lab;
        const model = new Model();
        for (const { kind, who, other, at, pages, bad, fail } of commands) {
          const context = contexts[who]!;
          const group = model.groups[who]!;
          const target = model.groups[other]!;
          if (!group.open || !target.open) continue;
          host.clearFaults();
          if (fail) host.failAt(1, Errno.EIO, { kind: 'attach' });
          let found = 0;
          let expected = 0;
          const attach = (space: Area[]): number => (fail ? Errno.EIO : model.attach(group, space));
          const again = (): void => {
            if (!group.wanted || group.attached) return;
            expected = attach(group.space);
            group.attached = expected === 0;
          };
          if (kind === 'map') {
            found = map(context, at, pages, bad ? 16 : va + at);
            expected = model.map(group, { at, pages, bad });
          } else if (kind === 'unmap') {
            found = unmap(context, at, pages);
            expected = model.unmap(group, at, pages);
          } else if (kind === 'all') {
            found = context.unmapAll();
            group.space.length = 0;
          } else if (kind === 'join') {
            found = context.attachTo(contexts[other]!);
            if (target.space === group.space) again();
            else {
              if (group.wanted) expected = attach(target.space);
              if (expected === 0) [group.space, group.attached] = [target.space, group.wanted];
              if (group.wanted && expected === 0) counts.joined++;
            }
          } else if (kind === 'alone') {
            found = context.attachAlone();
            if (model.users(group.space).length === 1) again();
            else {
              if (group.wanted && fail) expected = Errno.EIO;
              [group.space, group.attached] = [[], group.wanted && expected === 0];
              counts.parted++;
            }
          } else if (kind === 'attach') {
            found = context.attach();
            expected = fail ? Errno.EIO : group.attached ? 0 : model.attach(group, group.space);
            if (expected === 0) group.wanted = group.attached = true;
          } else if (kind === 'detach') {
            context.detach();
            group.wanted = group.attached = false;
          } else if (fail) {
            context.close();
            Object.assign(group, { open: false, attached: false, space: [] });
          }
          if (found !== 0) counts.refused++;
          expect(found).toBe(expected);
          expect(host.lockedPages).toBe(model.locked());
          contexts.forEach((each, i) => {
            const state = model.groups[i]!;
            const areas = [...state.space].sort((a, b) => a.at - b.at);
            expect(entries(each)).toEqual(areas.map((area) => [area.at, area.pages]));
            expect(each.attached).toBe(state.attached);
            expect(each.stats().pinnedPages).toBe(
              model.isPinned(state.space) ? areas.reduce((sum, area) => sum + area.pages, 0) : 0,
            );
            const prober = host.prober(i + 1);
            expect(PROBED.map((page) => prober.physicalPageAt(page, true))).toEqual(
              PROBED.map((page) => {
                const mapped = areas.some((area) => area.at <= page && page < area.at + area.pages);
                return state.attached && mapped ? host.addressSpace.physicalPageOf(va + page) : -1;
              }),
            );
          });
        }
        for (const each of contexts) each.close();
        expect(host.lockedPages).toBe(0);
      }),
      { numRuns: 150 },
    );
    // The commands are such that every kind of outcome is common.
    for (const count of Object.values(counts)) expect(count).toBeGreaterThan(50);
  });
});
