// Reserved addresses and second mappings of file pages: what the kernel refuses, and how it counts areas.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Errno, isHostError } from '../../base/errors.ts';
import type { MmapOptions } from './address-space.ts';
import { SimulatedAddressSpace } from './address-space.ts';
import { PinList } from './pin-list.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const { EPERM, ENOMEM, EACCES, EFAULT, EBUSY, EINVAL } = Errno;

function map(space: SimulatedAddressSpace, options: Partial<MmapOptions> = {}): number {
  return Number(space.mmap({ length: 64n * K4, kind: 'memfd', ...options }).hva / K4);
}

function errnoOf(action: () => unknown): number {
  try {
    action();
  } catch (error) {
    if (isHostError(error)) return error.errno;
    throw error;
  }
  return 0;
}

function pin(space: SimulatedAddressSpace, page: number, pages: number, write = true): number {
  const pins = new PinList();
  pins.reset(Infinity, false);
  return space.pin(page, pages, write, pins);
}

describe('reserve', () => {
  it('gives PROT_NONE addresses of their own with nothing behind them', () => {
    const space = new SimulatedAddressSpace();
    const ram = map(space);
    const page = space.reserve(1000);
    const later = map(space);
    expect(page > ram + 64 && later > page + 1000).toBe(true);
    expect([space.mapCount, space.objectCount]).toEqual([3, 2]);
    expect([page - 1, page, page + 999, page + 1000].map((at) => space.protectionOf(at))).toEqual([
      undefined,
      'none',
      'none',
      undefined,
    ]);
    expect([space.physicalPageOf(page), space.translate(BigInt(page) * K4)]).toEqual([-1, undefined]);
    expect([pin(space, page, 1), pin(space, page, 1, false), space.alias(later, 1, page, false)]).toEqual([14, 14, 14]);
  });

  it('can be mapped over, unmapped in part, and not be made accessible', () => {
    const space = new SimulatedAddressSpace();
    const page = space.reserve(8);
    const hva = BigInt(page) * K4;
    expect(() => space.mprotect(hva, K4, 'rw')).toThrow(RangeError);
    space.mmap({ length: K4, kind: 'memfd', at: hva + 2n * K4 });
    expect(() => space.mprotect(hva + 2n * K4, 2n * K4, 'r')).toThrow(/^hva /);
    space.mprotect(hva + 2n * K4, K4, 'r');
    space.munmap(hva + 5n * K4, K4);
    expect(space.mapCount).toBe(4);
    expect(Array.from({ length: 8 }, (_, i) => space.protectionOf(page + i))).toEqual([
      'none',
      'none',
      'r',
      'none',
      'none',
      undefined,
      'none',
      'none',
    ]);
    expect([space.drop(page, 8), space.mapCount, space.release(page, 8), space.mapCount]).toEqual([0, 1, 0, 0]);
  });

  it('is refused without addresses, and above vm.max_map_count', () => {
    const space = new SimulatedAddressSpace({ maxMapCount: 1 });
    expect(space.reserve(2 ** 36)).toBe(-ENOMEM);
    expect([space.reserve(1) > 0, space.reserve(1) > 0, space.reserve(1)]).toEqual([true, true, -ENOMEM]);
  });
});

describe('alias', () => {
  it('shows the same bytes, splits what was reserved, and merges what continues', () => {
    const space = new SimulatedAddressSpace();
    const ram = map(space, { layout: 'scattered', seed: 1 });
    const at = space.reserve(16);
    const counts: number[] = [];
    const alias = (offset: number, pages: number, source: number, write = true): void => {
      expect(space.alias(at + offset, pages, ram + source, write)).toBe(0);
      counts.push(space.mapCount);
    };
    alias(4, 1, 20);
    alias(5, 1, 21);
    alias(6, 1, 40);
    alias(3, 1, 19);
    alias(6, 1, 22);
    alias(6, 1, 22, false);
    alias(8, 1, 24);
    alias(7, 1, 23, false);
    alias(0, 3, 0);
    alias(2, 1, 18);
    expect(counts).toEqual([4, 4, 5, 5, 4, 5, 7, 6, 6, 6]);
    expect([0, 1, 2, 3, 5, 8].map((i) => space.physicalPageOf(at + i))).toEqual(
      [0, 1, 18, 19, 21, 24].map((i) => space.physicalPageOf(ram + i)),
    );
    expect([pin(space, at, 9, false), pin(space, at, 6), pin(space, at, 7), pin(space, at, 10, false)]).toEqual([
      0, 0, 14, 14,
    ]);
    expect([space.drop(at, 16), space.mapCount, space.protectionOf(at)]).toEqual([0, 2, 'none']);
  });

  it('of huge pages: whole ones, whose areas never merge', () => {
    const space = new SimulatedAddressSpace();
    const huge = map(space, { kind: 'hugetlb', length: 4n * M2 });
    const area = space.reserve(4096);
    const at = Math.ceil(area / 512) * 512;
    const refused: [offset: number, pages: number, source: number][] = [
      [0, 511, 0],
      [0, 513, 0],
      [1, 512, 0],
      [0, 512, 1],
    ];
    for (const [offset, pages, source] of refused)
      expect(space.alias(at + offset, pages, huge + source, true)).toBe(EINVAL);
    const before = space.mapCount;
    expect([space.alias(at + 512, 512, huge, true), space.alias(at + 1024, 512, huge + 512, true)]).toEqual([0, 0]);
    expect(space.mapCount).toBe(before + 3);
    expect([space.drop(at + 513, 511), space.alias(at + 1000, 24, map(space), true)]).toEqual([EINVAL, EINVAL]);
    expect([space.drop(at, 2048), space.mapCount]).toEqual([0, before + 1]);
  });

  it('of what is no file, or not there', () => {
    const space = new SimulatedAddressSpace();
    const at = space.reserve(64);
    const holed = map(space);
    space.munmap(BigInt(holed + 2) * K4, K4);
    const alias = (page: number, pages = 1): number => space.alias(at, pages, page, false);
    expect([alias(map(space, { kind: 'anonymous' })), alias(map(space, { kind: 'pfnmap' }))]).toEqual([EINVAL, EINVAL]);
    expect([alias(1), alias(2 ** 52 - 1), alias(holed + 2), alias(holed, 3), alias(holed, 2)]).toEqual([
      EFAULT,
      EFAULT,
      EFAULT,
      EFAULT,
      0,
    ]);
    expect([alias(map(space, { kind: 'file' })), pin(space, at, 1, false), pin(space, at, 1)]).toEqual([0, 0, EFAULT]);
    expect(alias(map(space, { pageSize: 0x1_0000, length: 0x2_0000n }))).toBe(EINVAL);
  });

  it('takes what the process sees at the source, and keeps it', () => {
    const space = new SimulatedAddressSpace();
    const ram = map(space);
    const [first, second] = [space.reserve(4), space.reserve(4)];
    space.alias(first, 2, ram + 8, true);
    expect(space.alias(second, 2, first, true)).toBe(0);
    space.drop(first, 4);
    space.munmap(BigInt(ram) * K4, 64n * K4);
    const other = map(space, { at: BigInt(ram) * K4 });
    expect(space.alias(first, 1, other, true)).toBe(0);
    const bases = [second + 1, first].map((page) => space.translate(BigInt(page) * K4)?.offset);
    expect(bases).toEqual([9n * K4, 0n]);
    expect(space.translate(BigInt(first) * K4)?.object).not.toBe(space.translate(BigInt(second) * K4)?.object);
  });

  it('sees at once what becomes of the source', () => {
    const space = new SimulatedAddressSpace();
    const [ram, at] = [map(space), space.reserve(4)];
    const [from, hva] = [ram + 5, BigInt(ram + 5) * K4];
    const alias = (): number => space.alias(at, 1, from, true);
    const offset = (): bigint | undefined => space.translate(BigInt(at) * K4)?.offset;
    expect([alias(), offset()]).toEqual([0, 5n * K4]);
    space.munmap(hva, K4);
    expect(alias()).toBe(EFAULT);
    const { object } = space.mmap({ length: 4n * K4, kind: 'memfd' });
    space.mmap({ length: K4, at: hva, source: { object, offset: 3n * K4 } });
    expect([alias(), offset()]).toEqual([0, 3n * K4]);
    space.mmap({ length: K4, at: hva, kind: 'anonymous' });
    expect(alias()).toBe(EINVAL);
  });

  const files: readonly [Partial<MmapOptions>, write: number, read: number][] = [
    [{ seals: ['shrink', 'grow', 'seal'] }, 0, 0],
    [{ seals: ['future-write'] }, EPERM, 0],
    [{ seals: ['write'], prot: 'r' }, EPERM, 0],
    [{ seals: ['future-write'], kind: 'hugetlb', length: M2 }, EPERM, 0],
    [{ fileMode: 'r', prot: 'r' }, EACCES, 0],
    [{ fileMode: 'r', prot: 'none', kind: 'file' }, EACCES, 0],
    [{ fileMode: 'r', prot: 'r', seals: ['write'] }, EACCES, 0],
  ];
  it.each(files)('of the file %o', (options, write, read) => {
    const space = new SimulatedAddressSpace();
    const mapped = space.mmap({ length: 512n * K4, kind: 'memfd', ...options });
    const source = { object: mapped.object, offset: 0n };
    const at = Math.ceil(space.reserve(1024) / 512) * 512;
    const alias = (writable: boolean): number => space.alias(at, 512, Number(mapped.hva / K4), writable);
    expect([alias(true), alias(false)]).toEqual([write, read]);
    expect(errnoOf(() => space.mmap({ length: 512n * K4, source }))).toBe(write);
    expect(errnoOf(() => space.mmap({ length: 512n * K4, source, prot: 'r' }))).toBe(read);
    expect(mapped.object.seals).toEqual(options.seals ?? []);
  });

  it('seals and modes that cannot be', () => {
    const space = new SimulatedAddressSpace();
    expect(errnoOf(() => map(space, { seals: ['write'] }))).toBe(EBUSY);
    expect(errnoOf(() => map(space, { fileMode: 'r' }))).toBe(EACCES);
    const { object } = space.mmap({ length: K4, kind: 'memfd' });
    expect(() => map(space, { seals: ['shrink'], source: { object, offset: 0n }, length: K4 })).toThrow(/^seals /);
    expect(() => map(space, { fileMode: 'r', source: { object, offset: 0n }, length: K4 })).toThrow(/^fileMode /);
    expect(() => map(space, { seals: ['shrink'], kind: 'anonymous' })).toThrow(/^seals/);
    expect(() => map(space, { fileMode: 'r', kind: 'anonymous' })).toThrow(/^fileMode/);
    expect(() => map(space, { seals: ['weak'] as never })).toThrow(/^seals\[0\] /);
    expect(() => map(space, { seals: 'write' as never })).toThrow(/^seals /);
    expect(() => map(space, { fileMode: 'w' as never })).toThrow(/^fileMode /);
    expect(space.mapCount).toBe(1);
  });
});

describe('aliasAll', () => {
  const pieces = fc.array(
    fc.record({
      source: fc.constantFrom('first', 'first', 'first', 'second', 'parted', 'sealed', 'huge', 'anonymous', 'nothing'),
      page: fc.nat(5),
      pages: fc.integer({ min: 1, max: 3 }),
    }),
    { minLength: 1, maxLength: 12 },
  );
  type Source = 'first' | 'second' | 'parted' | 'sealed' | 'huge' | 'anonymous' | 'nothing';

  /** A process near its limit of mappings, and what each page of a reserved stretch of it is. */
  function process(maxMapCount: number): {
    space: SimulatedAddressSpace;
    at: number;
    pageOf: Record<Source, number>;
    shown: () => unknown[];
  } {
    const space = new SimulatedAddressSpace({ maxMapCount });
    const pageOf = {
      first: map(space),
      second: map(space),
      parted: map(space),
      sealed: map(space, { seals: ['future-write'] }),
      huge: map(space, { kind: 'hugetlb' }),
      anonymous: map(space, { kind: 'anonymous' }),
      nothing: 1,
    };
    space.mprotect(BigInt(pageOf.parted + 2) * K4, K4, 'r');
    const at = space.reserve(24);
    const shown = (): unknown[] => [
      space.mapCount,
      Array.from({ length: 64 }, (_, i) => [space.physicalPageOf(at + i), space.protectionOf(at + i)]),
    ];
    return { space, at, pageOf, shown };
  }

  it('does what alias does, piece by piece, up to the first refusal', () => {
    fc.assert(
      fc.property(pieces, fc.constantFrom(0, 1, 10, 20), fc.nat(14), fc.boolean(), (list, start, room, write) => {
        const [together, single] = [process(9 + room), process(9 + room)];
        const vas = Float64Array.from(list, ({ source, page }) => together.pageOf[source] + page);
        const lengths = Float64Array.from(list, ({ pages }) => pages);
        const taken = together.space.aliasAll(together.at + start, vas, lengths, 0, list.length, write);
        let errno = 0;
        for (let i = 0, at = single.at + start; errno === 0 && i < list.length; at += lengths[i++]!) {
          errno = single.space.alias(at, lengths[i]!, vas[i]!, write);
        }
        expect([taken, together.shown()]).toEqual([errno, single.shown()]);
      }),
      { numRuns: 500 },
    );
  });

  it('keeps huge pages apart, and takes the rights of each call', () => {
    const space = new SimulatedAddressSpace();
    const [ram, huge] = [map(space), map(space, { kind: 'hugetlb', length: 2n * M2 })];
    const at = Math.ceil((space.reserve(2048) + 1) / 512) * 512;
    const before = space.mapCount;
    expect(space.aliasAll(at, Float64Array.of(huge, huge + 512), Float64Array.of(512, 512), 0, 2, true)).toBe(0);
    expect([space.mapCount, space.drop(at, 1024), space.mapCount]).toEqual([before + 3, 0, before]);
    for (const [write, protection] of [
      [true, 'rw'],
      [false, 'r'],
    ] as const) {
      expect(space.aliasAll(at, Float64Array.of(ram + 3), Float64Array.of(1), 0, 1, write)).toBe(0);
      expect(space.protectionOf(at)).toBe(protection);
      space.drop(at, 1);
    }
  });

  it('takes the pieces from an index to another', () => {
    const space = new SimulatedAddressSpace();
    const [ram, at] = [map(space), space.reserve(16)];
    const vas = Float64Array.of(9, ram + 1, ram + 7, 9);
    expect(space.aliasAll(at + 4, vas, Float64Array.of(1, 2, 1, 1), 1, 3, true)).toBe(0);
    expect([3, 4, 5, 6, 7].map((i) => space.physicalPageOf(at + i))).toEqual(
      [0, ram + 1, ram + 2, ram + 7, 0].map((page) => space.physicalPageOf(page)),
    );
  });
});

describe('vm.max_map_count', () => {
  // Pieces in falling order never merge: 1 RAM, and the reserved area before, between and behind them.
  it.each([
    [5, [0, 0, 0, ENOMEM], [0, 0, ENOMEM]],
    [6, [0, 0, 0, 0, ENOMEM], [0, 0, ENOMEM]],
    [7, [0, 0, 0, 0, 0, ENOMEM], [0, 0, 0, ENOMEM]],
  ])('of %i', (maxMapCount, beside, apart) => {
    const results = (step: number): number[] => {
      const space = new SimulatedAddressSpace({ maxMapCount });
      const ram = map(space);
      const at = space.reserve(64);
      const list: number[] = [];
      for (let i = 0; i < 16 && list.at(-1) !== ENOMEM; i++)
        list.push(space.alias(at + 1 + i * step, 1, ram + 32 - i, true));
      // The last mmap() that went through has brought the process one above its limit at most, and none is let in then.
      if (space.mapCount > maxMapCount) expect(space.drop(at, 64)).toBe(ENOMEM);
      expect(space.release(at, 64)).toBe(0);
      expect(space.mapCount).toBe(1);
      return list;
    };
    expect([results(1), results(2)]).toEqual([beside, apart]);
  });

  it('refuses to split one area at the limit, and lets one be taken from its end', () => {
    const space = new SimulatedAddressSpace({ maxMapCount: 2 });
    const ram = map(space);
    const at = space.reserve(8);
    expect([space.alias(at + 1, 1, ram, true), space.alias(at, 1, ram, true), space.mapCount]).toEqual([ENOMEM, 0, 3]);
    expect([space.alias(at + 7, 1, ram, true), space.drop(at, 8), space.release(at + 4, 1)]).toEqual([12, 12, 12]);
    space.munmap(BigInt(ram) * K4, K4);
    expect(space.mapCount).toBe(3);
    space.munmap(BigInt(ram) * K4, 64n * K4);
    expect([space.drop(at, 8), space.mapCount]).toEqual([0, 1]);
  });

  interface Page {
    readonly file: number;
    readonly page: number;
    readonly prot: string;
  }
  type Model = (Page | undefined)[];
  const PAGES = 12;
  const RESERVED: Page = { file: -1, page: 0, prot: 'none' };

  function continues(a: Page | undefined, b: Page | undefined): boolean {
    if (a === undefined || b === undefined) return a === b;
    return a.file === b.file && a.prot === b.prot && (a.file === -1 || a.page + 1 === b.page);
  }

  /** Number of areas; the page before the first one is free. */
  function areasOf(model: Model): number {
    return model.filter((page, i) => page !== undefined && !(i > 0 && continues(model[i - 1], page))).length;
  }

  function splitsOne(model: Model, start: number, end: number): boolean {
    for (let i = start; i <= end; i++) {
      if (i === 0 || i === PAGES || model[i] === undefined || !continues(model[i - 1], model[i])) return false;
    }
    return true;
  }

  /** The kernel's rules, page by page, on [start, end) of a small stretch; `extra`: areas elsewhere. */
  function expectedErrno(
    model: Model,
    start: number,
    end: number,
    extra: number,
    limit: number,
    mmap: boolean,
  ): number {
    const areas = areasOf(model) + extra;
    if (mmap && areas > limit) return ENOMEM;
    return areas >= limit && splitsOne(model, start, end) ? ENOMEM : 0;
  }

  const operation = fc.record({
    call: fc.constantFrom('alias', 'alias', 'alias', 'drop', 'release', 'map'),
    start: fc.nat(PAGES - 1),
    pages: fc.integer({ min: 1, max: 4 }),
    file: fc.nat(1),
    page: fc.nat(7),
    write: fc.boolean(),
  });

  it('is as in a naive model of the kernel, whatever the order', () => {
    fc.assert(
      fc.property(fc.integer({ min: 3, max: 14 }), fc.array(operation, { maxLength: 60 }), (limit, operations) => {
        const space = new SimulatedAddressSpace({ maxMapCount: limit });
        const files = [0, 1].map(() => space.mmap({ length: 16n * K4, kind: 'memfd' }));
        const at = space.reserve(PAGES);
        const model: Model = new Array<Page | undefined>(PAGES).fill(RESERVED);
        for (const { call, start, pages, file, page, write } of operations) {
          const end = Math.min(PAGES, start + pages);
          const { hva, object } = files[file]!;
          const length = BigInt(end - start) * K4;
          const expected = expectedErrno(model, start, end, 2, limit, call !== 'release');
          const run = {
            alias: () => space.alias(at + start, end - start, Number(hva / K4) + page, write),
            drop: () => space.drop(at + start, end - start),
            release: () => space.release(at + start, end - start),
            map: () => {
              const source = { object, offset: BigInt(page) * K4 };
              return errnoOf(() =>
                space.mmap({ length, source, at: BigInt(at + start) * K4, prot: write ? 'rw' : 'r' }),
              );
            },
          }[call];
          expect(run()).toBe(expected);
          for (let i = start; expected === 0 && i < end; i++) {
            const shown = { file, page: page + i - start, prot: write ? 'rw' : 'r' };
            model[i] = call === 'release' ? undefined : call === 'drop' ? RESERVED : shown;
          }
          const shown = model.map((_, i) => [space.protectionOf(at + i), space.physicalPageOf(at + i)]);
          const physicalOf = (want: Page | undefined): number =>
            want === undefined || want.file < 0 ? -1 : files[want.file]!.object.layout.base + want.page;
          expect([space.mapCount, shown]).toEqual([
            areasOf(model) + 2,
            model.map((want) => [want?.prot, physicalOf(want)]),
          ]);
        }
        files.forEach(({ object }, file) => {
          expect(object.mappedPages).toBe(16 + model.filter((want) => want?.file === file).length);
        });
      }),
      { numRuns: 300 },
    );
  });
});
