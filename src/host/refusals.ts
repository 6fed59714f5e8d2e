// What a refused call of the kernel means and what to do: errors of VFIO, of guest RAM, and of locked memory, in words.
// Not here: which calls are made. Nothing here looks at the host; facts come as arguments.
import type { HostErrorCode } from '../base/errors.ts';
import { Errno, HostError, errnoName } from '../base/errors.ts';
import type { SysfsSnapshot } from '../firmware/sysfs.ts';
import type { NativeFailure } from './native.ts';
import { nativeFailure } from './native.ts';

/** Code and message of a {@link HostError}. */
export type Verdict = readonly [code: HostErrorCode, message: string];

/** A HostError for a refused call. */
export function hostError(verdict: Verdict, failure: NativeFailure): HostError {
  return new HostError(verdict[0], verdict[1], { errno: failure.errno, syscall: failure.call });
}

/** Runs a call of the addon and turns its failure into the given error. */
export function guarded<T>(run: () => T, error: (failure: NativeFailure) => HostError): T {
  try {
    return run();
  } catch (thrown) {
    const failure = nativeFailure(thrown);
    throw failure === undefined ? thrown : error(failure);
  }
}

/** Runs a call of the addon and turns its failure into a HostError with a verdict. */
export function attempt<T>(run: () => T, verdict: (failure: NativeFailure) => Verdict): T {
  return guarded(run, (failure) => hostError(verdict(failure), failure));
}

/** Runs a call of the addon; returns 0, or the errno of its failure. */
export function errnoOf(run: () => void): number {
  try {
    run();
    return 0;
  } catch (error) {
    const failure = nativeFailure(error);
    if (failure === undefined) throw error;
    return failure.errno;
  }
}

const EBADF = 9;
const CLOSED_UNDER_US = 'other code of this process has closed its descriptor: close this object and open it again';

/** The verdict where a refusal needs no advice of its own. */
export function refusedVerdict({ call, errno }: NativeFailure): Verdict {
  if (errno === EBADF) return ['ERR_VIOMMU_HOST_REFUSED', `${call} was refused: EBADF, ${CLOSED_UNDER_US}`];
  return ['ERR_VIOMMU_HOST_REFUSED', `${call} was refused: ${errnoName(errno)}`];
}

/** The error of a use after close. */
export function closedError(what: string, syscall: string): HostError {
  return new HostError('ERR_VIOMMU_HOST_CLOSED', `${what} is closed`, { errno: 0, syscall });
}

/** The error of a group that could not be opened; `snapshot` is /sys at that moment. */
export function openError(group: number, failure: NativeFailure, snapshot: SysfsSnapshot): HostError {
  return hostError(openVerdict(group, failure, snapshot), failure);
}

function openVerdict(group: number, { call, errno }: NativeFailure, snapshot: SysfsSnapshot): Verdict {
  switch (call) {
    case 'open container':
      return containerVerdict(errno);
    case 'open group':
      return groupVerdict(group, errno, snapshot);
    case 'VFIO_GET_API_VERSION':
      return ['ERR_VIOMMU_HOST_INCOMPATIBLE', `/dev/vfio/vfio does not speak the VFIO interface (${errnoName(errno)})`];
    case 'VFIO_CHECK_EXTENSION':
      return [
        'ERR_VIOMMU_HOST_INCOMPATIBLE',
        'the kernel offers no VFIO type 1 v2 with UNMAP_ALL: load vfio_iommu_type1, on Linux 5.12 or later',
      ];
    case 'VFIO_GROUP_GET_STATUS':
      return notViable(group, snapshot);
    case 'VFIO_GROUP_SET_CONTAINER':
    case 'VFIO_SET_IOMMU':
      return attachVerdict(group, call, errno, snapshot);
    default:
      return ['ERR_VIOMMU_HOST_REFUSED', `group ${group} cannot be opened: ${call} gives ${errnoName(errno)}`];
  }
}

function containerVerdict(errno: number): Verdict {
  if (errno === Errno.ENOENT || errno === Errno.ENODEV) {
    return [
      'ERR_VIOMMU_HOST_UNAVAILABLE',
      '/dev/vfio/vfio is missing: load the driver (modprobe vfio-pci) on a kernel with VFIO and an IOMMU',
    ];
  }
  if (isPermission(errno)) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', 'no permission for /dev/vfio/vfio: it is usually open to all (mode 0666)'];
  }
  return ['ERR_VIOMMU_HOST_UNAVAILABLE', `/dev/vfio/vfio cannot be opened: ${errnoName(errno)}`];
}

function groupVerdict(group: number, errno: number, snapshot: SysfsSnapshot): Verdict {
  const path = `/dev/vfio/${group}`;
  const members = membersOf(group, snapshot);
  if (errno === Errno.ENOENT && members === undefined) {
    const hint = snapshot.groups.length === 0 ? 'turn the IOMMU on (intel_iommu=on, amd_iommu=on)' : 'look at the ids';
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `there is no IOMMU group ${group} in /sys/kernel/iommu_groups: ${hint}`];
  }
  if (errno === Errno.ENOENT) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${path} is missing: bind ${list(members)} to vfio-pci`];
  }
  if (errno === Errno.EBUSY) {
    const who = 'another process, or a mapping of a BAR that outlived its device,';
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `group ${group} is in use: ${who} still has ${path}`];
  }
  if (isPermission(errno)) {
    return ['ERR_VIOMMU_HOST_UNAVAILABLE', `no permission for ${path}: give the file to this user (chown)`];
  }
  return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${path} cannot be opened: ${errnoName(errno)}`];
}

/** Drivers with which a member does not stand in the way (drivers/vfio: vfio_dev_driver_allowed, and VFIO's own). */
const HARMLESS = /^(vfio-pci|pci-stub|pcieport|.*[-_]vfio[-_]pci|vfio[-_].*)$/;

function notViable(group: number, snapshot: SysfsSnapshot): Verdict {
  const drivers = new Map(snapshot.devices.map((device) => [device.name, device.driver]));
  const guilty = (membersOf(group, snapshot) ?? []).filter((name) => !HARMLESS.test(drivers.get(name) ?? 'vfio-pci'));
  const who = guilty.map((name) => `${name} (${drivers.get(name)})`).join(', ');
  const what = who === '' ? 'a member still has a host driver' : `host drivers have ${who}`;
  return ['ERR_VIOMMU_HOST_INCOMPATIBLE', `group ${group} is not viable, ${what}: bind all members to vfio-pci`];
}

/** EPERM and EINVAL each stand for several causes, and which call gives them differs by kernel; /sys tells them apart. */
function attachVerdict(group: number, call: string, errno: number, snapshot: SysfsSnapshot): Verdict {
  const refused = `group ${group} cannot be attached (${call}: ${errnoName(errno)})`;
  if (errno !== Errno.EPERM && errno !== Errno.EINVAL) {
    if (errno === Errno.EBUSY) return ['ERR_VIOMMU_HOST_UNAVAILABLE', `${refused}: it is in another container`];
    if (errno === Errno.ENODEV) return ['ERR_VIOMMU_HOST_INCOMPATIBLE', `${refused}: load vfio_iommu_type1`];
    return ['ERR_VIOMMU_HOST_REFUSED', refused];
  }
  const direct = directRegions(group, snapshot);
  if (direct.length > 0) {
    return [
      'ERR_VIOMMU_HOST_INCOMPATIBLE',
      `${refused}: firmware wants reserved memory mapped 1:1 (RMRR, IVMD, RMR: ${direct.join(', ')}), which Linux gives to no ` +
        'guest: switch off the feature in the firmware that needs it, or use another device',
    ];
  }
  if (errno === Errno.EPERM) {
    return [
      'ERR_VIOMMU_HOST_INCOMPATIBLE',
      `${refused}: without interrupt remapping a guest could forge interrupts: turn it on in the firmware, or accept the ` +
        'risk with vfio_iommu_type1.allow_unsafe_interrupts=1',
    ];
  }
  return [
    'ERR_VIOMMU_HOST_INCOMPATIBLE',
    `${refused}: the kernel log names the cause (reserved memory that must be mapped 1:1, or an address width that does ` +
      'not fit)',
  ];
}

/** Lines of `reserved_regions` that make a device unusable; relaxable ones do not. */
function directRegions(group: number, snapshot: SysfsSnapshot): string[] {
  const text = snapshot.groups.find((each) => each.id === String(group))?.reservedRegions ?? '';
  return text.split('\n').flatMap((line) => {
    const match = /^0x0*([0-9a-f]+) 0x0*([0-9a-f]+) direct$/.exec(line.trim());
    return match === null ? [] : [`0x${match[1]}-0x${match[2]}`];
  });
}

/** The error of a device of a group that could not be opened. */
export function deviceError(group: number, name: string, failure: NativeFailure, snapshot: SysfsSnapshot): HostError {
  const { errno } = failure;
  const members = membersOf(group, snapshot);
  if (members !== undefined && !members.includes(name)) {
    const message = `${name} is not in group ${group}, which has ${list(members)}`;
    return hostError(['ERR_VIOMMU_HOST_UNAVAILABLE', message], failure);
  }
  const driver = snapshot.devices.find((device) => device.name === name)?.driver;
  const hint = errno === Errno.ENODEV || errno === Errno.EINVAL ? `bind it to vfio-pci (now: ${driver ?? 'none'})` : '';
  const message = `${name} cannot be opened (${errnoName(errno)})${hint === '' ? '' : `: ${hint}`}`;
  return hostError(['ERR_VIOMMU_HOST_UNAVAILABLE', message], failure);
}

/** Facts for {@link explainMapErrno}. */
export interface MapFacts {
  /** Entries that can still be made. */
  readonly entriesLeft: number;
  readonly entryLimit: number;
  /** Bytes that this process has locked and may lock. */
  readonly locked: number;
  readonly lockLimit: number;
}

/** What an errno of a map means, and what to do; one sentence. */
export function explainMapErrno(errno: number, facts: MapFacts): string {
  if (errno === Errno.ENOSPC) {
    return `all ${facts.entryLimit} entries of the container are taken: raise vfio_iommu_type1.dma_entry_limit, or use larger pages`;
  }
  if (errno === Errno.ENOMEM && facts.lockLimit !== Infinity) {
    return (
      `locked memory may be too low: ${facts.locked} of ${facts.lockLimit} bytes are locked, and type1 counts every mapping ` +
      'once for each container: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)'
    );
  }
  if (errno === Errno.ENOMEM) return 'the host has no memory for its tables, or vm.max_map_count is reached';
  if (errno === Errno.EFAULT) return 'the memory is not guest RAM or a BAR mapping that this package made, or is gone';
  if (errno === Errno.EEXIST) return 'an entry exists there already';
  if (errno === Errno.EINVAL) return 'the range is not whole host pages, or not inside one usable range';
  if (errno === EBADF) return CLOSED_UNDER_US;
  return `the host gives ${errnoName(errno)}`;
}

function membersOf(group: number, snapshot: SysfsSnapshot): readonly string[] | undefined {
  return snapshot.groups.find((each) => each.id === String(group))?.devices;
}

function list(names: readonly string[] | undefined): string {
  return names === undefined || names.length === 0 ? 'its devices' : names.join(', ');
}

function isPermission(errno: number): boolean {
  return errno === Errno.EACCES || errno === Errno.EPERM;
}
