// What a scenario finds in the machine: the edu device behind the emulated IOMMU, and the parameters of the drivers.
// Runs in the machine, as root, on plain Node.
import { readFileSync, readlinkSync, readdirSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { Reporter } from '../base/reporter.ts';

/** A scenario file exports this as `run`. It leaves the machine as it found it: contexts closed, parameters as before. */
export type Scenario = (report: Reporter, env: GuestEnv) => Promise<void> | void;

/** The machine. */
export interface GuestEnv {
  /** As `uname -r` says. */
  readonly kernel: string;
  readonly iommu: 'VT-d' | 'AMD-Vi';
  /** The device for DMA, alone in its group and bound to vfio-pci. */
  readonly edu: { readonly name: string; readonly group: number };
}

const EDU_ID = { vendor: '0x1234', device: '0x11e8' };
const ENTRY_LIMIT = '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit';

/** Binds the edu device to vfio-pci and describes the machine. @throws Error when there is none. */
export function prepareEnv(): GuestEnv {
  const name = findDevice(EDU_ID);
  bindToVfio(name);
  const iommu = readdirSync('/sys/class/iommu').some((unit) => unit.startsWith('dmar')) ? 'VT-d' : 'AMD-Vi';
  return { kernel: readText('/proc/sys/kernel/osrelease'), iommu, edu: { name, group: groupOf(name) } };
}

/** Address of the first PCI function with this identity. */
export function findDevice(id: { readonly vendor: string; readonly device: string }): string {
  const names = readdirSync('/sys/bus/pci/devices');
  const found = names.find((name) =>
    (['vendor', 'device'] as const).every((file) => readText(`/sys/bus/pci/devices/${name}/${file}`) === id[file]),
  );
  if (found === undefined) throw new Error(`no device ${id.vendor}:${id.device} among ${names.join(' ')}`);
  return found;
}

/** Gives a PCI function to vfio-pci. */
export function bindToVfio(name: string): void {
  const folder = `/sys/bus/pci/devices/${name}`;
  writeFileSync(`${folder}/driver_override`, 'vfio-pci');
  if (readdirSync(folder).includes('driver')) {
    if (basename(readlinkSync(`${folder}/driver`)) === 'vfio-pci') return;
    writeFileSync(`${folder}/driver/unbind`, name);
  }
  writeFileSync('/sys/bus/pci/drivers_probe', name);
}

/** Takes a PCI function from vfio-pci; it has no driver then. */
export function releaseFromVfio(name: string): void {
  const folder = `/sys/bus/pci/devices/${name}`;
  writeFileSync(`${folder}/driver/unbind`, name);
  writeFileSync(`${folder}/driver_override`, '\n');
}

/** IOMMU group of a PCI function. */
export function groupOf(name: string): number {
  return Number(basename(readlinkSync(`/sys/bus/pci/devices/${name}/iommu_group`)));
}

/** Runs `step` with another dma_entry_limit for the containers that it opens, and puts the old one back. */
export async function withEntryLimit<T>(limit: number, step: () => T | Promise<T>): Promise<T> {
  const before = readText(ENTRY_LIMIT);
  writeFileSync(ENTRY_LIMIT, String(limit));
  try {
    return await step();
  } finally {
    writeFileSync(ENTRY_LIMIT, before);
  }
}

function readText(path: string): string {
  return readFileSync(path, 'utf8').trim();
}
