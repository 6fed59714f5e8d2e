import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { U64_MAX, checkBigint, checkInteger, checkOneOf, checkOptions } from './check.ts';
import { Errno, HostError, errnoName, isHostError } from './errors.ts';
import { EventChannel } from './events.ts';
import type { AddressRange } from './ranges.ts';
import {
  checkRange,
  clipRanges,
  cutRanges,
  intersect,
  intersectLists,
  invertRanges,
  mergeRanges,
  roundInward,
  roundOutward,
} from './ranges.ts';
import type { ReservedRegion } from './reserved.ts';
import { checkReservedRegions, normaliseReserved } from './reserved.ts';

const SPACE = 40;
const small = fc
  .tuple(fc.integer({ min: 0, max: SPACE - 1 }), fc.integer({ min: 0, max: 8 }))
  .map(([start, length]): AddressRange => ({ start: BigInt(start), end: BigInt(Math.min(SPACE - 1, start + length)) }));
const ranges = fc.array(small, { maxLength: 12 });

function members(list: readonly AddressRange[]): Set<number> {
  const set = new Set<number>();
  for (const { start, end } of list) for (let at = start; at <= end; at++) set.add(Number(at));
  return set;
}

function isNormal(list: readonly AddressRange[]): boolean {
  return list.every((range, i) => range.start <= range.end && (i === 0 || list[i - 1]!.end + 1n < range.start));
}

describe('ranges', () => {
  it('merge, cut, clip and invert agree with sets of addresses', () => {
    fc.assert(
      fc.property(ranges, ranges, small, (a, b, limit) => {
        const [inA, inB] = [members(a), members(b)];
        const merged = mergeRanges(a);
        expect(members(merged)).toEqual(inA);
        expect(isNormal(merged)).toBe(true);
        const cut = cutRanges(a, b);
        expect(members(cut)).toEqual(new Set([...inA].filter((at) => !inB.has(at))));
        expect(isNormal(cut)).toBe(true);
        expect(members(intersectLists(a, b))).toEqual(new Set([...inA].filter((at) => inB.has(at))));
        const inLimit = members([limit]);
        expect(members(clipRanges(a, limit))).toEqual(new Set([...inA].filter((at) => inLimit.has(at))));
        expect(members(invertRanges(a, limit))).toEqual(new Set([...inLimit].filter((at) => !inA.has(at))));
      }),
    );
  });

  it('holds at the end of the 64-bit space', () => {
    const top = { start: U64_MAX - 1n, end: U64_MAX };
    expect(mergeRanges([top, { start: 0n, end: U64_MAX }])).toEqual([{ start: 0n, end: U64_MAX }]);
    expect(cutRanges([{ start: 0n, end: U64_MAX }], [top])).toEqual([{ start: 0n, end: U64_MAX - 2n }]);
    expect(cutRanges([top], [top])).toEqual([]);
    expect(roundOutward({ start: 1n, end: U64_MAX - 4095n }, 4096n)).toEqual({ start: 0n, end: U64_MAX });
    expect(roundInward({ start: 1n, end: U64_MAX }, 4096n)).toEqual({ start: 4096n, end: U64_MAX });
    expect(roundInward({ start: 1n, end: 4095n }, 4096n)).toBeUndefined();
    expect(roundInward({ start: 0n, end: 4094n }, 4096n)).toBeUndefined();
    expect(intersect({ start: 0n, end: 5n }, { start: 6n, end: 9n })).toBeUndefined();
  });

  it('names the argument that is no range', () => {
    expect(() => checkRange('inputRange', { start: 1n, end: 0n })).toThrow(/inputRange\.end/);
    expect(() => checkRange('inputRange', { start: -1n, end: 0n })).toThrow(/inputRange\.start/);
    expect(() => checkRange('inputRange', { start: 0n, end: 1n << 64n })).toThrow(RangeError);
    expect(() => checkRange('inputRange', { start: 0, end: 1n })).toThrow(TypeError);
    expect(() => checkRange('inputRange', null)).toThrow(TypeError);
  });
});

describe('normaliseReserved', () => {
  const options = { granule: 4096n, inputRange: { start: 0n, end: U64_MAX } };
  const region = (kind: ReservedRegion['kind'], start: bigint, end: bigint): ReservedRegion => ({ kind, start, end });

  it('rounds outward, also regions of one byte at 0 [D-RES-4]', () => {
    expect(normaliseReserved([region('reserved', 0n, 0n)], options)).toEqual([region('reserved', 0n, 4095n)]);
  });

  it('merges neighbours of one kind and sorts', () => {
    const list = [
      region('reserved', 0x3000n, 0x3fffn),
      region('reserved', 0x1000n, 0x1fffn),
      region('reserved', 0x2000n, 0x2fffn),
    ];
    expect(normaliseReserved(list, options)).toEqual([region('reserved', 0x1000n, 0x3fffn)]);
  });

  it('cuts reserved by MSI, which wins: no overlap is left [D-RES-3]', () => {
    const list = [region('reserved', 0x100_0000n, 0x10ff_ffffn), region('msi', 0x800_0000n, 0x80f_ffffn)];
    expect(normaliseReserved(list, options)).toEqual([
      region('reserved', 0x100_0000n, 0x7ff_ffffn),
      region('msi', 0x800_0000n, 0x80f_ffffn),
      region('reserved', 0x810_0000n, 0x10ff_ffffn),
    ]);
  });

  it('clips to the input range and drops what lies outside', () => {
    const inputRange = { start: 0x2000n, end: 0x8fffn };
    const list = [
      region('reserved', 0n, 0x2fffn),
      region('msi', 0x9000n, 0x9fffn),
      region('reserved', 0x8000n, U64_MAX),
    ];
    expect(normaliseReserved(list, { granule: 4096n, inputRange })).toEqual([
      region('reserved', 0x2000n, 0x2fffn),
      region('reserved', 0x8000n, 0x8fffn),
    ]);
  });

  it('refuses two MSI regions, and merges two that touch [D-RES-2]', () => {
    const two = [region('msi', 0n, 0xfffn), region('msi', 0x2000n, 0x2fffn)];
    expect(() => normaliseReserved(two, { ...options, name: 'endpoint 8' })).toThrow(/endpoint 8.*2 separate MSI/);
    const touching = [region('msi', 0n, 0xfffn), region('msi', 0x1000n, 0x1fffn)];
    expect(normaliseReserved(touching, options)).toEqual([region('msi', 0n, 0x1fffn)]);
  });

  it('checks what it is given', () => {
    expect(() => checkReservedRegions('reserved', [{ start: 0n, end: 1n, kind: 'rmrr' }])).toThrow(
      /reserved\[0\]\.kind/,
    );
    expect(() => checkReservedRegions('reserved', {})).toThrow(TypeError);
  });
});

describe('checks', () => {
  it('integers at N-1, N, N+1', () => {
    expect(() => checkInteger('n', 0, 1, 3)).toThrow(RangeError);
    expect(checkInteger('n', 1, 1, 3)).toBe(1);
    expect(checkInteger('n', 3, 1, 3)).toBe(3);
    expect(() => checkInteger('n', 4, 1, 3)).toThrow(/n must be in \[1, 3\], got 4/);
    for (const bad of [1.5, NaN, Infinity, '1', 1n, null])
      expect(() => checkInteger('n', bad, 1, 3)).toThrow(TypeError);
    expect(() => checkBigint('b', 5, 0n, 9n)).toThrow(TypeError);
    expect(() => checkBigint('b', 10n, 0n, 9n)).toThrow(RangeError);
    expect(() => checkOneOf('policy', 'fast', ['forward'])).toThrow(/policy must be one of forward, got "fast"/);
    expect(() => checkOptions('options', { limt: 1 }, ['limit'])).toThrow(/options\.limt is not an option/);
  });
});

describe('errors and events', () => {
  it('a host error carries errno and operation', () => {
    const error = new HostError('ERR_VIOMMU_HOST_REFUSED', 'refused', {
      errno: Errno.ENOSPC,
      syscall: 'VFIO_IOMMU_MAP_DMA',
      iova: 0x1000n,
    });
    expect([isHostError(error), error.errno, error.syscall, error.iova]).toEqual([
      true,
      28,
      'VFIO_IOMMU_MAP_DMA',
      0x1000n,
    ]);
    expect([errnoName(28), errnoName(9999), isHostError(new Error('x'))]).toEqual(['ENOSPC', 'errno 9999', false]);
  });

  it('a listener that throws is counted and does not stop the others', () => {
    const channel = new EventChannel<number>();
    const seen: number[] = [];
    expect(channel.active).toBe(false);
    channel.subscribe(() => {
      throw new Error('listener');
    });
    const stop = channel.subscribe((event) => seen.push(event));
    channel.emit(1);
    stop();
    channel.emit(2);
    expect([seen, channel.listenerErrors, channel.active]).toEqual([[1], 2, true]);
  });
});
