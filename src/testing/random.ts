// A small deterministic pseudo-random generator: sfc32 (Chris Doty-Humphrey, PractRand), 128 bits of state.
// For test data only, never for secrets. The sequence of a seed is part of the tests and does not change.
import { U32_MAX, checkInteger } from '../base/check.ts';

/** Rounds that mix a fresh seed into the whole state, as PractRand does it. */
const WARM_UP_ROUNDS = 12;

/** Deterministic source of unsigned 32-bit numbers. */
export class Random {
  #a = 0;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param seed an integer in [0, 2^32-1]; RangeError or TypeError otherwise. */
  constructor(seed: number) {
    checkInteger('seed', seed, 0, U32_MAX);
    this.#b = seed >>> 0;
    this.#c = ~seed >>> 0;
    for (let i = 0; i < WARM_UP_ROUNDS; i++) this.next();
  }

  /** Next number, uniform in [0, 2^32-1]. */
  next(): number {
    const result = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + result;
    this.#c |= 0;
    return result >>> 0;
  }

  /** Uniform integer in [0, bound-1]; `bound` is an integer in [1, 2^32-1]. Rejects the uneven tail, so it is unbiased. */
  below(bound: number): number {
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound);
    let value = this.next();
    while (value >= limit) value = this.next();
    return value % bound;
  }

  /** Length of a run with mean `mean` (> 1), geometric: 1, 2, 3, ... with P(n) = (1 - 1/mean)^(n-1) / mean. */
  geometric(mean: number): number {
    const uniform = (this.next() + 0.5) / 0x1_0000_0000;
    return 1 + Math.floor(Math.log(uniform) / Math.log(1 - 1 / mean));
  }

  /** Shuffles `values` in place (Fisher-Yates). */
  shuffle(values: Uint32Array): void {
    for (let i = values.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const swap = values[i]!;
      values[i] = values[j]!;
      values[j] = swap;
    }
  }
}
