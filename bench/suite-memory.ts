// Garbage and memory: collections during 1 Mi requests, what stays on the heap, and bytes per mapping of the tables.
import { PerformanceObserver, constants } from 'node:perf_hooks';
import type { Backend } from './rig.ts';
import { PER_KICK, Rig } from './rig.ts';
import type { BenchCase, Order, Suite } from './suite.ts';
import { liveSizes, ORDERS } from './suite.ts';
import { Fill, KICKS_PER_SAMPLE, pagesInOrder, RING_SERIES, Slide } from './workload.ts';

const REQUESTS = 2 ** 20;
/** Live mappings of the steady case. */
const STEADY_SIZE = 2 ** 16;

/** What entries of type `gc` have beside the common fields; missing in the types of Node. */
interface CollectionEntry {
  readonly detail: { readonly kind: number };
}

/** Counts collections of this process while it is connected. */
class CollectionCount {
  major = 0;
  minor = 0;
  readonly #observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as unknown as CollectionEntry).detail;
      if (kind === constants.NODE_PERFORMANCE_GC_MINOR) this.minor++;
      else if (kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.major++;
    }
  });

  start(): void {
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  /** Entries arrive in a later turn of the event loop. */
  async stop(): Promise<void> {
    for (let i = 0; i < 3; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    this.#observer.disconnect();
  }
}

async function countGarbage(work: () => void, into: Float64Array): Promise<void> {
  globalThis.gc?.();
  const before = process.memoryUsage();
  const count = new CollectionCount();
  await new Promise((resolve) => setTimeout(resolve, 10)); // the collection above must not be counted
  count.start();
  work();
  await count.stop();
  globalThis.gc?.();
  const after = process.memoryUsage();
  into[0] = count.major;
  into[1] = count.minor;
  into[2] = after.heapUsed - before.heapUsed;
  into[3] = after.arrayBuffers - before.arrayBuffers;
}

const GARBAGE_SERIES = ['major collections', 'minor collections', 'heap growth', 'buffer growth'] as const;

function steadyCase(backend: Backend): BenchCase {
  return {
    dims: { what: '1Mi requests at 64Ki live', backend },
    series: GARBAGE_SERIES,
    unit: '',
    samples: 1,
    open: () => {
      const slide = new Slide(new Rig(backend), STEADY_SIZE, 'shuffled');
      const scratch = new Float64Array(RING_SERIES.length);
      const run = (requests: number): void => {
        for (let sent = 0; sent < requests; sent += 2 * KICKS_PER_SAMPLE * PER_KICK) slide.sample(scratch);
      };
      run(REQUESTS); // compiles everything
      return { sample: (into) => countGarbage(() => run(REQUESTS), into) };
    },
  };
}

function fillCase(backend: Backend): BenchCase {
  return {
    dims: { what: '512Ki MAP and UNMAP from nothing', backend },
    series: GARBAGE_SERIES,
    unit: '',
    samples: 1,
    open: () => {
      const fill = new Fill(new Rig(backend), REQUESTS / 2, 'sequential');
      const scratch = new Float64Array(RING_SERIES.length);
      fill.sample(scratch);
      return { sample: (into) => countGarbage(() => fill.sample(scratch), into) };
    },
  };
}

/** Series of the cases on bytes; the host's table is derived and there only with a host context. */
const BYTES_SERIES = ['guest table', 'host table'] as const;

function bytesCase(size: number, order: Order): BenchCase {
  return {
    dims: { what: 'bytes per mapping', order, size },
    series: BYTES_SERIES,
    unit: 'B',
    samples: 1,
    open: () => ({
      sample: (into) => {
        const rig = new Rig('null host');
        const pages = pagesInOrder(size, order);
        for (let i = 0; i < size; i += PER_KICK) rig.map(pages, i);
        into[0] = rig.domain.table.bytes / size;
        into[1] = rig.domain.mirrors[0]!.entries.table.bytes / size;
      },
    }),
  };
}

/** Collections and bytes. */
export const memorySuite: Suite = {
  name: 'memory',
  cases: (quick) => [
    ...(quick ? [] : [steadyCase('no host'), fillCase('no host'), fillCase('null host')]),
    steadyCase('null host'),
    ...liveSizes(quick).flatMap((size) => ORDERS.map((order) => bytesCase(size, order))),
  ],
};
