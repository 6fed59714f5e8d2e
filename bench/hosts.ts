// Host contexts for benchmarks: one that accepts everything at no cost. The simulated type1 host is the product's own.
import type { HostBatch, HostContext, HostLimits } from '../src/host/context.ts';

/** Accepts every operation and keeps nothing: what remains is the device's own work for a passed-through endpoint. */
export class NullHost implements HostContext {
  readonly name = 'null host';
  readonly flavour = 'type1';
  readonly limits: HostLimits = {
    pageSizes: 0x4020_1000n,
    usableRanges: [{ start: 0n, end: (1n << 64n) - 1n }],
    entryLimit: Infinity,
    windowPieces: 16384,
  };

  buildWindows(batch: HostBatch): number {
    return batch.count;
  }

  dropWindows(): void {
    // Builds none.
  }

  apply(batch: HostBatch): number {
    return batch.count;
  }

  unmapAll(): number {
    return 0;
  }

  entriesLeft(): number {
    return Infinity;
  }

  clearBusMaster(): number {
    return 0;
  }

  resetDevices(): number {
    return 0;
  }

  close(): void {
    // Holds nothing.
  }
}
