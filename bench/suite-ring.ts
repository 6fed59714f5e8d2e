// Ring path: MAP and UNMAP of 4 KiB through the real ring, 128 per notification, indirect descriptors as Linux has them.
// `MAP` and `UNMAP` are the device alone (everything inside the notification), `driver …` is the rest of the kick.
// Three columns are measured side by side: (a) the floor, (b) the ring path, which is the device without a host context, and
// (c) the same with a null host, so that c - b is the planner of a host context.
import type { Backend } from './rig.ts';
import { BACKENDS, Rig } from './rig.ts';
import type { BenchCase, Chart, Order, Row, Suite } from './suite.ts';
import { liveSizes, ORDERS } from './suite.ts';
import { Fill, RING_SERIES, Slide } from './workload.ts';

/** Sizes from here on take seconds to fill: one sample of more than a million requests. */
const LARGE = 2 ** 20;

/** The simulated host's own work is most of what is measured with it, so its sizes are few. */
const TYPE1_SIZES: readonly number[] = [2 ** 10, 2 ** 16];

/** Suite of a backend. */
export function ringSuiteName(backend: Backend): string {
  return `ring, ${backend}`;
}

const ringChart: Chart = {
  file: 'ring',
  title: 'Device time per request at n live mappings, 4 KiB, 128 per kick',
  select: (row: Row) => row.dims['load'] === 'live' && !row.series.startsWith('driver') && row.suite.endsWith('host'),
  x: 'size',
  color: (row: Row) => `${row.series} ${row.dims['order']!}`,
  column: (row: Row) => row.suite,
};

/** One suite per backend, so that each has a process of its own and sees only its own kind of host. */
export const ringSuites: readonly Suite[] = BACKENDS.map((backend) => ({
  name: ringSuiteName(backend),
  ...(backend === 'type1' ? {} : { group: 'ring' }),
  cases: (quick) =>
    // Nothing is kept behind a floor: one size stands for all.
    backend === 'floor' || backend === 'ring only'
      ? [liveCase(backend, liveSizes(true)[1]!, 'sequential')]
      : (backend === 'type1' ? TYPE1_SIZES : liveSizes(quick)).flatMap((size) =>
          ORDERS.flatMap((order) => [liveCase(backend, size, order), fillCase(backend, size, order)]),
        ),
  charts: backend === 'floor' ? [ringChart] : [],
}));

function liveCase(backend: Backend, size: number, order: Order): BenchCase {
  return {
    dims: { load: 'live', order, size },
    series: RING_SERIES,
    unit: 'ns',
    open: () => new Slide(new Rig(backend), size, order),
  };
}

function fillCase(backend: Backend, size: number, order: Order): BenchCase {
  return {
    dims: { load: 'fill', order, size },
    series: RING_SERIES,
    unit: 'ns',
    ...(size >= LARGE ? { samples: 1 } : {}),
    open: () => new Fill(new Rig(backend), size, order),
  };
}
