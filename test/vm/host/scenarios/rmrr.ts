// Reserved memory that firmware wants mapped 1:1 (RMRR): what the kernel says of it, and that we say why a device with it cannot be
// passed through. The machine's DMAR table is overridden (test/vm/host/dmar.ts). USB controllers are let go by Linux.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { isHostError } from '../../../../src/base/errors.ts';
import { parseDmar } from '../../../../src/firmware/dmar.ts';
import { parseReservedRegions } from '../../../../src/firmware/sysfs.ts';
import { hostReserved, passthroughEndpoint } from '../../../../src/host/reserved.ts';
import { judgeDevice } from '../../../../src/host/survey-judge.ts';
import { surveyHost } from '../../../../src/host/survey.ts';
import { VfioType1Context } from '../../../../src/host/vfio-type1.ts';
import { IommuCore } from '../../../../src/iommu/core.ts';
import { GuestMemory } from '../../../../src/virtio/memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { bindToVfio, findDevice, groupOf } from '../guest-env.ts';
import { EDU_RMRR, USB_RMRR } from '../rmrr-regions.ts';

const XHCI = { vendor: '0x1b36', device: '0x000d' };
const EPERM = 1;
const EINVAL = 22;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await report.check('the table of the machine has both regions', () => {
    const { rmrrs } = parseDmar(readFileSync('/sys/firmware/acpi/tables/DMAR'));
    const found = rmrrs.map(({ base, limit }) => ({ base, limit }));
    assert.deepEqual(
      found,
      [EDU_RMRR, USB_RMRR].map(({ base, limit }) => ({ base, limit })),
    );
  });
  await strict(report, env);
  await relaxable(report);
}

function regionsOf(group: number): [string, bigint, bigint][] {
  const { regions, warnings } = parseReservedRegions(
    readFileSync(`/sys/kernel/iommu_groups/${group}/reserved_regions`, 'utf8'),
  );
  assert.deepEqual(warnings, []);
  return regions.map(({ type, base, limit }) => [type, base, limit]);
}

async function strict(report: Reporter, env: GuestEnv): Promise<void> {
  const { name, group } = env.edu;
  await report.check('`direct` is reported for the group, and RESERVED for its endpoints', () => {
    assert.deepEqual(regionsOf(group)[0], ['direct', EDU_RMRR.base, EDU_RMRR.limit]);
    const [first] = hostReserved({ device: name });
    assert.deepEqual(first, { kind: 'reserved', start: EDU_RMRR.base, end: EDU_RMRR.limit });
  });
  await report.check('the kernel refuses to attach it, and our error says why and what to do', () => {
    assert.throws(
      () => VfioType1Context.open({ group }).close(),
      (error) => {
        assert.ok(isHostError(error));
        assert.equal(error.code, 'ERR_VIOMMU_HOST_INCOMPATIBLE');
        assert.equal(error.syscall, 'VFIO_GROUP_SET_CONTAINER');
        // [measured] the errno differs by kernel.
        assert.equal(error.errno, env.kernel.startsWith('6.1.') ? EPERM : EINVAL);
        assert.match(error.message, /mapped 1:1 \(RMRR.*0x1f000000-0x1f0fffff\).*use another device/);
        report.note(`refused with: ${error.message}`);
        return true;
      },
    );
  });
  await report.check('our survey says so before anything is opened', () => {
    const { verdict, checks, commands } = judgeDevice(surveyHost(), name);
    assert.equal(verdict, 'no');
    assert.deepEqual(commands, []);
    const { state, what } = checks.find((check) => check.name === 'firmware memory')!;
    assert.equal(state, 'problem', what);
    report.note(`survey: ${what}`);
  });
  await report.check('the refused group is free for the next try', () => {
    assert.throws(() => VfioType1Context.open({ group }).close(), /mapped 1:1/);
  });
}

async function relaxable(report: Reporter): Promise<void> {
  const name = findDevice(XHCI);
  bindToVfio(name);
  const group = groupOf(name);
  await report.check('`direct-relaxable` is reported for a USB controller', () => {
    assert.deepEqual(regionsOf(group)[0], ['direct-relaxable', USB_RMRR.base, USB_RMRR.limit]);
  });
  await report.check('our survey does not stand in its way', () => {
    const { checks } = judgeDevice(surveyHost(), name);
    const firmware = checks.find((check) => check.name === 'firmware memory')!;
    assert.notEqual(firmware.state, 'problem', firmware.what);
    report.note(`survey: ${firmware.what}`);
  });
  await report.check('it is attached, its region reaches the guest although no usable range shows it', () => {
    const context = VfioType1Context.open({ group });
    try {
      const { usableRanges } = context.limits;
      assert.ok(usableRanges.some(({ start, end }) => start < USB_RMRR.base && USB_RMRR.limit < end));
      const core = new IommuCore(new GuestMemory());
      const id = 0x28;
      core.addEndpoint(passthroughEndpoint({ context, device: name, id }));
      const [first] = core.reservedRegions(id);
      assert.deepEqual(first, { kind: 'reserved', start: USB_RMRR.base, end: USB_RMRR.limit });
      core.close();
    } finally {
      context.close();
    }
  });
}
