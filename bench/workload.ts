// What the guest does to a rig. Pages are numbers from 0 on; all lengths are multiples of PER_KICK.
//
// live: a window of unmapped pages slides through an address space in which `size` pages are mapped at all times. Each
//   step unmaps PER_KICK pages ahead of the window and maps PER_KICK pages behind it, so that a page is mapped again long
//   after it was unmapped and nothing of it is warm in a cache.
// fill: maps `size` pages from nothing, then unmaps all of them one by one in the same order.
import { Random } from '../src/testing/random.ts';
import type { Rig } from './rig.ts';
import { PER_KICK } from './rig.ts';
import type { Order } from './suite.ts';

/** Kick pairs of one sample of {@link Slide}. */
export const KICKS_PER_SAMPLE = 32;
/** Figures of one sample: nanoseconds per request. */
export const RING_SERIES = ['MAP', 'UNMAP', 'driver MAP', 'driver UNMAP'] as const;

/** Pages 0..count-1 in an order. */
export function pagesInOrder(count: number, order: Order): Uint32Array {
  const pages = Uint32Array.from({ length: count }, (_, i) => i);
  if (order === 'shuffled') new Random(count).shuffle(pages);
  return pages;
}

/** Adds up device and driver time of kicks. */
class Stopwatch {
  readonly #rig: Rig;
  readonly #device = new Float64Array(2);
  readonly #whole = new Float64Array(2);

  constructor(rig: Rig) {
    this.#rig = rig;
  }

  start(): void {
    this.#device.fill(0);
    this.#whole.fill(0);
  }

  map(pages: Uint32Array, from: number): void {
    const before = this.#begin();
    this.#rig.map(pages, from);
    this.#end(0, before);
  }

  unmap(pages: Uint32Array, from: number): void {
    const before = this.#begin();
    this.#rig.unmap(pages, from);
    this.#end(1, before);
  }

  /** Writes the figures of `requests` MAPs and as many UNMAPs. */
  stop(requests: number, into: Float64Array): void {
    const scale = 1e6 / requests;
    for (let op = 0; op < 2; op++) {
      into[op] = this.#device[op]! * scale;
      into[2 + op] = (this.#whole[op]! - this.#device[op]!) * scale;
    }
  }

  #begin(): number {
    this.#rig.device.elapsed = 0;
    return performance.now();
  }

  #end(op: number, before: number): void {
    this.#whole[op]! += performance.now() - before;
    this.#device[op]! += this.#rig.device.elapsed;
  }
}

/** The live workload. */
export class Slide {
  readonly #watch: Stopwatch;
  readonly #pages: Uint32Array;
  readonly #gap: number;
  #at = 0;

  /** Maps `size` pages. */
  constructor(rig: Rig, size: number, order: Order) {
    this.#watch = new Stopwatch(rig);
    this.#gap = Math.max(2 * PER_KICK, size / 16);
    this.#pages = pagesInOrder(size + this.#gap, order);
    for (let at = this.#gap; at < this.#pages.length; at += PER_KICK) rig.map(this.#pages, at);
  }

  sample(into: Float64Array): void {
    const pages = this.#pages;
    this.#watch.start();
    for (let i = 0; i < KICKS_PER_SAMPLE; i++) {
      this.#watch.unmap(pages, (this.#at + this.#gap) % pages.length);
      this.#watch.map(pages, this.#at);
      this.#at = (this.#at + PER_KICK) % pages.length;
    }
    this.#watch.stop(KICKS_PER_SAMPLE * PER_KICK, into);
  }
}

/** The fill workload. */
export class Fill {
  readonly #watch: Stopwatch;
  readonly #pages: Uint32Array;

  constructor(rig: Rig, size: number, order: Order) {
    this.#watch = new Stopwatch(rig);
    this.#pages = pagesInOrder(size, order);
  }

  sample(into: Float64Array): void {
    this.#watch.start();
    for (let at = 0; at < this.#pages.length; at += PER_KICK) this.#watch.map(this.#pages, at);
    for (let at = 0; at < this.#pages.length; at += PER_KICK) this.#watch.unmap(this.#pages, at);
    this.#watch.stop(this.#pages.length, into);
  }
}
