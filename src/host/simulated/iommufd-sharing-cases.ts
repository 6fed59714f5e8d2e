// The rules of an iommufd IOAS that two groups use, as data: a part of the list in iommufd-cases.ts.
// Bytes as bigint; sizes, not ends.
import { Errno } from '../../base/errors.ts';
import type { IommufdCase, IommufdStep } from './iommufd-case.ts';
import { attach, copy, cut, detach, keep, lazy, limited, map, one, unmap, unmapDma } from './iommufd-steps.ts';

const K4 = 0x1000n;
const M2 = 0x20_0000n;
const U64 = (1n << 64n) - 1n;
const TOP = (1n << 64n) - K4;
const MSI = 0xfee0_0000n;
const { EINVAL, EEXIST, EFAULT, ENOMEM, EADDRINUSE } = Errno;

function on(step: IommufdStep): IommufdStep {
  return { ...step, on: 'second' };
}

function join(errno = 0): IommufdStep {
  return { call: 'join', errno };
}

const part: IommufdStep = { call: 'part', errno: 0 };
const leave: IommufdStep = { call: 'leave', errno: 0 };

function two(testCase: IommufdCase, secondAreas: number, locked: number): IommufdCase {
  return { ...testCase, second: true, secondAreas, locked };
}

const JOIN: readonly IommufdCase[] = [
  two(one('join: what is there is pinned once', 1, map(0n, 16n * K4), join()), 1, 16),
  two(one('join: again', 1, map(0n, K4), join(), join()), 1, 1),
  two(one('join: what the second had is gone', 0, on(map(0n, 8n * K4)), join()), 0, 0),
  two(one('join: what the second had does not stand in the way', 1, on(map(0n, M2)), map(K4, K4), join()), 1, 1),
  two(
    one('join: a map of either is there for both', 2, join(), map(0n, K4), on(map(K4, K4)), map(K4, K4, EEXIST)),
    2,
    2,
  ),
  two(one('join: an unmap of either is one for both', 0, map(0n, K4), join(), on(unmap(0n, K4, 0)), join()), 0, 0),
  two(one('join: everything goes for both', 0, map(0n, K4), join(), map(M2, K4), on(unmap(0n, U64, 0, 2n * K4))), 0, 0),
  {
    ...two(one('join: the limit counts once', 1, map(0n, 4n * K4), join(), on(map(M2, K4, ENOMEM))), 1, 4),
    memlock: 4,
  },
  two(cut('join cut: a cut of either is one for both', 2, map(0n, M2), join(), on(unmapDma(K4, K4, 0, K4))), 2, 511),
];

const LEAVE: readonly IommufdCase[] = [
  two(one('part: the first keeps all', 1, map(0n, 4n * K4), join(), part), 0, 4),
  two(one('leave: the second keeps all', 0, map(0n, 4n * K4), join(), leave), 1, 4),
  two(one('part, leave: alone already', 1, map(0n, K4), on(map(0n, 4n * K4)), part, leave, part), 1, 5),
  two(one('part: a page of both is pinned twice', 1, map(0n, K4), join(), part, on(map(0n, K4))), 1, 2),
  two(one('leave: a page of both is pinned twice', 1, map(0n, K4), join(), leave, map(0n, K4)), 1, 2),
  two(one('part: an unmap is one for the second only', 1, map(0n, K4), join(), part, on(unmap(0n, U64, 0, 0n))), 0, 1),
  two(
    one('part, join: what is there by then', 1, map(0n, K4), join(), part, map(K4, K4), unmap(0n, K4, 0), join()),
    1,
    1,
  ),
  two(one('leave, join: to the new one of the first', 0, map(0n, 4n * K4), join(), leave, join()), 0, 0),
  two(cut('part cut: the new one can be cut', 0, join(), part, on(map(0n, M2)), on(unmapDma(K4, K4, 0, K4))), 2, 511),
  two(cut('leave cut: the new one can be cut', 2, join(), leave, map(0n, M2), unmapDma(K4, K4, 0, K4)), 0, 511),
];

const DETACHED: readonly IommufdCase[] = [
  two(one('detach: the second keeps it pinned', 1, map(0n, 4n * K4), join(), detach), 1, 4),
  two(one('detach: the last one unpins', 1, map(0n, 4n * K4), join(), detach, on(detach)), 1, 0),
  two(one('detach, attach: finds it pinned', 1, map(0n, 4n * K4), join(), detach, attach()), 1, 4),
  two(one('detached join: stays so', 1, on(detach), map(0n, 4n * K4), join(), detach), 1, 0),
  two(lazy('detached join: attaches later', 1, on(detach), map(0n, 4n * K4), join(), on(attach())), 1, 4),
  two(
    one(
      'detached part: stays so',
      1,
      on(detach),
      map(0n, K4),
      join(),
      part,
      on(map(0n, K4, 0, { buffer: 'nothing' })),
      on(attach(EFAULT)),
    ),
    1,
    1,
  ),
];

const LAZY: readonly IommufdCase[] = [
  two(lazy('lazy join: pins for the second', 1, map(0n, 4n * K4), join()), 1, 4),
  two(lazy('lazy join: the first comes later', 1, map(0n, 4n * K4), join(), attach()), 1, 4),
  two(lazy('lazy join, part: unpins', 1, map(0n, 4n * K4), join(), part), 0, 0),
  two(
    lazy(
      'lazy join: bad memory, the second keeps its own',
      1,
      on(map(0n, K4)),
      map(0n, K4, 0, { buffer: 'nothing' }),
      join(EFAULT),
    ),
    1,
    1,
  ),
  two(lazy('lazy join: a reserved address', 1, on(map(0n, K4)), map(MSI, K4), join(EADDRINUSE)), 1, 1),
  limited(two(lazy('lazy join: beyond the aperture', 1, on(map(0n, K4)), map(TOP, K4), join(EADDRINUSE)), 1, 1)),
  two(
    lazy(
      'lazy join: memory is looked at before reserved addresses, unlike by an attach',
      2,
      map(MSI, K4),
      map(0n, K4, 0, { buffer: 'nothing' }),
      attach(EADDRINUSE),
      join(EFAULT),
    ),
    0,
    0,
  ),
  {
    ...two(
      lazy(
        'lazy join: both are pinned for a moment',
        1,
        map(0n, K4),
        on(map(0n, 4n * K4)),
        join(ENOMEM),
        on(unmap(0n, 4n * K4, 0)),
        join(),
      ),
      1,
      1,
    ),
    memlock: 4,
  },
  two(
    lazy(
      'lazy join: reserved addresses of the second',
      1,
      join(),
      map(MSI, K4, EINVAL),
      on(detach),
      map(MSI, K4),
      on(attach(EADDRINUSE)),
    ),
    1,
    0,
  ),
];

const COPY: readonly IommufdCase[] = [
  two(
    one('copy into both IOAS: pinned once', 1, keep(0n, 4n * K4), copy(0n, 0n, 4n * K4), on(copy(0n, 0n, 4n * K4))),
    1,
    4,
  ),
  two(
    one(
      'copy into both IOAS, join: the copy of the first stays',
      1,
      keep(0n, 8n * K4),
      copy(0n, 0n, 4n * K4),
      on(copy(2n * K4, 0n, 4n * K4)),
      join(),
    ),
    1,
    4,
  ),
];

/** All cases with two groups. */
export const SHARING_CASES: readonly IommufdCase[] = [...JOIN, ...LEAVE, ...DETACHED, ...LAZY, ...COPY];
