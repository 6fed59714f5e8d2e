// The addon's iommufd where the kernel has none: what opening says, with a plain file in place of /dev/iommu, which answers
// every ioctl with ENOTTY; that refusals leave no descriptor; wrong arguments. Real kernels: test/vm/iommufd.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { Errno } from '../../src/base/errors.ts';
import { HostBatch } from '../../src/host/context.ts';
import type { IommufdOptions } from '../../src/host/iommufd.ts';
import { IommufdContext, iommufdIsAvailable } from '../../src/host/iommufd.ts';
import type { NativeIommufd } from '../../src/host/native-api.ts';
import { loadNative, nativeFailure } from '../../src/host/native.ts';
import { describeNative, descriptors, hostErrorOf } from './addon.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Device files, and a /sys with group 7 of one device of vfio-pci. */
function fakeHost(name: string, files: readonly string[]): IommufdOptions {
  const deviceFolder = join(folder, name, 'dev');
  const sysfs = join(folder, name, 'sys');
  const device = join(sysfs, 'bus/pci/devices/0000:00:04.0');
  mkdirSync(join(device, 'vfio-dev/vfio0'), { recursive: true });
  mkdirSync(join(sysfs, 'drivers/vfio-pci'), { recursive: true });
  mkdirSync(join(sysfs, 'kernel/iommu_groups/7/devices'), { recursive: true });
  symlinkSync(join(sysfs, 'drivers/vfio-pci'), join(device, 'driver'));
  symlinkSync(device, join(sysfs, 'kernel/iommu_groups/7/devices/0000:00:04.0'));
  mkdirSync(join(deviceFolder, 'vfio/devices'), { recursive: true });
  for (const file of files) writeFileSync(join(deviceFolder, file), '');
  return { group: 7, deviceFolder, sysfs };
}

function opening(options: IommufdOptions): string {
  return hostErrorOf(() => IommufdContext.open(options));
}

describeNative('opening a group with iommufd', () => {
  it('says that /dev/iommu is missing, and what to do', () => {
    const host = fakeHost('missing', []);
    expect(opening(host)).toMatch(
      /^ERR_VIOMMU_HOST_UNAVAILABLE 2 .*\/iommu is missing: load iommufd \(modprobe iommufd\)/,
    );
    expect(iommufdIsAvailable(host.deviceFolder)).toBe(false);
  });

  it('says the same of this machine, where it has none', () => {
    if (iommufdIsAvailable()) return;
    expect(opening({ group: 2 ** 31 - 1 })).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE \d+ .*\/dev\/iommu/);
  });

  it('names the file of the device that is missing', () => {
    expect(opening(fakeHost('no-device', ['iommu']))).toMatch(
      /^ERR_VIOMMU_HOST_UNAVAILABLE 2 0000:00:04.0 cannot be opened \(open device: ENOENT\)/,
    );
  });

  it('is not taken in by other files, and leaves no descriptor', () => {
    const host = fakeHost('plain', ['iommu', 'vfio/devices/vfio0']);
    const before = descriptors('');
    for (let i = 0; i < 100; i++) expect(opening(host)).toMatch(/REFUSED 25 .*VFIO_DEVICE_BIND_IOMMUFD: ENOTTY/);
    expect(opening({ ...host, accounting: 'process' })).toMatch(/REFUSED 25 .*CAP_SYS_RESOURCE/);
    expect(descriptors('')).toEqual(before);
  });
});

describeNative('an iommufd of the addon', () => {
  const { deviceFolder } = fakeHost('calls', ['iommu', 'vfio/devices/vfio0']);
  const open = (): NativeIommufd => loadNative().NativeIommufd.open(join(deviceFolder!, 'iommu'), false);
  const failing = (run: () => unknown): string => {
    try {
      run();
      return 'no failure';
    } catch (error) {
      const failure = nativeFailure(error);
      return failure === undefined ? String(error) : `${failure.call} ${failure.errno}`;
    }
  };

  it('tells the errno of the kernel, as a failure or as a result', () => {
    const file = open();
    expect(failing(() => file.allocate())).toBe('IOMMU_IOAS_ALLOC 25');
    expect(failing(() => file.destroy(1))).toBe('IOMMU_DESTROY 25');
    expect(failing(() => file.smallPages(1))).toBe('IOMMU_OPTION_HUGE_PAGES 25');
    expect(failing(() => file.ranges(1))).toBe('IOMMU_IOAS_IOVA_RANGES 25');
    expect(failing(() => file.bind(join(deviceFolder!, 'vfio/devices/vfio0')))).toBe('VFIO_DEVICE_BIND_IOMMUFD 25');
    expect(failing(() => file.bind('a\0b'))).toBe('open device 22');
    expect([file.map(1, false, 7, 0n, 4096n, 0n), file.map(1, true, 7, 0n, 4096n, 0n)]).toEqual([25, Errno.EFAULT]);
    expect([file.copy(1, 2, 7, 0n, 4096n, 0n), file.copy(1, 2, 7, 0n, 0n, 0n)]).toEqual([25, 25]);
    expect(file.unmap(1, 0n, 4096n)).toEqual({ errno: 25, size: 4096n });
    expect(file.unmapDma(1, 24, 0, 0n, 4096n)).toEqual({ errno: 25, size: 4096n });
    expect([file.areaCount(1), file.areas(1)]).toEqual([0, new BigUint64Array()]);
    file.close();
  });

  it('takes numbers of 64 bits only, and nothing after close', () => {
    const file = open();
    expect(failing(() => file.map(1, false, 7, 2n ** 64n, 4096n, 0n))).toBe('bigint 75');
    expect(failing(() => file.unmap(1, -1n, 4096n))).toBe('bigint 75');
    file.close();
    file.close();
    expect(failing(() => file.allocate())).toBe('close 9');
    expect(failing(() => file.areaCount(1))).toBe('close 9');
  });

  it('refuses columns that are short or share memory', () => {
    const file = open();
    const run = (batch: HostBatch, count = 1): string => {
      const { kind, iova, pages, va, rights, errno, done } = batch;
      return failing(() => `${file.run(1, false, 0, count, kind, iova, pages, va, rights, errno, done)}`);
    };
    const batch = new HostBatch(4);
    batch.map(0, 1, 1, 3);
    expect(run(batch)).toBe('no failure');
    expect(batch.errno[0]).toBe(25);
    expect(run(batch, 5)).toBe('batch 22');
    batch.done = batch.iova;
    expect(run(batch)).toBe('batch 22');
    file.close();
  });
});
