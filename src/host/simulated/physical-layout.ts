// Where the pages of one backing object lie in simulated physical memory: one run, or scattered by a seed.
// Constant memory for any size, both directions in constant time. Unit: 4 KiB page numbers; ends exclusive.

/** Most granules of a scattered object, so that products of two granule numbers stay exact in a number. */
export const SCATTERED_GRANULES_MAX = 2 ** 26;

/**
 * A bijection between the pages [0, pages) of an object and the physical pages [base, base + pages).
 * Scattered objects move whole granules by `g -> (g * step + shift) mod granules`; as `step` is never 1, no two
 * consecutive granules are physically consecutive (an object of one or two granules cannot be scattered).
 */
export class PhysicalLayout {
  readonly base: number;
  readonly pages: number;
  /** Pages that always stay together: the page size of the backing. */
  readonly granule: number;
  /** True when the object is one physical run. */
  readonly contiguous: boolean;
  readonly #granules: number;
  readonly #step: number;
  readonly #inverse: number;
  readonly #shift: number;

  /** `seed` undefined: contiguous; `pages` must be a multiple of `granule`. */
  constructor(base: number, pages: number, granule: number, seed: number | undefined) {
    this.base = base;
    this.pages = pages;
    this.granule = granule;
    this.#granules = pages / granule;
    this.contiguous = seed === undefined || this.#granules < 3;
    this.#step = this.contiguous ? 1 : scatterStep(this.#granules, seed ?? 0);
    this.#inverse = this.contiguous ? 1 : inverseModulo(this.#step, this.#granules);
    this.#shift = this.contiguous ? 0 : Math.floor(hashFraction((seed ?? 0) + 1) * this.#granules);
  }

  /** Physical page of page `page` of the object, 0 <= page < pages. */
  physicalPage(page: number): number {
    if (this.contiguous) return this.base + page;
    const granule = Math.floor(page / this.granule);
    const moved = (granule * this.#step + this.#shift) % this.#granules;
    return this.base + moved * this.granule + (page - granule * this.granule);
  }

  /** Inverse of {@link physicalPage}: the object's page that lies in physical page `physical` of its range. */
  pageOf(physical: number): number {
    const offset = physical - this.base;
    if (this.contiguous) return offset;
    const moved = Math.floor(offset / this.granule);
    const back = moved - this.#shift + (moved < this.#shift ? this.#granules : 0);
    return ((back * this.#inverse) % this.#granules) * this.granule + (offset - moved * this.granule);
  }

  /** Number of pages from `page` on that are known to be physically consecutive. */
  runFrom(page: number): number {
    return this.contiguous ? this.pages - page : this.granule - (page % this.granule);
  }
}

function scatterStep(granules: number, seed: number): number {
  // granules - 1 is always coprime and never 1 here, so the search ends.
  let step = 2 + Math.floor(hashFraction(seed) * (granules - 2));
  while (greatestCommonDivisor(step, granules) !== 1) step++;
  return step;
}

/** A fixed pseudo-random fraction in [0, 1) of `seed` (the mixing of splitmix32). */
function hashFraction(seed: number): number {
  let z = (seed + 0x9e37_79b9) | 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0_aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a_2d97);
  return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
}

function greatestCommonDivisor(a: number, b: number): number {
  let [large, small] = [a, b];
  while (small !== 0) [large, small] = [small, large % small];
  return large;
}

function inverseModulo(value: number, modulus: number): number {
  let [previous, current] = [modulus, value];
  let [previousFactor, factor] = [0, 1];
  while (current !== 1) {
    const quotient = Math.floor(previous / current);
    [previous, current] = [current, previous - quotient * current];
    [previousFactor, factor] = [factor, previousFactor - quotient * factor];
  }
  return factor < 0 ? factor + modulus : factor;
}
