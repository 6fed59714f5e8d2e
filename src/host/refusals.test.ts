// What refusals of VFIO mean, by call, errno and what /sys says: the table of messages.
import { describe, expect, it } from 'vitest';
import { Errno } from '../base/errors.ts';
import type { SysfsDevice, SysfsSnapshot } from '../firmware/sysfs.ts';
import { deviceError, explainMapErrno, openError } from './refusals.ts';

function device(name: string, driver: string | undefined): SysfsDevice {
  return {
    name,
    classCode: 0x02_0000,
    group: '7',
    secondaryBus: undefined,
    subordinateBus: undefined,
    headerType: 0,
    virtualFunction: false,
    driver,
  };
}

const MSI = '0x00000000fee00000 0x00000000feefffff msi';

function sysfs(reserved = MSI, drivers: readonly (string | undefined)[] = ['vfio-pci']): SysfsSnapshot {
  const devices = drivers.map((driver, i) => device(`0000:00:0${4 + i}.0`, driver));
  return { devices, groups: [{ id: '7', reservedRegions: reserved, devices: devices.map(({ name }) => name) }] };
}

const RMRR = `0x000000001f000000 0x000000001f0fffff direct\n${MSI}`;
const RELAXABLE = `0x000000001f000000 0x000000001f0fffff direct-relaxable\n${MSI}`;

function opened(call: string, errno: number, snapshot = sysfs()): string {
  const error = openError(7, { call, errno }, snapshot);
  expect([error.errno, error.syscall]).toEqual([errno, call]);
  expect(error.message).not.toMatch(/\.$/);
  return `${error.code.slice('ERR_VIOMMU_HOST_'.length)}: ${error.message}`;
}

describe('a group that cannot be opened', () => {
  it.each([
    ['open container', Errno.ENOENT, /^UNAVAILABLE: \/dev\/vfio\/vfio is missing: .*modprobe vfio-pci/],
    ['open container', Errno.ENODEV, /^UNAVAILABLE: \/dev\/vfio\/vfio is missing/],
    ['open container', Errno.EACCES, /^UNAVAILABLE: no permission for \/dev\/vfio\/vfio/],
    ['open container', 24, /^UNAVAILABLE: .*cannot be opened: errno 24/],
    ['VFIO_GET_API_VERSION', Errno.ENOTTY, /^INCOMPATIBLE: .*does not speak the VFIO interface/],
    ['VFIO_CHECK_EXTENSION', 0, /^INCOMPATIBLE: .*vfio_iommu_type1, on Linux 5\.12/],
    ['open group', Errno.ENOENT, /^UNAVAILABLE: \/dev\/vfio\/7 is missing: bind 0000:00:04\.0 to vfio-pci/],
    ['open group', Errno.EBUSY, /^UNAVAILABLE: group 7 is in use: .*mapping of a BAR/],
    ['open group', Errno.EACCES, /^UNAVAILABLE: no permission for \/dev\/vfio\/7: .*chown/],
    ['open group', Errno.EPERM, /^UNAVAILABLE: no permission for \/dev\/vfio\/7/],
    ['open group', Errno.EIO, /^UNAVAILABLE: \/dev\/vfio\/7 cannot be opened: EIO/],
    ['VFIO_GROUP_SET_CONTAINER', Errno.EBUSY, /^UNAVAILABLE: .*in another container/],
    ['VFIO_SET_IOMMU', Errno.ENODEV, /^INCOMPATIBLE: .*load vfio_iommu_type1/],
    ['VFIO_SET_IOMMU', Errno.ENOMEM, /^REFUSED: .*VFIO_SET_IOMMU: ENOMEM/],
    ['VFIO_SET_IOMMU', Errno.EPERM, /^INCOMPATIBLE: .*interrupt remapping.*allow_unsafe_interrupts=1/],
    ['VFIO_SET_IOMMU', Errno.EINVAL, /^INCOMPATIBLE: .*kernel log names the cause/],
    ['VFIO_GROUP_SET_CONTAINER', Errno.EINVAL, /^INCOMPATIBLE: .*kernel log names the cause/],
    ['mmap', Errno.ENOMEM, /^REFUSED: group 7 cannot be opened: mmap gives ENOMEM/],
  ])('%s with %i', (call, errno, message) => {
    expect(opened(call, errno)).toMatch(message);
  });

  it.each([
    ['VFIO_GROUP_SET_CONTAINER', Errno.EPERM],
    ['VFIO_GROUP_SET_CONTAINER', Errno.EINVAL],
    ['VFIO_SET_IOMMU', Errno.EPERM],
    ['VFIO_SET_IOMMU', Errno.EINVAL],
  ])('%s with %i for reserved memory that must be mapped 1:1', (call, errno) => {
    expect(opened(call, errno, sysfs(RMRR))).toMatch(/^INCOMPATIBLE: .*RMRR.*0x1f000000-0x1f0fffff/);
    expect(opened(call, errno, sysfs(RELAXABLE))).not.toMatch(/RMRR.*0x1f000000/);
  });

  it('names who keeps a group from being viable', () => {
    const drivers = ['vfio-pci', 'e1000e', 'pcieport', undefined, 'pci-stub', 'mlx5_vfio_pci'];
    expect(opened('VFIO_GROUP_GET_STATUS', 0, sysfs(MSI, drivers))).toBe(
      'INCOMPATIBLE: group 7 is not viable, host drivers have 0000:00:05.0 (e1000e): bind all members to vfio-pci',
    );
    expect(opened('VFIO_GROUP_GET_STATUS', 0)).toMatch(/a member still has a host driver/);
  });

  it('tells a group that is not there from one that is not bound', () => {
    expect(opened('open group', Errno.ENOENT, { devices: [], groups: [] })).toMatch(
      /no IOMMU group 7 .*intel_iommu=on/,
    );
    const other = { devices: [], groups: [{ id: '8', reservedRegions: '', devices: [] }] };
    expect(opened('open group', Errno.ENOENT, other)).toMatch(/no IOMMU group 7 .*look at the ids/);
  });
});

describe('a device that cannot be opened', () => {
  it('is in another group, not bound, or refused', () => {
    const failure = { call: 'VFIO_GROUP_GET_DEVICE_FD', errno: Errno.ENODEV };
    const message = (name: string, snapshot: SysfsSnapshot): string => deviceError(7, name, failure, snapshot).message;
    expect(message('0000:00:1f.0', sysfs())).toBe('0000:00:1f.0 is not in group 7, which has 0000:00:04.0');
    expect(message('0000:00:04.0', sysfs(MSI, [undefined]))).toMatch(/bind it to vfio-pci \(now: none\)/);
    const busy = deviceError(7, '0000:00:04.0', { call: 'x', errno: Errno.EBUSY }, sysfs());
    expect(busy.message).toBe('0000:00:04.0 cannot be opened (EBUSY)');
  });
});

describe('a refused map', () => {
  const facts = { entriesLeft: 0, entryLimit: 65535, locked: 65536, lockLimit: 65536 };
  it.each([
    [Errno.ENOSPC, /^all 65535 entries .*dma_entry_limit/],
    [Errno.ENOMEM, /^locked memory may be too low: 65536 of 65536 bytes .*RLIMIT_MEMLOCK/],
    [Errno.EFAULT, /not guest RAM or a BAR mapping/],
    [Errno.EEXIST, /entry exists/],
    [Errno.EINVAL, /whole host pages/],
    [Errno.EIO, /gives EIO/],
  ])('%i is explained', (errno, message) => {
    expect(explainMapErrno(errno, facts)).toMatch(message);
  });

  it('is not blamed on locked memory without a limit', () => {
    expect(explainMapErrno(Errno.ENOMEM, { ...facts, lockLimit: Infinity })).toMatch(/max_map_count/);
  });
});
