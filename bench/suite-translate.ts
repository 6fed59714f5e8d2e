// Translation for emulated devices: translateInto of one 4 KiB access, each in another page.
import { Translation } from '../src/iommu/translation.ts';
import { ENDPOINT, FIRST_PAGE, PER_KICK, Rig } from './rig.ts';
import type { BenchCase, Order, Suite } from './suite.ts';
import { liveSizes, ORDERS } from './suite.ts';
import { pagesInOrder } from './workload.ts';

const PER_SAMPLE = 2 ** 14;
const PAGES_PER_4G = 2 ** 20;

class Translations {
  readonly #core;
  readonly #pages: Uint32Array;
  readonly #out = new Translation();
  #at = 0;

  constructor(size: number, order: Order) {
    const rig = new Rig('no host');
    const all = pagesInOrder(size, 'sequential');
    for (let i = 0; i < size; i += PER_KICK) rig.map(all, i);
    this.#core = rig.iommu!.core;
    this.#pages = pagesInOrder(size, order);
  }

  sample(into: Float64Array): void {
    const core = this.#core;
    const pages = this.#pages;
    const out = this.#out;
    let at = this.#at;
    let reached = 0;
    const start = performance.now();
    for (let i = 0; i < PER_SAMPLE; i++) {
      const page = FIRST_PAGE + pages[at]!;
      at = at + 1 === pages.length ? 0 : at + 1;
      const high = Math.floor(page / PAGES_PER_4G);
      if (core.translateInto(ENDPOINT, high, (page % PAGES_PER_4G) * 4096, 4096, false, out)) reached += out.count;
    }
    into[0] = ((performance.now() - start) * 1e6) / PER_SAMPLE;
    if (reached !== PER_SAMPLE) throw new Error(`${PER_SAMPLE - reached} accesses were refused`);
    this.#at = at;
  }
}

function translateCase(size: number, order: Order): BenchCase {
  return { dims: { order, size }, series: ['translateInto'], unit: 'ns', open: () => new Translations(size, order) };
}

/** translateInto. */
export const translateSuite: Suite = {
  name: 'translate',
  cases: (quick) => liveSizes(quick).flatMap((size) => ORDERS.map((order) => translateCase(size, order))),
  charts: [
    {
      file: 'translate',
      title: 'translateInto: time per 4 KiB access at n mappings',
      select: (row) => row.suite === 'translate',
      x: 'size',
      color: (row) => String(row.dims['order']),
    },
  ],
};
