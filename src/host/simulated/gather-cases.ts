// The rules of gathers on a VFIO type1 container as data: batches in order and their errno, for any implementation.
// The same list can run against the simulated host and against a real kernel. Unit: 4 KiB pages; counts, not ends.
import { Errno } from '../../base/errors.ts';
import type { GatherBuffer, GatherCase, GatherOperation, GatherPiece, GatherStep } from './gather-case.ts';

const RW = 3;
const R = 1;
const { EPERM, ENOMEM, EACCES, EFAULT, EEXIST, EINVAL, ENOSPC, EOPNOTSUPP } = Errno;
/** First page of the MSI window. */
const MSI = 0xfee00;

type BatchStep = Extract<GatherStep, { call: 'batch' }>;

function gather(iova: number, pieces: readonly GatherPiece[], rights = RW): GatherOperation {
  return { op: 'gather', iova, rights, pieces };
}

/** `count` single pages of `buffer`, from `first` on in steps of `step`. */
function pages(buffer: GatherBuffer, first: number, count: number, step = -1): GatherPiece[] {
  return Array.from({ length: count }, (_, i) => [buffer, first + i * step, 1] as const);
}

/** A batch of one gather of `count` pages of RAM that lie in falling order. */
function falling(iova: number, count: number, more: Partial<BatchStep> = {}): GatherStep {
  return batch([gather(iova, pages('ram', 1023, count))], more);
}

function batch(operations: readonly GatherOperation[], more: Partial<BatchStep> = {}): GatherStep {
  return { call: 'batch', operations, ...more };
}

function map(iova: number, page: number, count: number): GatherOperation {
  return { op: 'map', iova, piece: ['ram', page, count] };
}

function unmap(iova: number, count: number): GatherOperation {
  return { op: 'unmap', iova, pages: count };
}

function reads(iova: number, page: number, buffer: GatherBuffer = 'ram'): GatherStep {
  return { call: 'reads', iova, buffer, page };
}

function writes(iova: number, page: number, buffer: GatherBuffer = 'ram'): GatherStep {
  return { call: 'writes', iova, buffer, page };
}

function blocked(iova: number, write = false): GatherStep {
  return { call: 'blocked', iova, write };
}

function one(title: string, entries: number, ...steps: GatherStep[]): GatherCase {
  return { title, entries, steps };
}

const EFFECT: readonly GatherCase[] = [
  one('gather: the device sees the pieces side by side', 1, falling(64, 8), reads(64, 1023), reads(71, 1016)),
  one('gather: nothing before and behind it', 1, falling(64, 8), blocked(63), blocked(72)),
  {
    ...one(
      'gather: 512 shuffled pages are one entry',
      1,
      batch([
        gather(
          512,
          Array.from({ length: 512 }, (_, i) => ['ram', (i * 389) % 512, 1]),
        ),
      ]),
      ...[0, 1, 255, 510, 511].flatMap((i) => [reads(512 + i, (i * 389) % 512), writes(512 + i, (i * 389) % 512)]),
      batch([unmap(513, 1)], { apply: [0, EINVAL] }),
      batch([unmap(512, 511)], { apply: [0, EINVAL] }),
      reads(1023, (511 * 389) % 512),
    ),
    locked: 512,
  },
  {
    ...one('gather: unmapped as one', 0, falling(64, 8), batch([unmap(64, 8)]), blocked(64), blocked(71)),
    locked: 0,
  },
  one(
    'gather: pieces of several pages and several files',
    1,
    batch([
      gather(0, [
        ['ram', 100, 3],
        ['parted', 2, 2],
        ['ram', 103, 1],
        ['ram', 102, 2],
      ]),
    ]),
    reads(0, 100),
    reads(2, 102),
    writes(3, 2, 'parted'),
    reads(5, 103),
    writes(6, 102),
    reads(2, 102),
    reads(7, 103),
  ),
  one(
    'gather: a single piece, and pieces that follow each other',
    2,
    batch([gather(0, [['ram', 7, 4]]), gather(16, pages('ram', 32, 4, 1))]),
    reads(3, 10),
    reads(19, 35),
  ),
  one(
    'gather: read only, also of read-only memory',
    2,
    batch([gather(0, pages('ram', 9, 2), R), gather(8, pages('readOnly', 9, 2), R)]),
    reads(1, 8),
    blocked(1, true),
    reads(9, 8, 'readOnly'),
  ),
  one('gather: write only', 1, batch([gather(0, pages('ram', 9, 2), 2)]), writes(1, 8)),
  { ...one('gather: a page twice counts twice', 1, batch([gather(0, pages('ram', 5, 4, 0))]), reads(3, 5)), locked: 4 },
  one(
    'gather: with unmaps and maps in one batch',
    4,
    batch([map(0, 0, 16)]),
    batch([unmap(0, 16), gather(0, pages('ram', 7, 4)), map(4, 4, 4), gather(8, pages('ram', 15, 4)), map(12, 12, 4)]),
    reads(0, 7),
    reads(4, 4),
    reads(8, 15),
    reads(15, 15),
  ),
];

const REFUSED_MAP: readonly GatherCase[] = [
  one('gather: not built', 0, falling(0, 8, { use: 'unbuilt', apply: [0, EINVAL] })),
  one('gather: over an entry', 1, falling(0, 8), falling(7, 8, { apply: [0, EEXIST] }), reads(7, 1016)),
  one('gather: in the MSI window', 0, falling(MSI - 1, 2, { apply: [0, EINVAL] })),
  one('gather: beyond the aperture', 0, falling(2 ** 48, 2, { apply: [0, EINVAL] })),
  one('gather: no rights', 0, batch([gather(0, pages('ram', 9, 2), 0)], { apply: [0, EINVAL] })),
  { ...one('gather: limit', 1, falling(0, 8), falling(8, 8, { apply: [0, ENOSPC] })), limit: 1 },
  {
    ...one('gather: overlap comes before the limit', 1, falling(0, 8), falling(0, 8, { apply: [0, EEXIST] })),
    limit: 1,
  },
  { ...one('gather: limit comes before range validity', 0, falling(MSI, 8, { apply: [0, ENOSPC] })), limit: 0 },
  { ...one('gather: locked memory up to the limit', 1, falling(0, 16)), memlock: 16, locked: 16 },
  { ...one('gather: locked memory one over', 0, falling(0, 17, { apply: [0, ENOMEM] })), memlock: 16, locked: 0 },
  one(
    'gather: what was done before a refusal stays, and what follows is not done',
    2,
    batch(
      [map(0, 0, 1), gather(8, pages('ram', 9, 2)), gather(9, pages('ram', 19, 2)), gather(16, pages('ram', 29, 2))],
      {
        apply: [2, EEXIST],
      },
    ),
    reads(0, 0),
    reads(9, 8),
    blocked(10),
    blocked(16),
  ),
  one('gather: refused, then made', 1, falling(MSI, 8, { apply: [0, EINVAL] }), falling(0, 8), reads(0, 1023)),
];

const REFUSED_WINDOW: readonly GatherCase[] = [
  one('window: dropped unused', 0, falling(0, 8, { use: 'drop' }), blocked(0)),
  one(
    'window: all or none',
    1,
    batch([map(0, 0, 1)]),
    batch([unmap(0, 1), gather(0, pages('ram', 9, 2)), gather(8, pages('anonymous', 9, 2))], { build: [2, EINVAL] }),
    reads(0, 0),
  ),
  one('window: anonymous memory', 0, batch([gather(0, pages('anonymous', 9, 2))], { build: [0, EINVAL] })),
  one('window: unmapped addresses', 0, batch([gather(0, [['nothing', 0, 1]])], { build: [0, EFAULT] })),
  one(
    'window: a hole in a piece',
    1,
    batch([gather(0, [['holed', 15, 3]])], { build: [0, EFAULT] }),
    batch([
      gather(0, [
        ['holed', 17, 1],
        ['holed', 15, 1],
      ]),
    ]),
    reads(1, 15, 'holed'),
  ),
  one(
    'window: one page past the end',
    0,
    batch([gather(0, [['ram', 1020, 5]])], { build: [0, EFAULT] }),
    batch([gather(0, [['nothing', 2 ** 36, 1]])], { build: [0, EFAULT] }),
  ),
  one(
    'window: a piece over several areas, whatever their protection',
    1,
    batch([gather(0, [...pages('parted', 63, 2), ['parted', 8, 32]])]),
    reads(2, 8, 'parted'),
    writes(12, 18, 'parted'),
    reads(33, 39, 'parted'),
  ),
  one(
    'window: a sealed file can be read only',
    1,
    batch([gather(0, pages('sealed', 9, 2))], { build: [0, EPERM] }),
    batch([gather(0, pages('sealed', 9, 2), 2)], { build: [0, EPERM] }),
    batch([gather(0, pages('sealed', 9, 2), R)]),
    reads(1, 8, 'sealed'),
  ),
  one(
    'window: a file opened for reading only',
    0,
    batch([gather(0, pages('readOnly', 9, 2))], { build: [0, EACCES] }),
    batch([gather(0, pages('readOnly', 9, 2), 2)], { build: [0, EACCES] }),
  ),
  one(
    'window: whole huge pages only',
    1,
    batch([gather(0, [['huge', 0, 1]])], { build: [0, EINVAL] }),
    batch([gather(0, [['huge', 1, 512]])], { build: [0, EINVAL] }),
    batch([gather(0, [['huge', 0, 513]])], { build: [0, EINVAL] }),
    batch([gather(0, [...pages('ram', 9, 1), ['huge', 0, 512]])], { build: [0, EINVAL] }),
    batch([
      gather(512, [
        ['huge', 512, 512],
        ['huge', 0, 512],
      ]),
    ]),
    reads(512, 512, 'huge'),
    writes(1535, 511, 'huge'),
  ),
];

const LIMITS: readonly GatherCase[] = [
  { ...one('window: one piece below the limit', 1, falling(0, 7)), windowPieces: 8 },
  { ...one('window: as many pieces as the limit', 1, falling(0, 8)), windowPieces: 8 },
  { ...one('window: one piece over the limit', 0, falling(0, 9, { build: [0, ENOMEM] })), windowPieces: 8 },
  { ...one('window: pieces count, not pages', 1, batch([gather(0, [['ram', 0, 512]])])), windowPieces: 1 },
  {
    ...one(
      'window: the limit holds for all that stand',
      3,
      batch([gather(0, pages('ram', 9, 4)), gather(8, pages('ram', 19, 4))]),
      batch([gather(16, pages('ram', 9, 4)), gather(24, pages('ram', 19, 5))], { build: [1, ENOMEM] }),
      falling(16, 8),
    ),
    windowPieces: 8,
  },
  { ...one('window: no pieces at all', 0, falling(0, 1, { build: [0, EOPNOTSUPP] })), windowPieces: 0 },
  { ...one('window: never for mediated devices', 0, falling(0, 8, { build: [0, EOPNOTSUPP] })), mediated: true },
  one(
    'window: no mapping left in the process',
    1,
    falling(0, 8),
    { call: 'crowd' },
    falling(8, 8, { build: [0, ENOMEM] }),
    reads(0, 1023),
    batch([unmap(0, 8)]),
    { call: 'relieve' },
    falling(8, 8),
    reads(8, 1023),
  ),
];

/** All cases. */
export const GATHER_CASES: readonly GatherCase[] = [...EFFECT, ...REFUSED_MAP, ...REFUSED_WINDOW, ...LIMITS];
