// What a refused call of iommufd means and what to do, in words. Nothing here looks at the host; facts come as arguments.
// Not here: refusals that type 1 shares (refusals.ts).
import { Errno, errnoName } from '../../base/errors.ts';
import type { NativeFailure } from '../native.ts';
import type { Verdict } from '../refusals.ts';
import { refusedVerdict } from '../refusals.ts';
import { isVfioPci } from '../survey-drivers.ts';

/** /dev/iommu could not be opened or set up. */
export function fileVerdict(path: string, failure: NativeFailure): Verdict {
  const { call, errno } = failure;
  if (call === 'IOMMU_OPTION_RLIMIT_MODE') {
    const message = `locked memory cannot be counted by process (${errnoName(errno)}): that takes CAP_SYS_RESOURCE`;
    return ['ERR_VIOMMU_HOST_REFUSED', message];
  }
  if (call !== 'open iommufd') return refusedVerdict(failure);
  if (errno === Errno.ENOENT || errno === Errno.ENODEV || errno === ENXIO) {
    const remedy = 'load iommufd (modprobe iommufd) on Linux 6.2 or later with CONFIG_IOMMUFD, or use type 1';
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${path} is missing: ${remedy}`];
  }
  if (isPermission(errno)) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `no permission for ${path}: give the file to this user (chown)`];
  }
  return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${path} cannot be opened: ${errnoName(errno)}`];
}

const ENXIO = 6;

/** A device of the group has no file of its own. */
export function fileMissingVerdict(name: string, driver: string | undefined): Verdict {
  if (!isVfioPci(driver)) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${name} has no VFIO file: bind it to vfio-pci (now: ${driver ?? 'none'})`];
  }
  const message = `${name} has no file in /dev/vfio/devices: the kernel lacks CONFIG_VFIO_DEVICE_CDEV; use type 1`;
  return ['ERR_VIOMMU_HOST_INCOMPATIBLE', message];
}

/** No device of the group can be opened; `groups`: how many groups this host has. */
export function noDeviceVerdict(group: number, members: readonly string[], groups: number): Verdict {
  if (members.length === 0) {
    const hint = groups === 0 ? 'turn the IOMMU on (intel_iommu=on, amd_iommu=on)' : 'look at the ids';
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `there is no IOMMU group ${group} in /sys/kernel/iommu_groups: ${hint}`];
  }
  return ['ERR_VIOMMU_HOST_UNAVAILABLE', `group ${group} has no device of vfio-pci: bind ${members.join(', ')} to it`];
}

/** A device belongs to another group. */
export function otherGroupVerdict(name: string, group: number, members: readonly string[]): Verdict {
  return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${name} is not in group ${group}, which has ${members.join(', ')}`];
}

/** A device could not be opened or bound (VFIO_DEVICE_BIND_IOMMUFD). */
export function bindVerdict(name: string, failure: NativeFailure, reserved: readonly string[]): Verdict {
  const { call, errno } = failure;
  const refused = `${name} cannot be opened (${call}: ${errnoName(errno)})`;
  if (call === 'open device' && isPermission(errno)) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${refused}: give its file in /dev/vfio/devices to this user (chown)`];
  }
  if (errno === Errno.EBUSY || (call === 'VFIO_DEVICE_BIND_IOMMUFD' && errno === Errno.ENODEV)) {
    return [
      'ERR_VIOMMU_HOST_UNAVAILABLE',
      `${refused}: it is open already, through its group or its file, or another member of its group has a host driver`,
    ];
  }
  if (call !== 'VFIO_DEVICE_BIND_IOMMUFD') return ['ERR_VIOMMU_HOST_UNAVAILABLE', refused];
  if (reserved.length > 0 && (errno === Errno.EPERM || errno === Errno.EINVAL)) {
    return [
      'ERR_VIOMMU_HOST_INCOMPATIBLE',
      `${refused}: firmware wants reserved memory mapped 1:1 (RMRR, IVMD, RMR: ${reserved.join(', ')}), which Linux gives ` +
        'to no guest: switch off the feature in the firmware that needs it, or use another device',
    ];
  }
  if (errno === Errno.EPERM) {
    return [
      'ERR_VIOMMU_HOST_INCOMPATIBLE',
      `${refused}: without interrupt remapping a guest could forge interrupts: turn it on in the firmware, or accept the ` +
        'risk with iommufd.allow_unsafe_interrupts=1',
    ];
  }
  // The kernel tells these causes apart nowhere but in its log, and not all of them there.
  if (errno === Errno.EINVAL) {
    return [
      'ERR_VIOMMU_HOST_UNAVAILABLE',
      `${refused}: it is open already, no IOMMU translates for it, or its DMA is not coherent with the processor`,
    ];
  }
  return ['ERR_VIOMMU_HOST_REFUSED', refused];
}

/** A device could not be attached to an address space (VFIO_DEVICE_ATTACH_IOMMUFD_PT) that is still empty. */
export function attachVerdict(name: string, errno: number): Verdict {
  const refused = `${name} cannot be attached (${errnoName(errno)})`;
  if (errno === Errno.EBUSY) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${refused}: its group is attached to something else`];
  }
  return ['ERR_VIOMMU_HOST_INCOMPATIBLE', `${refused}: the kernel log names the cause`];
}

/** Facts for {@link explainIommufdErrno}. */
export interface IommufdMapFacts {
  /** Bytes that this process may lock. */
  readonly lockLimit: number;
  readonly perProcess: boolean;
  readonly mode: 'large' | 'cut';
  /** Whether registers of devices can be mapped. */
  readonly mmio: boolean;
}

/** What an errno of a batch means, and what to do; one sentence. */
export function explainIommufdErrno(errno: number, facts: IommufdMapFacts): string {
  if (errno === Errno.ENOMEM && facts.lockLimit !== Infinity) {
    const whose = facts.perProcess ? 'of this process' : 'of all processes of this user';
    return (
      `locked memory may be too low: iommufd counts the pages ${whose}, once for each map, and ${facts.lockLimit} bytes may ` +
      'be locked: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)'
    );
  }
  if (errno === Errno.ENOMEM) return 'the host has no memory for its tables';
  if (errno === Errno.EFAULT) {
    const registers = facts.mmio ? '' : '; this kernel maps no registers of devices (BARs) through iommufd';
    return `the memory is not guest RAM that this package made, or is gone${registers}`;
  }
  if (errno === Errno.EEXIST) return 'an entry exists there already';
  if (errno === Errno.ENOENT) {
    return facts.mode === 'cut'
      ? 'there is no entry'
      : 'there is no entry, or the range cuts one at an end: mode `cut` allows that';
  }
  if (errno === Errno.EINVAL) return 'the range is not whole host pages, or holds a reserved address';
  if (errno === Errno.EOVERFLOW) return 'the range ends beyond 2^64';
  if (errno === Errno.EADDRINUSE)
    return 'an entry lies where the device has reserved addresses, or is not aligned for it';
  if (errno === Errno.EOPNOTSUPP)
    return 'a gather, or a cut of an entry of device registers, which iommufd does not do';
  return `the host gives ${errnoName(errno)}`;
}

function isPermission(errno: number): boolean {
  return errno === Errno.EACCES || errno === Errno.EPERM;
}
