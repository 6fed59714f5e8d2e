// What the L0 kernel says of DMA that its IOMMU refused: QEMU's VT-d tells of it as hardware does.
import { execFileSync } from 'node:child_process';

/** Writes that were refused since the machine was booted, as far as the kernel's log has them (it is rate-limited). */
export function dmarFaults(): number {
  const log = execFileSync('dmesg', { encoding: 'utf8' });
  return log.split('\n').filter((line) => line.includes('DMAR: [DMA Write')).length;
}
