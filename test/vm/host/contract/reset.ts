// VFIO_DEVICE_RESET on a device that has one: the kernel restores the Command register behind it, so that a bus master stays
// one; what a context's resetDevices() makes of that. The edu device has no reset; a disk controller (NVMe) has.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { Errno } from '../../../../src/base/errors.ts';
import { VfioType1Context } from '../../../../src/host/vfio-type1.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { bindToVfio, findDevice, groupOf } from '../guest-env.ts';
import { openLab } from './lab.ts';

const NVME = { vendor: '0x1b36', device: '0x0010' };
/** Controller Configuration (NVMe 1.4 section 3.1.5): bit 0 enables; a reset clears it. */
const CONTROLLER_CONFIGURATION = 0x14n;
/** Entry size fields, which can be written while the controller is off. */
const MARK = Uint8Array.of(0, 0, 0x46, 0);

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await report.check('a device without a reset says so', async () => {
    const { context, device, close } = await openLab(env);
    assert.deepEqual(
      [device.info().canReset, device.reset(), context.resetDevices()],
      [false, Errno.EINVAL, Errno.EINVAL],
    );
    close();
  });
  const name = findDevice(NVME);
  bindToVfio(name);
  await report.check('a reset reaches the device, and bus master is as before it', () => resets(name));
  writeFileSync(`/sys/bus/pci/devices/${name}/driver_override`, '\n');
  writeFileSync('/sys/bus/pci/drivers/vfio-pci/unbind', name);
}

function resets(name: string): void {
  const context = VfioType1Context.open({ group: groupOf(name) });
  const device = context.devices[0]!;
  const register = (): number[] => {
    const bytes = new Uint8Array(4);
    device.readRegion(0, CONTROLLER_CONFIGURATION, bytes);
    return [...bytes];
  };
  device.writeConfig(4, 2, device.readConfig(4, 2) | 2);
  assert.equal(device.info().canReset, true);
  assert.equal(device.busMaster(), false, 'VFIO opens it with bus master off');
  assert.equal(device.setBusMaster(true), 0);
  device.writeRegion(0, CONTROLLER_CONFIGURATION, MARK);
  assert.deepEqual(register(), [...MARK]);
  assert.equal(device.reset(), 0);
  assert.deepEqual(register(), [0, 0, 0, 0], 'it was reset');
  assert.equal(device.busMaster(), true, 'the kernel has restored the bit');
  assert.equal(device.transactionsPending(), false);
  assert.deepEqual([context.resetDevices(), device.busMaster()], [0, false]);
  context.close();
}
