// What devices of the simulated host reach: bytes, rights, bus mastering, groups, pinned windows, and a naive model.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno } from '../../base/errors.ts';
import { HostBatch } from '../context.ts';
import { SimulatedHost } from './host.ts';
import type { DmaProber } from './prober.ts';
import type { SimulatedType1Context } from './type1-context.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const G1 = 1n << 30n;

function mapOne(context: SimulatedType1Context, iova: number, pages: number, va: number, rights = 3): void {
  const batch = new HostBatch();
  batch.map(iova, pages, va, rights);
  expect(context.apply(batch, 0)).toBe(1);
}

describe('DMA', () => {
  it('moves real bytes and translates to the same byte as the process sees', () => {
    const host = new SimulatedHost();
    const ram = host.addressSpace.mmap({ length: 64n * K4, kind: 'memfd', layout: 'scattered', seed: 5 });
    const context = host.createContext({ group: 0, endpoints: [1] });
    const prober = context.prober(1);
    mapOne(context, 16, 8, Number(ram.hva / K4) + 4);
    const iova = 16n * K4 + 4090n;
    expect(prober.write(iova, Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]))).toBe(true);
    expect([...new Uint8Array(ram.windows[0]!, 4 * 4096 + 4090, 8)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect([...prober.read(iova, 8)!]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(prober.translate(iova, 'read')).toEqual(host.addressSpace.translate(ram.hva + 4n * K4 + 4090n));
    expect(prober.translate(24n * K4, 'read')).toBeUndefined();
  });

  it('is all or nothing per page, and counts blocked pages', () => {
    const host = new SimulatedHost();
    const ram = host.addressSpace.mmap({ length: 4n * K4, kind: 'memfd' });
    const context = host.createContext({ group: 0, endpoints: [1] });
    const prober = context.prober(1);
    mapOne(context, 0, 1, Number(ram.hva / K4));
    mapOne(context, 2, 1, Number(ram.hva / K4) + 2);
    expect(prober.write(4095n, new Uint8Array(4098).fill(7))).toBe(false);
    const bytes = new Uint8Array(ram.windows[0]!);
    expect([bytes[4094], bytes[4095], bytes[4096], bytes[8191], bytes[8192], bytes[8193]]).toEqual([0, 7, 0, 0, 7, 0]);
    expect(prober.read(0n, 4097)).toBeUndefined();
    expect(prober.read(0n, 4096)).toHaveLength(4096);
    expect([prober.blockedReads, prober.blockedWrites]).toEqual([1, 1]);
    expect(prober.read(2n ** 64n - 1n, 1)).toBeUndefined();
    expect(() => prober.read(2n ** 64n - 1n, 2)).toThrow(/^iova \+ length /);
  });

  it.each([
    [true, [1, -1, 1, 1, 1, 1]],
    [false, [1, -1, -1, 1, 1, 1]],
  ])('follows rights; a write-only entry can be read: %s', (writeOnlyReadable, expected) => {
    const host = new SimulatedHost({ writeOnlyReadable });
    const ram = host.addressSpace.mmap({ length: K4, kind: 'memfd' });
    const context = host.createContext({ group: 0, endpoints: [1] });
    const prober = context.prober(1);
    [1, 2, 3].forEach((rights) => mapOne(context, rights, 1, Number(ram.hva / K4), rights));
    const seen = [1, 2, 3].flatMap((page) => [prober.physicalPageAt(page, false), prober.physicalPageAt(page, true)]);
    expect(seen.map((page) => (page < 0 ? -1 : 1))).toEqual(expected);
    expect(prober.reachable().map(({ rights }) => rights)).toEqual([1, 2, 3]);
  });

  it('never returns a page that was remapped or unmapped since the last probe', () => {
    const host = new SimulatedHost();
    const ram = host.addressSpace.mmap({ length: 4n * K4, kind: 'memfd' });
    const context = host.createContext({ group: 0, endpoints: [1] });
    const prober = context.prober(1);
    const va = Number(ram.hva / K4);
    mapOne(context, 0, 1, va);
    expect(prober.physicalPageAt(0, true)).toBe(host.addressSpace.physicalPageOf(va));
    context.unmapAll();
    expect(prober.physicalPageAt(0, true)).toBe(-1);
    mapOne(context, 0, 1, va + 1);
    expect(prober.physicalPageAt(0, true)).toBe(host.addressSpace.physicalPageOf(va + 1));
  });
});

describe('bus mastering and groups', () => {
  it.each([1, 2, 3])('a group of %i endpoints shares one table; each device has its own bit', (count) => {
    const host = new SimulatedHost();
    const ram = host.addressSpace.mmap({ length: K4, kind: 'memfd' });
    const endpoints = Array.from({ length: count }, (_, i) => 100 + i);
    const context = host.createContext({ group: 5, endpoints });
    const outside = host.createContext({ group: 6, endpoints: [200] });
    mapOne(context, 9, 1, Number(ram.hva / K4));
    const reach = (): boolean[] => endpoints.map((id) => host.prober(id).reachable().length === 1);
    const all = (value: boolean): boolean[] => endpoints.map(() => value);
    expect(context.endpoints).toEqual(endpoints);
    expect(reach()).toEqual(all(true));
    expect(outside.prober(200).reachable()).toEqual([]);
    host.setBusMaster(100, false);
    expect(reach()).toEqual([false, ...all(true).slice(1)]);
    expect(context.prober(100).write(9n * K4, Uint8Array.from([1]))).toBe(false);
    host.setBusMaster(100, true);
    expect(context.clearBusMaster()).toBe(0);
    expect(reach()).toEqual(all(false));
    endpoints.forEach((id) => host.setBusMaster(id, true));
    expect(reach()).toEqual(all(true));
    expect(context.resetDevices()).toBe(0);
    expect(reach()).toEqual(all(false));
    expect(endpoints.map((id) => [host.busMaster(id), host.resets(id)])).toEqual(endpoints.map(() => [false, 1]));
    expect([host.busMaster(200), host.resets(200)]).toEqual([true, 0]);
    expect(() => context.prober(200)).toThrow(/^endpoint /);
  });

  it('can start with bus mastering off', () => {
    const host = new SimulatedHost();
    host.createContext({ group: 5, endpoints: [1], busMaster: false });
    expect(host.busMaster(1)).toBe(false);
  });
});

describe('pinned pages', () => {
  it('keeps a gather window of 512 single pages reachable after the window is gone', () => {
    const host = new SimulatedHost();
    const space = host.addressSpace;
    const ram = space.mmap({ length: 4n * M2, kind: 'memfd' });
    const words = new Uint32Array(ram.windows[0]!);
    for (let page = 0; page < 2048; page++) words[page * 1024] = page + 1;
    const window = space.mmap({ length: M2, kind: 'anonymous', prot: 'none' });
    const pageOf = (i: number): number => (i * 1025 + 3) % 2048;
    for (let i = 0; i < 512; i++) {
      const source = { object: ram.object, offset: BigInt(pageOf(i)) * K4 };
      space.mmap({ length: K4, at: window.hva + BigInt(i) * K4, source });
    }
    expect(space.objectCount).toBe(1);
    const context = host.createContext({ group: 0, endpoints: [1] });
    mapOne(context, 512, 512, Number(window.hva / K4));
    expect(context.stats()).toMatchObject({ entries: 1, pinnedPages: 512 });
    expect(context.stats().ioptes).toEqual(new Map([[K4, 512]]));
    space.mmap({ length: M2, kind: 'anonymous', prot: 'none', at: window.hva });
    const prober = context.prober(1);
    for (let i = 0; i < 512; i++) {
      const bytes = prober.read(BigInt(512 + i) * K4, 4)!;
      expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(pageOf(i) + 1);
    }
    expect(context.mapDma({ iova: 0n, vaddr: window.hva, size: K4, flags: 1 }).errno).toBe(Errno.EFAULT);
    space.munmap(window.hva, M2);
    space.munmap(ram.hva, 4n * M2);
    expect(prober.physicalPageAt(512, true)).toBe(ram.object.layout.physicalPage(pageOf(0)));
    expect(context.unmapAll()).toBe(0);
    expect([prober.reachable(), host.lockedPages]).toEqual([[], 0]);
  });

  it('probes every page of 16 GiB', () => {
    const host = new SimulatedHost();
    const ram = host.addressSpace.mmap({ length: 16n * G1, kind: 'memfd' });
    const context = host.createContext({ group: 0, endpoints: [1] });
    const va = Number(ram.hva / K4);
    const pages = 4 * 2 ** 20;
    mapOne(context, 2 ** 20, pages, va);
    const prober = context.prober(1);
    let different = 0;
    for (let page = 0; page < pages; page++) {
      if (prober.physicalPageAt(2 ** 20 + page, true) !== host.addressSpace.physicalPageOf(va + page)) different++;
    }
    expect(different).toBe(0);
    expect([prober.physicalPageAt(2 ** 20 - 1, true), prober.physicalPageAt(2 ** 20 + pages, true)]).toEqual([-1, -1]);
    expect(context.stats().ioptes).toEqual(new Map([[G1, 16]]));
  });
});

// Naive model: a flat array of I/O virtual pages; the rules written once more from the errno tables.
const IOVA_PAGES = 48;
const VA_PAGES = 24;
const HOLE = 20;
const READ_ONLY = 12;
const RESERVED: readonly [number, number] = [30, 33];
const LIMIT = 5;
const MEMLOCK = 30;

interface ModelEntry {
  readonly iova: number;
  readonly pages: number;
  readonly va: number;
  readonly rights: number;
}

function modelMap(entries: ModelEntry[], { iova, pages, va, rights }: ModelEntry): number {
  if (pages === 0 || rights === 0) return Errno.EINVAL;
  if (entries.some((entry) => entry.iova < iova + pages && iova < entry.iova + entry.pages)) return Errno.EEXIST;
  if (entries.length >= LIMIT) return Errno.ENOSPC;
  if (iova + pages > IOVA_PAGES || (iova < RESERVED[1] && iova + pages > RESERVED[0])) return Errno.EINVAL;
  let locked = entries.reduce((sum, entry) => sum + entry.pages, 0);
  for (let page = va; page < va + pages; page++) {
    if (page >= VA_PAGES || page === HOLE || (page === READ_ONLY && (rights & 2) !== 0)) return Errno.EFAULT;
    if (++locked > MEMLOCK) return Errno.ENOMEM;
  }
  entries.push({ iova, pages, va, rights });
  return 0;
}

function modelUnmap(entries: ModelEntry[], iova: number, pages: number): number {
  const end = iova + pages;
  if (pages === 0) return Errno.EINVAL;
  const cuts = (at: number): boolean => entries.some((entry) => entry.iova < at && at < entry.iova + entry.pages);
  if (cuts(iova) || cuts(end)) return Errno.EINVAL;
  const kept = entries.filter((entry) => entry.iova < iova || entry.iova >= end);
  entries.splice(0, entries.length, ...kept);
  return 0;
}

function expectAgreement(entries: ModelEntry[], prober: DmaProber, physical: (va: number) => number): void {
  const expected = new Map<number, [page: number, rights: number]>();
  for (const { iova, pages, va, rights } of entries) {
    for (let i = 0; i < pages; i++) expected.set(iova + i, [physical(va + i), rights]);
  }
  const seen = new Map<number, [page: number, rights: number]>();
  for (const run of prober.reachable()) {
    for (let i = 0; i < run.pages; i++) seen.set(run.iova + i, [run.physical + i, run.rights]);
  }
  expect([...seen].sort(([a], [b]) => a - b)).toEqual([...expected].sort(([a], [b]) => a - b));
  for (let page = 0; page < IOVA_PAGES + 8; page++) {
    const [at, rights] = expected.get(page) ?? [-1, 3];
    expect(prober.physicalPageAt(page, false)).toBe((rights & 1) !== 0 ? at : -1);
    expect(prober.physicalPageAt(page, true)).toBe((rights & 2) !== 0 ? at : -1);
  }
}

describe('random operations', () => {
  const operation = fc.record({
    unmap: fc.boolean(),
    iova: fc.integer({ min: 0, max: IOVA_PAGES + 2 }),
    pages: fc.oneof(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: IOVA_PAGES })),
    va: fc.integer({ min: 0, max: VA_PAGES }),
    rights: fc.integer({ min: 0, max: 3 }),
  });

  it.each(['contiguous', 'scattered'] as const)('agree with the naive model, %s memory', (layout) => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const host = new SimulatedHost({ writeOnlyReadable: false });
        const ram = host.addressSpace.mmap({ length: BigInt(VA_PAGES) * K4, kind: 'memfd', layout, seed: 1 });
        host.addressSpace.munmap(ram.hva + BigInt(HOLE) * K4, K4);
        host.addressSpace.mprotect(ram.hva + BigInt(READ_ONLY) * K4, K4, 'r');
        const usableRanges = [
          { start: 0n, end: BigInt(RESERVED[0]) * K4 - 1n },
          { start: BigInt(RESERVED[1]) * K4, end: BigInt(IOVA_PAGES) * K4 - 1n },
        ];
        const context = host.createContext({
          group: 0,
          endpoints: [1],
          entryLimit: LIMIT,
          memlockLimit: MEMLOCK,
          usableRanges,
        });
        const base = Number(ram.hva / K4);
        const entries: ModelEntry[] = [];
        for (const { unmap, iova, pages, va, rights } of operations) {
          const batch = new HostBatch();
          if (unmap) batch.unmap(iova, pages);
          else batch.map(iova, pages, base + va, rights);
          const before = entries.reduce((sum, entry) => sum + entry.pages, 0);
          const errno = unmap ? modelUnmap(entries, iova, pages) : modelMap(entries, { iova, pages, va, rights });
          const after = entries.reduce((sum, entry) => sum + entry.pages, 0);
          expect(context.apply(batch, 0)).toBe(errno === 0 ? 1 : 0);
          expect(batch.errno[0]).toBe(errno);
          if (unmap) expect(batch.done[0]).toBe(before - after);
          expect([context.entriesLeft(), host.lockedPages]).toEqual([LIMIT - entries.length, after]);
          expectAgreement(entries, context.prober(1), (page) => ram.object.layout.physicalPage(page));
        }
        const ioptes = [...context.stats().ioptes].reduce((sum, [size, n]) => sum + Number(size / K4) * n, 0);
        expect(ioptes).toBe(host.lockedPages);
      }),
      { numRuns: 60 },
    );
  });
});
