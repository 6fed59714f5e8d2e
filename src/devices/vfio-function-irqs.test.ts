// Interrupts of a passed-through function: what the kernel is told, for what a client may ask.
import { describe, expect, it } from 'vitest';
import { FakePassedDevice } from '../../test/devices/passed-device.ts';
import { Errno } from '../base/errors.ts';
import { VfioInterrupts } from './vfio-function-irqs.ts';

const KIND = { intx: 0, msi: 1, msix: 2, error: 3, request: 4 };

function rig(): { device: FakePassedDevice; irqs: VfioInterrupts } {
  const device = new FakePassedDevice();
  return { device, irqs: new VfioInterrupts(device) };
}

describe('interrupts of a passed-through function', () => {
  it('are those of the device, with the flags that VFIO gives them', () => {
    const { irqs } = rig();
    expect([0, 1, 2, 3, 4, 5, -1].map((index) => irqs.count(index))).toEqual([1, 4, 8, 0, 1, 0, 0]);
    expect([0, 1, 2, 3, 4, 5].map((index) => irqs.flags(index))).toEqual([7, 9, 9, 9, 9, 0]);
  });

  it.each([
    [KIND.intx, 0, [50], 'set intx 0 [50]'],
    [KIND.msi, 0, [50, 51], 'set msi 0 [50,51]'],
    [KIND.msi, 3, [50], 'set msi 3 [50]'],
    [KIND.msi, 1, [-1], 'set msi 1 [-1]'],
    [KIND.request, 0, [50], 'set request 0 [50]'],
  ])('kind %i from %i on: the eventfds go to the kernel', (index, start, fds, call) => {
    const { device, irqs } = rig();
    expect([irqs.wire(index, start, fds), device.calls]).toEqual([0, [call]]);
  });

  it('of MSI-X are all taken at the first call, so that more can come in later messages', () => {
    const { device, irqs } = rig();
    expect([irqs.wire(KIND.msix, 0, [50, 51]), irqs.wire(KIND.msix, 2, [52]), irqs.wire(KIND.msix, 0, [-1])]).toEqual([
      0, 0, 0,
    ]);
    expect(device.calls).toEqual(['set msix 0 [50,51,-1,-1,-1,-1,-1,-1]', 'set msix 2 [52]', 'set msix 0 [-1]']);
    irqs.wire(KIND.msix, 0, undefined);
    irqs.wire(KIND.msix, 7, [50]);
    expect(device.calls.slice(3)).toEqual(['off msix', 'set msix 0 [-1,-1,-1,-1,-1,-1,-1,50]']);
  });

  it('of MSI-X are as many as asked when the host has no more', () => {
    const { device, irqs } = rig();
    device.refuse = (call) => call.endsWith(',-1]');
    expect([irqs.wire(KIND.msix, 0, [50, 51]), device.calls.at(-1)]).toEqual([0, 'set msix 0 [50,51]']);
  });

  it.each([
    [KIND.intx, 0, 2],
    [KIND.intx, 1, 1],
    [KIND.msi, 4, 1],
    [KIND.msi, 3, 2],
    [KIND.msix, 0, 9],
    [KIND.msix, -1, 1],
    [KIND.msix, 0xffff_ffff, 1],
    [KIND.msi, 0, 0],
    [KIND.error, 0, 1],
    [5, 0, 1],
  ])('kind %i, %d + %i are not there', (index, start, count) => {
    const { device, irqs } = rig();
    expect(irqs.wire(index, start, new Array<number>(count).fill(50))).toBe(Errno.EINVAL);
    expect(irqs.mask(index, start, count, true)).toBe(Errno.EINVAL);
    expect(device.calls).toEqual([]);
  });

  it('are switched off once, and only when they are on', () => {
    const { device, irqs } = rig();
    expect([irqs.wire(KIND.msi, 0, undefined), irqs.wire(9, 0, undefined)]).toEqual([0, Errno.EINVAL]);
    irqs.wire(KIND.msi, 0, [50]);
    expect([irqs.wire(KIND.msi, 0, undefined), irqs.wire(KIND.msi, 0, undefined)]).toEqual([0, 0]);
    expect(device.calls).toEqual(['set msi 0 [50]', 'off msi']);
  });

  it('are masked and unmasked by the kernel', () => {
    const { device, irqs } = rig();
    expect([irqs.mask(KIND.intx, 0, 1, true), irqs.mask(KIND.intx, 0, 1, false)]).toEqual([0, 0]);
    expect(device.calls).toEqual(['mask intx 0 1', 'unmask intx 0 1']);
  });

  it('answer with the errno of the kernel, and stay as they were', () => {
    const { device, irqs } = rig();
    device.refuse = () => true;
    device.errno = Errno.ENOSPC;
    expect([irqs.wire(KIND.msix, 0, [50]), irqs.mask(KIND.intx, 0, 1, true)]).toEqual([Errno.ENOSPC, Errno.ENOSPC]);
    device.refuse = () => false;
    device.calls.length = 0;
    expect([irqs.wire(KIND.msix, 0, undefined), device.calls]).toEqual([0, []]);
    irqs.wire(KIND.msi, 0, [50]);
    device.refuse = () => true;
    device.errno = 0;
    expect(irqs.wire(KIND.msi, 0, undefined)).toBe(Errno.EIO);
  });
});
