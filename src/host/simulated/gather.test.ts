// Gathers on the simulated type1 container: the contract cases, windows and vm.max_map_count, accounting, faults, close.
import { describe, expect, it } from 'vitest';
import { Errno } from '../../base/errors.ts';
import { HOST_MMIO, HostBatch } from '../context.ts';
import type { MappedMemory } from './address-space.ts';
import { SimulatedAddressSpace } from './address-space.ts';
import type { GatherBench, GatherBuffer, GatherCase } from './gather-case.ts';
import { runGatherCase } from './gather-case.ts';
import { GATHER_CASES } from './gather-cases.ts';
import type { ContextOptions, SimulatedHostOptions } from './host.ts';
import { SimulatedHost } from './host.ts';
import type { SimulatedType1Context } from './type1-context.ts';
import type { KernelVersion } from './type1-rules.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const RW = 3;

function pageOf({ hva }: { readonly hva: bigint }): number {
  return Number(hva / K4);
}

/** The buffers of the contract cases. */
function buffersIn(space: SimulatedAddressSpace): Record<Exclude<GatherBuffer, 'nothing'>, MappedMemory> {
  const [length, small] = [2n * M2, 64n * K4];
  const parted = space.mmap({ length: small, kind: 'memfd' });
  space.mprotect(parted.hva + 16n * K4, 16n * K4, 'r');
  const holed = space.mmap({ length: small, kind: 'memfd' });
  space.munmap(holed.hva + 16n * K4, K4);
  return {
    ram: space.mmap({ length, kind: 'memfd', layout: 'scattered', seed: 5 }),
    huge: space.mmap({ length, kind: 'hugetlb' }),
    sealed: space.mmap({ length: small, kind: 'memfd', seals: ['shrink', 'future-write'] }),
    readOnly: space.mmap({ length: small, kind: 'memfd', prot: 'r', fileMode: 'r' }),
    anonymous: space.mmap({ length: small, kind: 'anonymous' }),
    parted,
    holed,
  };
}

/** Maps single pages until mmap() is refused; returns what gives them back. */
function crowd(space: SimulatedAddressSpace): () => void {
  const taken: bigint[] = [];
  while (space.mapCount <= space.maxMapCount) taken.push(space.mmap({ length: K4, kind: 'memfd' }).hva);
  return () => {
    for (const hva of taken) space.munmap(hva, K4);
  };
}

function simulatedBench(testCase: GatherCase, kernel: KernelVersion): GatherBench {
  const space = new SimulatedAddressSpace({ maxMapCount: 4096 });
  const host = new SimulatedHost({ addressSpace: space });
  const { limit, memlock, windowPieces = 2048, mediated = false } = testCase;
  const context = host.createContext({
    group: 1,
    endpoints: [1],
    kernel,
    entryLimit: limit ?? 16,
    memlockLimit: memlock ?? Infinity,
    ...(mediated ? { mediated } : { windowPieces }),
  });
  const buffers = buffersIn(space);
  const word = new Uint8Array(4);
  let tag = 0;
  for (const { object } of Object.values(buffers)) {
    for (let page = 0; page < object.pages; page++) {
      new DataView(word.buffer).setUint32(0, ++tag, true);
      object.write(page * 4096, word);
    }
  }
  const prober = host.prober(1);
  let relieve = (): void => undefined;
  return {
    context,
    pageOf: (buffer) => (buffer === 'nothing' ? 256 : pageOf(buffers[buffer])),
    wordOf: (buffer, page) => {
      if (buffer === 'nothing') return -1;
      buffers[buffer].object.read(page * 4096, word);
      return new DataView(word.buffer).getUint32(0, true);
    },
    deviceReads: (iova) => {
      const bytes = prober.read(BigInt(iova) * K4, 4);
      return bytes === undefined ? undefined : new DataView(bytes.buffer).getUint32(0, true);
    },
    deviceWrites: (iova, value) => prober.write(BigInt(iova) * K4, new Uint8Array(Uint32Array.of(value).buffer)),
    protectionOf: (page) => space.protectionOf(page),
    crowd: (on) => {
      if (on) relieve = crowd(space);
      else relieve();
    },
    locked: () => host.lockedPages,
    snapshot: () =>
      JSON.stringify([
        context.entries(),
        prober.reachable(),
        context.entriesLeft(),
        host.lockedPages,
        space.objectCount,
      ]),
  };
}

describe('contract', () => {
  it.each(GATHER_CASES)('$title', (testCase) => {
    for (const kernel of ['6.1', '6.12', '7.2'] as const) {
      expect(runGatherCase(testCase, simulatedBench(testCase, kernel)), kernel).toEqual([]);
    }
  });

  it('has a runner that can fail', () => {
    const wrong: GatherCase = {
      title: '',
      entries: 2,
      locked: 9,
      steps: [
        { call: 'batch', operations: [{ op: 'gather', iova: 0, rights: RW, pieces: [['ram', 3, 1]] }], apply: [0, 1] },
        { call: 'reads', iova: 0, buffer: 'ram', page: 4 },
        { call: 'writes', iova: 0, buffer: 'ram', page: 4 },
        { call: 'blocked', iova: 0 },
      ],
    };
    expect(runGatherCase(wrong, simulatedBench(wrong, '6.1'))).toEqual([
      'step 0 (batch): apply ends at 1 with success instead of 0 with EPERM',
      'step 0 (batch): an entry has changed',
      'step 1 (reads): the device reads 4 at 0 instead of 5',
      "step 2 (writes): the device's write at 0 does not arrive",
      'step 3 (blocked): the device reaches 0',
      '1 entries at the end instead of 2',
      '1 pages locked instead of 9',
    ]);
  });
});

interface Lab {
  readonly host: SimulatedHost;
  readonly context: SimulatedType1Context;
  readonly space: SimulatedAddressSpace;
  /** First virtual page of 4 MiB of a memfd. */
  readonly va: number;
}

function lab(options: Partial<ContextOptions> = {}, hostOptions: SimulatedHostOptions = {}): Lab {
  const host = new SimulatedHost(hostOptions);
  const space = host.addressSpace;
  const va = pageOf(space.mmap({ length: 2n * M2, kind: 'memfd' }));
  return { host, space, va, context: host.createContext({ group: 7, endpoints: [3], ...options }) };
}

/** Appends a gather of `count` single pages in falling order, the first one being page `from`. */
function falling(batch: HostBatch, iova: number, from: number, count: number, rights = RW): void {
  batch.gather(iova, count, rights);
  for (let i = 0; i < count; i++) batch.piece(from - i, 1);
}

function gathers(...list: [iova: number, from: number, count: number][]): HostBatch {
  const batch = new HostBatch(1);
  for (const [iova, from, count] of list) falling(batch, iova, from, count);
  return batch;
}

describe('limits', () => {
  it('let windows have a quarter of vm.max_map_count, or what the option says', () => {
    const host = new SimulatedHost();
    const piecesOf = (options: Partial<ContextOptions>, group: number): number =>
      host.createContext({ group, endpoints: [group], ...options }).limits.windowPieces;
    expect([piecesOf({}, 1), piecesOf({ windowPieces: 3 }, 2), piecesOf({ windowPieces: 0 }, 3)]).toEqual([
      16382, 3, 0,
    ]);
    const small = new SimulatedHost({ addressSpace: new SimulatedAddressSpace({ maxMapCount: 7 }) });
    expect(small.createContext({ group: 1, endpoints: [1] }).limits.windowPieces).toBe(1);
  });

  it('of mediated devices: every I/O virtual address, no pieces, and no option that says otherwise', () => {
    const { host, context } = lab({ mediated: true });
    expect(context.limits).toMatchObject({ windowPieces: 0, usableRanges: [{ start: 0n, end: 2n ** 64n - 1n }] });
    expect(context.stats()).toMatchObject({ windows: 0, windowPieces: 0 });
    const open = (options: object) => host.createContext({ group: 8, endpoints: [4], ...options });
    expect(() => open({ mediated: true, windowPieces: 4 })).toThrow(/^windowPieces /);
    expect(() => open({ mediated: true, usableRanges: [] })).toThrow(/^usableRanges /);
    expect(() => open({ mediated: 1 })).toThrow(/^mediated /);
    expect(() => open({ windowPieces: -1 })).toThrow(/^windowPieces /);
    expect(() => open({ flavour: 'iommufd', mediated: true })).toThrow(/mediated is not an option/);
    expect(() => open({ flavour: 'iommufd', windowPieces: 1 })).toThrow(/windowPieces is not an option/);
  });

  it('of iommufd: no gathers', () => {
    const { host, va } = lab();
    const context = host.createContext({ flavour: 'iommufd', group: 8, endpoints: [4] });
    expect(context.limits.windowPieces).toBe(0);
    const batch = gathers([8, va + 9, 2]);
    expect([context.buildWindows(batch, 0), batch.errno[0]]).toEqual([0, Errno.EOPNOTSUPP]);
    expect([context.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
    context.dropWindows(batch);
    expect(context.stats()).toMatchObject({ entries: 0, windowCalls: 1, mapCalls: 1 });
  });
});

describe('windows', () => {
  it('stand until they are used or dropped, and are built once', () => {
    const { context, space, va } = lab();
    const before = space.mapCount;
    const batch = gathers([0, va + 9, 3], [8, va + 19, 4]);
    batch.map(16, 1, va, RW);
    expect(context.buildWindows(batch, 0)).toBe(3);
    const windows = [...batch.window.subarray(0, 2)];
    expect(context.stats()).toMatchObject({ windows: 2, windowPieces: 7, entries: 0, windowCalls: 2 });
    expect(windows.map((page) => space.physicalPageOf(page))).toEqual([9, 19].map((i) => space.physicalPageOf(va + i)));
    expect(context.buildWindows(batch, 0)).toBe(3);
    expect([...batch.window.subarray(0, 2)]).toEqual(windows);
    expect(context.apply(batch, 1)).toBe(3);
    expect(context.stats()).toMatchObject({ windows: 1, windowPieces: 3, entries: 2, windowCalls: 2, mapCalls: 2 });
    expect([...batch.window.subarray(0, 2)]).toEqual([windows[0], 0]);
    expect([context.apply(batch, 1), batch.errno[1]]).toEqual([1, Errno.EINVAL]);
    context.dropWindows(batch);
    context.dropWindows(batch);
    expect(context.stats()).toMatchObject({ windows: 0, windowPieces: 0, entries: 2 });
    // The reserved addresses and the spare mapping are kept for the next time.
    expect(space.mapCount).toBe(before + 2);
    expect(context.buildWindows(gathers([32, va + 9, 3]), 0)).toBe(1);
    expect(space.mapCount).toBe(before + 2 + 3 + 1);
    context.close();
    expect(space.mapCount).toBe(before);
  });

  it('belong to one container, and to the gather that they were built for', () => {
    const { host, context, va } = lab();
    const other = host.createContext({ group: 8, endpoints: [4] });
    const batch = gathers([0, va + 9, 4]);
    expect(context.buildWindows(batch, 0)).toBe(1);
    expect([other.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
    other.dropWindows(batch);
    expect(context.stats().windows).toBe(1);
    batch.rights[0] = 0;
    expect([context.apply(batch, 0), batch.errno[0], context.stats().windows]).toEqual([0, Errno.EINVAL, 0]);
    falling(batch, 8, va + 9, 4, 1);
    expect(context.buildWindows(batch, 1)).toBe(2);
    batch.rights[1] = RW;
    expect([context.apply(batch, 1), batch.errno[1], context.stats().windows]).toEqual([1, Errno.EFAULT, 0]);
  });

  it('are not used for a gather that was changed after they were built', () => {
    const { context, va } = lab();
    const batch = gathers([0, va + 9, 4]);
    context.buildWindows(batch, 0);
    batch.pages[0] = 3;
    batch.pieces[0] = 3;
    expect([context.apply(batch, 0), batch.errno[0], context.stats().windows]).toEqual([0, Errno.EINVAL, 1]);
    batch.pages[0] = 4;
    batch.pieces[0] = 4;
    expect([context.apply(batch, 0), context.stats().windows]).toEqual([1, 0]);
  });

  it('take the same addresses again and again, and leave nothing of a refused one', () => {
    const { context, space, va } = lab();
    const batch = gathers([0, va + 9, 3], [8, va + 19, 4]);
    const anonymous = pageOf(space.mmap({ length: K4, kind: 'anonymous' }));
    const seen = new Set<string>();
    for (let round = 0; round < 4; round++) {
      context.buildWindows(batch, 0);
      seen.add([...batch.window.subarray(0, 2)].join());
      context.dropWindows(batch);
    }
    const before = space.mapCount;
    batch.pieceVa[6] = anonymous;
    expect([context.buildWindows(batch, 0), batch.errno[1]]).toEqual([1, Errno.EINVAL]);
    expect([seen.size, space.mapCount, before]).toEqual([1, 4, 4]);
  });

  it('are what the file had, whatever the process does with its own mapping of it', () => {
    const { host, context, space, va } = lab();
    const batch = gathers([0, va + 9, 2]);
    const physical = [9, 8].map((i) => space.physicalPageOf(va + i));
    context.buildWindows(batch, 0);
    space.munmap(BigInt(va) * K4, 2n * M2);
    expect(context.apply(batch, 0)).toBe(1);
    expect([0, 1].map((i) => host.prober(3).physicalPageAt(i, true))).toEqual(physical);
    expect([host.lockedPages, space.mapCount]).toEqual([2, 2]);
  });

  it('are dropped also when the process has more mappings than it may make', () => {
    const { context, space, va } = lab({}, { addressSpace: new SimulatedAddressSpace({ maxMapCount: 64 }) });
    const batch = gathers([0, va + 9, 1], [8, va + 19, 3], [0, va + 29, 4]);
    expect(context.buildWindows(batch, 0)).toBe(3);
    const windows = [...batch.window.subarray(0, 3)];
    const access = (): unknown[] => windows.map((page) => space.protectionOf(page));
    const relieve = crowd(space);
    expect([space.mapCount, space.drop(windows[0]!, 1)]).toEqual([65, Errno.ENOMEM]);
    expect([context.apply(batch, 0), batch.errno[2]]).toEqual([2, Errno.EEXIST]);
    expect(access()).toEqual(['none', 'none', 'none']);
    expect(context.stats()).toMatchObject({ windows: 0, entries: 2 });
    relieve();
    expect(space.mapCount).toBe(3);
  });

  it('may be larger than what is reserved for them, then and later', () => {
    const { context, space } = lab();
    const ram = space.mmap({ length: 16n << 30n, kind: 'memfd' });
    const before = space.mapCount;
    const batch = new HostBatch();
    const sizes = [2 ** 20 - 3, 1, 2 ** 20, 2 ** 21, 512];
    let iova = 2 ** 20;
    for (const pages of sizes) {
      batch.gather(iova, pages, RW);
      batch.piece(pageOf(ram) + 1, pages);
      iova += pages;
    }
    for (let round = 0; round < 2; round++) {
      expect(context.buildWindows(batch, 0)).toBe(5);
      const spans = sizes.map((pages, i) => [batch.window[i]!, batch.window[i]! + pages]).sort(([a], [b]) => a! - b!);
      spans.slice(1).forEach(([start], i) => expect(start).toBeGreaterThan(spans[i]![1]!));
      expect(batch.window[4]! % 512).toBe(0);
      context.dropWindows(batch);
      expect(space.mapCount).toBe(before + 2);
    }
    expect(context.buildWindows(batch, 0)).toBe(5);
    expect(context.apply(batch, 0)).toBe(5);
    expect([context.stats().pinnedPages, space.mapCount]).toEqual([2 ** 22 + 510, before + 2]);
  });

  it.each([-1, 0, 1])('stay inside what is reserved, to the last page %i', (more) => {
    const { context, space } = lab();
    const ram = pageOf(space.mmap({ length: 4n << 30n, kind: 'memfd' }));
    const before = space.mapCount;
    // The first 4 GiB that are reserved start with a free page; larger windows start at multiples of 1 GiB and 2 MiB.
    const sizes = [2 ** 18, 2 ** 18 - 1, 2 ** 18 - 512 + more];
    const batch = new HostBatch();
    for (const pages of sizes) {
      batch.gather(0, pages, RW);
      batch.piece(ram, pages);
    }
    expect(context.buildWindows(batch, 0)).toBe(3);
    sizes.forEach((pages, i) => expect(space.protectionOf(batch.window[i]! + pages)).toBe('none'));
    context.dropWindows(batch);
    expect(space.mapCount).toBe(before + 2);
    const large = new HostBatch();
    large.gather(0, 2 ** 22, RW);
    for (let i = 0; i < 8; i++) large.piece(ram + 1 + i, 2 ** 19);
    expect([context.buildWindows(large, 0), space.mapCount]).toEqual([1, before + 2 + 9]);
    context.close();
    expect(space.mapCount).toBe(before);
  });

  it('are refused when they are larger than the address space', () => {
    const { context, space } = lab();
    const ram = pageOf(space.mmap({ length: 16n << 30n, kind: 'memfd' }));
    const before = space.mapCount;
    const batch = new HostBatch();
    batch.gather(0, 2 ** 35, RW);
    for (let i = 0; i < 2 ** 13; i++) batch.piece(ram, 2 ** 22);
    expect([context.buildWindows(batch, 0), batch.errno[0]]).toEqual([0, Errno.ENOMEM]);
    context.close();
    expect(space.mapCount).toBe(before);
  });
});

describe('accounting', () => {
  it('counts a gathered page as locked beside the entries that show it', () => {
    const { host, context, va } = lab();
    const batch = gathers([0, va + 9, 4]);
    batch.map(8, 16, va, RW);
    context.buildWindows(batch, 0);
    expect(host.lockedPages).toBe(0);
    expect(context.apply(batch, 0)).toBe(2);
    expect([host.lockedPages, context.stats().pinnedPages]).toEqual([20, 20]);
    batch.clear();
    batch.unmap(0, 4);
    expect([context.apply(batch, 0), batch.done[0], host.lockedPages]).toEqual([1, 4, 16]);
  });

  it('makes the IOPTEs that the physical pages allow', () => {
    const { context, space } = lab();
    const huge = pageOf(space.mmap({ length: 4n * M2, kind: 'hugetlb' }));
    const ram = pageOf(space.mmap({ length: M2, kind: 'memfd' }));
    const batch = new HostBatch();
    batch.gather(1024, 1536, RW);
    for (const i of [3, 0, 2]) batch.piece(huge + i * 512, 512);
    batch.gather(4096, 512, RW);
    for (let i = 0; i < 512; i++) batch.piece(ram + i, 1);
    falling(batch, 8192, ram + 511, 512);
    expect([context.buildWindows(batch, 0), context.apply(batch, 0)]).toEqual([3, 3]);
    expect(context.stats().ioptes).toEqual(
      new Map([
        [K4, 512],
        [M2, 4],
      ]),
    );
  });

  it('costs a call for all windows and a time for each piece', () => {
    const { host, context, va } = lab({}, { costs: { perCallNs: 1000, perMapNs: 100, perPageNs: 1, perPieceNs: 10 } });
    const batch = new HostBatch();
    batch.map(0, 1, va, RW);
    context.buildWindows(batch, 0);
    expect(host.elapsedNs).toBe(0);
    falling(batch, 8, va + 9, 4);
    falling(batch, 16, va + 19, 3);
    context.buildWindows(batch, 0);
    expect(host.elapsedNs).toBe(1000 + 70);
    context.apply(batch, 0);
    expect(host.elapsedNs).toBe(1070 + 1000 + 300 + 8);
  });
});

describe('injected failures', () => {
  it.each([1, 2, 3])('of window %i leave none', (n) => {
    const { host, context, va } = lab();
    const batch = gathers([0, va + 9, 2], [8, va + 19, 2], [16, va + 29, 2]);
    batch.unmap(64, 1);
    host.failAt(n, Errno.ENOMEM, { kind: 'window' });
    expect([context.buildWindows(batch, 0), batch.errno[n - 1]]).toEqual([n - 1, Errno.ENOMEM]);
    expect(context.stats()).toMatchObject({ windows: 0, windowCalls: n, mapCalls: 0, refusals: 1 });
    expect([...batch.window.subarray(0, 3)]).toEqual([0, 0, 0]);
    expect([context.buildWindows(batch, 0), context.apply(batch, 0)]).toEqual([4, 4]);
    expect(context.stats()).toMatchObject({ windows: 0, windowCalls: n + 3, mapCalls: 3, unmapCalls: 1, entries: 3 });
  });

  it('of a map drop the window', () => {
    const { host, context, va } = lab();
    const batch = gathers([0, va + 9, 2], [8, va + 19, 2]);
    context.buildWindows(batch, 0);
    host.failAt(1, Errno.EIO, { kind: 'map' });
    expect([context.apply(batch, 0), batch.errno[0]]).toEqual([0, Errno.EIO]);
    expect(context.stats()).toMatchObject({ windows: 1, entries: 0 });
    expect([context.apply(batch, 1), batch.errno[1]]).toEqual([2, 0]);
    expect([host.lockedPages, host.faults.injected]).toEqual([2, 1]);
  });

  it('count windows like every other operation, and observers see them', () => {
    const { host, context, va } = lab();
    const seen: [string, number, number, number][] = [];
    host.onOperation(({ kind, iova, pages, errno }) => seen.push([kind, iova, pages, errno]));
    const batch = gathers([0, va + 9, 2], [8, va + 19, 3]);
    host.failAt(4, Errno.EIO);
    context.buildWindows(batch, 0);
    context.apply(batch, 0);
    expect(seen).toEqual([
      ['window', 0, 2, 0],
      ['window', 8, 3, 0],
      ['map', 0, 2, 0],
      ['map', 8, 3, Errno.EIO],
    ]);
  });
});

describe('arguments', () => {
  const wrong: readonly [(batch: HostBatch) => void, RegExp][] = [
    [(batch) => (batch.iova[1] = -1), /^batch.iova\[1\] /],
    [(batch) => (batch.pages[1] = 3), /^batch.pages\[1\] /],
    [(batch) => (batch.pages[1] = 5), /^batch.pages\[1\] /],
    [(batch) => (batch.va[1] = 0.5), /^batch.va\[1\] /],
    [(batch) => (batch.va[1] = 2), /^batch.pieces\[1\] /],
    [(batch) => (batch.pieces[1] = 5), /^batch.pieces\[1\] /],
    [(batch) => (batch.pieces[1] = -1), /^batch.pieces\[1\] /],
    [(batch) => (batch.pieces[1] = 3), /^batch.pages\[1\] /],
    [(batch) => (batch.pieceVa[2] = NaN), /^batch.pieceVa\[2\] /],
    [(batch) => (batch.pieceVa[2] = 2 ** 53), /^batch.pieceVa\[2\] /],
    [(batch) => (batch.piecePages[2] = 0), /^batch.piecePages\[2\] /],
    [(batch) => (batch.piecePages[2] = -1), /^batch.piecePages\[2\] /],
    [(batch) => (batch.rights[1] = RW | HOST_MMIO), /^batch.rights\[1\] /],
    [(batch) => (batch.kind[1] = 4), /^batch.kind\[1\] /],
  ];
  it.each(wrong)('name an illegal column before anything changes: %s', (spoil, message) => {
    const { context, va } = lab();
    const batch = gathers([0, va + 9, 1], [8, va + 19, 4]);
    expect(context.buildWindows(batch, 0)).toBe(2);
    context.dropWindows(batch);
    spoil(batch);
    expect(() => context.buildWindows(batch, 0)).toThrow(message);
    expect(() => context.buildWindows(batch, 0)).toThrow(RangeError);
    expect(() => context.apply(batch, 0)).toThrow(message);
    expect(context.stats()).toMatchObject({ windowCalls: 2, mapCalls: 0, windows: 0, entries: 0 });
  });

  it('check the index, and refuse a gather of nothing', () => {
    const { context } = lab();
    const batch = new HostBatch();
    batch.gather(0, 0, RW);
    expect(() => context.buildWindows(batch, 2)).toThrow(/^from /);
    expect([context.buildWindows(batch, 1), context.stats().windowCalls]).toEqual([1, 0]);
    expect([context.buildWindows(batch, 0), batch.errno[0]]).toEqual([0, Errno.EINVAL]);
  });
});

describe('close', () => {
  it('drops every window, also in the middle of a batch', () => {
    const { host, context, space, va } = lab();
    const batch = gathers([0, va + 9, 4], [8, va + 19, 4]);
    const before = space.mapCount;
    context.buildWindows(batch, 0);
    host.onOperation(({ context: closing }) => closing.close());
    expect(() => context.apply(batch, 0)).toThrow(/is closed/);
    expect([space.mapCount, host.lockedPages, context.stats().windows]).toEqual([before, 0, 0]);
    for (const call of [() => context.buildWindows(batch, 0), () => context.dropWindows(batch)]) {
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }));
    }
  });
});
