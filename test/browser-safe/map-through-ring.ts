// Runs where nothing of Node is there: a driver maps one page through the ring, an emulated device writes through the
// translation, and a passed-through device does through the simulated host. What it returns is compared by the test.
import { GuestMemory, SimulatedHost, VirtioIommu } from '../../src/index.ts';
import { IommuDriver } from '../../src/testing.ts';

const RAM_BYTES = 16n << 20n;
const DRIVER_BASE = 8n << 20n;
const IOVA = 0x10_0000_0000n;
const GPA = 0x5000n;

/** What was seen, as plain values. */
export function mapThroughRing(): Record<string, unknown> {
  const host = new SimulatedHost();
  const ram = host.addressSpace.mmap({ length: RAM_BYTES, kind: 'memfd' });
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: ram.size, windows: ram.windows, hva: ram.hva });
  let interrupts = 0;
  const iommu = new VirtioIommu({
    memory,
    interrupt: { queue: () => interrupts++, config: () => undefined },
    endpoints: [{ id: 0x28, host: host.createContext({ group: 7, endpoints: [0x28] }) }, { id: 0x18 }],
  });
  const driver = new IommuDriver({ device: iommu.transport, memory, base: DRIVER_BASE });
  driver.start();
  const statuses = [
    driver.attach(1, 0x28).status,
    driver.attach(1, 0x18).status,
    driver.map(1, IOVA, IOVA + 0xfffn, GPA).status,
  ];
  const written = iommu.core.dmaView(0x18).write(IOVA + 8n, Uint8Array.of(1, 2, 3));
  const passed = host.prober(0x28).read(IOVA + 8n, 3);
  const { entries } = iommu.core.stats().contexts[0]!;
  const unmapped = driver.unmap(1, IOVA, IOVA + 0xfffn).status;
  return {
    statuses,
    written,
    passed: passed === undefined ? undefined : [...passed],
    entries,
    unmapped,
    afterUnmap: host.prober(0x28).read(IOVA, 1) === undefined ? 'blocked' : 'reached',
    interrupted: interrupts > 0,
  };
}
