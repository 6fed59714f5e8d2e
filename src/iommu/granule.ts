// The granule: the unit in which domains keep addresses. 64-bit wire values become exact granule NUMBERS here.
// Ends are inclusive on the wire (high, low words) and exclusive as granule numbers.

/** Conversions between addresses in two 32-bit words and granule numbers, for one granule size. */
export class Granule {
  /** log2 of the granule in bytes: the lowest bit of page_size_mask ([5.13.4] T-CFG-1). */
  readonly shift: number;
  /** Granule in bytes as a number (exact: a power of two). */
  readonly bytes: number;
  /** One more than the last granule number of the 64-bit space. */
  readonly limit: number;
  /** One more than the last granule number that physical addresses may have: 64 bits, below a 4 KiB granule 2^53 bytes. */
  readonly physLimit: number;
  readonly #maskLow: number;
  readonly #maskHigh: number;
  readonly #highScale: number;

  constructor(pageSizeMask: bigint) {
    let shift = 0;
    while (((pageSizeMask >> BigInt(shift)) & 1n) === 0n) shift++;
    this.shift = shift;
    this.bytes = 2 ** shift;
    this.limit = 2 ** (64 - shift);
    this.physLimit = shift < 12 ? 2 ** (53 - shift) : this.limit;
    this.#maskLow = shift >= 32 ? 0xffff_ffff : 2 ** shift - 1;
    this.#maskHigh = shift > 32 ? 2 ** (shift - 32) - 1 : 0;
    this.#highScale = 2 ** (32 - shift);
  }

  /**
   * Number of the granule that holds the address. Exact up to 2^53; above that (granules below 4 KiB only) rounded,
   * monotonic, and larger than any key in use.
   */
  numberOf(high: number, low: number): number {
    const { shift } = this;
    if (shift < 32) return high * this.#highScale + (low >>> shift);
    return shift === 32 ? high : high >>> (shift - 32);
  }

  /** True when the address is the first of its granule. */
  isStart(high: number, low: number): boolean {
    return (low & this.#maskLow) === 0 && (high & this.#maskHigh) === 0;
  }

  /** True when the address is the last of its granule, so that address + 1 is aligned. */
  isLast(high: number, low: number): boolean {
    return (low & this.#maskLow) >>> 0 === this.#maskLow && (high & this.#maskHigh) >>> 0 === this.#maskHigh;
  }

  /** Offset of the address inside its granule in bytes. */
  offsetOf(high: number, low: number): number {
    return (high & this.#maskHigh) * 0x1_0000_0000 + ((low & this.#maskLow) >>> 0);
  }

  /** The granule number of an address given as bigint (public edge). */
  numberOfBigint(address: bigint): number {
    return Number(address >> BigInt(this.shift));
  }

  /** First address of a granule as bigint (public edge). */
  addressOf(number: number): bigint {
    return BigInt(number) << BigInt(this.shift);
  }
}
