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
  const { eligibility, name, kernel, regions } = input;
  if (eligibility.verdict === 'assignable' && !eligibility.approximate) return [];
  if (eligibility.verdict === 'unknown')
    return ['run this on the host, or give its sysfs, so that bridge paths can be resolved'];
  if (eligibility.verdict !== 'refused') {
    const watch = 'the device keeps its claim on the range: report it as reserved to the guest (the default here)';
    return regions.length === 0 ? [] : [watch];
  }
  const { lockedBy } = eligibility;
  if (lockedBy !== undefined && lockedBy !== name)
    return [`${lockedBy} of the same IOMMU group locks it: see there, or move one of them`];
  const ways = [
    'firmware: a newer version, or a setting that takes the device out of the reserved memory (HPE: RMRDS per slot with conrep; shared-memory or device-monitoring options elsewhere)',
  ];
  ways.push('assign an SR-IOV virtual function instead of the physical function: virtual functions are in no scope');
  if (input.entangled > 1) {
    ways.push(
      `a different slot: firmware often reserves memory per slot, and ${input.entangled - 1} other devices share this memory`,
    );
  }
  const amdOrArm = regions.some((region) => region.platform === 'amd' || region.platform === 'arm');
  if (input.classCode !== undefined && isDisplay(input.classCode) && !atLeast(kernel, 4, 2)) {
    ways.push('kernel: 4.2 and later exempt display devices (approximate)');
  }
  if (amdOrArm)
    ways.push(
      'kernel: versions before 6.6 do not refuse it, at the risk of the device writing into memory of the guest',
    );
  else {
    ways.push(
      'out-of-tree relax_rmrr patch (intel_iommu=on,relax_rmrr): never upstream; if the device or the firmware really uses the memory, guest and firmware corrupt each other',
    );
  }
  return ways;
}
