// The interval table alone, with the same sliding window as the ring path: `size` intervals at all times.
import { IntervalTable } from '../src/intervals/table.ts';
import type { BenchCase, Order, Suite } from './suite.ts';
import { liveSizes, ORDERS } from './suite.ts';
import { pagesInOrder } from './workload.ts';

const SERIES = ['insert', 'seek', 'remove', 'removeRange'] as const;
const PER_SAMPLE = 4096;
const BLOCK = 128;

class TableSlide {
  readonly #table = new IntervalTable();
  readonly #pages: Uint32Array;
  readonly #gap: number;
  readonly #times = new Float64Array(SERIES.length);
  #at = 0;
  #checksum = 0;
  #single = true;

  constructor(size: number, order: Order) {
    this.#gap = Math.max(2 * BLOCK, size / 16);
    this.#pages = pagesInOrder(size + this.#gap, order);
    for (let i = this.#gap; i < this.#pages.length; i++) this.#insert(this.#pages[i]!);
  }

  sample(into: Float64Array): void {
    this.#times.fill(0);
    const rounds = PER_SAMPLE / BLOCK;
    for (let round = 0; round < rounds; round++) this.#round();
    if (Number.isNaN(this.#checksum)) throw new Error('the table lost a value');
    // Each of the two kinds of removal took half of the rounds.
    for (let i = 0; i < SERIES.length; i++) into[i] = (this.#times[i]! * 1e6) / (i < 2 ? PER_SAMPLE : PER_SAMPLE / 2);
  }

  #round(): void {
    const table = this.#table;
    const pages = this.#pages;
    const ahead = (this.#at + this.#gap) % pages.length;
    const start = performance.now();
    for (let i = this.#at; i < this.#at + BLOCK; i++) this.#insert(pages[i]!);
    const inserted = performance.now();
    for (let i = ahead; i < ahead + BLOCK; i++) this.#checksum += table.valueAt(table.seek(pages[i]!));
    const sought = performance.now();
    if (this.#single) for (let i = ahead; i < ahead + BLOCK; i++) table.remove(pages[i]!);
    else for (let i = ahead; i < ahead + BLOCK; i++) table.removeRange(pages[i]!, pages[i]! + 1);
    const removed = performance.now();
    this.#times[0]! += inserted - start;
    this.#times[1]! += sought - inserted;
    this.#times[this.#single ? 2 : 3]! += removed - sought;
    this.#single = !this.#single;
    this.#at = (this.#at + BLOCK) % pages.length;
  }

  #insert(page: number): void {
    if (!this.#table.insert(page, page + 1, page, 3)) throw new Error(`page ${page} is taken`);
  }
}

function tableCase(size: number, order: Order): BenchCase {
  return { dims: { order, size }, series: SERIES, unit: 'ns', open: () => new TableSlide(size, order) };
}

/** Insert, seek and remove on the table. */
export const tableSuite: Suite = {
  name: 'table',
  cases: (quick) => liveSizes(quick).flatMap((size) => ORDERS.map((order) => tableCase(size, order))),
  charts: [
    {
      file: 'table',
      title: 'Interval table: time per operation at n intervals',
      select: (row) => row.suite === 'table',
      x: 'size',
      color: (row) => row.series,
      column: (row) => String(row.dims['order']),
    },
  ],
};
