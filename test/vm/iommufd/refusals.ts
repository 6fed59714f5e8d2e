// What cannot be opened, and that opening leaves nothing behind. Runs in the machine.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { Errno } from '../../../src/base/errors.ts';
import { IommufdContext, iommufdIsAvailable, iommufdLack } from '../../../src/host/iommufd.ts';
import type { IommufdOptions } from '../../../src/host/iommufd.ts';
import { VfioType1Context } from '../../../src/host/vfio-type1.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab } from './lab.ts';
import { pinnedPages } from './process.ts';

const CYCLES = 200;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const { group } = env.edu;
  const refusal = (options: Partial<IommufdOptions>, code: string, errno: number, message: RegExp): void => {
    assert.throws(() => IommufdContext.open({ group, ...options }), {
      code: `ERR_VIOMMU_HOST_${code}`,
      errno,
      message,
    });
  };
  await report.check('iommufd is there', () => {
    assert.deepEqual([iommufdIsAvailable(), iommufdLack()], [true, undefined]);
    assert.match(iommufdLack('/nowhere') ?? '', /there is no/);
  });
  await report.check('no iommufd', () =>
    refusal({ deviceFolder: '/tmp' }, 'UNAVAILABLE', Errno.ENOENT, /modprobe iommufd/),
  );
  await report.check('no such group', () =>
    refusal({ group: 12345 }, 'UNAVAILABLE', Errno.ENOENT, /no IOMMU group 12345/),
  );
  await report.check('a device of another group', () =>
    refusal({ devices: ['0000:00:00.0'] }, 'UNAVAILABLE', Errno.ENOENT, /is not in group/),
  );
  await report.check('a device without its driver', () => {
    const other = readdirSync('/sys/kernel/iommu_groups').find((id) => Number(id) !== group) ?? '0';
    refusal({ group: Number(other) }, 'UNAVAILABLE', Errno.ENOENT, /bind .* to it/);
  });
  await report.check('a device that is open already, either way', () => {
    const first = IommufdContext.open({ group });
    try {
      refusal({}, 'UNAVAILABLE', Errno.EINVAL, /open already/);
      assert.throws(() => VfioType1Context.open({ group }), { errno: Errno.EBUSY });
    } finally {
      first.close();
    }
    const type1 = VfioType1Context.open({ group });
    try {
      refusal({}, 'UNAVAILABLE', Errno.EBUSY, /open already/);
    } finally {
      type1.close();
    }
    IommufdContext.open({ group }).close();
  });
  await report.check('a use after close', () => {
    const context = IommufdContext.open({ group });
    context.close();
    context.close();
    assert.throws(() => context.entriesLeft(), { code: 'ERR_VIOMMU_HOST_CLOSED' });
    assert.throws(() => context.ioas.areaCount, { code: 'ERR_VIOMMU_HOST_CLOSED' });
  });
  await report.check(`${CYCLES} cycles of open and close leave files, maps and pins as they were`, async () => {
    const cycle = async (): Promise<void> => {
      const lab = new Lab(env, 4, {});
      assert.equal(lab.map(0, 4, 0), 0);
      lab.close();
      // Node gives the memory of detached buffers back between two events.
      await new Promise((resolve) => setImmediate(resolve));
    };
    for (let i = 0; i < 3; i++) await cycle();
    const before = footprint();
    for (let i = 0; i < CYCLES; i++) await cycle();
    assert.deepEqual(footprint(), before);
  });
}

function footprint(): readonly unknown[] {
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const ours = maps.filter((line) => /guest-ram|vfio|iommu/.test(line)).length;
  return [readdirSync('/proc/self/fd').length, ours, pinnedPages()];
}
