// What our survey says of the machine, beside what the kernel then does: a device that can be passed through, one whose group a
// host driver shares, and the backend that is taken.
import assert from 'node:assert/strict';
import { isHostError } from '../../../../src/base/errors.ts';
import { openHostContext } from '../../../../src/host/open-host.ts';
import type { BackendChoice } from '../../../../src/host/open-host-rules.ts';
import type { DeviceJudgement } from '../../../../src/host/survey-judge.ts';
import { judgeDevice } from '../../../../src/host/survey-judge.ts';
import { surveyHost } from '../../../../src/host/survey.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { bindToVfio, findDevice, releaseFromVfio } from '../guest-env.ts';

const TESTDEV = { vendor: '0x1b36', device: '0x0005' };

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const { name, group } = env.edu;
  await report.check('a device with vfio-pci is ready, and opens', () => {
    const judged = judgeDevice(surveyHost(), name);
    assert.equal(judged.group, String(group));
    assert.notEqual(judged.verdict, 'no', problems(judged));
    assert.deepEqual(states(judged, ['iommu', 'group', 'driver', 'firmware memory', 'interrupts']), {
      iommu: 'ok',
      group: 'ok',
      driver: 'ok',
      'firmware memory': 'ok',
      interrupts: 'ok',
    });
    const choices: BackendChoice[] = [];
    const context = openHostContext({ device: name, onChoice: (choice) => choices.push(choice) });
    try {
      assert.deepEqual(
        context.devices.map((device) => device.name),
        [name],
      );
      assert.deepEqual(choices[0]?.backend, judged.backend.backend);
      assert.equal(context.flavour, 'type1'); // Debian's kernels have no iommufd
      assert.equal(context.limits.entryLimit, 65_535);
    } finally {
      context.close();
    }
    report.note(`backend: ${judged.backend.reason}`);
  });
  await report.check('a group that a host driver shares is not ready, and does not open', () => {
    const shared = findDevice(TESTDEV);
    bindToVfio(shared);
    try {
      const judged = judgeDevice(surveyHost(), shared);
      assert.notEqual(judged.verdict, 'ready');
      const [mate] = judged.mates.filter(({ role }) => role === 'host');
      assert.ok(mate, problems(judged));
      assert.throws(
        () => openHostContext({ device: shared }).close(),
        (error) => isHostError(error) && error.message.includes('not viable') && error.message.includes(mate.name),
      );
    } finally {
      releaseFromVfio(shared);
    }
  });
}

function states(judged: DeviceJudgement, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    judged.checks.filter(({ name }) => names.includes(name)).map((each) => [each.name, each.state]),
  );
}

function problems(judged: DeviceJudgement): string {
  return judged.checks.map(({ name, state, what }) => `${name}: ${state}, ${what}`).join('; ');
}
