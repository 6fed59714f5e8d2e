// Ways to reach the device under test: its own face, PCI registers, MMIO registers; and the names of ring formats.
// Not here: what goes through (rig.ts).
import type { VirtioDevice } from '../../virtio/device.ts';
import { VirtioMmioDevice } from '../../virtio/mmio/virtio-mmio-device.ts';
import { VirtioPciFunction } from '../../virtio/pci/virtio-pci-function.ts';
import type { DriverDevice } from '../driver-setup.ts';
import { MmioDriver } from '../mmio-driver.ts';
import { PciDriver } from '../pci-driver.ts';

/** Ring formats that cases can be run on. */
export const RING_KINDS = ['split', 'packed'] as const;
export type RingKind = (typeof RING_KINDS)[number];

/** Transports that cases can be run through; 'none' drives the device without registers. */
export const TRANSPORT_KINDS = ['none', 'pci', 'mmio'] as const;
export type TransportKind = (typeof TRANSPORT_KINDS)[number];

/** How cases reach the device. */
export interface RunOptions {
  /** Default 'split'; a case that accepts RING_PACKED runs on packed rings in any case. */
  readonly ring?: RingKind;
  /** Default 'none'. */
  readonly transport?: TransportKind;
}

/** The device as its driver reaches it. */
export interface RigTransport {
  readonly driver: DriverDevice;
  /** What a reset of the machine does to the registers, after which the driver has found them again. */
  machineReset(): void;
}

/** Puts a transport in front of a device. */
export function connectTransport(kind: TransportKind, device: VirtioDevice): RigTransport {
  if (kind === 'pci') {
    const target = new VirtioPciFunction(device, { interrupts: { msix: () => undefined, intx: () => undefined } });
    const driver = new PciDriver(target);
    const machineReset = (): void => {
      target.reset();
      driver.probe();
    };
    return { driver, machineReset };
  }
  if (kind === 'mmio') {
    const registers = new VirtioMmioDevice(device, { interrupt: () => undefined });
    return { driver: new MmioDriver(registers), machineReset: () => undefined };
  }
  return { driver: device, machineReset: () => undefined };
}
