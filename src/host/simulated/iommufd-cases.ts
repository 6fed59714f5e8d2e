// The rules of an iommufd IOAS as data: calls in order and the errno of each, for any implementation.
// The same list can run against the simulated host and against a real kernel. Bytes as bigint; sizes, not ends.
import { Errno } from '../../base/errors.ts';
import type { IommufdCase } from './iommufd-case.ts';
import { IoasFlag } from './iommufd-rules.ts';
import { SHARING_CASES } from './iommufd-sharing-cases.ts';
import {
  READ,
  READ_WRITE,
  attach,
  copy,
  cut,
  detach,
  keep,
  lazy,
  limited,
  map,
  one,
  unmap,
  unmapDma,
} from './iommufd-steps.ts';
import { UnmapFlag } from './type1-rules.ts';

const K4 = 0x1000n;
const M2 = 0x20_0000n;
const U64 = (1n << 64n) - 1n;
const TOP = (1n << 64n) - K4;
const R = READ;
const RW = READ_WRITE;
const { EINVAL, EEXIST, EFAULT, ENOMEM, ENOENT, EOVERFLOW, EOPNOTSUPP, EADDRINUSE, EPERM } = Errno;

const MAP_ARGUMENTS: readonly IommufdCase[] = [
  one('map: unknown flag', 0, map(0n, K4, EOPNOTSUPP, { flags: RW | 8 }), map(0n, K4, EOPNOTSUPP, { flags: 8 })),
  one('map: iova or length all ones', 0, map(U64, K4, EOVERFLOW), map(0n, U64, EOVERFLOW)),
  one('map: all ones come before no rights', 0, map(U64, K4, EOVERFLOW, { flags: IoasFlag.fixed })),
  one('map: no rights', 0, map(0n, K4, EINVAL, { flags: IoasFlag.fixed }), map(0n, 0n, EINVAL, { flags: 0 })),
  one('map: length 0', 0, map(0n, 0n, EINVAL), map(1n, 0n, EINVAL)),
  one('map: memory wraps', 0, map(0n, M2, EOVERFLOW, { buffer: 'kernel', offset: 0x7fff_ffff_f000n })),
  one(
    'map: memory that ends at 2^64 wraps too',
    0,
    map(0n, K4, EOVERFLOW, { buffer: 'kernel', offset: 0x7fff_ffff_f000n }),
  ),
  one('map: the longest length', 0, map(0n, TOP, { '6.12': EINVAL, '7.2': EOVERFLOW })),
  one('map: unaligned length', 0, map(0n, K4 - 1n, EINVAL), map(0n, K4 + 1n, EINVAL), map(0n, 1n, EINVAL)),
  one('map: unaligned iova', 0, map(1n, K4, EINVAL), map(0x800n, K4, EINVAL)),
  one('map: unaligned memory', 0, map(0n, K4, EINVAL, { offset: 1n }), map(0n, K4, EINVAL, { offset: 0x800n })),
  one('map: iova wraps', 0, map(TOP, 2n * K4, EOVERFLOW)),
  limited(one('map: the last page of 2^64 does not wrap, but is reserved', 0, map(TOP, K4, EINVAL))),
  one('map: read only and write only', 2, map(0n, K4, 0, { flags: R }), map(K4, K4, 0, { flags: RW & ~4 })),
];

const MAP_STATE: readonly IommufdCase[] = [
  one('map: identical area', 1, map(0n, M2), map(0n, M2, EEXIST)),
  one(
    'map: overlap at either end, inside, around',
    1,
    map(M2, M2),
    map(M2 - K4, 2n * K4, EEXIST),
    map(2n * M2 - K4, 2n * K4, EEXIST),
    map(M2 + K4, K4, EEXIST),
    map(0n, 4n * M2, EEXIST),
  ),
  one('map: neighbours on both sides stay apart', 3, map(K4, K4), map(0n, K4), map(2n * K4, K4)),
  one('map: overlap comes before unaligned memory', 1, map(0n, K4), map(0n, K4, EEXIST, { offset: 1n })),
  one('map: overlap comes before EFAULT', 1, map(0n, K4), map(0n, K4, EEXIST, { buffer: 'nothing' })),
  one('map: reserved comes before overlap', 1, map(0xfedf_f000n, K4), map(0xfedf_f000n, 2n * K4, EINVAL)),
  one('map: more than 16 areas', 17, ...Array.from({ length: 17 }, (_, i) => map(BigInt(i) * K4, K4))),
  one('map: the MSI window', 0, map(0xfee0_0000n, K4, EINVAL), map(0xfeef_f000n, K4, EINVAL)),
  one('map: up to and from the MSI window', 2, map(0xfedf_f000n, K4), map(0xfef0_0000n, K4)),
  one(
    'map: a page into, and over the MSI window',
    0,
    map(0xfedf_f000n, 2n * K4, EINVAL),
    map(0xfed0_0000n, M2, EINVAL),
  ),
  limited(one('map: beyond the aperture', 0, map(1n << 48n, K4, EINVAL))),
];

const MAP_PINNING: readonly IommufdCase[] = [
  one('map: memory unmapped', 0, map(0n, K4, EFAULT, { buffer: 'nothing' }), map(0n, K4, EFAULT, { buffer: 'kernel' })),
  one('map: hole at the second page', 0, map(0n, 2n * K4, EFAULT, { buffer: 'holed' })),
  one('map: no access', 0, map(0n, K4, EFAULT, { buffer: 'noAccess', flags: R })),
  one('map: write on read-only memory', 0, map(0n, K4, EFAULT, { buffer: 'readOnly' })),
  one('map: read on read-only memory', 1, map(0n, K4, 0, { buffer: 'readOnly', flags: R })),
  one('map: a mapped BAR, unlike type1', 0, map(0n, K4, EFAULT, { buffer: 'device' })),
  { ...one('map: locked memory up to the limit', 1, map(0n, 16n * K4), map(M2, K4, ENOMEM)), memlock: 16, locked: 16 },
  { ...one('map: locked memory one over', 0, map(0n, 17n * K4, ENOMEM)), memlock: 16, locked: 0 },
  { ...one('map: two maps of a page pin it twice', 1, map(0n, K4), map(K4, K4, ENOMEM)), memlock: 1, locked: 1 },
  { ...one('map: locked memory comes back', 1, map(0n, K4), unmap(0n, K4, 0), map(0n, K4)), memlock: 1, locked: 1 },
  {
    ...one('map: a hole before the limit, whatever it is', 0, map(0n, 2n * K4, EFAULT, { buffer: 'holed' })),
    memlock: 0,
  },
];

const THREE = [map(M2, M2), map(2n * M2, M2), map(4n * M2, M2)];

const UNMAP: readonly IommufdCase[] = [
  one('unmap: nothing there', 0, unmap(0n, M2, ENOENT), unmap(0xfee0_0000n, K4, ENOENT), unmap(0n, TOP, ENOENT)),
  one('unmap: exact, several, a superset with holes', 0, ...THREE, unmap(M2, M2, 0), unmap(0n, 8n * M2, 0, 2n * M2)),
  one('unmap: between areas', 3, ...THREE, unmap(3n * M2, M2, ENOENT), unmap(0n, M2, ENOENT)),
  one(
    'unmap: head, middle and tail of an area',
    3,
    ...THREE,
    unmap(M2, K4, ENOENT),
    unmap(M2 + K4, K4, ENOENT),
    unmap(2n * M2 - K4, K4, ENOENT),
  ),
  one('unmap: cuts the first of several', 3, ...THREE, unmap(M2 + K4, 8n * M2, ENOENT)),
  one('unmap: cuts the last of several, the others are gone', 1, ...THREE, unmap(0n, 5n * M2 - K4, ENOENT, 0n, true)),
  one('unmap: cuts the second of three', 2, ...THREE, unmap(M2, M2 + K4, ENOENT, 0n, true)),
  one('unmap: length 0', 1, map(0n, K4), unmap(0n, 0n, EINVAL)),
  one('unmap: wrap', 1, map(0n, K4), unmap(K4, TOP + 1n, EOVERFLOW), unmap(TOP, 2n * K4, EOVERFLOW)),
  one('unmap: all ones', 1, map(0n, K4), unmap(U64, K4, EOVERFLOW), unmap(K4, U64, EOVERFLOW)),
  one('unmap: unaligned ends between areas', 2, ...THREE, unmap(M2 - 1n, M2 + 2n, ENOENT, 0n, true)),
  one('unmap: unaligned ends in holes', 2, ...THREE, unmap(4n * M2 - 5n, M2 + 9n, 0, M2)),
  one('unmap: one byte of an area', 3, ...THREE, unmap(M2 + 7n, 1n, ENOENT)),
  one('unmap: everything, also when there is nothing', 0, ...THREE, unmap(0n, U64, 0, 3n * M2), unmap(0n, U64, 0, 0n)),
];

const UNMAP_DMA: readonly IommufdCase[] = [
  one('unmapDma large: nothing there is no error', 0, unmapDma(0n, M2, 0, 0n)),
  one('unmapDma large: between areas', 3, ...THREE, unmapDma(3n * M2, M2, 0, 0n)),
  one('unmapDma large: cuts are refused', 3, ...THREE, unmapDma(M2, K4, ENOENT, 0n)),
  one(
    'unmapDma large: a refusal tells its size',
    1,
    ...THREE,
    unmapDma(0n, 5n * M2 - K4, ENOENT, 2n * M2, { partial: true }),
  ),
  one('unmapDma: flag ALL', 0, ...THREE, unmapDma(0n, 0n, 0, 3n * M2, { flags: UnmapFlag.all })),
  one('unmapDma: ALL of nothing', 0, unmapDma(0n, 0n, 0, 0n, { flags: UnmapFlag.all })),
  one('unmapDma: ALL with a size', 1, map(0n, K4), unmapDma(0n, K4, EINVAL, K4, { flags: UnmapFlag.all })),
  one(
    'unmapDma: argsz, flags',
    1,
    map(0n, K4),
    unmapDma(0n, K4, EINVAL, K4, { argsz: 23 }),
    unmapDma(0n, K4, EINVAL, K4, { flags: UnmapFlag.getDirty }),
    unmapDma(0n, K4, EINVAL, K4, { flags: UnmapFlag.vaddr }),
  ),
  one('unmapDma: size 0, wrap', 1, map(0n, K4), unmapDma(K4, 0n, EINVAL, 0n), unmapDma(TOP, 2n * K4, EOVERFLOW, 0n)),
  cut('unmapDma cut: head', 1, map(M2, M2), unmapDma(M2, K4, 0, K4)),
  cut('unmapDma cut: middle', 2, map(M2, M2), unmapDma(M2 + K4, K4, 0, K4)),
  cut('unmapDma cut: tail', 1, map(M2, M2), unmapDma(2n * M2 - K4, K4, 0, K4)),
  cut('unmapDma cut: over three areas', 2, ...THREE, unmapDma(M2 + K4, 4n * M2 - 2n * K4, 0, 3n * M2 - 2n * K4)),
  cut(
    'unmapDma cut: every page by itself',
    0,
    map(0n, 4n * K4),
    ...[2n, 0n, 3n, 1n].map((i) => unmapDma(i * K4, K4, 0, K4)),
  ),
  cut('unmapDma cut: nothing there is no error', 1, map(M2, M2), unmapDma(0n, M2, 0, 0n), unmapDma(2n * M2, M2, 0, 0n)),
  cut('unmapDma cut: unaligned', 1, map(M2, M2), unmapDma(M2, 2n, EINVAL, 2n), unmapDma(M2 + 1n, K4, EINVAL, K4)),
  cut('unmapDma cut: the first byte passes for a border', 1, map(M2, M2), unmapDma(M2, 1n, ENOENT, 0n)),
  cut(
    'unmapDma cut: from the second byte, the upper end is cut',
    2,
    map(M2, M2),
    unmapDma(M2 + 1n, K4 - 1n, ENOENT, 0n, { partial: true }),
  ),
  cut('unmapDma cut: size 0 still cuts', 2, map(M2, M2), unmapDma(M2 + K4, 0n, EINVAL, 0n, { partial: true })),
  cut('unmap of the file itself never cuts', 1, map(M2, M2), unmap(M2, K4, ENOENT)),
  { ...cut('unmapDma cut: accounting follows', 2, map(0n, 8n * K4), unmapDma(2n * K4, K4, 0, K4)), locked: 7 },
];

const LAZY: readonly IommufdCase[] = [
  lazy(
    'lazy: bad memory is taken, and found when attaching',
    3,
    map(0n, K4),
    map(M2, K4, 0, { buffer: 'nothing' }),
    map(2n * M2, K4),
    attach(EFAULT),
  ),
  lazy('lazy: nothing is counted before', 1, map(0n, 16n * K4)),
  { ...lazy('lazy: the limit is found when attaching', 2, map(0n, 4n * K4), map(M2, K4), attach(ENOMEM)), memlock: 4 },
  lazy('lazy: a reserved address is taken, and found when attaching', 1, map(0xfee0_0000n, K4), attach(EADDRINUSE)),
  limited(lazy('lazy: beyond the aperture', 1, map(TOP, K4), attach(EADDRINUSE))),
  lazy('lazy: overlap and wrap are refused as ever', 1, map(0n, K4), map(0n, K4, EEXIST), map(TOP, 2n * K4, EOVERFLOW)),
  { ...lazy('lazy: attach pins, detach unpins', 1, map(0n, 4n * K4), attach(), attach(), detach), locked: 0 },
  { ...lazy('lazy: attach, detach, attach', 1, map(0n, 4n * K4), attach(), detach, attach()), locked: 4 },
  { ...one('detach and unmap', 0, map(0n, 4n * K4), detach, unmap(0n, 4n * K4, 0)), locked: 0 },
  {
    ...lazy(
      'lazy: memory may be bad as long as it is unmapped in time',
      0,
      map(0n, K4, 0, { buffer: 'nothing' }),
      unmap(0n, K4, 0),
      attach(),
    ),
    locked: 0,
  },
];

const COPY: readonly IommufdCase[] = [
  one(
    'copy: unknown flag, no rights',
    0,
    keep(0n, M2),
    copy(0n, 0n, K4, EOPNOTSUPP, RW | 8),
    copy(0n, 0n, K4, EINVAL, 1),
  ),
  one(
    'copy: all ones, length 0, wrap',
    0,
    copy(U64, 0n, K4, EOVERFLOW),
    copy(0n, 0n, 0n, EINVAL),
    copy(TOP, 0n, 2n * K4, EOVERFLOW),
  ),
  one('copy: nothing there', 0, copy(0n, 0n, K4, ENOENT)),
  one(
    'copy: a gap at the end, in the middle',
    0,
    keep(0n, K4),
    keep(2n * K4, K4),
    copy(0n, 0n, 2n * K4, ENOENT),
    copy(0n, 0n, 3n * K4, ENOENT),
  ),
  {
    ...one(
      'copy: a part, and over two areas',
      3,
      keep(0n, M2),
      keep(M2, K4),
      copy(K4, 0n, K4),
      copy(M2 - K4, M2, 2n * K4),
    ),
    locked: 3,
  },
  one('copy: the source is looked at first', 1, map(0n, K4), copy(0n, 0n, K4, ENOENT)),
  one(
    'copy: overlap, reserved',
    1,
    keep(0n, M2),
    map(0n, K4),
    copy(0n, 0n, K4, EEXIST),
    copy(0n, 0xfee0_0000n, K4, EINVAL),
  ),
  one('copy: writeable from read-only', 0, keep(0n, K4, { flags: R }), copy(0n, 0n, K4, EPERM)),
  one('copy: overlap comes before EPERM', 1, keep(0n, K4, { flags: R }), map(0n, K4), copy(0n, 0n, K4, EEXIST)),
  one('copy: read-only from writeable', 1, keep(0n, K4), copy(0n, 0n, K4, 0, R)),
  one('copy: bad memory', 0, keep(0n, K4, { buffer: 'nothing' }), copy(0n, 0n, K4, EFAULT)),
  one(
    'copy: bad memory in the second area, nothing stays',
    0,
    keep(0n, K4),
    keep(K4, K4, { buffer: 'nothing' }),
    copy(0n, 0n, 2n * K4, EFAULT),
  ),
  {
    ...one(
      'copy: a page of many copies counts once',
      3,
      keep(0n, 4n * K4),
      copy(0n, 0n, 4n * K4),
      copy(0n, M2, 4n * K4),
      copy(K4, 2n * M2, K4),
    ),
    memlock: 4,
    locked: 4,
  },
  {
    ...one(
      'copy: only the pages that are new count',
      1,
      keep(0n, 8n * K4),
      copy(0n, 0n, 4n * K4),
      copy(3n * K4, M2, 2n * K4, ENOMEM),
    ),
    memlock: 4,
    locked: 4,
  },
  {
    ...one(
      'copy: the last copy unpins',
      1,
      keep(0n, 4n * K4),
      copy(0n, 0n, 4n * K4),
      copy(2n * K4, M2, 2n * K4),
      unmap(0n, 4n * K4, 0),
    ),
    locked: 2,
  },
];

/** All cases. */
export const IOMMUFD_CASES: readonly IommufdCase[] = [
  ...MAP_ARGUMENTS,
  ...MAP_STATE,
  ...MAP_PINNING,
  ...UNMAP,
  ...UNMAP_DMA,
  ...LAZY,
  ...COPY,
  ...SHARING_CASES,
];
