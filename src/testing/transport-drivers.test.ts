// A whole virtio-iommu behind its registers, driven as Linux does it.
import { describe, expect, it } from 'vitest';
import { VirtioIommu } from '../iommu/virtio-iommu.ts';
import { Feature, Status } from '../virtio/features.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { VirtioMmioDevice } from '../virtio/mmio/virtio-mmio-device.ts';
import { VirtioPciFunction } from '../virtio/pci/virtio-pci-function.ts';
import type { DriverDevice } from './driver-setup.ts';
import { IommuDriver } from './iommu-driver.ts';
import { MmioDriver } from './mmio-driver.ts';
import { PciDriver } from './pci-driver.ts';

function makeIommu(): { iommu: VirtioIommu; memory: GuestMemory } {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x200000n });
  const iommu = new VirtioIommu({
    memory,
    interrupt: { queue: () => undefined, config: () => undefined },
    endpoints: [{ id: 8 }],
    requestQueueSize: 64,
  });
  return { iommu, memory };
}

function makeDriver(device: DriverDevice, memory: GuestMemory): IommuDriver {
  const driver = new IommuDriver({ device, memory, base: 0x10000n });
  driver.start();
  return driver;
}

function expectTranslates(driver: IommuDriver, iommu: VirtioIommu): void {
  expect(driver.config).toMatchObject({ pageSizeMask: 0x4020_1000n, probeSize: 512, bypass: true });
  expect(driver.probe(8).status).toBe(0);
  expect(driver.attach(1, 8).status).toBe(0);
  expect(driver.map(1, 0x5000n, 0x5fffn, 0xa000n).status).toBe(0);
  expect(iommu.core.translate(8, 0x5123n, 4, 'read')).toMatchObject({ ok: true, pieces: [{ gpa: 0xa123n }] });
  expect(iommu.core.translate(8, 0x6000n, 4, 'read').ok).toBe(false);
  expect(driver.events()).toMatchObject([{ endpoint: 8, address: 0x6000n }]);
}

describe('virtio-iommu over PCI', () => {
  it('is 1af4:1057, answers requests and reports faults', () => {
    const { iommu, memory } = makeIommu();
    const sent: number[] = [];
    const pci = new VirtioPciFunction(iommu.transport, { interrupts: { msix: (vector) => sent.push(vector) } });
    expect([pci.readConfig(0, 4), pci.readConfig(8, 1)]).toEqual([0x1057_1af4, 1]);
    const driver = makeDriver(new PciDriver(pci), memory);
    expectTranslates(driver, iommu);
    expect(sent).toContain(2);
  });

  it('does not touch the event queue while it is no bus master', () => {
    const { iommu, memory } = makeIommu();
    const pci = new VirtioPciFunction(iommu.transport, { interrupts: { msix: () => undefined } });
    const driver = makeDriver(new PciDriver(pci), memory);
    driver.attach(1, 8);
    pci.writeConfig(4, 2, 2);
    expect(iommu.core.translate(8, 0x6000n, 4, 'read').ok).toBe(false);
    expect(driver.events()).toEqual([]);
    expect(driver.attach(2, 8).usedLength).toBe(-1);
    pci.writeConfig(4, 2, 6);
    expect(driver.map(2, 0x0n, 0xfffn, 0n).status).toBe(0);
  });

  it('comes back after a reset of the machine', () => {
    const { iommu, memory } = makeIommu();
    const pci = new VirtioPciFunction(iommu.transport, { interrupts: { msix: () => undefined } });
    const registers = new PciDriver(pci);
    makeDriver(registers, memory).setBypass(0);
    iommu.systemReset();
    pci.reset();
    expect(() => makeDriver(registers, memory)).toThrow();
    registers.probe();
    expectTranslates(makeDriver(registers, memory), iommu);
  });
});

describe('virtio-iommu over MMIO', () => {
  it('answers requests and reports faults', () => {
    const { iommu, memory } = makeIommu();
    const levels: boolean[] = [];
    const mmio = new VirtioMmioDevice(iommu.transport, { interrupt: (level) => levels.push(level) });
    const registers = new MmioDriver(mmio);
    const driver = makeDriver(registers, memory);
    expectTranslates(driver, iommu);
    expect(levels[0]).toBe(true);
    expect(registers.takeInterrupts() & 1).toBe(1);
    driver.setBypass(0);
    expect(driver.config.bypass).toBe(true);
    driver.start();
    expect([driver.config.bypass, registers.status & Status.driverOk]).toEqual([false, Status.driverOk]);
  });
});

it('the driver of a virtio-iommu lays out split rings only', () => {
  const { iommu, memory } = makeIommu();
  const features = Feature.version1 | Feature.ringPacked;
  expect(() => new IommuDriver({ device: iommu.transport, memory, base: 0x10000n, features })).toThrow(/features/);
});
