// A passed-through device of the simulated host: its bus-master bit and the I/O page table that it stands behind.
import type { IoPageTable } from './io-page-table.ts';

/** One endpoint; it reaches memory only while it is a bus master and its group has an open context. */
export class SimulatedDevice {
  /** Endpoint id, chosen by the caller. */
  readonly endpoint: number;
  /** Bus-master bit of the Command register. */
  busMaster: boolean;
  /** Resets so far. */
  resets = 0;
  /** The open context's table, undefined while the group has none (blocking domain). */
  table: IoPageTable | undefined;

  constructor(endpoint: number, busMaster: boolean) {
    this.endpoint = endpoint;
    this.busMaster = busMaster;
  }

  /** VFIO_DEVICE_RESET, around which the kernel keeps the Command register, and then bus master off, as a context does it. */
  reset(): void {
    this.busMaster = false;
    this.resets++;
  }
}
