// Which drivers stand in the way when a group is given to a guest. Names only; nothing here looks at the host.
import type { KernelVersion } from '../firmware/kernel-version.ts';
import { atLeast } from '../firmware/kernel-version.ts';
import type { SysfsDevice } from '../firmware/sysfs.ts';

/** True for vfio-pci and its variants (`mlx5_vfio_pci`, `nvgrace-gpu-vfio-pci`). */
export function isVfioPci(driver: string | undefined): boolean {
  return driver !== undefined && /(?:^|[-_])vfio[-_]pci$/.test(driver);
}

/**
 * True when a member with this driver does not keep its group from being given away. Since Linux 5.19 drivers say it
 * (driver_managed_dma: VFIO's own, pci-stub, pcieport); before, any driver of a bridge was taken for harmless.
 */
export function isHarmless(device: SysfsDevice, kernel: KernelVersion | undefined): boolean {
  const { driver, headerType } = device;
  if (driver === undefined || /(?:^|[-_])vfio(?:[-_]|$)/.test(driver)) return true;
  if (driver === 'pci-stub' || driver === 'pcieport') return true;
  const old = kernel !== undefined && !atLeast(kernel, 5, 19);
  return old && headerType !== undefined && headerType !== 0;
}

/** Bridges cannot be given to a guest (vfio-pci takes header type 0 only), and need no driver of VFIO. */
export function isBridge(device: SysfsDevice): boolean {
  if (device.headerType !== undefined) return device.headerType !== 0;
  return device.classCode !== undefined && device.classCode >> 8 === 0x0604;
}
