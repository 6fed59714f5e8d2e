// Virtual memory of the simulated process: placement, MAP_FIXED, protection, huge pages, physical layout, map_count.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno, isHostError } from '../../base/errors.ts';
import type { MmapOptions } from './address-space.ts';
import { SimulatedAddressSpace } from './address-space.ts';
import { PinList } from './pin-list.ts';
import { PhysicalLayout } from './physical-layout.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const G1 = 1n << 30n;

function errnoOf(action: () => unknown): number {
  try {
    action();
  } catch (error) {
    if (isHostError(error)) return error.errno;
    throw error;
  }
  return 0;
}

function pin(
  space: SimulatedAddressSpace,
  hva: bigint,
  pages: number,
  write = true,
): { errno: number; runs: number[] } {
  const pins = new PinList();
  pins.reset(Infinity, false);
  const errno = space.pin(Number(hva / K4), pages, write, pins);
  return { errno, runs: [...pins.lengths.subarray(0, pins.count)] };
}

describe('mmap', () => {
  it('rounds the length up and aligns large mappings', () => {
    const space = new SimulatedAddressSpace();
    const small = space.mmap({ length: 1n, kind: 'memfd' });
    expect(small.size).toBe(K4);
    expect(small.windows.map((window) => window.byteLength)).toEqual([4096]);
    expect(space.mmap({ length: M2, kind: 'memfd' }).hva % M2).toBe(0n);
    expect(space.mmap({ length: G1, kind: 'memfd' }).hva % G1).toBe(0n);
    expect(space.mmap({ length: 1n, kind: 'hugetlb' }).size).toBe(M2);
  });

  it('never places a mapping over or beside another one', () => {
    const space = new SimulatedAddressSpace();
    const first = space.mmap({ length: K4, kind: 'memfd' });
    const fixed = space.mmap({ length: 4n * K4, kind: 'memfd', at: first.hva + 2n * K4 });
    const later = space.mmap({ length: 2n * K4, kind: 'memfd' });
    expect(later.hva).toBeGreaterThan(fixed.hva + fixed.size);
    expect(space.physicalPageOf(Number(fixed.hva / K4))).toBe(fixed.object.layout.base);
  });

  it('gives windows of at most 1 GiB, zeroed, the same arrays each time', () => {
    const space = new SimulatedAddressSpace();
    const { windows, object } = space.mmap({ length: G1 + K4, kind: 'memfd' });
    expect(windows.map((window) => window.byteLength)).toEqual([2 ** 30, 4096]);
    expect(object.windows[1]).toBe(windows[1]);
    const byte = new Uint8Array(1);
    new Uint8Array(windows[1]!)[7] = 9;
    object.read(2 ** 30 + 7, byte);
    expect(byte[0]).toBe(9);
  });

  it('maps a part of an object again: same bytes, same physical pages', () => {
    const space = new SimulatedAddressSpace();
    const ram = space.mmap({ length: 8n * K4, kind: 'memfd', layout: 'scattered', seed: 3 });
    const again = space.mmap({ length: 2n * K4, source: { object: ram.object, offset: 5n * K4 } });
    expect(space.translate(again.hva + 1n)).toEqual(space.translate(ram.hva + 5n * K4 + 1n));
    expect(space.translate(again.hva + 2n * K4)).toBeUndefined();
  });

  it('cuts what MAP_FIXED replaces', () => {
    const space = new SimulatedAddressSpace();
    const ram = space.mmap({ length: 8n * K4, kind: 'memfd' });
    const other = space.mmap({ length: K4, kind: 'memfd', at: ram.hva + 3n * K4 });
    const page = Number(ram.hva / K4);
    const seen = [2, 3, 4].map((i) => space.physicalPageOf(page + i));
    expect(seen).toEqual([ram.object.layout.base + 2, other.object.layout.base, ram.object.layout.base + 4]);
    expect(space.mapCount).toBe(3);
    space.mmap({ length: K4, at: ram.hva + 3n * K4, source: { object: ram.object, offset: 3n * K4 } });
    expect(space.mapCount).toBe(1);
  });

  it('forgets anonymous memory that nothing maps, and keeps what a device pinned', () => {
    const space = new SimulatedAddressSpace();
    const dropped = space.mmap({ length: M2, kind: 'anonymous', prot: 'none' });
    const pinned = space.mmap({ length: M2, kind: 'anonymous' });
    pin(space, pinned.hva, 1);
    space.munmap(dropped.hva, M2);
    space.munmap(pinned.hva, M2);
    expect(space.objectCount).toBe(1);
    expect(space.objectAt(pinned.object.layout.base)).toBe(pinned.object);
  });

  it('keeps vm.max_map_count at N and N + 1', () => {
    const space = new SimulatedAddressSpace({ maxMapCount: 2 });
    const map = (): number => errnoOf(() => space.mmap({ length: 4n * K4, kind: 'memfd' }));
    expect([map(), map(), map(), map()]).toEqual([0, 0, 0, Errno.ENOMEM]);
    const single = new SimulatedAddressSpace({ maxMapCount: 1 });
    const { hva } = single.mmap({ length: 4n * K4, kind: 'memfd' });
    expect(errnoOf(() => single.munmap(hva + K4, K4))).toBe(Errno.ENOMEM);
    expect(errnoOf(() => single.munmap(hva, K4))).toBe(0);
    expect(single.mapCount).toBe(1);
  });

  it('refuses to cut a huge page and to run out of addresses', () => {
    const space = new SimulatedAddressSpace();
    const huge = space.mmap({ length: 2n * M2, kind: 'hugetlb' });
    expect(errnoOf(() => space.munmap(huge.hva, K4))).toBe(Errno.EINVAL);
    expect(errnoOf(() => space.mprotect(huge.hva + K4, M2 - K4, 'r'))).toBe(Errno.EINVAL);
    expect(errnoOf(() => space.mmap({ length: K4, kind: 'memfd', at: huge.hva + K4 }))).toBe(Errno.EINVAL);
    const source = { object: huge.object, offset: K4 };
    expect(errnoOf(() => space.mmap({ length: M2, source }))).toBe(Errno.EINVAL);
    expect(errnoOf(() => space.munmap(huge.hva, M2))).toBe(0);
    expect(errnoOf(() => space.mmap({ length: 1n << 47n, kind: 'memfd' }))).toBe(Errno.ENOMEM);
    expect(space.mapCount).toBe(1);
  });

  const wrong: readonly [Record<string, unknown>, RegExp][] = [
    [{ length: 0n, kind: 'memfd' }, /^length /],
    [{ length: 4096, kind: 'memfd' }, /^length /],
    [{ length: 1n, kind: 'disk' }, /^kind /],
    [{ length: 1n }, /^kind /],
    [{ length: 1n, kind: 'memfd', at: 1n }, /^at /],
    [{ length: 1n, kind: 'memfd', pageSize: 12288 }, /^pageSize /],
    [{ length: 1n, kind: 'memfd', prot: 'x' }, /^prot /],
    [{ length: 1n, source: { object: {}, offset: 0n } }, /^source.object /],
    [{ length: 1n, kind: 'memfd', hva: 0n }, /hva is not an option/],
  ];
  it.each(wrong)('names the wrong argument of %o', (options, message) => {
    const space = new SimulatedAddressSpace();
    expect(() => space.mmap(options as unknown as MmapOptions)).toThrow(message);
    expect(space.mapCount).toBe(0);
  });
});

describe('munmap and mprotect', () => {
  it('are seen at once by physicalPageOf', () => {
    const space = new SimulatedAddressSpace();
    const { hva, object } = space.mmap({ length: 2n * K4, kind: 'memfd' });
    const page = Number(hva / K4);
    const seen = (): number[] => [page - 1, page, page + 1, page + 2].map((at) => space.physicalPageOf(at));
    expect(seen()).toEqual([-1, object.layout.base, object.layout.base + 1, -1]);
    space.munmap(hva, K4);
    expect(seen()).toEqual([-1, -1, object.layout.base + 1, -1]);
    space.mmap({ length: K4, at: hva + K4, source: { object, offset: 0n } });
    expect(seen()).toEqual([-1, -1, object.layout.base, -1]);
  });

  it('follow protection page by page', () => {
    const space = new SimulatedAddressSpace();
    const { hva } = space.mmap({ length: 4n * K4, kind: 'memfd' });
    space.mprotect(hva + K4, K4, 'r');
    expect(pin(space, hva, 4).errno).toBe(Errno.EFAULT);
    expect(pin(space, hva, 4, false)).toEqual({ errno: 0, runs: [4] });
    space.mprotect(hva + K4, K4, 'none');
    expect(pin(space, hva, 4, false).errno).toBe(Errno.EFAULT);
    space.mprotect(hva, 4n * K4, 'rw');
    expect(space.mapCount).toBe(1);
    space.munmap(hva + K4, K4);
    expect(pin(space, hva, 4, false).errno).toBe(Errno.EFAULT);
    expect(errnoOf(() => space.mprotect(hva, 4n * K4, 'r'))).toBe(Errno.ENOMEM);
    expect(pin(space, hva, 1).errno).toBe(0);
  });

  it('refuse a write pin of a file page on kernels from 6.5 on', () => {
    const space = new SimulatedAddressSpace();
    const { hva } = space.mmap({ length: K4, kind: 'file' });
    const pins = new PinList();
    pins.reset(Infinity, true);
    expect(space.pin(Number(hva / K4), 1, true, pins)).toBe(0);
    expect(pin(space, hva, 1).errno).toBe(Errno.EFAULT);
    expect(pin(space, hva, 1, false).errno).toBe(0);
  });
});

describe('physical layout', () => {
  it('is a bijection without two consecutive granules when scattered', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 3, max: 3000 }),
        fc.constantFrom(1, 2, 512),
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        (granules, granule, seed) => {
          const layout = new PhysicalLayout(4096, granules * granule, granule, seed);
          const seen = new Set<number>();
          let wrong = 0;
          for (let page = 0; page < layout.pages; page += granule) {
            const physical = layout.physicalPage(page);
            seen.add(physical);
            if (layout.pageOf(physical + granule - 1) !== page + granule - 1) wrong++;
            if (page > 0 && physical === layout.physicalPage(page - 1) + 1) wrong++;
          }
          expect(wrong).toBe(0);
          expect(seen.size).toBe(granules);
          expect(Math.min(...seen)).toBe(4096);
        },
      ),
      { numRuns: 30 },
    );
  });

  it('stays exact at the largest scattered size', () => {
    const layout = new PhysicalLayout(0, 2 ** 26, 1, 77);
    for (const page of [0, 1, 2 ** 25, 2 ** 26 - 1]) expect(layout.pageOf(layout.physicalPage(page))).toBe(page);
  });

  it('gives one run for 16 GiB, 4096 runs when scattered, and joins runs over neighbouring mappings', () => {
    const space = new SimulatedAddressSpace();
    const ram = space.mmap({ length: 16n * G1, kind: 'memfd' });
    expect(pin(space, ram.hva, 4 * 2 ** 20).runs).toEqual([4 * 2 ** 20]);
    const scattered = space.mmap({ length: 4096n * K4, kind: 'memfd', layout: 'scattered', seed: 1 });
    expect(pin(space, scattered.hva, 4096).runs.length).toBe(4096);
    const at = space.mmap({ length: 3n * K4, kind: 'anonymous', prot: 'none' }).hva;
    [1n, 2n, 9n].forEach((page, i) => {
      space.mmap({ length: K4, at: at + BigInt(i) * K4, source: { object: ram.object, offset: page * K4 } });
    });
    expect(pin(space, at, 3).runs).toEqual([2, 1]);
  });
});
