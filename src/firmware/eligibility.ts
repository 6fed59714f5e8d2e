// May a device be given to VFIO? The rules of Linux for devices with firmware-reserved memory, version by version.
// Not the question whether it works: bypass holes and RESV_MEM are elsewhere. Versions marked approximate were not read
// in source code. A group is claimed as a whole, so one locked member refuses all of it.
import { parseDeviceName } from './device-ref.ts';
import type { HostRegion, Platform } from './region.ts';
import { isFirmwareMemory } from './region.ts';
import type { KernelVersion } from './kernel-version.ts';
import { atLeast, eraOf, formatKernel } from './kernel-version.ts';
import { isDisplay, isUsb } from './pci-class.ts';

/**
 * `assignable`: nothing is reserved for it. `relaxable`: something is, and Linux lets it go. `refused`: see errno.
 * `unknown`: the sources cannot tell whether a region names it.
 */
export type Verdict = 'assignable' | 'relaxable' | 'refused' | 'unknown';

/** One member of the group that is to be assigned. */
export interface GroupMember {
  readonly name: string;
  readonly regions: readonly HostRegion[];
  /** 0xCCSSPP, undefined offline. */
  readonly classCode?: number | undefined;
  /** An SR-IOV virtual function: in no scope, so regions of its physical function do not bind it. */
  readonly virtualFunction?: boolean;
}

/** The answer for one device and one kernel. */
export interface Eligibility {
  readonly verdict: Verdict;
  readonly errno: 'EPERM' | 'EINVAL' | undefined;
  /** The line that the kernel logs, undefined when it logs none. */
  readonly message: string | undefined;
  /** The member of the group that locks it. */
  readonly lockedBy: string | undefined;
  /** True when a version edge or a device class behind the verdict is not certain. */
  readonly approximate: boolean;
  readonly why: string;
}

const OLD_LINE =
  'Device is ineligible for IOMMU domain attach due to platform RMRR requirement.  Contact your platform vendor.';
const NEW_LINE =
  'Firmware has requested this device have a 1:1 IOMMU mapping, rejecting configuring the device without a 1:1 mapping. Contact your platform vendor.';

/** Whether Linux treats the RMRRs of a device class as relaxable in a kernel version; `approximate` names doubt. */
export function classifyRelaxable(
  classCode: number,
  kernel: KernelVersion,
): { readonly relaxable: boolean; readonly approximate: boolean } {
  const era = eraOf(kernel);
  if (era === 'none') return { relaxable: true, approximate: false };
  if (isUsb(classCode)) return { relaxable: true, approximate: false };
  if (!isDisplay(classCode)) return { relaxable: false, approximate: false };
  const doubt = atLeast(kernel, 4, 0) && !atLeast(kernel, 4, 2);
  return { relaxable: era !== 'usb', approximate: doubt };
}

/**
 * Judges a device by what is reserved for it and for the other members of its group.
 * @param relaxRmrr true when the out-of-tree `relax_rmrr` patch is active: every PCI RMRR is relaxable then.
 */
export function assignability(
  members: readonly GroupMember[],
  kernel: KernelVersion,
  options: { readonly relaxRmrr?: boolean; readonly driver?: string } = {},
): Eligibility {
  let relaxed: Lock | undefined;
  for (const member of members) {
    for (const region of member.regions) {
      const lock = lockOf(member, region, kernel, options.relaxRmrr === true);
      if (lock?.locks === true) return refused(member, lock, kernel, options.driver);
      if (lock !== undefined && (relaxed === undefined || lock.approximate)) relaxed = lock;
    }
  }
  const none = { errno: undefined, message: undefined, lockedBy: undefined };
  if (relaxed === undefined) {
    return { verdict: 'assignable', ...none, approximate: false, why: 'no reserved memory binds it' };
  }
  return {
    verdict: relaxed.silent ? 'assignable' : 'relaxable',
    ...none,
    approximate: relaxed.approximate,
    why: relaxed.why,
  };
}

interface Lock {
  readonly locks: boolean;
  /** Nothing refuses, but nothing keeps the device's own use of the memory apart either. */
  readonly silent: boolean;
  readonly approximate: boolean;
  readonly why: string;
}

/** What one region does to its device; undefined when nothing. */
function lockOf(member: GroupMember, region: HostRegion, kernel: KernelVersion, relaxRmrr: boolean): Lock | undefined {
  if (!isFirmwareMemory(region) || region.pseudo === true) return undefined;
  const platform: Platform = region.platform ?? 'intel';
  if (member.virtualFunction === true && platform === 'intel' && region.source !== 'sysfs') return undefined;
  const era = eraOf(kernel);
  if (era === 'none') {
    return {
      locks: false,
      silent: true,
      approximate: false,
      why: 'this kernel has no rule: firmware and guest may clash silently',
    };
  }
  if (platform !== 'intel') return otherVendor(platform, region, kernel);
  if (relaxRmrr) {
    return {
      locks: false,
      silent: false,
      approximate: false,
      why: 'the out-of-tree relax_rmrr patch lets every RMRR go: memory may be corrupted',
    };
  }
  const approximate = era === 'require-direct' && !atLeast(kernel, 6, 12);
  if (region.type === 'direct-relaxable' && atLeast(kernel, 5, 3)) {
    return { locks: false, silent: false, approximate, why: 'its region is direct-relaxable' };
  }
  if (member.classCode === undefined) {
    const offline = region.source !== 'sysfs';
    const doubt = offline ? '; were it a USB or display device, it would be relaxable' : '';
    return {
      locks: true,
      silent: false,
      approximate: approximate || offline,
      why: `a region is reserved for it${doubt}`,
    };
  }
  const byClass = classifyRelaxable(member.classCode, kernel);
  const why = byClass.relaxable
    ? 'USB and display devices are exempt'
    : 'a region is reserved for it and its class is not exempt';
  return { locks: !byClass.relaxable, silent: false, approximate: approximate || byClass.approximate, why };
}

/** IVMD and RMR regions: nothing is refused before the rule of 6.6, which holds for all vendors. */
function otherVendor(platform: Platform, region: HostRegion, kernel: KernelVersion): Lock {
  const name = platform === 'amd' ? 'IVMD' : 'RMR';
  if (platform === 'arm' && !atLeast(kernel, 6, 0)) {
    const why = 'kernels before ~6.0 do not read RMR nodes: firmware and guest may clash silently';
    return { locks: false, silent: true, approximate: true, why };
  }
  if (region.type === 'direct-relaxable')
    return { locks: false, silent: false, approximate: false, why: `its ${name} region is direct-relaxable` };
  if (eraOf(kernel) === 'require-direct') {
    return {
      locks: true,
      silent: false,
      approximate: !atLeast(kernel, 6, 12),
      why: `firmware wants a 1:1 mapping for it (${name})`,
    };
  }
  const map = atLeast(kernel, 5, 4) ? '; MAP over it fails with EINVAL (since ~5.4)' : '';
  return {
    locks: false,
    silent: true,
    approximate: atLeast(kernel, 5, 4),
    why: `kernels before ~6.6 refuse no device for an ${name} region${map}`,
  };
}

/** The line that Linux logs when it refuses a device; a name that is no function (a path, a group) is left open. */
export function refusalLine(name: string, kernel: KernelVersion, driver = 'vfio-pci'): string {
  const device = parseDeviceName(name)?.kind === 'pci' ? name : '<device>';
  if (eraOf(kernel) === 'require-direct') return `${driver} ${device}: ${NEW_LINE}`;
  return `${driver} ${device}: ${atLeast(kernel, 5, 0) ? 'DMAR: ' : ''}${OLD_LINE}`;
}

function refused(member: GroupMember, lock: Lock, kernel: KernelVersion, driver: string | undefined): Eligibility {
  return {
    verdict: 'refused',
    errno: eraOf(kernel) === 'require-direct' ? 'EINVAL' : 'EPERM',
    message: refusalLine(member.name, kernel, driver),
    lockedBy: member.name,
    approximate: lock.approximate,
    why: `${lock.why} (Linux ${formatKernel(kernel)})`,
  };
}
