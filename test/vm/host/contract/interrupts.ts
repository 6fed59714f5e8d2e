// Interrupts of a real device as event counters: MSI and INTx of the edu device, masks, and what is refused.
import assert from 'node:assert/strict';
import { Errno } from '../../../../src/base/errors.ts';
import { EventCounter } from '../../../../src/host/event-counter.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { EduRegisters, pause } from './edu-registers.ts';
import { openLab } from './lab.ts';

const WAIT_MS = 2000;
/** Long enough for an interrupt that should not come. */
const QUIET_MS = 100;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const { device, close } = await openLab(env, { windowPieces: 0 });
  const edu = new EduRegisters(device);
  const counter = new EventCounter();
  await report.check('the kinds of interrupts are counted', () => {
    const kinds = ['intx', 'msi', 'msix', 'error', 'request'] as const;
    assert.deepEqual(
      kinds.map((kind) => device.irqCount(kind)),
      [1, 1, 0, 0, 1],
    );
  });
  await report.check('MSI signals its counter each time, and not when it is off', () => {
    device.setIrqs('msi', 0, [counter]);
    for (let i = 1; i <= 3; i++) {
      edu.raise(i);
      assert.equal(arrived(counter), 1n, `interrupt ${i}`);
      edu.acknowledge(i);
    }
    device.disableIrqs('msi');
    edu.raise(1);
    pause(QUIET_MS);
    assert.equal(counter.take(), 0n);
    edu.acknowledge(1);
  });
  await report.check('MSI reaches a listener without polling', async () => {
    device.setIrqs('msi', 0, [counter]);
    const count = new Promise<bigint>((resolve) => counter.listen(resolve));
    edu.raise(1);
    assert.equal(await count, 1n);
    counter.listen(undefined);
    device.disableIrqs('msi');
    edu.acknowledge(1);
  });
  await report.check('INTx is masked when it has signalled, until it is unmasked', () => {
    device.setIrqs('intx', 0, [counter]);
    edu.raise(1);
    assert.equal(arrived(counter), 1n);
    edu.acknowledge(1);
    edu.raise(2);
    pause(QUIET_MS);
    assert.equal(counter.take(), 0n, 'masked');
    device.maskIrqs('intx', 0, 1, false);
    assert.equal(arrived(counter), 1n, 'unmasked');
    edu.acknowledge(2);
    device.maskIrqs('intx', 0, 1, true);
    device.disableIrqs('intx');
  });
  await report.check('more interrupts than there are, and kinds that are not there, are refused', () => {
    const refused = { code: 'ERR_VIOMMU_HOST_REFUSED', errno: Errno.EINVAL };
    assert.throws(() => device.setIrqs('msi', 0, [counter, counter]), refused);
    assert.throws(() => device.setIrqs('msi', 1, [counter]), refused);
    assert.throws(() => device.setIrqs('msi', 2 ** 32 - 1, [counter]), refused);
    assert.throws(() => device.setIrqs('msix', 0, [counter]), refused);
    assert.throws(() => device.setIrqs('msi', 2 ** 32, [counter]), RangeError);
  });
  counter.close();
  close();
}

/** The count of an interrupt that is to come, 0 when it does not. */
function arrived(counter: EventCounter): bigint {
  for (let waited = 0; waited < WAIT_MS; waited++) {
    const count = counter.take();
    if (count > 0n) return count;
    pause(1);
  }
  return 0n;
}
