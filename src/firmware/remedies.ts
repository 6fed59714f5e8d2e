// What a user can do about a refused device, with the risk of each way. Text only; no judgement (eligibility.ts).
import type { Eligibility } from './eligibility.ts';
import type { KernelVersion } from './kernel-version.ts';
import { atLeast } from './kernel-version.ts';
import { isDisplay } from './pci-class.ts';
import type { HostRegion } from './region.ts';

/** What is known of the device. */
export interface RemedyInput {
  readonly eligibility: Eligibility;
  readonly name: string;
  readonly kernel: KernelVersion;
  readonly regions: readonly HostRegion[];
  readonly classCode: number | undefined;
  /** Number of devices in its component, itself included. */
  readonly entangled: number;
}

/** Ways out for one device, most harmless first; empty when it is assignable. */
export function remediesFor(input: RemedyInput): string[] {
  const { eligibility, name, regions } = input;
  if (eligibility.verdict === 'assignable' && !eligibility.approximate) return [];
  if (eligibility.verdict === 'unknown' && name.startsWith('acpi:'))
    return ['see on the host whether the device sits in an IOMMU group, and what reserved_regions of that group list'];
  if (eligibility.verdict === 'unknown')
    return ['run this on the host, or give its sysfs, so that bridge paths can be resolved'];
  if (eligibility.verdict !== 'refused') {
    const watch = 'the device keeps its claim on the range: report it as reserved to the guest (the default here)';
    return regions.length === 0 ? [] : [watch];
  }
  const { lockedBy } = eligibility;
  if (lockedBy !== undefined && lockedBy !== name)
    return [`${lockedBy} of the same IOMMU group locks it: see there, or move one of them`];
  const amdOrArm = regions.some((region) => region.platform === 'amd' || region.platform === 'arm');
  const ways: string[] = [];
  if (input.classCode === undefined && !amdOrArm && eligibility.approximate) {
    ways.push(
      'class: USB and display devices are exempt; is it one (lspci -nn)? then tell it: --class <device>=0x0c0330, or give --sysfs',
    );
  }
  ways.push(
    'firmware: a newer version, or a setting that takes the device out of the reserved memory (HPE: RMRDS per slot with conrep; shared-memory or device-monitoring options elsewhere)',
  );
  ways.push('virtual function: assign an SR-IOV virtual function instead; no scope of a table names those');
  if (input.entangled > 1 && !isBuiltIn(name)) {
    const others = input.entangled === 2 ? 'one other device shares' : `${input.entangled - 1} other devices share`;
    ways.push(`slot: move the card; firmware often reserves memory per slot, and ${others} this memory`);
  }
  ways.push(kernelRemedy(input, amdOrArm));
  if (!amdOrArm) {
    ways.push(
      'patch: out-of-tree relax_rmrr (intel_iommu=on,relax_rmrr), never upstream; risk: if device or firmware really use the memory, guest and firmware corrupt each other',
    );
  }
  return ways;
}

function kernelRemedy({ kernel, classCode }: RemedyInput, amdOrArm: boolean): string {
  if (amdOrArm)
    return 'kernel: before ~6.6 none refuses it, at the risk that the device writes into memory of the guest';
  if (classCode !== undefined && isDisplay(classCode) && !atLeast(kernel, 4, 2))
    return 'kernel: ~4.1 and later exempt display devices';
  return 'kernel: none from 3.17 on lets it go; another version only changes the error (EPERM before ~6.6, then EINVAL)';
}

/** On bus 0 there are no slots. */
function isBuiltIn(name: string): boolean {
  return /^[0-9a-f]{4,8}:00:/.test(name);
}
