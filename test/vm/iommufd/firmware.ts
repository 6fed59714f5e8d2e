// What firmware and platform forbid, as errors that say so. Each scenario has a machine of its own (main.ts). Runs in it.
import assert from 'node:assert/strict';
import { Errno } from '../../../src/base/errors.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { bindToVfio, findDevice, groupOf } from '../host/guest-env.ts';
import { EDU_RMRR, USB_RMRR } from '../host/rmrr-regions.ts';

const XHCI = { vendor: '0x1b36', device: '0x000d' };

function refused(group: number, errno: number, message: RegExp): void {
  const expected = { code: 'ERR_VIOMMU_HOST_INCOMPATIBLE', syscall: 'VFIO_DEVICE_BIND_IOMMUFD', errno, message };
  // Twice: a refusal must leave the device free.
  for (let i = 0; i < 2; i++) assert.throws(() => IommufdContext.open({ group }), expected);
}

/** Without interrupt remapping. */
export async function interrupts(report: Reporter, { edu }: GuestEnv): Promise<void> {
  await report.check('without interrupt remapping the error says what to do', () =>
    refused(edu.group, Errno.EPERM, /allow_unsafe_interrupts/),
  );
}

/** With reserved memory for the edu device, and for a USB controller. */
export async function reserved(report: Reporter, { edu }: GuestEnv): Promise<void> {
  await report.check('a device with memory that must be mapped 1:1 is refused, and the error says why', () => {
    const { base, limit } = EDU_RMRR;
    const region = `0x${base.toString(16)}-0x${limit.toString(16)}`;
    refused(edu.group, Errno.EINVAL, new RegExp(`mapped 1:1 .*${region}.*use another device`));
  });
  await report.check('a USB controller is let go by the kernel, and its region is no hole', () => {
    const name = findDevice(XHCI);
    bindToVfio(name);
    const context = IommufdContext.open({ group: groupOf(name) });
    const { usableRanges } = context.limits;
    assert.ok(usableRanges.some(({ start, end }) => start < USB_RMRR.base && USB_RMRR.limit < end));
    context.close();
  });
}
