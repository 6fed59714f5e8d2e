// Proof by bytes: a page of L2 carries a stamp that names it; what a device reads must carry the right one.
// A stamp costs a page of real memory, so large L2s are stamped at evenly spread pages; addresses are compared for all.
import type { GuestMemory } from '../../virtio/memory.ts';
import type { L2Layout } from '../l2-memory.ts';
import { l2PageAt } from '../l2-memory.ts';
import { PAGE_BYTES } from '../run-cursor.ts';

/** Most pages that carry a stamp (64 MiB of real memory). */
export const MAX_STAMPED_PAGES = 16_384;

const STAMP_BYTES = 8;
/** Writes and checks stamps of L2 pages. */
export class Stamps {
  readonly #layout: L2Layout;
  readonly #bytes = new Uint8Array(STAMP_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);
  /** Every `stride`-th page is stamped. */
  readonly stride: number;

  constructor(layout: L2Layout) {
    this.#layout = layout;
    this.stride = Math.max(1, Math.ceil(layout.pages / MAX_STAMPED_PAGES));
  }

  /** True when the page with this index (hole left out) carries a stamp. */
  has(index: number): boolean {
    return index % this.stride === 0;
  }

  /** Stamps L1's memory where L2's pages lie. */
  write(memory: GuestMemory): void {
    for (let index = 0; index < this.#layout.pages; index += this.stride) {
      this.#fill(index);
      const gpa = this.#layout.physPageOf(l2PageAt(index)) * PAGE_BYTES;
      if (!memory.write(gpa, this.#bytes, 0, STAMP_BYTES)) throw new Error(`L1 has no RAM for L2 page ${index}`);
    }
  }

  /** True when `bytes` begin with the stamp of the page with this index. */
  matches(index: number, bytes: Uint8Array | undefined): boolean {
    if (bytes === undefined) return false;
    this.#fill(index);
    return this.#bytes.every((byte, i) => bytes[i] === byte);
  }

  #fill(index: number): void {
    this.#view.setUint32(0, index, true);
    this.#view.setUint32(4, ~index >>> 0, true);
  }
}
