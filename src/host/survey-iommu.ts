// What /sys, /proc/interrupts and the kernel log say of the host's IOMMUs and of interrupt remapping.
import type { HostFiles } from './survey-files.ts';

/** One IOMMU of /sys/class/iommu. */
export interface SurveyIommu {
  /** `dmar0`, `ivhd0`, `smmu3.0x0000000009050000`. */
  readonly name: string;
  readonly kind: 'VT-d' | 'AMD-Vi' | 'SMMU' | 'virtio-iommu' | 'unknown';
  /** Most bits of an I/O virtual address; known for VT-d only (capability register: MGAW and SAGAW). */
  readonly addressBits: number | undefined;
}

/** Whether devices can forge interrupts: `on` (isolated), `off`, or not told. */
export type InterruptRemapping = 'on' | 'off' | 'unknown';

const CLASS = 'class/iommu';

/** The IOMMUs that the kernel uses. */
export function readIommus(sys: HostFiles): SurveyIommu[] {
  return sys.list(CLASS).map((name) => ({ name, kind: kindOf(sys, name), addressBits: widthOf(sys, name) }));
}

function kindOf(sys: HostFiles, name: string): SurveyIommu['kind'] {
  if (sys.has(`${CLASS}/${name}/intel-iommu`) || /^dmar\d/.test(name)) return 'VT-d';
  if (sys.has(`${CLASS}/${name}/amd-iommu`) || /^ivhd\d/.test(name)) return 'AMD-Vi';
  if (name.startsWith('smmu') || name.includes('arm-smmu')) return 'SMMU';
  return name.includes('virtio') ? 'virtio-iommu' : 'unknown';
}

/** VT-d 11.4.2: MGAW is bits 21:16, SAGAW bits 12:8 (bit n: 30 + 9 n address bits). */
function widthOf(sys: HostFiles, name: string): number | undefined {
  const text = sys.text(`${CLASS}/${name}/intel-iommu/cap`, 64);
  if (text === undefined || !/^(?:0x)?[0-9a-f]{1,16}$/i.test(text)) return undefined;
  const cap = BigInt(text.startsWith('0x') ? text : `0x${text}`);
  const most = Number((cap >> 16n) & 0x3fn) + 1;
  const levels = [4, 3, 2, 1, 0].find((bit) => (cap >> BigInt(8 + bit)) & 1n);
  return levels === undefined ? undefined : Math.min(most, 30 + 9 * levels);
}

/** From the names of interrupt chips (`IR-PCI-MSI`, `IR-IO-APIC`), else from the kernel log. */
export function interruptRemapping(interrupts: string | undefined, kernelLog: string | undefined): InterruptRemapping {
  const chips = interrupts ?? '';
  if (/\s(?:IR-[A-Z]|ITS-(?:p)?MSI)/.test(chips)) return 'on';
  const log = kernelLog ?? '';
  if (/DMAR-IR: Enabled IRQ remapping|AMD-Vi: Interrupt remapping enabled/.test(log)) return 'on';
  return /\s(?:IO-APIC|PCI-MSIX?)[\s-]/.test(chips) ? 'off' : 'unknown';
}
