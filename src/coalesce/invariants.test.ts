// The invariants of the host plan (spec/design.md) under random batches, tight limits and a failure of every host
// operation in turn, on the whole device: see test/iommu/invariants.ts for what is checked.
import fc from 'fast-check';
import { describe, it } from 'vitest';
import type { Flavour, Scenario, Step } from '../../test/iommu/invariants.ts';
import { InvariantRun, RESERVED_PAGE } from '../../test/iommu/invariants.ts';
import { span } from '../../test/iommu/rig.ts';
import { Errno } from '../base/errors.ts';
import type { DriverCommand } from '../testing/requests.ts';

/** More runs by the environment variable PROPERTY_SCALE. */
const SCALE = Number(process.env['PROPERTY_SCALE'] ?? 1);

const domain = fc.integer({ min: 1, max: 3 });
const endpoint = fc.integer({ min: 1, max: 6 });
const range = fc.record({ page: fc.integer({ min: 0, max: 11 }), pages: fc.integer({ min: 1, max: 4 }) });

const map = fc
  .record({
    domain,
    range,
    target: fc.integer({ min: 0xfe, max: 0x10f }),
    flags: fc.oneof({ weight: 4, arbitrary: fc.constant(3) }, fc.integer({ min: 0, max: 7 })),
  })
  .map(({ domain, range: { page, pages }, target, flags }): DriverCommand => {
    const [virtStart, virtEnd] = span(page, pages);
    return { op: 'map', domain, virtStart, virtEnd, physStart: BigInt(target) * 4096n, flags };
  });
const unmap = fc
  .record({ domain, range, far: fc.boolean() })
  .map(({ domain, range: { page, pages }, far }): DriverCommand => {
    const [virtStart, virtEnd] = span(page, far ? 40 : pages);
    return { op: 'unmap', domain, virtStart, virtEnd };
  });
const attach = fc
  .record({ domain, endpoint, flags: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, fc.constant(1)) })
  .map((fields): DriverCommand => ({ op: 'attach', ...fields }));
const detach = fc.record({ domain, endpoint }).map((fields): DriverCommand => ({ op: 'detach', ...fields }));
const reservedMap = domain.map((domain): DriverCommand => {
  const [virtStart, virtEnd] = span(RESERVED_PAGE, 1);
  return { op: 'map', domain, virtStart, virtEnd, physStart: 0x10_0000n, flags: 3 };
});

const command = fc.oneof(
  { weight: 9, arbitrary: map },
  { weight: 6, arbitrary: unmap },
  { weight: 3, arbitrary: attach },
  { weight: 1, arbitrary: detach },
  { weight: 1, arbitrary: reservedMap },
);
const kick = fc.array(command, { minLength: 1, maxLength: 12 }).map((commands): Step => ({ do: 'kick', commands }));
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: kick },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 1 }).map((value): Step => ({ do: 'bypass', value })) },
  { weight: 1, arbitrary: fc.constant<Step>({ do: 'reset' }) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 3 }).map((region): Step => ({ do: 'memory', region })) },
);
const attachAll: Step = {
  do: 'kick',
  commands: [1, 2, 3, 4].map((id): DriverCommand => ({ op: 'attach', domain: id < 4 ? 1 : 2, endpoint: id })),
};
const scenario: fc.Arbitrary<Scenario> = fc
  .record({
    groups: fc.constantFrom(
      [[1], [2, 3]],
      [[1], [2], [3]],
      [[1, 2, 3]],
      [[1]],
      [
        [2, 3],
        [1, 4],
      ],
    ),
    entryLimit: fc.integer({ min: 0, max: 16 }),
    flavours: fc.oneof(
      { weight: 3, arbitrary: fc.constant<Flavour[]>([]) },
      fc.constantFrom<Flavour[]>(
        ['iommufd', 'iommufd', 'iommufd'],
        ['iommufd', 'type1', 'iommufd'],
        ['iommufd cut', 'iommufd cut', 'iommufd'],
      ),
      fc.array(fc.constantFrom<Flavour>('type1', 'iommufd', 'iommufd cut'), { maxLength: 3 }),
    ),
    steps: fc.array(step, { minLength: 1, maxLength: 5 }),
  })
  .map(({ groups, entryLimit, flavours, steps }) => ({
    groups,
    flavours,
    emulated: [1, 2, 3, 4, 5].filter((id) => !groups.flat().some((passed) => passed === id)),
    entryLimit,
    steps: [attachAll, ...steps],
  }));

describe('I1 to I7', () => {
  it('hold under random batches and tight limits', () => {
    fc.assert(
      fc.property(scenario, (each) => new InvariantRun(each).run(0, 0)),
      { numRuns: 80 * SCALE },
    );
  });

  it('hold whichever host operation fails', () => {
    fc.assert(
      fc.property(scenario, fc.constantFrom(Errno.EIO, Errno.ENOMEM, Errno.EFAULT), (each, errno) => {
        const whole = new InvariantRun(each);
        whole.run(0, 0);
        for (let n = 1; n <= whole.operations; n++) new InvariantRun(each).run(n, errno);
      }),
      { numRuns: 7 * SCALE },
    );
  });

  it('hold when undoing fails as well', () => {
    fc.assert(
      fc.property(scenario, fc.nat(40), fc.nat(5), (each, first, second) => {
        const run = new InvariantRun(each);
        run.rig.host.failAt(first + second + 1, Errno.EIO);
        run.run(first + 1, Errno.EIO);
      }),
      { numRuns: 60 * SCALE },
    );
  });
});
