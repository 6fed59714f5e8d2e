// A small virtual machine monitor that embeds the device; spec/embedding.md walks through it, and a test runs it.
// The host is the simulated one; a VMM on VFIO passes a HostContext of its own (src/host/context.ts) in its place.
import type { HostContext, IommuEvent } from '../../src/index.ts';
import { GuestMemory, HostError, SimulatedHost, VirtioIommu } from '../../src/index.ts';

/** Endpoint ids are PCI requester ids here: bus 0, device 3 and 5, function 0. */
export const EMULATED = 0x18;
export const PASSED = 0x28;

const RAM_BYTES = 64n << 20n;
const MSI = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn } as const;

/** One virtual machine: RAM, the IOMMU, an emulated disk and a passed-through device. */
export class Vmm {
  readonly host = new SimulatedHost();
  readonly memory = new GuestMemory();
  readonly iommu: VirtioIommu;
  readonly context: HostContext;
  readonly interrupts: string[] = [];
  readonly events: IommuEvent[] = [];
  /** A write of the bus-master bit that was not forwarded. */
  heldBack = false;
  stopped = false;

  /** `later` runs a function soon, outside the present call. */
  constructor(later: (run: () => void) => void = setImmediate) {
    // Guest RAM: one mapping of the process; `hva` is what the host IOMMU is given.
    const ram = this.host.addressSpace.mmap({ length: RAM_BYTES, kind: 'memfd' });
    const file = { pageSize: 4096 }; // a memfd: scattered pages of it can stand in one host entry
    this.memory.addRegion({ gpa: 0n, size: ram.size, windows: ram.windows, hva: ram.hva, file });

    // One host context per VFIO group. Devices start with bus mastering off.
    this.context = this.host.createContext({ group: 7, endpoints: [PASSED], busMaster: false });

    this.iommu = new VirtioIommu({
      memory: this.memory,
      interrupt: {
        queue: (index) => this.interrupts.push(`queue ${index}`),
        config: () => this.interrupts.push('config'),
      },
      endpoints: [
        { id: EMULATED, reserved: [MSI] },
        { id: PASSED, reserved: [MSI], host: this.context, busMaster: false },
      ],
      // What a kick leaves over goes on here. Needed when the guest runs on other threads and can add without end.
      defer: later,
      // Nothing could stop the devices of a context: take them off the bus, stop the machine.
      onFatal: () => this.kill(),
    });
    this.iommu.core.onEvent((event) => this.events.push(event));
  }

  /** An emulated disk completes a read: it asks for the translation when it moves the bytes, not earlier. */
  completeDiskRead(iova: bigint, data: Uint8Array): boolean {
    const dma = this.iommu.core.dmaView(EMULATED, (endpoint, address) => {
      this.interrupts.push(`msi of ${endpoint} at 0x${address.toString(16)}`);
    });
    return dma.write(iova, data) === 'ok' && dma.write(MSI.start, Uint8Array.of(1, 0, 0, 0)) === 'ok';
  }

  /** The guest writes the bus-master bit of the passed-through device. */
  writeBusMaster(on: boolean): void {
    if (!on) {
      this.host.setBusMaster(PASSED, false); // forwarded to the device first
      this.iommu.core.setBusMaster(PASSED, false);
      return;
    }
    try {
      this.iommu.core.setBusMaster(PASSED, true); // asked first
      this.host.setBusMaster(PASSED, true);
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.heldBack = true; // blocked by this very bit, with entries that the host would not drop: it stays clear
    }
  }

  /** Memory hotplug: every mapping of the new range is installed before this returns. */
  plug(gpa: bigint, size: bigint): void {
    const ram = this.host.addressSpace.mmap({ length: size, kind: 'memfd' });
    this.memory.addRegion({ gpa, size, windows: ram.windows, hva: ram.hva });
  }

  /** The whole machine is reset: devices first, so that no DMA crosses the reset. */
  reset(): void {
    this.writeBusMaster(false);
    this.iommu.systemReset();
  }

  /** The end: the IOMMU empties its contexts, then the VMM closes them; they were never the IOMMU's to close. */
  close(): void {
    this.iommu.close();
    this.context.close();
  }

  kill(): void {
    this.stopped = true;
  }
}
