// Reserved regions of a real host for the endpoints of passed-through functions: /sys of the whole IOMMU group in, the
// endpoint for `addEndpoint` out. Not here: what the kinds become (firmware/group-reserved.ts), the limits of the context
// (the device reads them from `host`). Region ends are INCLUSIVE.
import { U32_MAX, checkBoolean, checkInteger, checkOneOf, checkOptions } from '../base/check.ts';
import type { HostErrorCode } from '../base/errors.ts';
import { Errno, HostError } from '../base/errors.ts';
import { checkRange } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import type { GroupReservedOptions } from '../firmware/group-reserved.ts';
import { groupReserved } from '../firmware/group-reserved.ts';
import type { SysfsGroup, SysfsSnapshot } from '../firmware/sysfs.ts';
import type { HostContext } from './context.ts';
import { machineArch } from './survey-files.ts';
import { readSysfs } from './sysfs.ts';

export type { GroupReservedOptions } from '../firmware/group-reserved.ts';

/** Options of {@link hostReserved}. */
export interface HostReservedOptions extends GroupReservedOptions {
  /** Root of sysfs, default `/sys`, whose `arch` is that of this machine. */
  readonly sysfs?: string;
}

/** A PCI function by name (`ssss:bb:dd.f`), or an IOMMU group by number. */
export type GroupName = { readonly device: string } | { readonly group: number };

/** A device that a context has opened, as far as it matters here. */
interface OpenedDevice {
  readonly name: string;
  busMaster(): boolean;
}

/** Options of {@link passthroughEndpoint}. */
export interface PassthroughOptions extends HostReservedOptions {
  /** The context of the function's group; all functions of a group name the same object. */
  readonly context: HostContext;
  /** The function on the host, `ssss:bb:dd.f`. */
  readonly device: string;
  /** Endpoint id in the guest's firmware tables (PCI: the guest's segment and BDF); 0 to 2^32 - 1. */
  readonly id: number;
  /** Bus-master bit now; default what the device says when the context has opened it, else not known. */
  readonly busMaster?: boolean;
}

/** What `addEndpoint` takes, complete. */
export interface PassthroughEndpoint {
  readonly id: number;
  readonly reserved: readonly ReservedRegion[];
  readonly host: HostContext;
  readonly busMaster?: boolean;
}

const NAME = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/;
const RESERVED_OPTIONS = ['relaxable', 'msi', 'arch', 'sysfs'];

/**
 * Number of the IOMMU group of a PCI function, from /sys.
 * @throws TypeError or RangeError for a name that is none; HostError ERR_VIOMMU_HOST_UNAVAILABLE when there is no such
 * function, or no IOMMU translates for it.
 */
export function groupOfDevice(device: string, sysfs = '/sys'): number {
  checkDevice('device', device);
  return Number(findGroup(readSysfs(checkText('sysfs', sysfs)), { device }).id);
}

/**
 * Reserved regions of a whole IOMMU group, ready for `addEndpoint({ reserved })`; see {@link GroupReservedOptions}. The list
 * is that of `reserved_regions`, so that relaxable regions are in it, which no list of usable addresses shows.
 * @throws TypeError or RangeError for wrong options; HostError ERR_VIOMMU_HOST_UNAVAILABLE without such a function, group or
 * list (before Linux 4.11), ERR_VIOMMU_HOST_INCOMPATIBLE for a list that cannot be trusted.
 */
export function hostReserved(of: GroupName, options: HostReservedOptions = {}): ReservedRegion[] {
  checkOptions('options', options, RESERVED_OPTIONS);
  const sysfs = checkReserved(options);
  checkGroupName(of);
  return reservedOf(findGroup(readSysfs(sysfs), of), options, sysfs);
}

/**
 * The complete endpoint of a passed-through function for `addEndpoint`: the reserved regions of its whole group, the context
 * whose page sizes and usable ranges go into `page_size_mask` and `input_range`, and the bus-master bit.
 * @throws as {@link hostReserved}; RangeError when the context has opened devices and `device` is none of them; HostError
 * when the device does not answer.
 */
export function passthroughEndpoint(options: PassthroughOptions): PassthroughEndpoint {
  checkOptions('options', options, ['context', 'device', 'id', 'busMaster', ...RESERVED_OPTIONS]);
  const { context, device, id } = options;
  if (typeof (context as Partial<HostContext> | null | undefined)?.apply !== 'function') {
    throw new TypeError('options.context must be a HostContext');
  }
  checkDevice('options.device', device);
  checkInteger('options.id', id, 0, U32_MAX);
  if (options.busMaster !== undefined) checkBoolean('options.busMaster', options.busMaster);
  const sysfs = checkReserved(options);
  const opened = openedDevice(context, device);
  const reserved = reservedOf(findGroup(readSysfs(sysfs), { device }), options, sysfs);
  const busMaster = options.busMaster ?? opened?.busMaster();
  return { id, reserved, host: context, ...(busMaster === undefined ? {} : { busMaster }) };
}

/** The device as the context has opened it; undefined for a context that opens none by name (a simulated one). */
function openedDevice(context: HostContext, device: string): OpenedDevice | undefined {
  const { name, devices } = context as HostContext & { readonly devices?: unknown };
  const list: readonly Partial<OpenedDevice>[] = Array.isArray(devices) ? devices : [];
  const opened = list.filter((each): each is OpenedDevice => typeof each.name === 'string');
  const found = opened.find((each) => each.name === device);
  if (found === undefined && opened.length > 0) {
    const names = opened.map((each) => each.name).join(', ');
    throw new RangeError(`options.device ${device} is not open in ${name}, which has ${names}`);
  }
  return found;
}

function reservedOf(group: SysfsGroup, options: GroupReservedOptions, sysfs: string): ReservedRegion[] {
  const { reservedRegions } = group;
  if (reservedRegions === undefined) {
    throw hostError(
      'ERR_VIOMMU_HOST_UNAVAILABLE',
      `group ${group.id} has no reserved_regions: Linux 4.11 or later is needed`,
    );
  }
  try {
    // An x86 host that is a guest itself may list a software window too: the list alone would pass for Arm.
    const arch = options.arch ?? (sysfs === '/sys' ? machineArch() : undefined);
    return groupReserved(reservedRegions, { ...options, ...(arch === undefined ? {} : { arch }) });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw hostError('ERR_VIOMMU_HOST_INCOMPATIBLE', `group ${group.id}: ${error.message}`);
  }
}

/** The group that is meant. @throws HostError that says what is missing. */
export function findGroup(snapshot: SysfsSnapshot, of: GroupName): SysfsGroup {
  const id = 'group' in of ? String(of.group) : groupIdOf(snapshot, of.device);
  const group = snapshot.groups.find((each) => each.id === id);
  if (group !== undefined) return group;
  const off = 'turn the IOMMU on (intel_iommu=on, amd_iommu=on, and in the firmware)';
  const hint = snapshot.groups.length === 0 ? off : 'look at the ids in /sys/kernel/iommu_groups';
  throw hostError('ERR_VIOMMU_HOST_UNAVAILABLE', `there is no IOMMU group ${id}: ${hint}`);
}

function groupIdOf(snapshot: SysfsSnapshot, device: string): string {
  const found = snapshot.devices.find((each) => each.name === device);
  if (found === undefined) {
    throw hostError('ERR_VIOMMU_HOST_UNAVAILABLE', `there is no PCI function ${device} in /sys/bus/pci/devices`);
  }
  if (found.group !== undefined) return found.group;
  const why = snapshot.groups.length === 0 ? 'the IOMMU is off or absent' : 'no IOMMU translates for it';
  throw hostError('ERR_VIOMMU_HOST_UNAVAILABLE', `${device} is in no IOMMU group: ${why}`);
}

/** Checks which group is meant. @throws TypeError or RangeError. */
export function checkGroupName(of: GroupName): void {
  if (typeof of !== 'object' || (of as unknown) === null) throw new TypeError('of must be { device } or { group }');
  if ('device' in of) checkDevice('device', of.device);
  else checkInteger('group', of.group, 0, 2 ** 31 - 1);
}

/** Checks the spelling of a PCI function. @throws TypeError or RangeError that names `name`. */
export function checkDevice(name: string, device: string): void {
  if (!NAME.test(checkText(name, device))) throw new RangeError(`${name} must be like 0000:00:04.0, got "${device}"`);
}

function checkReserved(options: HostReservedOptions): string {
  const { relaxable, arch, msi, sysfs = '/sys' } = options;
  if (relaxable !== undefined) checkOneOf('options.relaxable', relaxable, ['report', 'omit']);
  if (arch !== undefined) checkOneOf('options.arch', arch, ['x86', 'arm']);
  if (msi !== undefined) {
    if (!Array.isArray(msi)) throw new TypeError('options.msi must be an array');
    msi.forEach((range: unknown, i) => checkRange(`options.msi[${i}]`, range));
  }
  return checkText('options.sysfs', sysfs);
}

function checkText(name: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`${name} must be a string`);
  return value;
}

function hostError(code: HostErrorCode, message: string): HostError {
  return new HostError(code, message, { errno: Errno.ENOENT, syscall: 'read' });
}
