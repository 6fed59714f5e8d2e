// Ring path: MAP and UNMAP of 4 KiB through the real ring, 128 per notification, indirect descriptors as Linux has them.
// `MAP` and `UNMAP` are the device alone (everything inside the notification), `driver …` is the rest of the kick.
import type { Backend } from './rig.ts';
import { BACKENDS, Rig } from './rig.ts';
import type { BenchCase, Chart, Order, Row, Suite } from './suite.ts';
import { liveSizes, ORDERS } from './suite.ts';
import { Fill, RING_SERIES, Slide } from './workload.ts';

/** Sizes from here on take seconds to fill: one sample of more than a million requests. */
const LARGE = 2 ** 20;

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
  cases: (quick) =>
    // Nothing is kept behind a floor: one size stands for all.
    backend === 'floor' || backend === 'ring only'
      ? [liveCase(backend, liveSizes(true)[1]!, 'sequential')]
      : liveSizes(quick).flatMap((size) =>
          ORDERS.flatMap((order) => [
            liveCase(backend, size, order),
            // The simulated host's own work is most of this one, and seconds of it say no more than the live load.
            ...(backend === 'type1' && size >= LARGE ? [] : [fillCase(backend, size, order)]),
          ]),
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
